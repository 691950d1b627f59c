"""What tests of the guest do again and again: run a command, expect a refusal, and speak frames without a link.

Lives here: helpers over one cell. No fixtures.
"""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from harness import OpenCell, cell_spec
from repocell.guest import agent
from repocell.guest.agent import DATA, DONE, ERR, FAIL, OPEN, Decoder, Frame, encode
from repocell.guest.link import Exited, GuestRefused, Link, boot_argv
from repocell.models import ExitStatus, Limits
from repocell.runtimes.bubblewrap import Bubblewrap
from repocell.runtimes.diagnosis import GUEST_PYTHON

ROOT = "/workspace"
BASH = ("bash", "--noprofile", "--norc", "-c")


@dataclass(frozen=True)
class Ran:
    """A command that came to its end, output included."""

    out: bytes
    err: bytes
    status: ExitStatus


async def run(link: Link, command: str, *, job: str = "job_run", pty: tuple[int, int] | None = None) -> Ran:
    """Runs shell text until it, and whatever still holds its output, has ended."""
    out, err = bytearray(), bytearray()
    async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": job}, pty=pty) as process:
        while True:
            event = await process.receive()
            if not isinstance(event, Exited):
                (out if event.source == "out" else err).extend(event.body)
            elif not event.running:
                return Ran(bytes(out), bytes(err), event.status)


async def ran_well(link: Link, command: str) -> str:
    """Runs shell text that must succeed; returns what it printed, without the last newline."""
    done = await run(link, command)
    assert done.status.ok, done
    return done.out.decode().rstrip("\n")


async def refusal(request: Awaitable[object]) -> str:
    """The code with which a request is refused."""
    with pytest.raises(GuestRefused) as caught:
        await request
    return caught.value.code


async def exists(path: Path) -> None:
    """Waits until a command has made a file; nothing outside the cell is told of it."""
    with anyio.fail_after(20):
        while not path.exists():  # noqa: ASYNC110
            await anyio.sleep(0.01)


class Wire:
    """The frames to and from a real guest, without a link: what no honest host would do, or not do, can be done here."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._last = 0

    async def say(self, kind: int, stream: int, meta: dict[str, Any] | None = None, body: bytes = b"") -> None:
        await self.say_raw(encode(kind, stream, meta, body))

    async def say_raw(self, data: bytes) -> None:
        await self._stream.send(data)

    async def open(self, verb: str, **arguments: Any) -> int:
        """Asks for something; returns the stream the answer comes on."""
        self._last += 1
        await self.say(OPEN, self._last, {"verb": verb, **arguments})
        return self._last

    async def any_of(self, streams: set[int], *kinds: int) -> Frame:
        """The next frame of these kinds on one of these streams. Of all others, those that are no output are kept."""
        while True:
            for at, frame in enumerate(self._frames):
                if frame.stream in streams and frame.kind in kinds:
                    return self._frames.pop(at)
            self._frames = [frame for frame in self._frames if frame.kind not in (DATA, ERR)]
            self._frames += self._decoder.feed(await self._stream.receive(1 << 20))

    async def hear(self, stream: int, *kinds: int) -> Frame:
        return await self.any_of({stream}, *kinds)

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One question, one answer: the facts of DONE or FAIL."""
        return (await self.hear(await self.open(verb, **arguments), DONE, FAIL)).meta


def bounded(open_cell: OpenCell) -> OpenCell:
    """The same cells, and nothing in them may take longer than a minute."""

    @asynccontextmanager
    async def start(limits: Limits | None = None) -> AsyncGenerator[Link]:
        with anyio.fail_after(60):
            async with open_cell(limits) as link:
                yield link

    return start


@asynccontextmanager
async def open_wire(runtime: Bubblewrap, folder: Path, python: str = GUEST_PYTHON) -> AsyncGenerator[Wire]:
    """Starts a guest in a real sandbox and greets it, in frames."""
    spec = cell_spec(runtime, folder, Limits()).model_copy(update={"argv": boot_argv(python)})
    with anyio.fail_after(60):
        async with runtime.open(spec) as stream:
            await stream.send(Path(agent.__file__).read_bytes())
            wire = Wire(stream)
            greeting = {"version": agent.VERSION, "pid": 1}
            assert await wire.ask("hello", rlimits={}, env=spec.environment) == greeting
            yield wire
