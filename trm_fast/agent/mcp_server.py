"""An MCP server that offers the reasoning tool to LLM agents."""

from __future__ import annotations

import json
from typing import Any

from trm_fast.agent.tool import ReasoningTool
from trm_fast.errors import UserError
from trm_fast.version import __version__


def make_server(tool: ReasoningTool) -> Any:
    """An ``mcp.server.Server`` with one tool.

    The tool itself checks the arguments of a call, so that agents get the same messages as Python programs.

    Raises:
        UserError: the extra ``mcp`` is not installed.
    """
    try:
        import anyio
        import mcp_types as types
        from mcp.server import Server
        from mcp.shared.exceptions import MCPError
    except ImportError as error:
        raise UserError(f'the MCP server needs an extra: pip install "trm-fast[mcp]" ({error})') from None

    one_at_a_time = anyio.CapacityLimiter(1)  # models are shared, and a call uses all threads anyway

    def answer(arguments: dict[str, Any]) -> types.CallToolResult:
        try:
            result = tool(arguments)
        except UserError as error:
            return types.CallToolResult(content=[types.TextContent(text=str(error))], is_error=True)
        except Exception as error:
            text = f"a bug in trm-fast ({type(error).__name__}): {str(error).partition(chr(10))[0]}"
            return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
        return types.CallToolResult(content=[types.TextContent(text=json.dumps(result))], structured_content=result)

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name != tool.name:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:80]!r}; the only one is {tool.name}")
        return await anyio.to_thread.run_sync(answer, params.arguments or {}, limiter=one_at_a_time)

    async def list_tools(context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        about = types.Tool(name=tool.name, description=tool.description, input_schema=tool.parameters)
        return types.ListToolsResult(tools=[about])

    return Server("trm-fast", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)
