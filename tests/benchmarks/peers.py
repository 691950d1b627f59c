"""Other people's servers: which, where they were installed, and how each is started without a network of its own.

A peer that was not installed, or does not answer, is an `Absent` with its reason, which the report prints.
"""

import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult

from harness import child_environment, text_of

from .measure import Contender, Failed, Timing, family
from .report import Peer

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # a peer that takes longer for one answer is not measured
NO_NETWORK = ("bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent", "--")


@dataclass(frozen=True)
class Known:
    """One of scripts/lib/peers.sh: its folder below .cache/peers, and how it starts there."""

    name: str
    folder: str
    package: str
    licence: str
    program: tuple[str, ...]
    isolated: bool = False

    @property
    def home(self) -> Path:
        return ROOT / ".cache" / "peers" / self.folder

    @property
    def source(self) -> str:
        return f"{self.name}: {self.package}, {self.licence}"

    def missing(self) -> str | None:
        """Why it cannot be started."""
        if (self.home / "installed").is_file():
            return None
        why = self.home / "why"
        return why.read_text(encoding="utf-8").strip() if why.is_file() else "it was not installed"

    def command(self, *arguments: str) -> list[str]:
        return [*NO_NETWORK, *(part.format(home=self.home) for part in self.program), *arguments]


FILESYSTEM = Known(
    "filesystem server", "filesystem", "npm @modelcontextprotocol/server-filesystem 2026.8.31",
    "MIT and Apache-2.0 (by its repository; the package only refers to it)",
    ("{home}/node_modules/.bin/mcp-server-filesystem",),
)  # fmt: skip
COMMANDER = Known(
    "Desktop Commander", "desktop-commander", "npm @wonderwhy-er/desktop-commander 0.2.52, telemetry off", "MIT",
    ("{home}/node_modules/.bin/desktop-commander",),
)  # fmt: skip
COMMANDS = Known(
    "mcp-server-commands", "commands", "npm mcp-server-commands 0.5.0", "MIT",
    ("{home}/node_modules/.bin/mcp-server-commands",),
)  # fmt: skip
GIT = Known("git server", "git", "PyPI mcp-server-git 2026.10.19", "MIT", ("{home}/venv/bin/mcp-server-git",))
SRT = Known(
    "srt", "srt", "npm @anthropic-ai/sandbox-runtime 0.0.83, as a library that is prepared once", "Apache-2.0",
    ("node", str(Path(__file__).parent / "srt_host.mjs"), "{home}/node_modules/@anthropic-ai/sandbox-runtime"),
    isolated=True,
)  # fmt: skip
ALL = (FILESYSTEM, COMMANDER, COMMANDS, GIT, SRT)


class Guest:
    """A peer that was started, or the reason why it was not."""

    def __init__(self, known: Known, why: str = "", client: Client | None = None, pids: Sequence[int] = ()) -> None:
        self.known, self.why, self._client, self.pids = known, why, client, pids

    async def call(self, tool: str, **arguments: Any) -> str:
        """Calls a tool that must succeed. Raises Failed with what it answered otherwise."""
        assert self._client is not None
        result = await self._client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        if result.is_error:
            raise Failed(f"{tool} answered: {text_of(result)}")
        return text_of(result) if result.content else ""

    async def definitions(self) -> tuple[int, int]:
        """How many tools it lists, and the bytes of that list."""
        assert self._client is not None
        listed = await self._client.list_tools()
        return len(listed.tools), len(listed.model_dump_json(by_alias=True, exclude_none=True))


def environment(home: Path) -> dict[str, str]:
    """What a peer is started with: a home of its own, our ripgrep on its path, and no telemetry."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**child_environment(home), "PATH": path, "DESKTOP_COMMANDER_DISABLE_TELEMETRY": "1"}


def parameters(known: Known, home: Path, *arguments: str) -> StdioServerParameters:
    command = known.command(*arguments)
    return StdioServerParameters(command=command[0], args=command[1:], env=environment(home))


def prepare_home(home: Path, allowed: Path) -> None:
    """A home folder for peers, with Desktop Commander's settings in it: no telemetry, and where it may work."""
    folder = home / ".claude-server-commander"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"telemetryEnabled": False, "allowedDirectories": [str(allowed)]}), encoding="utf-8"
    )


