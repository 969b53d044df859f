"""An MCP server that offers the reasoning tool to LLM agents."""

from __future__ import annotations

from typing import Any, Literal

from trm_fast.agent.tool import ANY_TYPE, ReasoningTool
from trm_fast.errors import UserError
from trm_fast.version import __version__

Transport = Literal["stdio", "http"]


def make_server(tool: ReasoningTool) -> Any:
    """An ``mcp.server.MCPServer`` with one tool.

    Raises:
        UserError: the extra ``mcp`` is not installed.
    """
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise UserError(f'the MCP server needs an extra: pip install "trm-fast[mcp]" ({error})') from None

    server = MCPServer("trm-fast", version=__version__, log_level="WARNING")

    def solve(puzzle: str | list[Any] | dict[str, Any], type: str = ANY_TYPE) -> dict[str, Any]:
        try:
            return tool({"puzzle": puzzle, "type": type})
        except UserError as error:
            raise ToolError(str(error)) from None

    server.add_tool(solve, name=tool.name, description=tool.description)
    return server


def serve(tool: ReasoningTool, transport: Transport = "stdio", host: str = "127.0.0.1", port: int = 8765) -> None:
    """Serves until the client disconnects (stdio) or the process is stopped (http).

    Args:
        tool: the tool to offer.
        transport: ``stdio`` for a client that starts this process, ``http`` for many clients.
        host: the address to listen on, for ``http``.
        port: the port to listen on, for ``http``.

    Raises:
        UserError: the extra ``mcp`` is not installed.
    """
    server = make_server(tool)
    if transport == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host=host, port=port)
