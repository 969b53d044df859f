"""An MCP server that offers the reasoning tool to any LLM agent."""

from __future__ import annotations

from typing import Any, Literal

from trm_fast.agent.tool import ANY_TYPE, ReasoningTool
from trm_fast.errors import UserError
from trm_fast.version import __version__

Transport = Literal["stdio", "http"]


def make_server(tool: ReasoningTool) -> Any:
    """An ``mcp.server.MCPServer`` with one tool; UserError without the extra ``mcp``."""
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise UserError(f'the MCP server needs an extra: pip install "trm-fast[mcp]" ({error})') from None

    server = MCPServer("trm-fast", version=__version__, log_level="WARNING")

    def solve(puzzle: str | list[Any], type: str = ANY_TYPE) -> dict[str, Any]:
        try:
            return tool({"puzzle": puzzle, "type": type})
        except UserError as error:
            raise ToolError(str(error)) from None

    server.add_tool(solve, name=tool.name, description=tool.description)
    return server


def serve(tool: ReasoningTool, transport: Transport = "stdio", host: str = "127.0.0.1", port: int = 8765) -> None:
    """Serves until the client leaves (stdio) or the process is stopped (http)."""
    server = make_server(tool)
    if transport == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host=host, port=port)
