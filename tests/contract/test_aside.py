"""The private descriptor of a command: what it wrote there comes with its exit, bounded and byte by byte, whatever it did."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from contract.cells import BASH, ROOT, bounded, exists, open_wire, ran_well
from contract.liar import ENDED, SOON, Lie, answering, expect_loss, link_to, saying
from harness import OpenCell
from repocell.guest.agent import ASIDE, ASIDE_BYTES, DONE, NOTE
from repocell.guest.link import Exited, Link
from repocell.models import ExitStatus, Limits
from repocell.runtimes.bubblewrap import Bubblewrap

pytestmark = pytest.mark.anyio


@pytest.fixture
def cell(open_cell: OpenCell) -> OpenCell:
    return bounded(open_cell)


async def ended(link: Link, command: str, *, aside: bool = True, stop: bool = False) -> ExitStatus:
    """How a command that was given the descriptor (or not) exited; with `stop`, what it left running is killed then."""
    async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": "job_a"}, aside=aside) as process:
        while True:
            event = await process.receive()
            if isinstance(event, Exited) and (stop or not event.running):
                return event.status


async def test_every_byte_comes_back(cell: OpenCell) -> None:
    """All 256 values, in order, with those that JSON, UTF-8 or a terminal would change."""
    async with cell() as link:
        program = f"import os; os.write({ASIDE}, bytes(range(256)) * 2)"
        status = await ended(link, f'/usr/bin/python3 -c "{program}"; exit 3')
        assert (status.aside, status.exit) == (bytes(range(256)) * 2, 3)


@pytest.mark.parametrize("size", [ASIDE_BYTES - 1, ASIDE_BYTES, ASIDE_BYTES + 1, 64 << 20])
async def test_no_more_than_its_bound_is_told(cell: OpenCell, size: int) -> None:
    """The first ASIDE_BYTES of what was written; of bytes that take six characters each in a frame, too."""
    async with cell() as link:
        status = await ended(link, f"head -c {size} /dev/zero | tr '\\0' '\\377' >&{ASIDE}")
        assert status.ok
        assert status.aside == b"\xff" * min(size, ASIDE_BYTES)


NOTHING: dict[str, tuple[str, bytes]] = {
    "not used": ("true", b""),
    "closed": (f"exec {ASIDE}>&-", b""),
    "closed after use": (f"printf x >&{ASIDE}; exec {ASIDE}>&-", b"x"),
    "another file in its place": (f"exec {ASIDE}>/workspace/mine; printf x >&{ASIDE}", b""),
    "sparse": (f"truncate -s 1T /proc/self/fd/{ASIDE} || truncate -s 1G /proc/self/fd/{ASIDE}", b"\0" * ASIDE_BYTES),
    "written far off": (f"printf abc >&{ASIDE}; cd /proc/self/fd; truncate -s 1G {ASIDE}; truncate -s 3 {ASIDE}", b"abc"),
    "emptied": (f"printf abc >&{ASIDE}; truncate -s 0 /proc/self/fd/{ASIDE}", b""),
    "killed": (f"printf abc >&{ASIDE}; kill -9 $$", b"abc"),
    "by a child": (f"(printf abc >&{ASIDE})", b"abc"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
async def test_what_is_told_is_what_stood_there_at_the_exit(cell: OpenCell, name: str) -> None:
    """A command may close, replace, empty or stretch it: the guest tells what its own file holds then, and goes on."""
    command, told = NOTHING[name]
    async with cell() as link:
        assert (await ended(link, command)).aside == told
        assert await ran_well(link, "echo well") == "well"


async def test_who_is_not_given_it_has_none(cell: OpenCell) -> None:
    """Without `aside` there is no such descriptor, not even another command's, and nothing is told."""
    async with cell() as link, link.spawn([*BASH, "sleep 600"], cwd=ROOT, aside=True):
        status = await ended(
            link, f"(printf x >&{ASIDE}) 2>/dev/null && exit 9; ls /proc/self/fd | grep -c {ASIDE}", aside=False
        )
        assert (status.exit, status.aside) == (1, b"")


