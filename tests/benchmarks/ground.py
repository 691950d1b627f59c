"""Everything a measurement needs, started once: our server, an empty server, a bare cell, the peers, and a copy for them."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from harness import SANDBOX_UID, ask, cell_spec, child_environment, connect_to_server, git
from repocell.guest.link import Exited, Link, open_link
from repocell.models import Limits
from repocell.runtimes.bubblewrap import Bubblewrap, Identity

from . import peers
from .measure import Contender, Failed, Rounds, family
from .peers import Guest, Srt

SHELL = ("bash", "--noprofile", "--norc", "-c")
ERA = "legacy"  # the one era that all peers speak
ECHO = StdioServerParameters(command=sys.executable, args=["-m", "benchmarks.echo"])


@dataclass(frozen=True)
class Ours:
    """Our server with one workspace open on the project."""

    client: Client
    workspace: str
    pid: int

    async def call(self, tool: str, **arguments: Any) -> str:
        return await ask(self.client, tool, workspace=self.workspace, **arguments)


@dataclass(frozen=True)
class Bare:
    """A live cell without a server: what the sandbox and its guest cost by themselves."""

    link: Link
    folder: Path

    async def run(self, command: str) -> int:
        """Runs a command to its end; the number of bytes it printed."""
        printed = 0
        async with self.link.spawn([*SHELL, command], cwd="/workspace") as process:
            while not isinstance(event := await process.receive(), Exited):
                printed += len(event.body)
        return printed


@dataclass(frozen=True)
class Container:
    """A container that sleeps, for docker exec; or why there is none."""

    name: str
    why: str = ""

    async def run(self, command: str) -> int:
        argv = ["docker", "exec", self.name, *SHELL, command]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return len(done.stdout)


@dataclass(frozen=True)
class Ground:
    folder: Path
    home: Path
    repo: Path
    copy: Path
    """A clone where floors and peers work; ours work in a workspace."""
    rounds: Rounds
    ours: Ours
    echo: Client
    bare: Bare
    filesystem: Guest
    commander: Guest
    commands: Guest
    git: Guest
    srt: Srt | str
    container: Container

    async def answer(self, size: int = 1) -> None:
        """What an empty tool costs through the protocol library."""
        await self.echo.call_tool("echo", {"size": size})

    def echoing(self, size: int = 1) -> Contender:
        async def run() -> None:
            await self.answer(size)

        return run


@asynccontextmanager
async def prepared(folder: Path, repo: Path, rounds: Rounds) -> AsyncGenerator[Ground]:
    home, copy = folder / "home", folder / "copy"
    peers.prepare_home(home, folder)
    git(folder, "clone", "--quiet", str(repo), str(copy))
    async with AsyncExitStack() as stack:
        yield Ground(
            folder, home, repo, copy, rounds,
            ours=await _ours(stack, folder, repo),
            echo=await stack.enter_async_context(Client(stdio_client(_echo()), mode=ERA)),
            bare=await _bare(stack, folder),
            filesystem=await peers.enter(stack, peers.FILESYSTEM, home, str(folder)),
            commander=await peers.enter(stack, peers.COMMANDER, home),
            commands=await peers.enter(stack, peers.COMMANDS, home),
            git=await peers.enter(stack, peers.GIT, home),
            srt=await peers.enter_srt(stack, home, copy),
            container=_container(stack),
        )  # fmt: skip


async def _ours(stack: AsyncExitStack, folder: Path, repo: Path) -> Ours:
    before = set(family(os.getpid()))
    client = await stack.enter_async_context(connect_to_server(folder, ["--repo", str(repo)], ERA))
    pid = min(set(family(os.getpid())) - before)
    return Ours(client, (await ask(client, "workspace_open")).split()[1], pid)


def _echo() -> StdioServerParameters:
    return ECHO.model_copy(update={"env": child_environment(Path.home())})


async def _bare(stack: AsyncExitStack, folder: Path) -> Bare:
    place = folder / "bare"
    place.mkdir()
    runtime = Bubblewrap(Identity.for_server(SANDBOX_UID))
    spec = cell_spec(runtime, place, Limits())
    stream = await stack.enter_async_context(runtime.open(spec))
    return Bare(await stack.enter_async_context(open_link(stream, spec.limits, spec.environment)), place)


def docker_missing() -> str:
    """Why there is no Docker engine; '' where there is one. scripts/bench finds out."""
    if os.environ.get("REPOCELL_BENCH_IMAGE"):
        return ""
    return os.environ.get("REPOCELL_BENCH_NO_DOCKER", "scripts/bench was not asked for one")


def docker_argv(*arguments: str) -> Sequence[str]:
    return [
        "docker",
        "run",
        "--network",
        "none",
        *arguments[:-1],
        os.environ["REPOCELL_BENCH_IMAGE"],
        *SHELL,
        arguments[-1],
    ]


def _container(stack: AsyncExitStack) -> Container:
    if why := docker_missing():
        return Container("", why)
    try:
        argv = docker_argv("--detach", "--init", "sleep infinity")
        name = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return Container("", f"a container could not be started ({type(error).__name__})")
    stack.callback(subprocess.run, ["docker", "rm", "--force", name], check=False, capture_output=True)
    return Container(name)


def host(copy: Path, *argv: str) -> Contender:
    """A program on the host, in the clone: the floor of tools that run the same program in the cell."""

    async def run() -> None:
        done = subprocess.run(argv, cwd=copy, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0 or not done.stdout:
            raise Failed(f"{argv[0]} found nothing")

    return run
