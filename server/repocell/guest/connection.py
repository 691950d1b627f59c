"""One connection to a guest: a pump, a writer, and streams of frames with their credit.

Lives here: what every request needs, whatever its verb. It treats every byte from the guest as hostile: any surprise ends
the connection as SandboxLost. It may not know the verbs (link.py), workspaces, or how the byte stream was made.
"""

import errno
import itertools
import os
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from ..errors import RepocellError, SandboxLost
from ..models import Frozen
from .agent import (
    CREDIT,
    DATA,
    DONE,
    EOF,
    ERR,
    FAIL,
    FRAME_COST,
    MAX_BODY,
    NOTE,
    OPEN,
    WINDOW,
    Decoder,
    Frame,
    ProtocolError,
    encode,
)

PATIENCE = 30.0  # seconds a guest may take to answer; four times that for a file, ten times for what a program does

CODES = {
    "ENOENT": "not_found", "ENOTDIR": "not_a_directory", "EISDIR": "is_a_directory", "EACCES": "denied", "EPERM": "denied",
    "EROFS": "denied", "EEXIST": "exists", "ENOTEMPTY": "not_empty", "ENOSPC": "no_space", "EDQUOT": "no_space",
    "EFBIG": "no_space", "ELOOP": "loop", "ENAMETOOLONG": "name_too_long", "E2BIG": "too_large", "ENXIO": "special",
    "EAGAIN": "too_many_processes", "ENOMEM": "no_memory", "EMFILE": "too_many_files", "ENFILE": "too_many_files",
    "ENOEXEC": "not_executable", "EINVAL": "invalid",
}  # fmt: skip
REFUSALS = {*CODES.values(), "cancelled", "conflict", "failed", "no_directory", "outside", "unkillable"}
CODES_BY_TEXT = {os.strerror(getattr(errno, name)): code for name, code in CODES.items()}

_F = TypeVar("_F", bound=Frozen)


class GuestRefused(RepocellError):
    """The guest could not do one request; `code` is one of REFUSALS, `facts` what it said besides."""

    def __init__(self, code: str, facts: Mapping[str, Any]) -> None:
        super().__init__(f"{code}: {dict(facts)}")
        self.code, self.facts = code, facts


class GuestStream:
    """One stream of frames, both ways. Credit bounds what is unread here to WINDOW bytes; the guest may not exceed it."""

    def __init__(self, link: "Connection", number: int) -> None:
        self.number = number
        self._link = link
        self._frames: deque[Frame] = deque()
        self._used = 0  # credit the guest has used up
        self._taken = 0  # the part of it to be granted again
        self._credit = WINDOW
        self._noted = False
        self._changed: anyio.Event | None = None  # made by whoever waits: most frames come while nobody does
        self.ended = False
        self.forgotten = False

    def deliver(self, frame: Frame) -> None:
        """Takes a frame from the pump. Raises ProtocolError when an honest guest would not have sent it."""
        if frame.kind == CREDIT:
            granted = frame.meta.get("bytes")
            if type(granted) is not int or granted <= 0 or self._credit + granted > WINDOW:
                raise ProtocolError("more credit than was used")
            self._credit += granted
        elif frame.kind in (DATA, ERR):
            self._used += len(frame.body) + FRAME_COST
            if self._used > WINDOW or not frame.body or frame.meta:
                raise ProtocolError("more data than was granted, or none")
        elif frame.kind == NOTE:
            if self._noted:
                raise ProtocolError("more than one note")
            self._noted = True
        elif frame.kind in (DONE, FAIL):
            self.ended = True
        else:
            raise ProtocolError(f"a guest may not send frames of kind {frame.kind}")
        if frame.kind != CREDIT and not self.forgotten:
            self._frames.append(frame)
        self.wake()

    def wake(self) -> None:
        """Makes everybody who waits for this stream look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _change(self) -> None:
        """Waits for wake()."""
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    async def receive(self) -> Frame:
        """The next frame; grants credit for what is taken.

        Raises GuestRefused where it is FAIL, SandboxLost when the sandbox went before it came, and EndOfStream behind
        the last frame. Cancelled, it has taken nothing.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._frames:
            if self.ended:
                raise anyio.EndOfStream
            if self._link.lost:
                raise self._link.loss
            await self._change()
        frame = self._frames.popleft()
        if frame.kind in (DATA, ERR):
            self._taken += len(frame.body) + FRAME_COST
            if self._taken >= WINDOW // 4 and not self.ended:
                self._link.post(CREDIT, self.number, {"bytes": self._taken})
                self._used -= self._taken
                self._taken = 0
        elif frame.kind == FAIL:
            raise self._link.refusal(frame.meta)
        return frame

    async def send(self, data: bytes) -> None:
        """Sends bytes as credit allows; cancelled, an unknown part of them. To an ended stream nothing: receive() tells why."""
        view = memoryview(data)
        while view and not self.ended and not self._link.lost:
            if self._credit <= 0:
                await self._change()
                continue
            part = view[: min(self._credit, MAX_BODY)]
            self._credit -= len(part)
            self._link.post(DATA, self.number, None, bytes(part))
            view = view[len(part) :]

    @property
    def untaken(self) -> int:
        """Bytes sent that the guest has not granted again: it could not pass them on yet."""
        return WINDOW - self._credit

    def send_eof(self) -> None:
        if not self.ended:
            self._link.post(EOF, self.number)


