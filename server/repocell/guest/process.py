"""A command in a sandbox, as the host holds it: its output and input, its exit, its end.

Lives here: what may be done with one spawned command, and the reading of how it ended. It may not know workspaces' jobs.
"""

import math
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import anyio
from pydantic import FailFast, Field

from ..errors import SandboxLost
from ..models import ExitStatus, Frozen
from .agent import ASIDE_BYTES, DATA, ERR, NOTE
from .connection import Connection, GuestRefused, GuestStream

MAX_LEFT = 20


class Exited(Frozen):
    """A command ended; `running` when something it left behind still holds its output open."""

    status: ExitStatus
    running: bool


class Output(Frozen):
    """Bytes a command printed. A terminal has only `out`."""

    source: Literal["out", "err"]
    body: bytes


class _Ended(Frozen):
    """What a guest says of an ended command; `status` as waitpid(2) gives it."""

    status: Annotated[int, Field(le=0xFFFF)]
    user: float
    system: float
    max_rss_kb: int
    left: Annotated[tuple[tuple[int, str], ...], Field(max_length=MAX_LEFT), FailFast()]
    aside: Annotated[str, Field(max_length=ASIDE_BYTES)] = ""


class Process:
    """A command in the sandbox. Leaving its context kills whatever of it still runs, even under cancellation."""

    def __init__(self, link: Connection, stream: GuestStream) -> None:
        self._link, self._stream = link, stream
        self._status: ExitStatus | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stream.ended and not self._link.lost:
            with anyio.CancelScope(shield=True):
                await self.kill()
        self._link.forget(self._stream)

    async def receive(self) -> Output | Exited:
        """The next output, or the exit. After an exit with `running`, output may follow, and then a final exit.

        Raises GuestRefused when the command could not be started, SandboxLost when the sandbox ended.
        """
        frame = await self._stream.receive()
        if frame.kind in (DATA, ERR):
            return Output.model_construct(source="out" if frame.kind == DATA else "err", body=frame.body)
        status = parse_exit(self._link, frame.meta)
        if self._status is not None and (self._status.exit, self._status.signal) != (status.exit, status.signal):
            raise self._link.distrust("told two exits of one command")
        self._status = status
        return Exited(status=status, running=frame.kind == NOTE)

    async def write(self, data: bytes) -> None:
        """Returns once all is sent, which may take as long as the command takes to read it."""
        await self._stream.send(data)

    @property
    def unread(self) -> int:
        """Bytes written that the command has not made room for by reading."""
        return self._stream.untaken

    def close_stdin(self) -> None:
        self._stream.send_eof()

    async def signal(self, number: int) -> None:
        """Sends a signal to every process that is known to be the command's; nothing happens when it is over."""
        await self._about("signal", signal=number)

    async def kill(self, grace: float = 0.0) -> None:
        """Kills the command's whole tree, also what left its session; returns when it is gone or the sandbox is.

        With `grace` everything is asked to end first (SIGTERM) and has so many seconds to do it.
        """
        try:
            await self._about("kill", grace=grace)
        except GuestRefused as refused:
            self._link.abandon(f"a command could not be killed: {refused.code}")

    async def resize(self, rows: int, columns: int) -> None:
        """Sets the size of the command's terminal. Raises GuestRefused when it has none."""
        await self._about("resize", rows=rows, columns=columns)

    async def _about(self, verb: str, **meta: Any) -> None:
        try:
            await self._link.request(verb, target=self._stream.number, **meta)
        except GuestRefused as refused:
            if refused.code != "not_found":
                raise
        except SandboxLost:
            pass


def parse_exit(link: Connection, meta: Mapping[str, Any]) -> ExitStatus:
    """How a command ended. Raises SandboxLost when no command can end as the guest says."""
    ended = link.parse(_Ended, meta)
    exited, signalled = os.WIFEXITED(ended.status), os.WIFSIGNALED(ended.status)
    if not (exited or signalled) or not math.isfinite(ended.user + ended.system):
        raise link.distrust("told of a command that neither exited nor was killed")
    return ExitStatus(
        exit=os.WEXITSTATUS(ended.status) if exited else None,
        signal=os.WTERMSIG(ended.status) if signalled else None,
        user=ended.user, system=ended.system, max_rss_kb=ended.max_rss_kb, left=ended.left,
        aside=ended.aside.encode("latin-1", errors="replace"),
    )  # fmt: skip
