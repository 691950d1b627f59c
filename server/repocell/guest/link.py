"""The host's end of the stream to a guest: requests, streams, flow control, kills.

Lives here: one pump and one writer per sandbox, and the typed face of the guest's verbs. It treats every byte from the
guest as hostile: any surprise ends the link as SandboxLost. It may not know workspaces, tools or how the stream was made.
"""

import importlib.resources
import itertools
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
from anyio.abc import ByteStream
from pydantic import TypeAdapter, ValidationError

from ..errors import RepocellError, SandboxLost, sole_error
from ..models import DirectoryEntry, ExitStatus, FileFacts, FileWindow, Frozen, Limits, Listing, Written
from .agent import (
    CREDIT,
    DATA,
    DONE,
    EOF,
    ERR,
    FAIL,
    MAX_BODY,
    NOTE,
    OPEN,
    VERSION,
    WINDOW,
    Decoder,
    Frame,
    ProtocolError,
)
from .agent import encode as encode_frame

_SOURCE = importlib.resources.files("repocell.guest").joinpath("agent.py").read_bytes
_BOOT = (
    "import os,sys\n"
    "n=int(sys.argv[1]);b=b''\n"
    "while len(b)<n:\n"
    " c=os.read(0,n-len(b))\n"
    " if not c: sys.exit(71)\n"
    " b+=c\n"
    "exec(compile(b,'guest','exec'),{'__name__':'__guest__'})"
)
HELLO_SECONDS = 20.0
REPLY_SECONDS = 30.0

_F = TypeVar("_F", bound=Frozen)


class GuestRefused(RepocellError):
    """The guest could not do one request; `code` is one of its closed set, `facts` what it said besides."""

    def __init__(self, code: str, facts: Mapping[str, Any]) -> None:
        super().__init__(f"{code}: {dict(facts)}")
        self.code, self.facts = code, facts


def boot_argv(python: str) -> tuple[str, ...]:
    """The command a runtime starts; the guest's text follows on its stdin, pushed by open_link."""
    return (python, "-I", "-S", "-c", _BOOT, str(len(_SOURCE())))


class Exited(Frozen):
    """A command ended; `running` when something it left behind still holds its output open."""

    status: ExitStatus
    running: bool


class Output(Frozen):
    """Bytes a command printed. A terminal has only `out`."""

    source: Literal["out", "err"]
    body: bytes


class GuestStream:
    """One stream of frames, both ways. Credit bounds what is unread here to WINDOW bytes; the guest may not exceed it."""

    def __init__(self, link: "Link", number: int) -> None:
        self.number = number
        self._link = link
        self._sender, self._receiver = anyio.create_memory_object_stream[Frame](math.inf)
        self._unread = 0
        self._owed = 0
        self._credit = WINDOW
        self._more_credit = anyio.Event()
        self.ended = False

    def deliver(self, frame: Frame) -> None:
        """Takes a frame from the pump. Raises ProtocolError when an honest guest would not have sent it."""
        if frame.kind == CREDIT:
            granted = frame.meta.get("bytes")
            if not isinstance(granted, int) or not 0 < granted <= WINDOW or self._credit + granted > WINDOW:
                raise ProtocolError("more credit than was used")
            self._credit += granted
            self._more_credit.set()
            return
        if frame.kind in (DATA, ERR):
            self._unread += len(frame.body)
            if self._unread > WINDOW:
                raise ProtocolError("more data than was granted")
        elif frame.kind in (DONE, FAIL):
            self.ended = True
        elif frame.kind != NOTE:
            raise ProtocolError(f"a guest may not send frames of kind {frame.kind}")
        self._sender.send_nowait(frame)

    async def receive(self) -> Frame:
        """The next frame; grants credit for what is taken. FAIL raises GuestRefused, a lost sandbox SandboxLost."""
        try:
            frame = await self._receiver.receive()
        except anyio.EndOfStream:
            raise self._link.loss from None
        if frame.kind in (DATA, ERR):
            self._unread -= len(frame.body)
            self._owed += len(frame.body)
            if self._owed >= WINDOW // 4:
                self._link.post(CREDIT, self.number, {"bytes": self._owed})
                self._owed = 0
        elif frame.kind == FAIL:
            raise GuestRefused(str(frame.meta.get("error")), frame.meta)
        return frame

    async def receive_soon(self, seconds: float = REPLY_SECONDS) -> Frame:
        """receive() from a guest that owes an answer: one that does not come in time is not slow by accident."""
        try:
            with anyio.fail_after(seconds):
                return await self.receive()
        except TimeoutError:
            self._link.abandon(f"the program inside it did not answer within {seconds:g} s")
            raise self._link.loss from None

    async def send(self, data: bytes) -> None:
        """Sends bytes as credit allows. Cancelled, an unknown part of them was sent."""
        view = memoryview(data)
        while view:
            while self._credit <= 0 and not self.ended:
                self._more_credit = anyio.Event()
                await self._more_credit.wait()
            if self.ended:
                return  # receive() tells why
            part = view[: min(self._credit, MAX_BODY)]
            self._credit -= len(part)
            self._link.post(DATA, self.number, None, bytes(part))
            view = view[len(part) :]

    def send_eof(self) -> None:
        self._link.post(EOF, self.number)

    def close(self) -> None:
        self.ended = True
        self._more_credit.set()
        self._sender.close()


