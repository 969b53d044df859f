"""The MCP server with the SDK's client, in one process and over a pipe."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from trm_fast.agent.mcp_server import make_server
from trm_fast.agent.tool import ReasoningTool

mcp = pytest.importorskip("mcp", reason="needs the extra mcp")
anyio = pytest.importorskip("anyio")

ROWS = [[3, 0, 0, 0], [0, 0, 0, 0], [4, 0, 3, 0], [0, 0, 4, 2]]
SOLVED = [[3, 1, 2, 4], [2, 4, 1, 3], [4, 2, 3, 1], [1, 3, 4, 2]]


def ask(server: Any) -> None:
    async def talk() -> None:
        async with mcp.Client(server) as client:
            (tool,) = (await client.list_tools()).tools
            assert tool.name == "recursive_reasoning"
            assert "sudoku" in tool.description
            right = await client.call_tool(tool.name, {"puzzle": ROWS, "type": "sudoku"})
            assert not right.is_error
            assert json.loads(right.content[0].text)["solution"] == SOLVED
            wrong = await client.call_tool(tool.name, {"puzzle": "33......4.3...42"})
            assert wrong.is_error
            assert "contradict" in wrong.content[0].text
            assert "Traceback" not in wrong.content[0].text

    anyio.run(talk)


def test_in_one_process() -> None:
    ask(make_server(ReasoningTool()))


def test_over_a_pipe() -> None:
    command = ["-m", "trm_fast.cli", "mcp", "sudoku-4x4"]
    ask(mcp.StdioServerParameters(command=sys.executable, args=command, cwd="/"))
