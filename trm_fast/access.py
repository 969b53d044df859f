"""Who may use an HTTP server of this package, and how much: a layer of ASGI around an application.

It checks the names in ``Host`` and ``Origin`` (so that no other page of a browser can call the server, not even by
rebinding a name of its own), an access token, the size of requests, their rate and their duration.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from trm_fast.errors import UserError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_TOKEN = 16
MAX_CLIENTS = 1024
"""Number of addresses whose request rates are remembered."""
MAX_TARGET = 4096
"""Maximum length of a request's path with its query, in bytes."""
BODY_TYPES = ("application/json", "application/octet-stream")
"""The types that a body may have. A browser sends them to another origin only after asking, which is refused."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
"""Sent with every answer: pages of this server load nothing from elsewhere, and no other page embeds them."""


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which other machines cannot reach.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_names(host: str, allowed: Iterable[str]) -> frozenset[str]:
    """The names by which a server may be called: the loopback names, the address that it listens on, and others.

    Raises:
        UserError: one of ``allowed`` is not a name alone.
    """
    names = {*LOOPBACK_NAMES, host.strip("[]").lower()}
    for name in allowed:
        plain = name.strip("[]").lower()
        if not plain or set(plain) & set("/@*?# ") or (":" in plain and plain.count(":") < 2):
            raise UserError(
                f"--allowed-host {name!r}: give the name alone, without scheme, port or path, such as "
                "solver.example.org",
                usage_error=True,
            )
        names.add(plain)
    return frozenset(names)


def checked_token(token: str | None) -> str | None:
    """The access token, which must be hard to guess; None: there is none.

    Raises:
        UserError: it is too short, or cannot be sent in a header.
    """
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError(
            f"the token must have at least {MIN_TOKEN} letters, digits or signs, without spaces; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one",
            usage_error=True,
        )
    return token


@dataclass(frozen=True)
class Access:
    """The rules.

    Attributes:
        hosts: the names by which the server may be called. Addresses are also accepted if ``addresses`` is set,
            because a name is needed to rebind one.
        addresses: whether every IP address is accepted as a name.
        token: what requests must send as ``Authorization: Bearer TOKEN``; None: nothing.
        public: whether a path needs no token, such as the page itself.
        max_body: maximum size of a request in bytes.
        body_seconds: maximum time that a client may take to send a request's body.
        send_seconds: maximum time that a client may take to accept a part of the answer.
        rate: requests per second that each address may make on average.
        burst: requests that it may make at once.
    """

    hosts: frozenset[str] = LOOPBACK_NAMES
    addresses: bool = False
    token: str | None = None
    public: Callable[[str], bool] = field(default=lambda path: False)
    max_body: int = 4 * 2**20
    body_seconds: float = 20.0
    send_seconds: float = 30.0
    rate: float = 100.0
    burst: int = 400

    def knows(self, netloc: str) -> bool:
        """Whether ``HOST`` or ``HOST:PORT`` is a name of this server."""
        try:
            name = urlsplit(f"//{netloc}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.addresses


class TooLarge(Exception):
    """A request's body is larger than allowed."""


class TooSlow(Exception):
    """A client takes too long to send or to receive."""


class Guard:
    """An ASGI application that lets through what ``access`` allows, and answers the rest itself.

    Args:
        app: the application behind it.
        access: the rules.
        clock: the time in seconds.
    """

    def __init__(self, app: Application, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.access, self.clock = app, access, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the server closes what nobody answers, such as a web socket
        started = False
        faults: list[Exception] = []  # of the body; applications turn them into errors of their own

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if faults and not started:
                    raise faults.pop()
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            try:
                await asyncio.wait_for(send(message), self.access.send_seconds)
            except asyncio.TimeoutError:
                raise TooSlow from None

        refusal = self.refusal(scope)
        try:
            if refusal is not None:
                await _answer(guarded_send, *refusal)
                return
            await self.app(scope, self._limited(receive, faults), guarded_send)
        except TooLarge:
            faults.clear()
            if not started:
                await _answer(guarded_send, 413, self._too_large())
        except TooSlow:
            faults.clear()
            if not started:
                await _answer(guarded_send, 408, "the request took too long to arrive")

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the message with which a request is refused, or None if it may pass."""
        headers = Headers(scope)
        if repeated := headers.repeated("host", "origin", "authorization", "content-length", "content-type"):
            return 400, f"the header {repeated} is there twice"
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_TARGET:
            return 414, "the address is too long"
        host = headers["host"]
        if not self.access.knows(host):
            return 421, f"this server is not called {host[:100]!r}; --allowed-host adds a name"
        origin = headers["origin"]
        if origin and _netloc(origin) != host:
            return 403, "a page of another origin may not use this server"
        public = self.access.public(scope["path"])
        if headers["sec-fetch-site"] in ("cross-site", "same-site") and not (public and scope["method"] == "GET"):
            return 403, "a page of another origin may not use this server"
        if wait := self._wait((scope.get("client") or ("", 0))[0]):
            return 429, f"too many requests: try again in {wait:.1f} seconds"
        if self.access.token is not None and not public and not self._knows_token(headers["authorization"]):
            return 401, "this server needs its access token: Authorization: Bearer TOKEN"
        length = headers["content-length"]
        if length and (not length.isascii() or not length.isdigit() or len(length) > 18):
            return 400, "the header content-length is not a number"
        if length and int(length) > self.access.max_body:
            return 413, self._too_large()
        kind = headers["content-type"].partition(";")[0].strip().lower()
        if (
            scope["method"] == "POST"
            and (length not in ("", "0") or headers["transfer-encoding"])
            and (kind not in BODY_TYPES)
        ):
            return 415, f"a request's body is {' or '.join(BODY_TYPES)}"
        return None

    def _too_large(self) -> str:
        return f"the request is larger than {self.access.max_body:,} bytes"

    def _knows_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        expected = (self.access.token or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), expected)

    def _wait(self, client: str) -> float:
        """The seconds that a client must wait before its next request, 0 if it may make one now."""
        now, access = self.clock(), self.access
        tokens, last = self._buckets.pop(client, (float(access.burst), now))
        tokens = min(float(access.burst), tokens + (now - last) * access.rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / access.rate

    def _limited(self, receive: Receive, faults: list[Exception]) -> Receive:
        """``receive`` with limits on the size and the duration of the body. What it raises is also put into
        ``faults``."""
        size, ended, end = 0, False, self.clock() + self.access.body_seconds

        async def limited() -> Message:
            nonlocal size, ended
            if ended:  # the application waits for the client to disconnect
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - self.clock()))
            except asyncio.TimeoutError:
                faults.append(TooSlow())
                raise faults[0] from None
            size += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if size > self.access.max_body:
                faults.append(TooLarge())
                raise faults[0]
            return message

        return limited


def _netloc(origin: str) -> str:
    """The ``HOST:PORT`` of an ``Origin`` header; "" if there is none, as in ``null`` or ``http://[``."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


class Headers:
    """The headers of a request by their names in lower case; "" for one that is missing."""

    def __init__(self, scope: Scope) -> None:
        self.pairs = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"]]

    def __getitem__(self, name: str) -> str:
        return next((value for key, value in self.pairs if key == name), "")

    def repeated(self, *names: str) -> str | None:
        """The first of ``names`` that occurs more than once."""
        keys = [key for key, _ in self.pairs]
        return next((name for name in names if keys.count(name) > 1), None)


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
