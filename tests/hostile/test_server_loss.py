"""A server that ends, however it ends, takes its cells with it; a cell that ends leaves the server and its files.

What is left is looked for on the host: processes, mounts, control groups.
"""

import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from mcp import Client

from harness import Connect, ask
from hostile.observe import (
    LOST,
    alive,
    asleep,
    below,
    groups_of,
    guests_of,
    holders_of,
    is_bubblewrap,
    is_guest,
    marked,
    mounts,
    server_of,
    until,
)
from hostile.stage import words

pytestmark = pytest.mark.anyio

SECONDS = 5.0
BUSY = "trap '' TERM HUP INT; (setsid env -i sleep {0} >/dev/null 2>&1 &); (exec <&- >&- 2>&-; sleep {0}) & sleep {0}"


@dataclass(frozen=True)
class Busy:
    """A server whose two cells run a deaf command, a daemon and a process without descriptors each."""

    client: Client
    server: int
    workspaces: list[str]
    groups: list[str]


@asynccontextmanager
async def busy_server(connect: Connect, folder: Path, mark: str) -> AsyncGenerator[Busy]:
    async with connect() as client:
        workspaces = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        for workspace in workspaces:
            await ask(client, "write_file", path="kept.txt", content="kept\n", workspace=workspace)
            await ask(client, "bash", command=BUSY.format(mark), workspace=workspace, background=True)
        await until("all runs", lambda: len(asleep(mark)) == 6)
        server = server_of(folder)
        assert len(guests_of(server)) == 2
        yield Busy(client, server, workspaces, groups_of(server))


async def nothing_left(busy: Busy, folder: Path, mark: str, cells: set[int]) -> None:
    """Waits until the server, every process of its cells and every view of their files are gone."""
    await until("the server is gone", lambda: not alive(busy.server), SECONDS)
    await until("every command is gone", lambda: not marked(mark), SECONDS)
    await until("every sandbox is gone", lambda: not [pid for pid in cells if alive(pid)], SECONDS)
    await until("nobody has its files mounted", lambda: not holders_of(folder / "state"), SECONDS)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["killed", "ended", "interrupted"]
)
async def test_a_signalled_server_leaves_nothing_running(
    connect: Connect, folder: Path, mark: str, number: signal.Signals
) -> None:
    """Within seconds of the signal, with the client still connected, nothing of any cell runs or is mounted."""
    host = mounts()
    async with busy_server(connect, folder, mark) as busy:
        cells = {seen.pid for seen in below(busy.server)}
        os.kill(busy.server, number)
        await nothing_left(busy, folder, mark, cells)
    assert mounts() == host


async def test_a_client_that_leaves_leaves_nothing_running(connect: Connect, folder: Path, mark: str) -> None:
    """When the client goes away the server ends by itself, and with it everything in its cells, groups included."""
    async with busy_server(connect, folder, mark) as busy:
        cells = {seen.pid for seen in below(busy.server)}
    await nothing_left(busy, folder, mark, cells)
    assert not [group for group in busy.groups if os.path.exists(group)]


def test_outside_a_killed_parent_leaves_its_children(mark: str) -> None:
    """The control of the tests above: a plain shell that is killed leaves what it started."""
    with subprocess.Popen(["bash", "-c", BUSY.format(mark)], start_new_session=True) as shell:
        while len(asleep(mark)) < 3:
            assert shell.poll() is None
        shell.kill()
        shell.wait()
    assert len(asleep(mark)) == 3


async def test_the_next_server_finds_the_files_and_no_groups(connect: Connect, folder: Path, mark: str) -> None:
    """After a killed server the next one has every workspace with its files, and removes the groups the dead one could not."""
    async with busy_server(connect, folder, mark) as busy:
        os.kill(busy.server, signal.SIGKILL)
        await until("the server is gone", lambda: not alive(busy.server), SECONDS)
    await until("every command is gone", lambda: not marked(mark), SECONDS)
    assert not [group for group in busy.groups if os.path.exists(group) and Path(group, "cgroup.procs").read_text()]
    async with connect() as client:
        for workspace in busy.workspaces:
            assert await ask(client, "bash", command="cat kept.txt", workspace=workspace) == "kept\n[exit 0, 0.0 s]"
        assert not [group for group in busy.groups if os.path.exists(group)]


# -- a cell that ends


@pytest.mark.parametrize("victim", ["guest", "bubblewrap"])
async def test_a_lost_sandbox_is_said_and_replaced(connect: Connect, folder: Path, mark: str, victim: str) -> None:
    """A call whose sandbox is killed from the host ends at once and says so; files survive and the next call works."""
    async with connect() as client:
        workspace = (await ask(client, "workspace_open")).split()[1]
        other = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "bash", command=f"sleep {mark}", workspace=other, background=True)
        await until("the other cell works", lambda: len(asleep(mark)) == 1)
        server, before = server_of(folder), {seen.pid for seen in below(server_of(folder))}
        await client.call_tool("workspace_status", {"workspace": workspace})
        said: list[str] = []

        async def call() -> None:
            command = f"echo kept > kept.txt; sleep {mark}"
            said.append(words(await client.call_tool("bash", {"command": command, "workspace": workspace})))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until("the command runs", lambda: len(asleep(mark)) == 2)
            working = max(asleep(mark))
            chain = [seen for seen in below(server) if seen.pid in before and working in below(seen.pid)]
            wanted = is_guest if victim == "guest" else is_bubblewrap
            os.kill(next(seen.pid for seen in chain if wanted(seen)), signal.SIGKILL)
            await until("the call ends", lambda: said, SECONDS)
        assert LOST in said[0]
        assert "Files in the workspace are safe" in said[0]
        assert len(asleep(mark)) == 1
        assert await ask(client, "bash", command="cat kept.txt", workspace=workspace) == "kept\n[exit 0, 0.0 s]"


@pytest.mark.parametrize("tool", ["read_file", "write_file", "grep"])
async def test_every_tool_works_after_its_sandbox_was_lost(connect: Connect, folder: Path, tool: str) -> None:
    """Whichever tool is called first after a sandbox was killed gets a new one on the same files."""
    arguments = {
        "read_file": {"path": "calc.py"}, "write_file": {"path": "new.txt", "content": "x"}, "grep": {"pattern": "add"},
    }[tool]  # fmt: skip
    async with connect() as client:
        await ask(client, "workspace_open")
        guests = guests_of(server_of(folder))
        for guest in guests:
            os.kill(guest, signal.SIGKILL)
        await until("it is gone", lambda: not [pid for pid in guests if alive(pid)])
        with anyio.fail_after(SECONDS):
            result = await client.call_tool(tool, arguments)
            if result.is_error:  # the news may come with the first call, the work with the second
                assert LOST in words(result)
                result = await client.call_tool(tool, arguments)
        assert not result.is_error, words(result)


async def test_a_state_directory_that_is_removed_is_said(connect: Connect, folder: Path) -> None:
    """With the state directory deleted under a running server every call ends, with an honest word and nothing unconfined."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="echo x > x.txt")
        subprocess.run(["rm", "-rf", str(folder / "state")], check=True)
        server = server_of(folder)
        for tool, arguments in (
            ("bash", {"command": "echo well"}), ("read_file", {"path": "x.txt"}), ("workspace_list", {}),
            ("workspace_open", {}), ("workspace_close", {"discard": True}), ("workspace_status", {}),
        ):  # fmt: skip
            with anyio.fail_after(SECONDS * 2):
                said = words(await client.call_tool(tool, arguments))
            assert said
            assert "bug in repocell" not in said, tool
            assert "Traceback" not in said
            assert str(folder) not in said
        assert alive(server)
