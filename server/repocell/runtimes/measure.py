"""What a cell uses, as the host sees it: processes, memory, descriptors, files.

Lives here: looking at a process tree through /proc and at directory trees, both written by an untrusted program, so that
races and lies cost a miscount at most. It may not decide, kill, or know how the sandbox was made.
"""

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..models import HOME_DIR, WORKSPACE_DIR

_PIDFD_GETFD = 438  # the same on every machine (Linux 5.6)


@dataclass(frozen=True)
class Usage:
    """Bytes allocated below some directories; `unseen` when a part could not be looked into."""

    size: int
    unseen: bool


@dataclass
class Shared:
    """Bytes that stay as long as somebody holds them: a memory file, a segment, a deleted file that is still open."""

    size: int
    holders: set[int] = field(default_factory=set[int])


# -- processes


def descendants(pid: int) -> Iterator[int]:
    """Every process below `pid`. A sandbox's processes all stand below its PID 1: orphans come back to it."""
    pending = [pid]
    while pending:
        at = pending.pop()
        for thread in _threads(at):
            with suppress(OSError):
                children = Path(f"/proc/{at}/task/{thread}/children").read_text(encoding="ascii")
                found = [int(child) for child in children.split()]
                yield from found
                pending.extend(found)


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _numbers(file: str) -> dict[str, int]:
    """The lines "Name: number ..." of a file in /proc; empty when the process is gone."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines]
    return {words[0].rstrip(":"): int(words[1]) for words in fields if len(words) > 1 and words[1].isdigit()}


def _living_thread(pid: int) -> tuple[str, dict[str, int]]:
    """A thread that still has memory, and its status: a first thread that ended says nothing of the others'."""
    status = _numbers(f"/proc/{pid}/status")
    if "RssAnon" in status:
        return str(pid), status
    for thread in _threads(pid):
        status = _numbers(f"/proc/{thread}/status")
        if "RssAnon" in status:
            return thread, status
    return str(pid), {}


def resident(pid: int) -> int:
    """Bytes of a process in memory that no file stands behind; what it shares with others is counted in full. Quick."""
    status = _living_thread(pid)[1]
    return (status.get("RssAnon", 0) + status.get("RssShmem", 0)) * 1024


def proportional(pid: int) -> int:
    """The same, each shared page counted in parts among those who have it mapped. Slow: it walks all of its memory."""
    parts = _numbers(f"/proc/{_living_thread(pid)[0]}/smaps_rollup")
    if "Pss_Anon" not in parts:  # before Linux 5.4
        return resident(pid)
    return (parts["Pss_Anon"] + parts["Pss_Shmem"]) * 1024


