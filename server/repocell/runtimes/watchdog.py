"""Stops what exceeds a cell's memory or disk where no kernel limit covers the sum.

Lives here: when to look, what is too much, and killing the offender. How to look is measure.py's and segments.py's. It may
not know how the sandbox was made. It polls, because nothing tells; the interval grows with what a look costs.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread

from ..models import Limits, MiB
from .breaches import Breaches
from .measure import (
    Shared,
    descendants,
    disk_usage,
    held,
    largest,
    mapped_deleted,
    mapped_shared,
    memory_device,
    proportional,
    resident,
    total,
    tree_usage,
    written_devices,
)
from .segments import Segments, orphans

__all__ = ["Tally", "descendants", "disk_usage", "kill", "watch_disk", "watch_memory", "watch_segments"]

_MEMORY_SECONDS = 0.1
_MEMORY_SHARE = 10  # looking at what processes share may take one part in this many of the time
_ORPHANED_SECONDS = 1.0  # how long after the kernel killed somebody their segments are looked for: dying takes a while
_DISK_POLL_SECONDS = 0.1
_DISK_SECONDS = 2.0
_DISK_SHARE = 50  # a look at the disk may take at most one part in this many of the time
_DISK_SHARE_HURRIED = 5  # the same while the file system fills so fast that the limit may have been passed
DISK_SLACK = 1 * MiB  # what a cell over its limit may still write while it is to clean up


@dataclass
class Tally:
    """How often this cell's processes were killed here for each limit."""

    memory: int = 0
    disk: int = 0

    def seen(self, by_kernel: int) -> Breaches:
        """The same, with what the kernel killed for memory."""
        return Breaches(memory=self.memory + by_kernel, disk=self.disk)


def kill(pid: int, root: int) -> None:
    """Kills one process below `root`, through a descriptor, so that a recycled pid cannot be hit."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if pid in descendants(root):
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


# -- memory


async def watch_memory(root: int, limits: Limits, tally: Tally, segments: Segments) -> None:
    """Kills the largest process whenever the sum of all is over the limit. Runs until cancelled."""
    device, rests_until = frozenset({memory_device()}), 0.0
    files: Sequence[Shared] = ()
    while True:
        sizes = {pid: resident(pid) for pid in descendants(root)}
        now = anyio.current_time()
        if now >= rests_until:
            files = tuple((await anyio.to_thread.run_sync(held, [*sizes], device)).values())
            rests_until = anyio.current_time() + (anyio.current_time() - now) * _MEMORY_SHARE
        if sizes:
            await segments.open()
        shared = [*files, *segments.shared()]
        if total(sizes, shared) <= limits.memory:
            await anyio.sleep(_MEMORY_SECONDS if sizes else _MEMORY_SECONDS * 5)
            continue
        now = anyio.current_time()
        exact = await anyio.to_thread.run_sync(_exact, [*sizes], bool(shared))
        if total(exact, shared) > limits.memory:
            await _relieve(root, exact, shared, tally, segments)
            rests_until = 0.0
        await anyio.sleep(max(_MEMORY_SECONDS / 10, (anyio.current_time() - now) * _MEMORY_SHARE))


def _exact(pids: Sequence[int], sharing: bool) -> dict[int, int]:
    """Bytes of each process without counting anything twice: what is counted as shared is left out."""
    return {pid: max(0, proportional(pid) - (mapped_shared(pid) if sharing else 0)) for pid in pids}


async def _relieve(
    root: int, sizes: dict[int, int], shared: Sequence[Shared], tally: Tally, segments: Segments
) -> None:
    """Makes room: first what nobody has any more, then the largest process with all it holds."""
    gone = orphans(segments.look(), frozenset(sizes))
    if gone:
        tally.memory += 1
        await segments.remove(gone)
        return
    victim = largest(sizes, shared)
    if victim is not None:
        tally.memory += 1
        kill(victim, root)


async def watch_segments(root: int, kills: Callable[[], int], segments: Segments) -> None:
    """Where the kernel kills for memory: removes what the killed left, which would count for ever. Runs until cancelled.

    `kills` tells how often it has killed.
    """
    before, until = kills(), 0.0
    while True:
        await anyio.sleep(_MEMORY_SECONDS / 2)
        if not segments.tried and any(descendants(root)):
            await segments.open()
        if (now := kills()) > before:
            before, until = now, anyio.current_time() + _ORPHANED_SECONDS
        if anyio.current_time() < until and (gone := orphans(segments.look(), frozenset(descendants(root)))):
            await segments.remove(gone)


# -- disk


@dataclass(frozen=True)
class DiskState:
    """What is known between two looks: bytes used, and how many make the cell be stopped."""

    used: int
    allowed: int

    def after(self, used: int, limit: int) -> "DiskState":
        """Once over the limit, a cell may go on as long as it shrinks: whoever is to clean up must be able to."""
        return DiskState(used, max(limit, min(self.allowed, used + DISK_SLACK)))

    def over(self, used: int, limit: int) -> "DiskState":
        """Where a cell that is over its limit begins to clean up."""
        return DiskState(used, max(limit, used + DISK_SLACK))


async def watch_disk(
    root: int, limits: Limits, tally: Tally, closer: Callable[[Sequence[str]], Awaitable[int | None]], *trees: str
) -> None:
    """Kills every process but the guest whenever the cell's files are over the limit. Runs until cancelled.

    `closer` measures trees that cannot be seen from here in full; None when it cannot either, which counts as too much.
    """
    state, due, hurried, free = DiskState(0, limits.disk), 0.0, 0.0, 0
    while True:
        await anyio.sleep(_DISK_POLL_SECONDS)
        if next(descendants(root), None) is None:
            continue
        started, left = anyio.current_time(), _free(trees[0])
        if started < due and (started < hurried or free - left < state.allowed - state.used):
            continue
        used = await _disk_use(root, closer, trees)
        if used > state.allowed == limits.disk:  # the guilty may be gone, and this may be the one who cleans up
            await anyio.sleep(_DISK_POLL_SECONDS)
            before, used = used, await _disk_use(root, closer, trees)
            if limits.disk < used < before:
                state = state.over(used, limits.disk)
        if used > state.allowed:
            tally.disk += 1
            for pid in [*descendants(root)]:
                kill(pid, root)
            used = await _disk_use(root, closer, trees)
            state = state.over(used, limits.disk)
        state, free = state.after(used, limits.disk), left
        now = anyio.current_time()
        due = now + max(_DISK_SECONDS, (now - started) * _DISK_SHARE)
        hurried = now + (now - started) * _DISK_SHARE_HURRIED


async def _disk_use(root: int, closer: Callable[[Sequence[str]], Awaitable[int | None]], trees: Sequence[str]) -> int:
    """Bytes of a cell's trees and of the deleted files its processes keep; more than any limit when it cannot be told."""
    seen = await anyio.to_thread.run_sync(tree_usage, *trees)
    size = await closer(trees) if seen.unseen else seen.size
    kept = await anyio.to_thread.run_sync(_kept, root)
    return (1 << 63 if size is None else size) + kept


def _kept(root: int) -> int:
    devices, pids = written_devices(root), [root, *descendants(root)]
    files = held(pids, devices)
    numbers = {inode for _, inode in files}
    mapped = mapped_deleted(pids, devices)
    files.update({key: one for key, one in mapped.items() if key[0] or key[1] not in numbers})
    return sum(one.size for one in files.values())


def _free(tree: str) -> int:
    """Bytes free on the file system of a tree."""
    try:
        facts = os.statvfs(tree)
    except OSError:
        return 0
    return facts.f_bfree * facts.f_frsize
