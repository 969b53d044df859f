"""Serves MCP over HTTP: on the loopback address to everyone there, on other addresses to those who have the token."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any

from trm_fast.access import Access, Guard, checked_token, host_names, is_loopback
from trm_fast.agent.stdio import MAX_MESSAGE
from trm_fast.errors import UserError

TOKEN_VARIABLE = "TRM_FAST_MCP_TOKEN"
PATH = "/mcp"


def serve_http(
    server: Any, host: str, port: int, token: str | None, allowed_hosts: Sequence[str], note: Callable[[str], None]
) -> None:
    """Serves an ``mcp.server.Server`` until the process is stopped.

    Args:
        server: the server.
        host, port: the address to listen on.
        token: what requests must have in ``Authorization: Bearer TOKEN``; None: nothing, on the loopback address only.
        allowed_hosts: further names by which the server may be called.
        note: receives a line that says where the server listens.

    Raises:
        UserError: the address needs a token, the token is too short, or nobody can listen on the address.
    """
    import uvicorn

    access = make_access(host, token, allowed_hosts)
    app = make_app(server, access)
    listening = listen(host, port)
    note(f"serving MCP on http://{f'[{host}]' if ':' in host else host}:{port}{PATH}")
    config = uvicorn.Config(app, ws="none", log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=listening)


def make_access(host: str, token: str | None, allowed_hosts: Sequence[str]) -> Access:
    """Who may use the server.

    Raises:
        UserError: the address needs a token, the token is too short, or an allowed host is not a name.
    """
    local = is_loopback(host)
    if token is None and not local:
        raise UserError(
            f"--host {host} can be reached from other machines: set {TOKEN_VARIABLE} to a secret that clients send as "
            "Authorization: Bearer TOKEN, or listen on 127.0.0.1",
            usage_error=True,
        )
    return Access(
        hosts=host_names(host, allowed_hosts), addresses=not local, token=checked_token(token), max_body=MAX_MESSAGE
    )


def make_app(server: Any, access: Access) -> Guard:
    """The ASGI application of a server."""
    from mcp.server.transport_security import TransportSecuritySettings

    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # Guard checks more
    app = server.streamable_http_app(
        streamable_http_path=PATH, max_request_body_size=MAX_MESSAGE, transport_security=unchecked
    )
    return Guard(app, access)


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host, except those that this machine does not have, often ``::1``.

    Raises:
        UserError: there is no such host, this machine has none of its addresses, or another program uses the port.
    """
    listening: list[socket.socket] = []
    problem = "the host has no address"
    try:
        infos = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in infos:
            try:
                listening.append(socket.create_server(address, family=family))
            except OSError as error:
                problem = error.strerror or str(error)
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
    except (OSError, UnicodeError) as error:  # a part of a name that is too long is a UnicodeError
        for each in listening:
            each.close()
        listening, problem = [], getattr(error, "strerror", None) or "not the name of a host"
    if not listening:
        raise UserError(f"cannot listen on {host} port {port}: {problem}", usage_error=True)
    return listening