def mapped_shared(pid: int) -> int:
    """Bytes of `proportional` that lie in memory files and segments, which are counted as such. Slow."""
    total, here, size = 0, False, 0
    try:
        with open(f"/proc/{_living_thread(pid)[0]}/smaps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.split(maxsplit=5)
                if not words[0].endswith(":"):
                    here, size = len(words) > 5 and words[5].startswith(("/memfd:", "/SYSV")), 0
                elif here and words[0] == "Pss:":
                    size = int(words[1])
                elif here and words[0] == "Anonymous:":
                    total += max(0, size - int(words[1])) * 1024
    except (OSError, ValueError, IndexError):
        return total
    return total


# -- what only descriptors hold


def held(pids: Iterable[int], devices: frozenset[int]) -> dict[tuple[int, int], Shared]:
    """Files without a name on these devices that processes hold open, once each, by (device, inode)."""
    found: dict[tuple[int, int], Shared] = {}
    for pid in pids:
        for facts in _open_files(pid):
            if facts.st_nlink == 0 and facts.st_dev in devices and stat.S_ISREG(facts.st_mode):
                one = found.setdefault((facts.st_dev, facts.st_ino), Shared(facts.st_blocks * 512))
                one.holders.add(pid)
    return found


def _open_files(pid: int) -> Iterator[os.stat_result]:
    """What a process has open: each thread may have a table of its own (clone(2) without CLONE_FILES)."""
    for thread in _threads(pid):
        folder = f"/proc/{pid}/task/{thread}/fd"
        try:
            for name in os.listdir(folder):
                with suppress(OSError):
                    yield os.stat(f"{folder}/{name}")
        except PermissionError:
            yield from _open_files_of_undumpable(int(thread))
        except OSError:
            continue


def _open_files_of_undumpable(pid: int) -> Iterator[os.stat_result]:
    """The same of a process that hides from its own user (PR_SET_DUMPABLE): a copy of each descriptor is taken.

    Whoever made a user namespace may do that to all in it, although their folders in /proc belong to root.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        for number in range(_numbers(f"/proc/{pid}/status").get("FDSize", 0)):
            copy = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, number, 0)
            if copy >= 0:
                try:
                    yield os.fstat(copy)
                finally:
                    os.close(copy)
    finally:
        os.close(process)


def mapped_deleted(pids: Iterable[int], devices: frozenset[int]) -> dict[tuple[int, int], Shared]:
    """Deleted files on these devices that are mapped: by (device, inode) where that can be told, which takes root.

    For others they count with the length of the mapping, under (0, the inode the map names).
    """
    found: dict[tuple[int, int], Shared] = {}
    for pid in pids:
        with (
            suppress(OSError),
            open(f"/proc/{_living_thread(pid)[0]}/maps", encoding="utf-8", errors="replace") as lines,
        ):
            for line in lines:
                words = line.rstrip("\n").split(maxsplit=5)
                if len(words) < 6 or not words[5].endswith(" (deleted)") or words[5].startswith(("/memfd:", "/SYSV")):
                    continue
                try:
                    facts = os.stat(f"/proc/{pid}/map_files/{words[0]}")
                    key, size = (facts.st_dev, facts.st_ino), facts.st_blocks * 512
                    if facts.st_dev not in devices or facts.st_nlink:
                        continue
                except OSError:
                    if not words[5].startswith((f"{WORKSPACE_DIR}/", f"{HOME_DIR}/")):
                        continue
                    start, end = (int(address, 16) for address in words[0].split("-"))
                    key, size = (0, int(words[4])), end - start
                found.setdefault(key, Shared(size)).holders.add(pid)
    return found


def memory_device() -> int:
    """The device of files in memory without a name (memfd_create): the kernel has one for all of them."""
    descriptor = os.memfd_create("repocell")
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def written_devices(init: int) -> frozenset[int]:
    """The devices of a cell's directories as its own processes see them; an overlay has one of its own."""
    found: set[int] = set()
    for folder in (WORKSPACE_DIR, HOME_DIR):
        with suppress(OSError):
            found.add(os.stat(f"/proc/{init}/root{folder}", follow_symlinks=False).st_dev)
    return frozenset(found)


# -- sums


def total(private: Mapping[int, int], shared: Iterable[Shared]) -> int:
    """Bytes of all together, each shared thing once."""
    return sum(private.values()) + sum(one.size for one in shared)


def largest(private: Mapping[int, int], shared: Iterable[Shared]) -> int | None:
    """The process that has and holds the most; what several hold counts for each. None where there is no process."""
    sizes = dict(private)
    for one in shared:
        for pid in one.holders & sizes.keys():
            sizes[pid] += one.size
    return max(sizes, key=lambda pid: sizes[pid], default=None)


# -- files


def disk_usage(*trees: str) -> int:
    """Bytes allocated below directories; see tree_usage."""
    return tree_usage(*trees).size


def tree_usage(*trees: str) -> Usage:
    """What is allocated below directories: links are not followed, other file systems not entered."""
    size, unseen, pending = 0, False, list(trees)
    devices = {facts.st_dev for facts in map(_facts, trees) if facts is not None}
    while pending:
        path = pending.pop()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):  # gone, or replaced, meanwhile
            continue
        except OSError:
            unseen = True
            continue
        try:
            if os.fstat(descriptor).st_dev not in devices:
                continue
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with suppress(OSError):
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{path}/{entry.name}")
        except OSError:
            unseen = True
        finally:
            os.close(descriptor)
    return Usage(size, unseen)


def _facts(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except OSError:
        return None
