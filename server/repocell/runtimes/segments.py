"""A cell's System V shared memory, which stays when everybody who had it is gone.

Lives here: looking into the cell's own IPC namespace from the host, and removing what nobody has any more. It may not
decide when. The table of a namespace is opened by a short-lived helper that enters it; what it shows stays that
namespace's, whoever reads it.
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio.to_thread

from .measure import Shared

_log = logging.getLogger(__name__)
HELPER_SECONDS = 10.0
_NOT_MEASURED = "shared memory segments of a cell are not measured: %s"

# argv: the namespace's descriptor, then ids to remove; stdin: where to send the table's descriptor when there are none.
# The namespace is entered as its owner, for which a server without privileges first enters the owning user namespace
# (ioctl_ns(2), setns(2)); that cannot be done in a process with threads.
_HELPER = r"""
import ctypes, fcntl, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def enter(namespace, kind):
    if libc.setns(namespace, kind) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
ipc = int(sys.argv[1])
if os.geteuid() != 0:
    enter(fcntl.ioctl(ipc, 0xB701), 0x10000000)
enter(ipc, 0x08000000)
for number in sys.argv[2:]:
    libc.shmctl(int(number), 0, None)
if not sys.argv[2:]:
    socket.send_fds(socket.socket(fileno=0), [b"."], [os.open("/proc/sysvipc/shm", os.O_RDONLY)])
"""


@dataclass(frozen=True)
class Segment:
    """One row of the table; `creator` is a pid of the host's, `size` bytes in memory."""

    number: int
    creator: int
    attached: int
    size: int


def parse_table(text: str) -> tuple[Segment, ...]:
    """The rows of /proc/sysvipc/shm (proc(5)); its first line names the columns."""
    lines = [line.split() for line in text.splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]] if lines else []
    return tuple(
        Segment(int(row["shmid"]), int(row["cpid"]), int(row["nattch"]), int(row["rss"]) + int(row["swap"]))
        for row in rows
    )


def orphans(segments: Sequence[Segment], alive: frozenset[int]) -> tuple[Segment, ...]:
    """Segments that nobody has attached and whose maker is gone."""
    return tuple(one for one in segments if one.attached == 0 and one.creator not in alive)


class Segments:
    """One cell's segments, none before open(). Where its namespace cannot be entered there seem to be none for ever."""

    def __init__(self, init: int) -> None:
        self._table: int | None = None
        self._namespace: int | None = None
        try:
            self._namespace = os.open(f"/proc/{init}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:  # its sandbox ends already, and whoever holds the stream learns that
            _log.warning(_NOT_MEASURED, error.strerror)
        self.tried = False

    async def open(self) -> None:
        """Enters the namespace, at the first call, which takes tens of milliseconds: not on the way of a cell's start."""
        if not self.tried and self._namespace is not None:
            self.tried = True
            try:
                self._table = await anyio.to_thread.run_sync(_open_table, self._namespace)
            except OSError as error:
                _log.warning(_NOT_MEASURED, error.strerror)

    def close(self) -> None:
        for descriptor in (self._namespace, self._table):
            if descriptor is not None:
                os.close(descriptor)

    def look(self) -> tuple[Segment, ...]:
        if self._table is None:
            return ()
        parts: list[bytes] = []
        try:
            os.lseek(self._table, 0, os.SEEK_SET)
            while part := os.read(self._table, 1 << 16):
                parts.append(part)
        except OSError:
            return ()
        return parse_table(b"".join(parts).decode("ascii"))

    def shared(self) -> tuple[Shared, ...]:
        """What they take, held by those who made them."""
        return tuple(Shared(one.size, {one.creator}) for one in self.look() if one.size)

    async def remove(self, gone: Sequence[Segment]) -> None:
        """Removes segments. Somebody who attaches one of them meanwhile keeps it (shmctl(2))."""
        numbers = [str(one.number) for one in gone[:1000]]
        if self._namespace is not None:
            await anyio.to_thread.run_sync(_help, self._namespace, numbers, None)


@contextmanager
def segments_of(init: int) -> Generator[Segments]:
    """The segments of the cell whose first process is `init`."""
    segments = Segments(init)
    try:
        yield segments
    finally:
        segments.close()


def _open_table(namespace: int) -> int:
    """Raises OSError when the namespace cannot be entered or its table not be opened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        said = _help(namespace, [], theirs)
        ours.setblocking(False)
        try:
            descriptors = socket.recv_fds(ours, 1, 1)[1]
        except BlockingIOError:
            descriptors = []
    if not descriptors:
        raise OSError(0, said or "no table")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _help(namespace: int, numbers: Sequence[str], channel: socket.socket | None) -> str:
    """Runs the helper to its end; what it complained of."""
    command = [sys.executable, "-I", "-S", "-c", _HELPER, str(namespace), *numbers]
    try:
        done = subprocess.run(
            command, stdin=channel.fileno() if channel is not None else subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, pass_fds=[namespace], env={}, cwd="/", timeout=HELPER_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "the helper did not end"
    return done.stderr.decode(errors="replace").strip()[-200:]
