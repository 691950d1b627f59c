"""A guest in the hands of a test: a few lines at the other end of a real socket, where the real one would be.

It greets as the real one does and then does what the test wants. Lives here: no tests.
"""

import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.abc import UNIXSocketStream

from repocell.errors import SandboxLost, sole_error
from repocell.guest.agent import (
    DONE,
    OPEN,
    VERSION,
    Decoder,
    Frame,
    encode,
)
from repocell.guest.link import Exited, Link, Output, boot_argv, open_link
from repocell.models import FileFacts, Limits

SOON = 10.0  # seconds; what is bounded must have ended by then, with much to spare
SHORT = 0.3  # the patience with a guest that is to lose it

HONEST = {"version": VERSION, "pid": 1}
FACTS: dict[str, Any] = {"kind": "file", "size": 3, "mode": 0o644, "target": None}
ENDED: dict[str, Any] = {"status": 0, "user": 0.0, "system": 0.0, "max_rss_kb": 1, "left": []}


class Peer:
    """The guest's end of the stream, in the hands of a test."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    async def take_program(self) -> None:
        """Takes the guest's text off the stream, as the sandbox's Python does."""
        missing = int(boot_argv("python3")[-1])
        while missing:
            missing -= len(await self._stream.receive(missing))

    async def hear(self, *kinds: int) -> Frame:
        """The next frame of these kinds, all others passed over."""
        while True:
            while not self._frames:
                self._frames += self._decoder.feed(await self._stream.receive())
            frame = self._frames.pop(0)
            if frame.kind in kinds:
                return frame

    async def say(self, kind: int, stream: int, meta: dict[str, Any] | None = None, body: bytes = b"") -> None:
        await self.say_raw(encode(kind, stream, meta, body))

    async def say_raw(self, data: bytes) -> None:
        await self._stream.send(data)

    async def end(self) -> None:
        await self._stream.aclose()


Script = Callable[[Peer], Awaitable[None]]
Lie = Callable[[Peer, int], Awaitable[None]]
"""What the guest does when it is asked something on that stream."""


async def greet(peer: Peer) -> None:
    """What an honest guest does first."""
    await peer.take_program()
    await peer.say(DONE, (await peer.hear(OPEN)).stream, HONEST)


@asynccontextmanager
async def link_to(script: Script, patience: float = SOON) -> AsyncGenerator[Link]:
    """A link to a guest that does what the script says; it holds its end open until the link is left."""

    async def play() -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            await script(Peer(theirs))  # until the host has had enough of it

    one, other = socket.socketpair()
    async with await UNIXSocketStream.from_socket(one) as ours, await UNIXSocketStream.from_socket(other) as theirs:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(play)
                with anyio.fail_after(SOON):
                    async with open_link(ours, Limits(), {}, patience) as link:
                        yield link
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole_error(group) from None


def answering(lie: Lie, times: int = 1) -> Script:
    """Greets, and then answers requests with a lie."""

    async def script(peer: Peer) -> None:
        await greet(peer)
        for _ in range(times):
            await lie(peer, (await peer.hear(OPEN)).stream)

    return script


def saying(kind: int, meta: dict[str, Any] | None = None, body: bytes = b"") -> Lie:
    async def lie(peer: Peer, stream: int) -> None:
        await peer.say(kind, stream, meta, body)

    return lie


def saying_all(*frames: tuple[int, dict[str, Any] | None, bytes]) -> Lie:
    async def lie(peer: Peer, stream: int) -> None:
        await peer.say_raw(b"".join(encode(kind, stream, meta, body) for kind, meta, body in frames))

    return lie


def saying_raw(make: Callable[[int], bytes]) -> Lie:
    async def lie(peer: Peer, stream: int) -> None:
        await peer.say_raw(make(stream))

    return lie


async def say_nothing(_: Peer, __: int) -> None:
    pass


async def leave(peer: Peer, _: int) -> None:
    await peer.end()


async def leave_in_a_frame(peer: Peer, stream: int) -> None:
    await peer.say_raw(encode(DONE, stream, FACTS)[:-1])
    await peer.end()


def header(kind: int, stream: int, json_size: int, body_size: int) -> bytes:
    return struct.pack("!BIII", kind, stream, json_size, body_size)


def text_frame(stream: int, text: bytes) -> bytes:
    return header(DONE, stream, len(text), 0) + text


async def expect_loss(link: Link, use: Callable[[], Awaitable[object]], words: str) -> None:
    """The use raises SandboxLost in these words, and so does everything after it, at once."""
    with pytest.raises(SandboxLost, match=words):
        await use()
    assert link.lost
    await link.wait_lost()
    with pytest.raises(SandboxLost, match=words):
        await stat(link)
    with pytest.raises(SandboxLost, match=words):
        link.spawn(["true"], cwd="/")


async def stat(link: Link) -> FileFacts:
    return await link.stat("a", root="/workspace")


async def follow(link: Link) -> list[Output | Exited]:
    """A command to its end."""
    events: list[Output | Exited] = []
    async with link.spawn(["true"], cwd="/") as process:
        while True:
            event = await process.receive()
            events.append(event)
            if isinstance(event, Exited) and not event.running:
                return events
