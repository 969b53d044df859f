"""Serves MCP over standard input and output, with a limit on the size of a message."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO

MAX_MESSAGE = 4 << 20
"""The largest message in bytes, for both transports. A client that sends more is refused, so that memory is bounded."""


def serve_stdio(server: Any) -> None:
    """Serves an ``mcp.server.Server`` until standard input ends."""
    import anyio
    from mcp.server.stdio import stdio_server

    async def run() -> None:
        # A file of its own, because Python cannot exit while a thread is reading sys.stdin.
        messages: Any = Messages(open(os.dup(0), "rb"))  # noqa: SIM115
        async with stdio_server(stdin=messages) as (read, write):
            messages.answer_to(write)
            await server.run(read, write, server.create_initialization_options())

    anyio.run(run)


class Messages:
    """The messages of a stream, one on each line. A line that is too long or no message is answered with an error.

    Args:
        stream: the stream, read by a thread.
    """

    def __init__(self, stream: BinaryIO) -> None:
        import anyio

        self.stream = stream
        self.write: Any = None
        self.ready = anyio.Event()

    def answer_to(self, write: Any) -> None:
        """Sets the stream that takes the answers to such lines."""
        self.write = write
        self.ready.set()

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> str:
        import anyio
        import mcp_types as types

        while line := await anyio.to_thread.run_sync(self._line, abandon_on_cancel=True):
            if len(line) > MAX_MESSAGE:
                await self._refuse(types.INVALID_REQUEST, None, f"the message is longer than {MAX_MESSAGE:,} bytes")
                continue
            text = line.decode("utf-8", "replace")
            if not text.strip():
                continue
            try:
                types.jsonrpc_message_adapter.validate_json(text, by_name=False)
            except ValueError:
                await self._refuse(*_fault(text))
                continue
            return text
        raise StopAsyncIteration

    def _line(self) -> bytes:
        """The next line. Of one that is too long, only the start is kept."""
        line = self.stream.readline(MAX_MESSAGE + 1)
        end = line
        while len(line) > MAX_MESSAGE and end and not end.endswith(b"\n"):
            end = self.stream.readline(MAX_MESSAGE)
        return line

    async def _refuse(self, code: int, number: int | str | None, text: str) -> None:
        import mcp_types as types
        from mcp.shared.message import SessionMessage

        await self.ready.wait()
        error = types.ErrorData(code=code, message=text)
        await self.write.send(SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=number, error=error)))


def _fault(text: str) -> tuple[int, int | str | None, str]:
    """What is wrong with a text that is no message: error code, the message's id if it has one, and a sentence."""
    import mcp_types as types

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return types.PARSE_ERROR, None, "the line is not valid JSON"
    number = value.get("id") if isinstance(value, dict) else None
    request_id = number if isinstance(number, int | str) and not isinstance(number, bool) else None
    return types.INVALID_REQUEST, request_id, "the line is not a JSON-RPC 2.0 message"
