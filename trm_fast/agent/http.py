"""Serves MCP over HTTP: on the loopback address to everyone there, on other addresses to those who have the token.

Requests whose ``Host`` or ``Origin`` names another machine are refused, because a web page could otherwise reach the
server through its visitor's browser.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from trm_fast.agent.stdio import MAX_MESSAGE
from trm_fast.errors import UserError

TOKEN_VARIABLE = "TRM_FAST_MCP_TOKEN"
MIN_TOKEN = 16
PATH = "/mcp"


def serve_http(
    server: Any, host: str, port: int, token: str | None, allowed_hosts: Sequence[str], note: Callable[[str], None]
) -> None:
    """Serves an ``mcp.server.Server`` until the process is stopped.

    Args:
        server: the server.
        host, port: the address to listen on.
        token: what requests must have in ``Authorization: Bearer TOKEN``; None: nothing, on the loopback address only.
        allowed_hosts: further names of this machine, with or without a port, that ``Host`` and ``Origin`` may have.
        note: receives a line that says where the server listens.

    Raises:
        UserError: the address needs a token, the token is too short, or nobody can listen on the address.
    """
    import uvicorn

    addresses = resolve(host, port)
    check_token(token, host, addresses)
    listening = listen(addresses)
    names = [*(_bracketed(name) for name in ("127.0.0.1", "localhost", "::1", host)), *allowed_hosts]
    app = make_app(server, token, names)
    note(f"serving MCP on http://{_bracketed(host)}:{port}{PATH}, for {', '.join(dict.fromkeys(names))}")
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=listening)


def make_app(server: Any, token: str | None, names: Sequence[str]) -> Any:
    """The ASGI application of a server, with the checks of token, ``Host``, ``Origin`` and size."""
    from mcp.server.transport_security import TransportSecuritySettings

    hosts = [form for name in names for form in _with_ports(name.lower())]
    security = TransportSecuritySettings(
        allowed_hosts=hosts, allowed_origins=[f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")]
    )
    app = server.streamable_http_app(
        streamable_http_path=PATH, max_request_body_size=MAX_MESSAGE, transport_security=security
    )
    return app if token is None else Guard(app, token)


class Guard:
    """An ASGI application that refuses requests without the token.

    Args:
        app: the application that gets the others.
        token: the token.
    """

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.expected = app, f"bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] == "lifespan" or self._admits(scope):
            await self.app(scope, receive, send)
            return
        text = f"a token is needed: Authorization: Bearer TOKEN, with the value of {TOKEN_VARIABLE}\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _admits(self, scope: Any) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        if scope["type"] != "http" or len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self.expected)


def resolve(host: str, port: int) -> list[tuple[Any, Any]]:
    """The addresses of a host, each with its family.

    Raises:
        UserError: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # a label of a name that is too long is a UnicodeError
        reason = getattr(error, "strerror", None) or "not a host name"
        raise UserError(f"--host {host!r}: {reason}", usage_error=True) from None
    return [(family, address) for family, _, _, _, address in found]


def check_token(token: str | None, host: str, addresses: Sequence[tuple[Any, Any]]) -> None:
    """Checks that a token is there where one is needed, and that it is hard to guess.

    Raises:
        UserError: it is not.
    """
    loopback = all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for _, address in addresses)
    if token is None and not loopback:
        raise UserError(
            f"--host {host} can be reached from other machines: set {TOKEN_VARIABLE} to a secret that clients send as "
            "Authorization: Bearer TOKEN, or listen on 127.0.0.1",
            usage_error=True,
        )
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError(
            f"the token must have at least {MIN_TOKEN} letters, digits or signs, without spaces; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one",
            usage_error=True,
        )


def listen(addresses: Sequence[tuple[Any, Any]]) -> list[socket.socket]:
    """Sockets that listen on addresses, except those that this machine does not have (often ``::1``).

    Raises:
        UserError: it has none of them, or another program uses the port.
    """
    listening: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in addresses:
        try:
            listening.append(socket.create_server(address, family=family))
        except OSError as error:
            missing = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if listening:
            return listening
    for each in listening:
        each.close()
    assert missing is not None
    raise UserError(f"cannot listen on {address[0]} port {address[1]}: {missing.strerror}")


def _bracketed(host: str) -> str:
    """A host as addresses of the web write it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _with_ports(name: str) -> list[str]:
    """The values of ``Host`` that name a machine: with any port and without one, or just as it is if it has a port."""
    has_port = name.rpartition(":")[2].isdecimal() and (name.count(":") == 1 or "]:" in name)
    return [name] if has_port else [name, f"{name}:*"]