async def test_gigabytes_are_the_commands_own_loss(cell: OpenCell) -> None:
    """What is written there counts against the limits of the command: it ends, the guest does not."""
    async with cell(Limits(disk=64 << 20)) as link:
        status = await ended(link, f"trap '' XFSZ; head -c 4G /dev/zero >&{ASIDE}")
        assert status.exit == 1
        assert status.aside == bytes(ASIDE_BYTES)
        assert await ran_well(link, "echo well") == "well"


async def test_a_background_child_that_has_it_changes_nothing_behind_the_exit(cell: OpenCell, folder: Path) -> None:
    """What was told at the exit stays what is told at the end, and the guest keeps nothing of the file until then."""
    async with cell() as link:
        command = f"printf first >&{ASIDE}; (until [ -e go ]; do sleep 0.01; done; printf second >&{ASIDE}; touch went) & true"
        told: list[bytes] = []
        async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": "job_a"}, aside=True) as process:
            while True:
                event = await process.receive()
                if isinstance(event, Exited):
                    told.append(event.status.aside)
                    if not event.running:
                        break
                    (folder / "workspace" / "go").touch()
                    await exists(folder / "workspace" / "went")
        assert told == [b"first", b"first"]


async def test_the_guest_lets_go_of_what_was_written_at_the_exit(cell: OpenCell, folder: Path) -> None:
    """Also when a child goes on printing: what a command put there is memory, and free once no process has it any more."""
    shared = "grep -E '^Shmem:' /proc/meminfo | tr -dc 0-9"  # kilobytes, of the whole machine
    wait = "touch full; until [ -e go ]; do sleep 0.01; done"
    async with cell() as link:
        command = f"head -c 400M /dev/zero >&{ASIDE}; sleep 600 {ASIDE}>&- & {wait}"
        async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": "job_a"}, aside=True) as process:
            await exists(folder / "workspace" / "full")
            full = int(await ran_well(link, shared))
            (folder / "workspace" / "go").touch()
            event = await process.receive()
            assert isinstance(event, Exited) and event.running
            with anyio.fail_after(20):
                while int(await ran_well(link, shared)) > full - 200_000:
                    pass


# -- a guest that lies about it

ASIDE_LIES: dict[str, Any] = {
    "more than the bound": "x" * (ASIDE_BYTES + 1),
    "a number": 7,
    "a list": ["x"],
    "nothing at all": None,
    "an object": {"a": "b"},
}


@pytest.mark.parametrize("kind", [NOTE, DONE])
@pytest.mark.parametrize("name", ASIDE_LIES)
async def test_a_lie_about_it_ends_the_link(name: str, kind: int) -> None:
    """What is no text within the bound is no end of a command."""
    lie: Lie = saying(kind, {**ENDED, "aside": ASIDE_LIES[name]})
    async with link_to(answering(lie), SOON) as link:
        await expect_loss(link, lambda: ended_by(link), "malformed Ended")


async def ended_by(link: Link) -> ExitStatus:
    async with link.spawn(["true"], cwd="/", aside=True) as process:
        event = await process.receive()
        assert isinstance(event, Exited)
        return event.status


async def test_characters_that_are_no_bytes_do_no_harm() -> None:
    """A guest may tell any characters; they become bytes within the bound."""
    async with link_to(answering(saying(DONE, {**ENDED, "aside": "a\u0100\u2603\U0001f600\xff"}))) as link:
        assert (await ended_by(link)).aside == b"a???\xff"


async def test_it_is_the_same_on_the_wire(runtime: Bubblewrap, folder: Path) -> None:
    """A full descriptor of the costliest bytes fits into the frames that tell of it, twice."""
    async with open_wire(runtime, folder) as wire:
        command = f"head -c {ASIDE_BYTES} /dev/zero >&{ASIDE}; sleep 0.1 & true"
        stream = await wire.open("spawn", argv=[*BASH, command], cwd="/", env={}, aside=True)
        for kind in (NOTE, DONE):
            assert (await wire.hear(stream, kind)).meta["aside"] == "\0" * ASIDE_BYTES
