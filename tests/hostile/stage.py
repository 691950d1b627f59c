"""Where attacks happen: a running server, the workspace that attacks, the one that stands by, and what they must not reach."""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp import Client
from mcp_types import CallToolResult, TextContent

from harness import ask, connect_to_server, make_repo
from hostile.observe import server_of


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

    def on_host(self, path: str, workspace: str | None = None) -> Path:
        """Where a path of a workspace (the attacking one) lies on the host: in the newest layer that has it."""
        record = json.loads((self.state / "workspaces" / (workspace or self.cell) / "workspace.json").read_text())
        found = [self.state / "layers" / layer / "workspace" / path for layer in (record["upper"], *record["lowers"])]
        return next((place for place in found if os.path.lexists(place)), found[0])

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


@asynccontextmanager
async def open_stage(folder: Path, settings: str) -> AsyncGenerator[Stage]:
    """A server with these settings and two workspaces, beside a decoy that holds a secret the server knows too."""
    repo = make_repo(folder / "project", {"calc.py": "def add(a, b):\n    return a - b\n", "README.md": "# calc\n"})
    (repo / "private.txt").write_text("uncommitted-in-the-clone\n")
    secret = f"secret-of-{folder.name}"
    decoy = folder / "decoy"
    decoy.mkdir()
    (decoy / "secret.txt").write_text(f"{secret}\n")
    (decoy / "secret.txt").chmod(0o666)
    decoy.chmod(0o777)
    (folder / "config.toml").write_text(settings)
    environment = {
        "REPOCELL_CONFIG": str(folder / "config.toml"),
        "GITHUB_TOKEN": secret,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    async with connect_to_server(folder, ["--repo", str(repo)], "legacy", environment) as client:
        cells = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        yield Stage(client, folder, repo, server_of(folder), cells[0], cells[1], decoy, secret)
