"""Where attacks happen: a running server, the workspace that attacks, the one that stands by, and what they must not reach."""

from dataclasses import dataclass
from pathlib import Path

from mcp import Client
from mcp_types import CallToolResult, TextContent

from harness import ask


def words(result: CallToolResult) -> str:
    """All that the model is told, whether the call succeeded or not."""
    return "".join(block.text for block in result.content if isinstance(block, TextContent))


@dataclass(frozen=True)
class Stage:
    """A running server and what stands around it. `decoy` holds what no cell may reach; `secret` is a line of it."""

    client: Client
    folder: Path
    repo: Path
    server: int
    cell: str
    bystander: str
    decoy: Path
    secret: str

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def on_host(self, path: str) -> Path:
        """Where a path of the attacking workspace lies on the host."""
        return self.state / "workspaces" / self.cell / "workspace" / path

    async def attack(self, command: str, **arguments: object) -> str:
        """Runs a command in the attacking cell and returns what the model is told, whether it succeeded or not."""
        result = await self.client.call_tool("bash", {"command": command, "workspace": self.cell, **arguments})
        return words(result)

    async def call(self, tool: str, **arguments: object) -> str:
        """Calls a tool on the attacking cell and returns what the model is told, whether it succeeded or not."""
        result = await self.client.call_tool(tool, {"workspace": self.cell, **arguments})
        return words(result)

    async def healthy(self) -> None:
        """The next command works, in the attacking cell and in the other one."""
        for workspace in (self.cell, self.bystander):
            said = await ask(self.client, "bash", command="echo well", workspace=workspace, timeout_s=10)
            assert said.startswith("well\n[exit 0"), said