class Process:
    """A command in the sandbox. Leaving its context kills whatever of it still runs, even under cancellation."""

    def __init__(self, link: "Link", stream: GuestStream) -> None:
        self._link, self._stream = link, stream
        self._done = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done and not self._link.lost:
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
        self._done = frame.kind == DONE
        return Exited(status=self._link.parse_exit(frame.meta), running=not self._done)

    async def write(self, data: bytes) -> None:
        await self._stream.send(data)

    def close_stdin(self) -> None:
        self._stream.send_eof()

    async def signal(self, number: int) -> None:
        """Sends a signal to every process in the command's session; nothing happens when it is over."""
        await self._about("signal", signal=number)

    async def kill(self) -> None:
        """Kills the command's whole tree, also what left its session; returns when it is gone or SandboxLost."""
        await self._about("signal", signal=9, tree=True)

    async def resize(self, rows: int, columns: int) -> None:
        await self._about("resize", pty=[rows, columns])

    async def _about(self, verb: str, **meta: Any) -> None:
        try:
            await self._link.request(verb, target=self._stream.number, **meta)
        except GuestRefused as refused:
            if refused.code != "not_found":
                raise
        except SandboxLost:
            pass


class Link:
    """A connection to one guest. Everything it raises is GuestRefused (this request) or SandboxLost (all of them)."""

    def __init__(self, stream: ByteStream) -> None:
        self._channel = stream
        self._numbers = itertools.count(1)
        self._streams: dict[int, GuestStream] = {}
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
            for stream in list(self._streams.values()):
                stream.close()
            self._ended.set()
            self._stop.cancel()

    async def run(self) -> None:
        """Pumps frames in and out until the guest ends, misbehaves, or the task is cancelled."""
        with self._stop:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                await self._read()

    async def _read(self) -> None:
        decoder = Decoder()
        try:
            while True:
                for frame in decoder.feed(await self._channel.receive(1 << 18)):
                    stream = self._streams.get(frame.stream)
                    if stream is not None:
                        stream.deliver(frame)
                    elif not 0 < frame.stream < 1 << 32:
                        raise ProtocolError("a frame for no stream")
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.abandon("the program inside it ended")
        except ProtocolError as error:
            self.abandon(f"the program inside it broke the protocol: {error}")

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                batch, self._outgoing = b"".join(self._outgoing), []
                await self._channel.send(batch)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.abandon("the program inside it ended")

    # -- frames and requests

    def post(self, kind: int, stream: int, meta: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Queues one frame; data frames are bounded by credit, so the queue is too."""
        self._outgoing.append(encode_frame(kind, stream, meta, body))
        self._wake.set()

    def open(self, verb: str, **meta: Any) -> GuestStream:
        if self.lost:
            raise self.loss
        stream = GuestStream(self, next(self._numbers))
        self._streams[stream.number] = stream
        self.post(OPEN, stream.number, {"verb": verb, **meta})
        return stream

    def forget(self, stream: GuestStream) -> None:
        self._streams.pop(stream.number, None)
        stream.close()

    async def request(self, verb: str, *, seconds: float = REPLY_SECONDS, **meta: Any) -> dict[str, Any]:
        """One question, one answer."""
        stream = self.open(verb, **meta)
        try:
            frame = await stream.receive_soon(seconds)
        finally:
            self.forget(stream)
        if frame.kind != DONE:
            self.abandon("the program inside it answered out of turn")
            raise self.loss
        return frame.meta

    def parse(self, model: type[_F], meta: Mapping[str, Any]) -> _F:
        try:
            return model.model_validate(meta)
        except ValidationError as error:
            self.abandon(f"the program inside it sent a malformed {model.__name__}")
            raise self.loss from error

    def parse_exit(self, meta: Mapping[str, Any]) -> ExitStatus:
        try:
            left = TypeAdapter(list[tuple[int, str]]).validate_python(meta.get("left", []))
        except ValidationError:
            left = None
        return self.parse(ExitStatus, {**meta, "left": tuple(left) if left is not None else None})

    # -- the verbs

    async def hello(self, limits: Limits, environment: Mapping[str, str]) -> None:
        rlimits = {
            "NPROC": limits.pids, "NOFILE": limits.open_files, "FSIZE": limits.disk, "DATA": limits.memory, "CORE": 0
        }  # fmt: skip
        meta = await self.request("hello", seconds=HELLO_SECONDS, rlimits=rlimits, env=dict(environment))
        if meta.get("version") != VERSION or meta.get("pid") != 1:
            self.abandon("the program inside it is not the guest that was sent")
            raise self.loss

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str] | None = None,
        stdin: bool = False,
        pty: tuple[int, int] | None = None,
    ) -> Process:
        """Starts a command; the answer to whether it could be started comes with the first receive()."""
        stream = self.open(
            "spawn", argv=list(argv), cwd=cwd, env=dict(environment or {}), stdin=stdin, pty=list(pty) if pty else None
        )
        return Process(self, stream)

    async def read(
        self, path: str, *, root: str, max_bytes: int, start_line: int = 1, line_count: int = 1 << 62, offset: int = 0
    ) -> FileWindow:
        """Whole lines from `start_line` on, or bytes from `offset` on, but at most `max_bytes`."""
        stream = self.open(
            "read",
            path=path,
            root=root,
            max_bytes=max_bytes,
            start_line=start_line,
            line_count=line_count,
            offset=offset,
        )
        try:
            parts: list[bytes] = []
            while (frame := await stream.receive_soon()).kind == DATA:
                parts.append(frame.body)
            return self.parse(FileWindow, {**frame.meta, "body": b"".join(parts)})
        finally:
            self.forget(stream)

    async def write(
        self, path: str, body: bytes, *, root: str, expect: str | None = None, mode: int | None = None
    ) -> Written:
        """Replaces a file in one rename; `expect` is "absent", the digest it must have now, or None for anything."""
        stream = self.open("write", path=path, root=root, expect=expect, mode=mode)
        try:
            await stream.send(body)
            stream.send_eof()
            return self.parse(Written, (await stream.receive_soon()).meta)
        finally:
            self.forget(stream)

    async def stat(self, path: str, *, root: str, digest: bool = False) -> FileFacts:
        return self.parse(FileFacts, await self.request("stat", path=path, root=root, digest=digest))

    async def list(
        self, path: str, *, root: str, depth: int, limit: int, skip: Sequence[str] = ()
    ) -> tuple[Sequence[DirectoryEntry], bool]:
        """Entries below a directory, and whether there are more than `limit`."""
        meta = await self.request("list", path=path, root=root, depth=depth, limit=limit, skip=[*skip])
        listing = self.parse(Listing, {**meta, "entries": tuple(meta.get("entries", ()))})
        return listing.entries, listing.more

    async def remove(self, path: str, *, root: str, recursive: bool = False) -> None:
        await self.request("remove", path=path, root=root, recursive=recursive)

    async def move(self, path: str, to: str, *, root: str) -> None:
        await self.request("move", path=path, to=to, root=root)


@asynccontextmanager
async def open_link(stream: ByteStream, limits: Limits, environment: Mapping[str, str]) -> AsyncGenerator[Link]:
    """Pushes the guest into a fresh sandbox and greets it. Raises SandboxLost when it does not answer as it should.

    Leaving the context abandons the link; the sandbox itself is destroyed by leaving the runtime's context.
    """
    link = Link(stream)
    try:
        with anyio.fail_after(HELLO_SECONDS):
            await stream.send(_SOURCE())
    except (TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise SandboxLost("the program inside it did not start") from error
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            try:
                await link.hello(limits, environment)
                yield link
            finally:
                link.abandon("it was closed")
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
