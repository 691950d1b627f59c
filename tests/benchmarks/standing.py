"""What a server costs before it is asked anything: its start, its definitions, and the memory of what is idle."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from harness import ask, child_environment, connect_to_server

from . import peers
from .ground import ECHO, ERA, Ground
from .measure import Contender, family, interleaved, megabytes
from .peers import Known, Rival, as_peers, tried
from .report import Row, timed

KILOBYTE = 1000
MAX_DEFINITIONS = 16 * KILOBYTE
MAX_IDLE = 12.0  # megabytes


async def all_rows(ground: Ground) -> list[Row]:
    return [await start(ground), await definitions(ground), *await idle(ground)]


def starting(connect: Callable[[], AbstractAsyncContextManager[Client]]) -> Contender:
    """From nothing to the answer to tools/list; ending is not counted."""

    async def run() -> float:
        started = time.perf_counter()
        async with connect() as client:
            await client.list_tools()
            return time.perf_counter() - started

    return run


async def start(ground: Ground) -> Row:
    folder = ground.folder / "starts"
    folder.mkdir()
    empty = ECHO.model_copy(update={"env": child_environment(folder)})
    with (folder / "peers.log").open("a", encoding="utf-8") as log:

        def connect(parameters: StdioServerParameters) -> Contender:
            return starting(lambda: Client(stdio_client(parameters, errlog=log), mode=ERA))

        def theirs(known: Known, *arguments: str) -> Rival:
            why = known.missing() or ""
            return Rival(
                known.name, False, None if why else connect(peers.parameters(known, ground.home, *arguments)), why
            )

        own = {
            "floor": connect(empty),
            "ours": starting(lambda: connect_to_server(folder, ["--repo", str(ground.repo)], ERA)),
        }
        able = await tried([
            theirs(peers.FILESYSTEM, str(folder)), theirs(peers.COMMANDER), theirs(peers.COMMANDS), theirs(peers.GIT),
        ])  # fmt: skip
        rivals = {each.name: each.run for each in able if each.run is not None}
        timings = await interleaved({**own, **rivals}, ground.rounds.slow)
    floor = timings["floor"].median
    return timed(
        "start to `tools/list`", "server with one empty tool", floor, timings["ours"], 1.25, as_peers(able, timings)
    )


async def definitions(ground: Ground) -> Row:
    async with connect_to_server(ground.folder / "starts", ["--toolsets", "core"], ERA) as client:
        listed = await client.list_tools()
    size = len(listed.model_dump_json(by_alias=True, exclude_none=True))
    seen: list[str] = []
    for guest in (ground.filesystem, ground.commander, ground.commands, ground.git):
        if not guest.why:
            count, theirs = await guest.definitions()
            seen.append(f"{guest.known.name} {theirs / KILOBYTE:.1f} kB ({count} tools)")
    return Row(
        "tool definitions, core set", "others: " + (", ".join(seen) or "none took part"), "-",
        f"{size / KILOBYTE:.1f} kB ({len(listed.tools)} tools)", "-", "under 16 kB", size < MAX_DEFINITIONS,
    )  # fmt: skip


async def idle(ground: Ground) -> list[Row]:
    """Proportional memory of one idle live cell, all its processes, and the processes a suspended workspace has."""
    place = f"{ground.folder}/state/workspaces/{ground.ours.workspace}"
    await ground.ours.call("bash", command="true")
    live = family(place)
    ours, bare = megabytes(live), megabytes(family(str(ground.bare.folder)))
    others = [f"{name} {megabytes(pids):.0f} MB" for name, pids in _idle_others(ground).items()]
    await ask(ground.ours.client, "workspace_checkpoint", workspace=ground.ours.workspace)
    suspended = len(family(place))
    return [
        Row(
            "memory of an idle live cell", "a cell without a server; others: " + (", ".join(others) or "none took part"),
            f"{bare:.1f} MB", f"{ours:.1f} MB in {len(live)} processes", f"{ours / bare:.2f}x", "at most 12 MB",
            ours <= MAX_IDLE,
        ),
        Row("processes of a suspended workspace", "-", "-", str(suspended), "-", "none", suspended == 0),
    ]  # fmt: skip


def _idle_others(ground: Ground) -> dict[str, list[int]]:
    """What stands idle for one session of somebody else's, all its processes."""
    found: dict[str, list[int]] = {}
    if not isinstance(ground.srt, str):
        found["srt"] = list(ground.srt.pids)
    if not ground.container.why:
        found["docker"] = family(ground.container.name)
    for guest in (ground.commander, ground.commands):
        if not guest.why:
            found[guest.known.name] = list(guest.pids)
    return found
