"""What tests do again and again: make repositories, start servers and sandboxes, call tools. No fixtures, no mocks."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent

from repocell.guest.link import Link, boot_argv
from repocell.models import Limits, PlainTree, ReadOnlyBind, SandboxSpec
from repocell.runtimes.bubblewrap import Bubblewrap
from repocell.runtimes.diagnosis import GUEST_PYTHON
from repocell.workspaces.pool import cell_environment

ERAS = ("legacy", "2026-07-28")
SANDBOX_UID = 60999
GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "A Developer",
    "GIT_AUTHOR_EMAIL": "dev@example.org", "GIT_COMMITTER_NAME": "A Developer", "GIT_COMMITTER_EMAIL": "dev@example.org",
}  # fmt: skip

Connect = Callable[..., AbstractAsyncContextManager[Client]]
"""connect(era, *options, environment=None, default_repo=True) -> a client of a freshly started real server."""
OpenCell = Callable[..., AbstractAsyncContextManager[Link]]
"""open_cell(limits=None, binds=()) -> the link to a guest in a real sandbox."""


def git(repo: Path, *args: str) -> str:
    """Runs git in a repository of the test's own, without the developer's configuration."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(repo), **GIT_ENVIRONMENT}
    done = subprocess.run(
        ["git", *args], cwd=repo, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def make_repo(path: Path, files: dict[str, str | bytes]) -> Path:
    """A repository with one commit on main that holds these files."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main")
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message", "first")
    return path


def child_environment(home: Path) -> dict[str, str]:
    """What a server is started with: nothing of the developer's, but where the code under test is."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(home)}


@asynccontextmanager
async def connect_to_server(
    folder: Path,
    options: list[str],
    era: str,
    environment: dict[str, str] | None = None,
    prefix: list[str] | None = None,
) -> AsyncGenerator[Client]:
    """A client of a real server, started as a host starts it (after `prefix`); the server's log is folder/server.log."""
    command = [*(prefix or []), sys.executable, "-m", "repocell.cli", "serve"]
    command += [*([] if "--state-dir" in options else ["--state-dir", str(folder / "state")]), *options]
    env = {**child_environment(folder), **(environment or {})}
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        transport = stdio_client(StdioServerParameters(command=command[0], args=command[1:], env=env), errlog=log)
        async with Client(transport, mode=era) as client:
            yield client


def text_of(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


async def ask(client: Client, tool: str, **arguments: object) -> str:
    """Calls a tool that must succeed and returns its text."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    return text_of(result)


async def refuse(client: Client, tool: str, **arguments: object) -> str:
    """Calls a tool that must answer with an error the model can read, and returns its text."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, text_of(result)
    assert "Traceback" not in text_of(result)
    return text_of(result)


def cell_spec(runtime: Bubblewrap, folder: Path, limits: Limits, binds: tuple[ReadOnlyBind, ...] = ()) -> SandboxSpec:
    for name in ("workspace", "home"):
        path = folder / name
        if not path.exists():
            path.mkdir()
            if runtime.identity.drop:
                os.chown(path, runtime.identity.uid, runtime.identity.gid)
    tree = PlainTree(workspace=str(folder / "workspace"), home=str(folder / "home"))
    environment = cell_environment(())
    return SandboxSpec(argv=boot_argv(GUEST_PYTHON), tree=tree, binds=binds, environment=environment, limits=limits)
