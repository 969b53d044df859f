"""Starts the server: checks who may use it, loads the models that were named, and serves until it is stopped."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trm_fast.access import Access, Guard, checked_token, host_names, is_loopback
from trm_fast.errors import UserError

TOKEN_VARIABLE = "TRM_FAST_WEB_TOKEN"
MAX_CONNECTIONS = 512
FIRST_REQUEST_SECONDS = 10.0
"""Time in which a connection must send the head of a request; connections that send nothing are closed."""


@dataclass(frozen=True)
class ServerOptions:
    """What ``trm-fast serve`` takes.

    Attributes:
        models: runs, model folders or names of models that ship; the page shows the first one at its start.
        runs: the folder whose runs are shown and trained.
        host, port: the address to listen on.
        token: what clients must send; None: made at random if others than this machine can reach the address.
        allowed_hosts: further names by which the server may be called.
        device: the torch device.
    """

    models: Sequence[str] = ()
    runs: Path = Path("runs")
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    allowed_hosts: Sequence[str] = field(default=())
    device: str = "cpu"


def is_public(path: str) -> bool:
    """Whether a path belongs to the page itself, which holds nothing secret."""
    return path == "/" or path.startswith("/static/")


def make_access(options: ServerOptions) -> Access:
    """Who may use the server.

    Raises:
        UserError: the token is too short, or an allowed host is not a name.
    """
    token = checked_token(options.token or os.environ.get(TOKEN_VARIABLE) or None)
    local = is_loopback(options.host)
    if token is None and not local:
        token = secrets.token_urlsafe(24)
    names = host_names(options.host, options.allowed_hosts)
    return Access(hosts=names, addresses=not local, token=token, public=is_public)


def make_application(options: ServerOptions, access: Access) -> Guard:
    """The whole ASGI application.

    Raises:
        UserError: the extra ``web`` is not installed, or a named model does not exist.
    """
    try:
        from trm_fast.web.app import Service, make_app
    except ImportError as error:
        if (error.name or "").startswith("trm_fast"):
            raise
        raise UserError(f'the page needs an extra: pip install "trm-fast[web]" ({error})') from None
    from trm_fast.web.catalog import Catalog
    from trm_fast.web.runs import Runs

    catalog = Catalog(options.models, options.runs, options.device)
    for entry in catalog.entries():
        if entry.kind == "named":
            catalog.load(entry.name)  # reports a damaged model now
    return Guard(make_app(Service(catalog, Runs(options.runs, options.device))), access)


def serve(options: ServerOptions, note: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or SIGTERM. ``note`` receives a line with the address.

    Raises:
        UserError: the extra ``web`` is not installed, a model does not exist, or the address cannot be used.
    """
    access = make_access(options)
    app = make_application(options, access)
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Closes connections on which no request arrives in time."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.waiting = asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._close_if_silent)

        def connection_lost(self, exc: Exception | None) -> None:
            self.waiting.cancel()
            super().connection_lost(exc)

        def _close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    class Server(uvicorn.Server):
        """Says where it listens once it does."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                note(f"ready at {address(options, access)}")

    config = uvicorn.Config(
        app, host=options.host, port=options.port, http=Protocol, ws="none", log_level="warning", access_log=False,
        server_header=False, limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=15, timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=16 * 1024,
    )  # fmt: skip
    try:
        Server(config).run()
    except SystemExit:
        raise UserError(
            f"cannot listen on {options.host} port {options.port}: another program may use it; --port chooses another",
            usage_error=True,
        ) from None


def address(options: ServerOptions, access: Access) -> str:
    """The address of the page. The token is in the fragment, which browsers do not send."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{options.port}" + (f"/#token={access.token}" if access.token else "")
