"""Stops what exceeds a cell's memory or disk where no kernel limit covers the sum.

Lives here: measuring a process tree and a directory tree from the host, and killing the offender. It may not know how
the sandbox was made. It polls, because nothing tells; the interval grows with what a look costs.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from ..models import Limits

_MEMORY_SECONDS = 0.1
_DISK_SECONDS = 2.0
_DISK_SHARE = 50  # a look at the disk may take at most one part in this many of the time


def descendants(pid: int) -> Iterator[int]:
    """Every process below `pid`. A sandbox's processes all stand below its PID 1: orphans come back to it."""
    pending = [pid]
    while pending:
        try:
            threads = os.listdir(f"/proc/{(at := pending.pop())}/task")
        except OSError:
            continue
        for thread in threads:
            with suppress(OSError):
                children = Path(f"/proc/{at}/task/{thread}/children").read_text(encoding="ascii")
                found = [int(child) for child in children.split()]
                yield from found
                pending.extend(found)


def resident(pid: int) -> int:
    """Bytes of a process in memory that no file stands behind, shared ones included; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def disk_usage(*trees: str) -> int:
    """Bytes allocated below directories an untrusted program writes: links are never followed, races only miscount."""
    total, pending = 0, list(trees)
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
        except OSError:
            continue
    return total


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


async def watch_memory(root: int, limits: Limits) -> None:
    """Kills the largest process whenever the sum of all is over the limit. Runs until cancelled."""
    while True:
        sizes = {pid: resident(pid) for pid in descendants(root)}
        if sum(sizes.values()) > limits.memory:
            kill(max(sizes, key=lambda pid: sizes[pid]), root)
        else:
            await anyio.sleep(_MEMORY_SECONDS if sizes else _MEMORY_SECONDS * 5)


async def watch_disk(root: int, limits: Limits, *trees: str) -> None:
    """Kills every process but the guest whenever the cell's trees are over the limit. Runs until cancelled."""
    while True:
        running = list(descendants(root))
        started = anyio.current_time()
        if running and await anyio.to_thread.run_sync(disk_usage, *trees) > limits.disk:
            for pid in running:
                kill(pid, root)
        await anyio.sleep(max(_DISK_SECONDS, (anyio.current_time() - started) * _DISK_SHARE))
