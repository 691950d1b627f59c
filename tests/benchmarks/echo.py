"""The emptiest server on the same protocol library: one tool that answers with so many characters. Its time is our floor."""

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

TOOL = types.Tool(
    name="echo", description="Answers.", input_schema={"type": "object", "properties": {"size": {"type": "integer"}}}
)


async def list_tools(_context: object, _params: object) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[TOOL])


async def call(_context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
    text = "x" * int((params.arguments or {}).get("size", 1))
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def main() -> None:
    server = Server("echo", on_list_tools=list_tools, on_call_tool=call)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
