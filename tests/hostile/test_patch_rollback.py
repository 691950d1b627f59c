"""A patch that is cut short while it is written: by its caller, by somebody in the cell, by the end of the sandbox.

All of it is done or all of it is undone; where that cannot be, the files are named.
"""

import os
import re
import signal
from pathlib import Path

import anyio
import pytest
from mcp import Client

from harness import Connect, ask, text_of
from hostile.observe import guests_of, server_of

pytestmark = pytest.mark.anyio

COUNT, SIZE = 40, 400_000
MAKE = (
    f"mkdir -p many && cd many && head -c {SIZE} /dev/zero | tr '\\0' x > tail && "
    f"for i in $(seq 100 {99 + COUNT}); do {{ echo old; cat tail; }} > f$i; done; rm tail"
)
PATCH = "".join(
    f"--- a/many/f{number}\n+++ b/many/f{number}\n@@ -1 +1 @@\n-old\n+new\n" for number in range(100, 100 + COUNT)
)
ADDED = f"{PATCH}--- /dev/null\n+++ b/made/by/patch\n@@ -0,0 +1 @@\n+x\n"
BEGUN = 'until [ "$(head -c 3 many/f100)" = new ]; do :; done'  # the first file was written, many are to come
LAST = 99 + COUNT


async def state(client: Client) -> tuple[int, int]:
    """How many files are as they were, and how many as the patch makes them."""
    counted = "for w in old new; do head -qc 3 many/f1* 2>/dev/null | grep -o $w | wc -l; done"
    old, new = map(int, (await ask(client, "bash", command=counted)).split("[")[0].split())
    return old, new


async def watched(client: Client, then: str) -> str:
    """Starts a job that waits until the patch has begun and then does something; returns the job's id."""
    found = re.search(
        r"job_[0-9a-f]{32}", await ask(client, "bash", command=f"touch up; {BEGUN}; {then}", background=True)
    )
    assert found is not None
    while "up" not in await ask(client, "list_dir", depth=1):
        pass
    return found.group()


@pytest.mark.parametrize("delay_ms", [0, 5, 30, 80, 150, 250, 400])
async def test_a_patch_cancelled_at_any_moment_is_all_or_nothing(connect: Connect, delay_ms: int) -> None:
    """Cancelled by the client before, while or after it is written, every file is the old one, or every file is the new one."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=MAKE)
        with anyio.move_on_after(delay_ms / 1000):
            await client.call_tool("apply_patch", {"patch": ADDED})
        await ask(client, "write_file", path="behind.txt", content="waits for the patch's turn to end\n")
        old, new = await state(client)
        assert (old, new) in ((COUNT, 0), (0, COUNT))
        there = await client.call_tool("read_file", {"path": "made/by/patch"})
        assert there.is_error == (old == COUNT)
        made = await ask(client, "list_dir", depth=1)
        assert ("made" in made) == (new == COUNT)


async def test_what_cannot_be_put_back_is_named(connect: Connect) -> None:
    """A job that closes the directory in the middle stops both the patch and the way back: the answer lists each changed file."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=MAKE)
        await watched(client, "chmod 555 many")
        said = text_of(await client.call_tool("apply_patch", {"patch": PATCH}))
        assert "failed while it was written" in said
        assert "could not be put back" in said
        old, new = await state(client)
        assert new > 0
        assert old + new == COUNT
        command = "chmod 755 many; cd many; for f in f1*; do [ $(head -c 3 $f) = new ] && echo $f; done"
        changed = re.findall(r"f1\d\d", await ask(client, "bash", command=command))
        named = re.findall(r"many/(f1\d\d)", said.partition("could not be put back")[2])
        hidden = re.search(r"\((\d+) more\)", said)
        assert named == [*reversed(changed)][: len(named)] or set(named) <= set(changed)
        assert len(named) + int(hidden.group(1) if hidden else 0) == len(changed)


async def test_what_somebody_else_wrote_meanwhile_is_left_and_named(connect: Connect) -> None:
    """A file that a job replaced behind the patch is not put back over the job's content; the others are."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=MAKE)
        await watched(client, f"echo theirs > many/f100; echo theirs > many/f{LAST}")
        said = text_of(await client.call_tool("apply_patch", {"patch": PATCH}))
        assert f"many/f{LAST}" in said.partition("could not be put back")[0]
        assert re.findall(r"many/f1\d\d", said.partition("could not be put back")[2]) == ["many/f100"]
        assert await state(client) == (COUNT - 2, 0)
        assert (await ask(client, "bash", command=f"cat many/f100 many/f{LAST}")).startswith("theirs\ntheirs\n")


async def test_a_directory_put_in_a_files_place_is_named(connect: Connect) -> None:
    """What cannot even be read any more is named as well, and everything else is put back."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=MAKE)
        await watched(client, f"rm many/f100 many/f{LAST}; mkdir many/f100 many/f{LAST}")
        said = text_of(await client.call_tool("apply_patch", {"patch": PATCH}))
        assert re.findall(r"many/f1\d\d", said.partition("could not be put back")[2]) == ["many/f100", f"many/f{LAST}"]
        assert await state(client) == (COUNT - 2, 0)


@pytest.mark.parametrize("delay_ms", [10, 80, 200])
async def test_a_lost_sandbox_is_started_again_to_put_everything_back(
    connect: Connect, folder: Path, delay_ms: int
) -> None:
    """When the guest is killed in the middle, the files are put back in a new cell, and the answer says that they were."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=MAKE)
        (guest,) = guests_of(server_of(folder))
        said: list[str] = []

        async def apply() -> None:
            said.append(text_of(await client.call_tool("apply_patch", {"patch": PATCH})))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(apply)
            await anyio.sleep(delay_ms / 1000)
            os.kill(guest, signal.SIGKILL)
        await client.call_tool(
            "bash", {"command": "true"}
        )  # where the patch was done by then, this call meets the dying cell
        old, new = await state(client)
        assert (old, new) == ((0, COUNT) if "Applied" in said[0] else (COUNT, 0)), said
        assert "could not be put back" not in said[0]