def _plain(value: Any) -> Any:
    """JSON as our models take it: tuples for lists. Raises ValueError for numbers that nothing here can be."""
    if isinstance(value, list):
        return tuple(_plain(item) for item in cast("list[Any]", value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, (int, float)) and not 0 <= value < 1 << 63:
        raise ValueError("a number out of range")
    return value


class Connection:
    """A connection to one guest. Everything it raises is GuestRefused (this request) or SandboxLost (all of them)."""

    def __init__(self, stream: ByteStream, patience: float = PATIENCE) -> None:
        self._channel = stream
        self.patience = patience
        self._numbers = itertools.count(1)
        self._streams: dict[int, GuestStream] = {}  # until their last frame has come, also when nobody waits for it
        self._outgoing: list[bytes] = []
        self._wake = anyio.Event()
        self._ended = anyio.Event()
        self._reason: str | None = None
        self._stop = anyio.CancelScope()

    # -- the life of the connection

    @property
    def lost(self) -> bool:
        return self._reason is not None

    @property
    def loss(self) -> SandboxLost:
        return SandboxLost(self._reason or "it ended")

    async def wait_lost(self) -> None:
        await self._ended.wait()

    def abandon(self, reason: str) -> None:
        """Ends the connection: everything waiting on it raises SandboxLost. The first reason given stays."""
        if self._reason is None:
            self._reason = reason
            for stream in self._streams.values():
                stream.wake()
            self._ended.set()
            self._stop.cancel()

    def distrust(self, what: str) -> SandboxLost:
        """Ends the connection to a guest that does what no honest one does; the error to raise."""
        self.abandon(f"the program inside it {what}")
        return self.loss

    async def run(self) -> None:
        """Pumps frames in and out until the guest ends, misbehaves, or the task is cancelled: then nobody waits any more."""
        try:
            with self._stop:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    await self._read()
        finally:
            self.abandon("it was closed")

    async def _read(self) -> None:
        decoder = Decoder()
        try:
            while True:
                for frame in decoder.feed(await self._channel.receive(1 << 18)):
                    stream = self._streams.get(frame.stream)
                    if stream is None:
                        raise ProtocolError(f"a frame for stream {frame.stream}, which is not open")
                    stream.deliver(frame)
                    if stream.ended:
                        del self._streams[frame.stream]
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.distrust("ended")
        except ProtocolError as error:
            self.distrust(f"broke the protocol: {error}")

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                batch, self._outgoing = b"".join(self._outgoing), []
                await self._channel.send(batch)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.distrust("ended")

    # -- frames and requests

    def post(self, kind: int, stream: int, meta: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Queues one frame; data frames are bounded by credit, so the queue is too. Raises ValueError as encode does."""
        self._outgoing.append(encode(kind, stream, meta, body))
        self._wake.set()

    def open(self, verb: str, **meta: Any) -> GuestStream:
        """Starts a request. Raises GuestRefused "too_large" when it does not fit into a frame."""
        if self.lost:
            raise self.loss
        stream = GuestStream(self, next(self._numbers))
        try:
            self.post(OPEN, stream.number, {"verb": verb, **meta})
        except ValueError as error:
            raise GuestRefused("too_large", {}) from error
        self._streams[stream.number] = stream
        return stream

    def forget(self, stream: GuestStream) -> None:
        """Nobody will ask the stream again. The guest drops what it still does for it, and says so."""
        stream.forgotten = True
        if not stream.ended and not self.lost:
            self.post(DONE, stream.number)

    @contextmanager
    def within(self, seconds: float) -> Generator[None]:
        """A guest that owes an answer, and does not give it in time, is not slow by accident."""
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise self.distrust(f"did not answer within {seconds:g} s")

    async def request(self, verb: str, **meta: Any) -> dict[str, Any]:
        """One question, one answer."""
        stream = self.open(verb, **meta)
        try:
            with self.within(self.patience):
                return await self.last(stream)
        finally:
            self.forget(stream)

    async def last(self, stream: GuestStream) -> dict[str, Any]:
        """The facts of the frame that ends a stream, which must be the next one."""
        frame = await stream.receive()
        if frame.kind != DONE:
            raise self.distrust("answered out of turn")
        return frame.meta

    def refusal(self, meta: Mapping[str, Any]) -> RepocellError:
        """What a FAIL frame says, as the error to raise."""
        code = meta.get("error") or CODES.get(str(meta.get("errno")), "failed")
        said = all(value is None or (isinstance(value, str) and len(value) < 1 << 14) for value in meta.values())
        if not said or code not in REFUSALS or len(meta) > 4:
            return self.distrust("refused a request in words nobody knows")
        return GuestRefused(code, meta)

    def parse(self, model: type[_F], meta: Mapping[str, Any], **known: Any) -> _F:
        """A value out of what the guest said and what is known for sure."""
        try:
            return model.model_validate({**_plain(meta), **known})
        except (ValueError, RecursionError) as error:
            raise self.distrust(f"sent a malformed {model.__name__.lstrip('_')}") from error