async def enter(stack: AsyncExitStack, known: Known, home: Path, *arguments: str) -> Guest:
    """Starts a peer that lives as long as the stack."""
    if (why := known.missing()) is not None:
        return Guest(known, why)
    before = set(family(os.getpid()))
    log = stack.enter_context((home / f"{known.folder}.log").open("a", encoding="utf-8"))
    transport = stdio_client(parameters(known, home, *arguments), errlog=log)
    try:
        client = await stack.enter_async_context(Client(transport, mode="legacy", read_timeout_seconds=SECONDS))
        await client.list_tools()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a peer is a line of the report
        return Guest(known, f"it did not start ({type(error).__name__})")
    return Guest(known, client=client, pids=sorted(set(family(os.getpid())) - before))


class Srt:
    """sandbox-runtime through a small program of ours that asks its library for one command after another."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._send, self._lines = process.stdin.send, BufferedByteReceiveStream(process.stdout)
        self._pid = process.pid

    @property
    def pids(self) -> Sequence[int]:
        return family(self._pid)

    async def answer(self) -> dict[str, Any]:
        with anyio.fail_after(SECONDS):
            return json.loads(await self._lines.receive_until(b"\n", 1 << 16))

    async def run(self, command: str) -> int:
        """Runs a command to its end; the number of bytes it printed. Raises Failed when it did not succeed."""
        await self._send(json.dumps({"command": command}).encode() + b"\n")
        answer = await self.answer()
        if answer["code"] != 0:
            raise Failed(f"its command ended with {answer['code']}")
        return answer["printed"]

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, folder: Path) -> AsyncGenerator[Self]:
        command = SRT.command(str(folder))
        with (home / "srt.log").open("ab") as log:
            async with await anyio.open_process(command, stderr=log, env=environment(home)) as process:
                srt = cls(process)
                await srt.answer()
                yield srt
                assert process.stdin is not None
                await process.stdin.aclose()
                with anyio.move_on_after(5):
                    await process.wait()
                if process.returncode is None:
                    process.kill()


async def enter_srt(stack: AsyncExitStack, home: Path, folder: Path) -> Srt | str:
    """srt, or why it cannot take part."""
    if (why := SRT.missing()) is not None:
        return why
    try:
        srt = await stack.enter_async_context(Srt.open(home, folder))
        await srt.run("true")
    except Exception as error:  # noqa: BLE001 - as above
        return f"it did not start ({said(error)})"
    return srt


@dataclass(frozen=True)
class Rival:
    """A peer's way to do one operation."""

    name: str
    isolated: bool
    run: Contender | None
    why: str = ""


def rival(guest: Guest, how: Callable[[Guest], Contender]) -> Rival:
    known = guest.known
    return Rival(known.name, known.isolated, None if guest.why else how(guest), guest.why)


async def tried(rivals: Sequence[Rival]) -> list[Rival]:
    """The rivals, each run once: one that fails at that is absent from the measurement, with its reason."""
    found: list[Rival] = []
    for each in rivals:
        why = each.why
        if each.run is not None:
            try:
                await each.run()
            except Exception as error:  # noqa: BLE001 - as above
                why = said(error)
        found.append(Rival(each.name, each.isolated, None if why else each.run, why))
    return found


def said(error: Exception) -> str:
    """What a peer answered, on one line and without paths of this machine."""
    return re.sub(r"/\S+", "PATH", " ".join(str(error).split()))[:160] or type(error).__name__


def as_peers(rivals: Sequence[Rival], timings: dict[str, Timing]) -> tuple[Peer, ...]:
    return tuple(Peer(each.name, each.isolated, timings.get(each.name), each.why) for each in rivals)
