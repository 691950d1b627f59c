"""A job: one command in a cell, what it printed, how it ended, and the deadline that ends it.

Lives here: the bounded log of a job's output and the task that fills it. Output arrives on the guest's stream, never
through a prompt. It may not know tools or how results are worded.
"""

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import anyio

from ..errors import CommandNotStarted, SandboxLost, TooManyProcesses
from ..guest.link import Exited, GuestRefused, Output, Process
from ..models import ExitStatus, MiB
from ..runtimes.breaches import Breaches, LimitName, nothing_told

HEAD_BYTES = 8 * MiB
TAIL_BYTES = 8 * MiB
TERM_SECONDS = 2.0
END_OF_INPUT = b"\x04"  # what a terminal in its usual mode takes for the end of a file (termios(3), VEOF)

StopReason = Literal["timeout", "output limit", "no room", "stopped", "cancelled"]


class JobLog:
    """A job's output on the host's disk: its first `head` and last `tail` bytes, however much there was.

    Offsets count all bytes ever printed. The file belongs to the server, has no name, and is gone with its last user.
    """

    def __init__(self, folder: Path, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self._file, name = tempfile.mkstemp(dir=folder, prefix="job-")
        os.unlink(name)
        self._head, self._tail = head, tail
        self._holders, self._closing = 0, False
        self.size = 0

    def append(self, data: bytes) -> None:
        """Raises OSError when the disk takes no more; what fitted is kept then."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view[: self._room(self.size)], self._place(self.size))
            self.size += written
            view = view[written:]

    def _place(self, offset: int) -> int:
        return offset if offset < self._head else self._head + (offset - self._head) % self._tail

    def _room(self, offset: int) -> int:
        """Bytes from `offset` on that lie side by side in the file."""
        place = self._place(offset)
        return self._head - place if place < self._head else self._head + self._tail - place

    @property
    def lost(self) -> tuple[int, int]:
        """The range of offsets that is no longer kept; empty when everything is."""
        return self._head, max(self._head, self.size - self._tail)

    def read(self, start: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` bytes from `start` on, and where they really begin: what is lost is passed over."""
        begin, end = self.lost
        if begin <= start < end:
            start = end
        stop = min(self.size, start + limit)
        if start < begin < stop and end > begin:
            stop = begin
        parts: list[bytes] = []
        at = start
        while at < stop:
            size = min(stop - at, self._room(at))
            parts.append(os.pread(self._file, size, self._place(at)))
            at += size
        return start, b"".join(parts)

    @contextmanager
    def held(self) -> Generator[None]:
        """Within it the log can be read, also when it is closed meanwhile: its descriptor may be another file's by then."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._release()

    def close(self) -> None:
        self._closing = True
        self._release()

    def _release(self) -> None:
        if self._closing and not self._holders and self._file >= 0:
            os.close(self._file)
            self._file = -1  # so that no later mistake reads or writes what has that number then


class Job:
    """A command and what became of it. `done` is set once its output can grow no more."""

    def __init__(
        self,
        job_id: str,
        command: str,
        log: JobLog,
        *,
        timeout: float,
        output_limit: int,
        session: str | None = None,
        breaches: Callable[[], Breaches | None] = nothing_told,
    ) -> None:
        self.id, self.command, self.log, self.session = job_id, command, log, session
        self._breaches, self._breaches_before = breaches, breaches()
        self.breached: tuple[LimitName, ...] | None = None
        self.timeout, self._output_limit = timeout, output_limit
        self.started = anyio.current_time()
        self.ended: float | None = None
        self.status: ExitStatus | None = None
        self.stopped: StopReason | None = None
        self.error: Exception | None = None
        self.read_to = 0
        self.terminal = False
        self.left_at: str | None = None  # where its session was when it ended; None where that was not told
        self.exited = anyio.Event()
        self.done = anyio.Event()
        self._changed = anyio.Event()
        self.on_exit: Callable[[ExitStatus], None] | None = None
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        return not self.done.is_set()

    @property
    def seconds(self) -> float:
        return (self.ended if self.ended is not None else anyio.current_time()) - self.started

    async def run(self, start: Callable[[], Process]) -> None:
        """Starts the command and follows it to its end; its deadline and output limit are kept here. Never raises."""
        try:
            async with start() as process:
                self._process = process
                with anyio.move_on_after(self.timeout) as deadline:
                    await self._follow(process)
                if deadline.cancelled_caught:
                    await self.stop("timeout")
                    await self._follow(process)
        except GuestRefused as refused:
            self.error = _not_started(refused)
        except SandboxLost as lost:
            self.error = lost
        finally:
            self._process = None
            self._note_breaches()
            self.ended = self.ended or anyio.current_time()
            self.exited.set()
            self.done.set()
            self._tell()

    async def _follow(self, process: Process) -> None:
        while True:
            event = await process.receive()
            if isinstance(event, Output):
                if self.stopped not in ("output limit", "no room"):
                    await self._keep(event.body)
                self._tell()
            else:
                self._note(event)
                self._tell()
                if not event.running:
                    return

    async def _keep(self, output: bytes) -> None:
        """Adds to the log; a command whose output is too much for its limit, or for the server's disk, is killed."""
        try:
            self.log.append(output)
        except OSError:
            await self._kill("no room")
        else:
            if self.log.size > self._output_limit:
                await self._kill("output limit")

    def _note(self, event: Exited) -> None:
        if self.status is None:
            self.ended = anyio.current_time()
            if self.on_exit is not None:
                self.on_exit(event.status)
        self.status = event.status
        self._note_breaches()
        self.exited.set()

    def _note_breaches(self) -> None:
        """Takes down for which limits something of the cell was stopped while this ran; None where nobody can tell."""
        now = self._breaches()
        if now is not None and self._breaches_before is not None:
            self.breached = now.since(self._breaches_before)

    @property
    def unread(self) -> int:
        """Bytes typed that the command's terminal has no room for, because it does not read."""
        return self._process.unread if self._process is not None else 0

    def _tell(self) -> None:
        """Wakes whoever waits for a change."""
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        """Waits for output or the end; returns at once when it has ended."""
        if self.running:
            await self._changed.wait()

    async def type(self, text: bytes, *, eof: bool) -> None:
        """Types on the job's terminal, and its end-of-input key. Waits when too much is unread already."""
        if self._process is not None:
            await self._process.write(text)
            if eof:
                await self._process.write(END_OF_INPUT)

    async def stop(self, reason: StopReason) -> None:
        """Asks the command to end, and kills its whole tree when it has not within TERM_SECONDS. Nothing of it is left."""
        process = self._process
        if process is None:
            return
        self.stopped = self.stopped or reason
        await process.kill(TERM_SECONDS if reason != "cancelled" else TERM_SECONDS / 4)

    async def _kill(self, reason: StopReason) -> None:
        self.stopped = reason
        if self._process is not None:
            await self._process.kill()


def _not_started(refused: GuestRefused) -> Exception:
    if refused.code in ("too_many_processes", "no_memory", "too_many_files"):
        return TooManyProcesses()
    why = {
        "no_directory": "there is no such working directory in the workspace; cwd= names another",
        "not_found": "the cell has no such program",
        "too_large": "the command text is too long; write it to a file and run that",
        "denied": "the program may not be executed",
    }.get(refused.code, f"the cell answered {refused.facts.get('errno', refused.code)}")
    return CommandNotStarted(why)
