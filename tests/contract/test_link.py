"""A guest that lies, and the host's end of the stream: whatever it says, the link ends as SandboxLost, soon and in words."""

import json
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.liar import (
    ENDED,
    FACTS,
    HONEST,
    SHORT,
    SOON,
    Lie,
    Peer,
    answering,
    expect_loss,
    follow,
    greet,
    header,
    leave,
    leave_in_a_frame,
    link_to,
    say_nothing,
    saying,
    saying_all,
    saying_raw,
    stat,
    text_frame,
)
from repocell.errors import SandboxLost
from repocell.guest.agent import (
    CREDIT,
    DATA,
    DONE,
    EOF,
    ERR,
    FAIL,
    FRAME_COST,
    MAX_BODY,
    MAX_JSON,
    NOTE,
    OPEN,
    VERSION,
    WINDOW,
    Frame,
    encode,
)
from repocell.guest.link import Exited, GuestRefused, Link, Output
from repocell.models import FileFacts

pytestmark = pytest.mark.anyio

# -- the greeting

BAD_GREETINGS: dict[str, tuple[Lie, str]] = {
    "another version": (saying(DONE, {**HONEST, "version": VERSION + 1}), "not the guest that was sent"),
    "not the first process": (saying(DONE, {**HONEST, "pid": 2}), "not the guest that was sent"),
    "no version": (saying(DONE, {"pid": 1}), "not the guest that was sent"),
    "more than was asked": (saying(DONE, {**HONEST, "more": 1}), "not the guest that was sent"),
    "data instead": (saying(DATA, None, b"hello"), "answered out of turn"),
    "unknown words": (saying(FAIL, {"error": "no"}), "refused a request in words nobody knows"),
    "silence": (say_nothing, "did not answer within 0.3 s"),
    "an end": (leave, "ended"),
    "another protocol": (saying_raw(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"), "broke the protocol"),
}


@pytest.mark.parametrize("name", BAD_GREETINGS)
async def test_a_guest_that_greets_wrongly_is_none(name: str) -> None:
    """Opening a link raises SandboxLost, in words that say why, when the answer is not the guest's."""
    lie, words = BAD_GREETINGS[name]

    async def script(peer: Peer) -> None:
        await peer.take_program()
        await lie(peer, (await peer.hear(OPEN)).stream)

    with pytest.raises(SandboxLost, match=words):
        async with link_to(script, patience=SHORT if lie is say_nothing else SOON):
            pytest.fail("the link was opened")


async def test_a_guest_that_refuses_the_greeting_is_none() -> None:
    """A refused greeting, however well worded, opens no link."""

    async def script(peer: Peer) -> None:
        await peer.take_program()
        await peer.say(FAIL, (await peer.hear(OPEN)).stream, {"error": "invalid", "why": "no such limit"})

    with pytest.raises(GuestRefused):
        async with link_to(script):
            pytest.fail("the link was opened")


@pytest.mark.parametrize("way", ["ends", "never reads"])
async def test_a_program_that_does_not_take_the_guest_is_none(way: str) -> None:
    """Where the guest's text cannot even be handed over, opening a link raises SandboxLost within its patience."""

    async def script(peer: Peer) -> None:
        if way == "ends":
            await peer.end()

    with pytest.raises(SandboxLost):
        async with link_to(script, patience=SHORT):
            pytest.fail("the link was opened")


async def test_a_guest_that_speaks_unasked_is_none() -> None:
    """An answer to a question that was not asked yet ends the link."""

    async def script(peer: Peer) -> None:
        await peer.take_program()
        await peer.say(DONE, 1, HONEST)
        await peer.say(DONE, 2, FACTS)

    async with link_to(script) as link:
        await link.wait_lost()
        with pytest.raises(SandboxLost, match="stream 2, which is not open"):
            raise link.loss


# -- answers

LIES: dict[str, tuple[Lie, str]] = {
    "silence": (say_nothing, "did not answer within 0.3 s"),
    "an end": (leave, "the program inside it ended"),
    "an end in the middle of a frame": (leave_in_a_frame, "the program inside it ended"),
    "kind zero": (saying_raw(lambda stream: header(0, stream, 0, 0)), "broke the protocol"),
    "a kind there is not": (saying_raw(lambda stream: header(99, stream, 0, 0)), "broke the protocol"),
    "a question": (saying(OPEN, {"verb": "stat"}), "may not send frames of kind 1"),
    "an end of input": (saying(EOF), "may not send frames of kind 4"),
    "stream zero": (saying_raw(lambda _: encode(DONE, 0, FACTS)), "stream 0, which is not open"),
    "the highest stream": (saying_raw(lambda _: encode(DONE, 0xFFFF_FFFF, FACTS)), "which is not open"),
    "the next stream": (saying_raw(lambda stream: encode(DONE, stream + 1, FACTS)), "which is not open"),
    "the greeting's stream": (saying_raw(lambda _: encode(DONE, 1, FACTS)), "which is not open"),
    "too much JSON": (saying_raw(lambda stream: header(DONE, stream, MAX_JSON + 1, 0)), "broke the protocol"),
    "too much body": (saying_raw(lambda stream: header(DATA, stream, 0, MAX_BODY + 1)), "broke the protocol"),
    "no JSON": (saying_raw(lambda stream: text_frame(stream, b"{")), "not a JSON object"),
    "no object": (saying_raw(lambda stream: text_frame(stream, b"[1]")), "not a JSON object"),
    "data": (saying(DATA, None, b"x"), "answered out of turn"),
    "data for nobody to read": (saying(ERR, None, b"x"), "answered out of turn"),
    "a note": (saying(NOTE, FACTS), "answered out of turn"),
    "two notes": (saying_all((NOTE, {}, b""), (NOTE, {}, b"")), "out of turn|more than one note"),
    "data without bytes": (saying(DATA), "more data than was granted, or none"),
    "data with facts": (saying(DATA, {"a": 1}, b"x"), "more data than was granted, or none"),
    "credit nobody used": (saying(CREDIT, {"bytes": 1}), "more credit than was used"),
    "no credit": (saying(CREDIT, {"bytes": 0}), "more credit than was used"),
    "less than no credit": (saying(CREDIT, {"bytes": -5}), "more credit than was used"),
    "true credit": (saying(CREDIT, {"bytes": True}), "more credit than was used"),
    "credit in words": (saying(CREDIT, {"bytes": "9"}), "more credit than was used"),
    "credit of what": (saying(CREDIT), "more credit than was used"),
    "no facts": (saying(DONE), "malformed FileFacts"),
    "a fact missing": (saying(DONE, {"kind": "file", "size": 3}), "malformed FileFacts"),
    "a fact too many": (saying(DONE, {**FACTS, "owner": 0}), "malformed FileFacts"),
    "a kind of file there is not": (saying(DONE, {**FACTS, "kind": "door"}), "malformed FileFacts"),
    "a size in words": (saying(DONE, {**FACTS, "size": "3"}), "malformed FileFacts"),
    "a broken size": (saying(DONE, {**FACTS, "size": 3.5}), "malformed FileFacts"),
    "a size below nothing": (saying(DONE, {**FACTS, "size": -3}), "malformed FileFacts"),
    "a size beyond all": (saying(DONE, {**FACTS, "size": 1 << 64}), "malformed FileFacts"),
    "a size that is no number": (saying(DONE, {**FACTS, "size": math.nan}), "malformed FileFacts"),
    "an endless size": (saying(DONE, {**FACTS, "size": math.inf}), "malformed FileFacts"),
    "a list of sizes": (saying(DONE, {**FACTS, "size": [3]}), "malformed FileFacts"),
    "an abyss": (
        saying_raw(lambda stream: text_frame(stream, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")),
        "malformed FileFacts|not a JSON object",
    ),
    "a code there is not": (saying(FAIL, {"error": "tired"}), "in words nobody knows"),
    "a code that is a list": (saying(FAIL, {"error": ["not_found"]}), "in words nobody knows"),
    "a code that is a number": (saying(FAIL, {"error": 2}), "in words nobody knows"),
    "facts that are objects": (saying(FAIL, {"error": "invalid", "why": {"a": 1}}), "in words nobody knows"),
    "a flood of words": (saying(FAIL, {"error": "invalid", "why": "x" * 99_999}), "in words nobody knows"),
    "a flood of facts": (saying(FAIL, {"error": "invalid", **dict.fromkeys("abcdef")}), "in words nobody knows"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_ends_the_link(name: str) -> None:
    """An answer no honest guest gives raises SandboxLost for whoever asked and for all who come after, and says why."""
    lie, words = LIES[name]
    async with link_to(answering(lie), patience=SHORT if lie is say_nothing else SOON) as link:
        await expect_loss(link, lambda: stat(link), words)


@pytest.mark.parametrize("facts", [{}, {"errno": "ENOTME"}, {"errno": None}])
async def test_a_refusal_for_no_known_reason_is_only_that(facts: dict[str, Any]) -> None:
    """A FAIL whose errno we do not know refuses the one request, as "failed"."""
    async with link_to(answering(saying(FAIL, facts))) as link:
        with pytest.raises(GuestRefused) as refused:
            await link.stat("a", root="/workspace")
        assert refused.value.code == "failed"
        assert not link.lost


SECOND_WORDS: dict[str, tuple[tuple[int, dict[str, Any] | None, bytes], str]] = {
    "the same again": ((DONE, FACTS, b""), "which is not open"),
    "a refusal": ((FAIL, {"error": "not_found"}, b""), "which is not open"),
    "data": ((DATA, None, b"x"), "which is not open"),
    "credit": ((CREDIT, {"bytes": 1}, b""), "which is not open"),
    "a note": ((NOTE, {}, b""), "which is not open"),
}


@pytest.mark.parametrize("name", SECOND_WORDS)
async def test_nothing_comes_after_the_last_word(name: str) -> None:
    """A guest that goes on about a request it has answered ends the link; the answer was given all the same."""
    frame, words = SECOND_WORDS[name]
    async with link_to(answering(saying_all((DONE, FACTS, b""), frame))) as link:
        assert await stat(link) == FileFacts(**FACTS)
        await link.wait_lost()
        with pytest.raises(SandboxLost, match=words):
            raise link.loss


async def test_all_who_wait_learn_of_the_loss() -> None:
    """Requests that wait for an answer, commands that wait for output and writers that wait for credit all end."""

    async def script(peer: Peer) -> None:
        await greet(peer)
        for _ in range(3):
            await peer.hear(OPEN)
        await peer.end()

    async with link_to(script) as link, anyio.create_task_group() as tasks:
        tasks.start_soon(expect_loss, link, lambda: stat(link), "ended")
        tasks.start_soon(expect_loss, link, lambda: link.write("a", bytes(5 * WINDOW), root="/workspace"), "ended")
        process = link.spawn(["true"], cwd="/", stdin=True)
        tasks.start_soon(process.write, bytes(5 * WINDOW))
        await expect_loss(link, process.receive, "ended")


# -- files

NOTE_3: tuple[int, dict[str, Any] | None, bytes] = (NOTE, {"size": 3, "mode": 0o644}, b"")
ALL_DONE: tuple[int, dict[str, Any] | None, bytes] = (DONE, None, b"")

FILE_LIES: dict[str, tuple[Lie, str]] = {
    "data before the facts": (saying_all((DATA, None, b"abc"), ALL_DONE), "a file without its facts"),
    "an end before the facts": (saying_all((DONE, {"size": 3, "mode": 0o644}, b"")), "a file without its facts"),
    "no size": (saying_all((NOTE, {"mode": 0o644}, b""), ALL_DONE), "malformed Opened"),
    "more than its size": (saying_all(NOTE_3, (DATA, None, b"abcd"), ALL_DONE), "something else than a file"),
    "bit by bit more than its size": (
        saying_all(NOTE_3, *[(DATA, None, b"a")] * 4, ALL_DONE),
        "something else than a file",
    ),
    "what a command prints": (saying_all(NOTE_3, (ERR, None, b"abc"), ALL_DONE), "something else than a file"),
    "a second note": (saying_all(NOTE_3, NOTE_3, ALL_DONE), "more than one note"),
    "no end": (saying_all(NOTE_3, (DATA, None, b"abc")), "did not answer within"),
    "nothing of it": (saying_all(NOTE_3), "did not answer within"),
    "an end of the guest": (leave, "ended"),
}


@pytest.mark.parametrize("name", FILE_LIES)
async def test_a_lie_about_a_file_ends_the_link(name: str) -> None:
    """What is not a file's facts, then at most its size in bytes, then an end, raises SandboxLost for the reader."""
    lie, words = FILE_LIES[name]
    async with link_to(answering(lie), patience=SHORT if "not answer" in words else SOON) as link:
        await expect_loss(link, lambda: link.read("a", root="/workspace", max_bytes=100), words)


async def test_a_file_may_have_become_shorter() -> None:
    """Less than its size is no lie: a file can shrink while it is read."""
    async with link_to(answering(saying_all(NOTE_3, (DATA, None, b"a"), ALL_DONE))) as link:
        window = await link.read("a", root="/workspace", max_bytes=100)
        assert (window.body, window.size, window.lines) == (b"a", 3, 1)


async def test_a_reader_of_a_large_file_stops_listening() -> None:
    """When the lines asked for have come, the guest is told to stop, and what is still on its way does no harm."""
    large: dict[str, Any] = {"size": 1 << 40, "mode": 0o644}
    stopped = anyio.Event()

    async def script(peer: Peer) -> None:
        await greet(peer)
        stream = (await peer.hear(OPEN)).stream
        await peer.say(NOTE, stream, large)
        await peer.say(DATA, stream, None, b"one\ntwo\nthree\n")
        await peer.hear(DONE)
        await peer.say(DATA, stream, None, b"on its way\n")
        await peer.say(FAIL, stream, {"error": "cancelled"})
        stopped.set()
        await peer.say(DONE, (await peer.hear(OPEN)).stream, FACTS)

    async with link_to(script) as link:
        window = await link.read("a", root="/workspace", max_bytes=100, start_line=2, line_count=1)
        assert (window.body, window.digest, window.lines) == (b"two\n", None, None)
        await stopped.wait()
        assert await stat(link) == FileFacts(**FACTS)


async def test_a_line_too_far_into_a_large_file_is_not_looked_for() -> None:
    """A guest that sends zeros for ever, as a sparse file does, is not listened to for ever."""

    async def script(peer: Peer) -> None:
        await greet(peer)
        stream = (await peer.hear(OPEN)).stream
        await peer.say(NOTE, stream, {"size": 1 << 40, "mode": 0o644})
        body = bytes(MAX_BODY)
        credit = WINDOW
        while True:
            while credit < len(body) + FRAME_COST:
                credit += (await peer.hear(CREDIT, DONE)).meta["bytes"]
            credit -= len(body) + FRAME_COST
            await peer.say(DATA, stream, None, body)

    async with link_to(script) as link:
        with pytest.raises(GuestRefused) as refused:
            await link.read("a", root="/workspace", max_bytes=100, start_line=2)
        assert refused.value.code == "too_large"


async def test_a_guest_that_takes_no_input_is_given_up() -> None:
    """A write that is never granted credit raises SandboxLost within its patience."""
    async with link_to(answering(say_nothing), patience=SHORT) as link:
        await expect_loss(link, lambda: link.write("a", bytes(2 * WINDOW), root="/workspace"), "did not answer within")


WRITE_LIES: dict[str, tuple[Lie, str]] = {
    "credit for more than was sent": (saying(CREDIT, {"bytes": 9}), "more credit than was used"),
    "no facts": (saying(DONE), "malformed Written"),
    "a digest of its own": (saying(DONE, {"created": 1, "mode": 0o644, "digest": "0"}), "malformed Written"),
    "made in words": (saying(DONE, {"created": "yes", "mode": 0o644}), "malformed Written"),
    "data": (saying(DATA, None, b"x"), "answered out of turn"),
}


@pytest.mark.parametrize("name", WRITE_LIES)
async def test_a_lie_about_a_write_ends_the_link(name: str) -> None:
    """An answer that tells less, more or something else than how the file was written raises SandboxLost."""
    lie, words = WRITE_LIES[name]
    async with link_to(answering(lie)) as link:
        await expect_loss(link, lambda: link.write("a", b"abc", root="/workspace"), words)


ENTRY = {"path": "a", "kind": "file", "size": 1, "mode": 0o644, "target": None}

LIST_LIES: dict[str, dict[str, Any]] = {
    "no entries": {"more": False},
    "no word of more": {"entries": [ENTRY]},
    "entries that are none": {"entries": 7, "more": False},
    "an entry that is none": {"entries": [7], "more": False},
    "an entry without a name": {"entries": [{**ENTRY, "path": None}], "more": False},
    "a name that leads elsewhere": {"entries": [{**ENTRY, "path": "../a"}], "more": False},
    "more than was asked for": {"entries": [ENTRY] * 4, "more": False},
    "a hundred thousand lies": {"entries": [0] * 100_000, "more": False},
}


@pytest.mark.parametrize("name", LIST_LIES)
async def test_a_lie_about_a_directory_ends_the_link(name: str) -> None:
    """What is not a list of at most so many names and facts raises SandboxLost."""
    async with link_to(answering(saying(DONE, LIST_LIES[name]))) as link:
        words = "malformed Listed|something else than a directory's entries"
        await expect_loss(link, lambda: link.list("", root="/workspace", depth=1, limit=3), words)


# -- commands

EXIT_LIES: dict[str, tuple[Lie, str]] = {
    "no status": (saying(DONE), "malformed Ended"),
    "a status in words": (saying(DONE, {**ENDED, "status": "0"}), "malformed Ended"),
    "a status below all": (saying(DONE, {**ENDED, "status": -1}), "malformed Ended"),
    "a status above all": (saying(DONE, {**ENDED, "status": 0x10000}), "malformed Ended"),
    "a command that was stopped": (saying(DONE, {**ENDED, "status": 0x137F}), "neither exited nor was killed"),
    "a command that goes on": (saying(DONE, {**ENDED, "status": 0xFFFF}), "neither exited nor was killed"),
    "an exit besides": (saying(DONE, {**ENDED, "exit": 0}), "malformed Ended"),
    "endless time": (saying(DONE, {**ENDED, "user": math.inf}), "malformed Ended"),
    "a crowd left behind": (saying(DONE, {**ENDED, "left": [[n, "x"] for n in range(21)]}), "malformed Ended"),
    "something else left behind": (saying(DONE, {**ENDED, "left": [["x", 1]]}), "malformed Ended"),
    "left behind in words": (saying(DONE, {**ENDED, "left": "x"}), "malformed Ended"),
    "two notes": (saying_all((NOTE, ENDED, b""), (NOTE, ENDED, b"")), "more than one note"),
    "two exits": (saying_all((NOTE, ENDED, b""), (DONE, {**ENDED, "status": 256}, b"")), "two exits of one command"),
    "an end": (leave, "ended"),
}


@pytest.mark.parametrize("name", EXIT_LIES)
async def test_a_lie_about_a_command_ends_the_link(name: str) -> None:
    """What cannot be how a command ended, or more output than was asked for, is no exit code but SandboxLost."""
    lie, words = EXIT_LIES[name]
    async with link_to(answering(lie)) as link:
        await expect_loss(link, lambda: follow(link), words)


FLOODS = {"large": bytes(MAX_BODY), "small": b"x"}


@pytest.mark.parametrize("size", FLOODS)
async def test_output_nobody_reads_is_bounded(size: str) -> None:
    """A guest that sends more than it was granted, in large frames or in countless tiny ones, loses the link."""
    body = FLOODS[size]
    frames = [(DATA, None, body)] * (WINDOW // (len(body) + FRAME_COST) + 1)
    async with link_to(answering(saying_all(*frames))) as link:
        link.spawn(["true"], cwd="/")
        await link.wait_lost()
        with pytest.raises(SandboxLost, match="more data than was granted"):
            raise link.loss


@pytest.mark.parametrize("status", [0, 1 << 8, 255 << 8, 9, 15, 64, 11 | 0x80])
async def test_an_exit_is_what_waitpid_says(status: int) -> None:
    """A command that exited has a code and no signal, one that was killed a signal and no code."""
    async with link_to(answering(saying(DONE, {**ENDED, "status": status}))) as link:
        (ended,) = await follow(link)
        assert isinstance(ended, Exited)
        expected = (None, status & 0x7F) if status & 0x7F else (status >> 8, None)
        assert (ended.status.exit, ended.status.signal) == expected


async def test_a_guest_that_does_not_kill_loses_the_sandbox() -> None:
    """Leaving a command that the guest cannot or will not kill ends the link, and with it the sandbox."""

    async def script(peer: Peer) -> None:
        await greet(peer)
        await peer.hear(OPEN)
        await peer.say(FAIL, (await peer.hear(OPEN)).stream, {"error": "unkillable"})

    async with link_to(script) as link:
        async with link.spawn(["true"], cwd="/"):
            pass
        with pytest.raises(SandboxLost, match="could not be killed: unkillable"):
            raise link.loss


async def test_a_command_is_killed_even_when_its_user_is_cancelled() -> None:
    """Cancelling whoever follows a command still asks the guest to kill it, and waits until it has."""
    spawned, killed = anyio.Event(), anyio.Event()

    async def script(peer: Peer) -> None:
        await greet(peer)
        target = (await peer.hear(OPEN)).stream
        spawned.set()
        kill = await peer.hear(OPEN)
        assert (kill.meta["verb"], kill.meta["target"]) == ("kill", target)
        killed.set()
        await peer.say(DONE, kill.stream)
        await peer.hear(DONE)
        await peer.say(FAIL, target, {"error": "cancelled"})
        await peer.say(DONE, (await peer.hear(OPEN)).stream, FACTS)

    async with link_to(script) as link:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, link)
            await spawned.wait()
            tasks.cancel_scope.cancel()
        assert killed.is_set()
        assert await stat(link) == FileFacts(**FACTS)


# -- cancellation and credit


async def test_cancelling_everything_at_once_does_not_wait_for_the_guest() -> None:
    """When the link's own task is cancelled together with a command's user, nobody waits for a kill that cannot be sent."""

    async def script(peer: Peer) -> None:
        await greet(peer)
        await peer.hear(OPEN)

    with anyio.fail_after(SOON / 2), anyio.CancelScope() as scope:
        async with link_to(script) as link, link.spawn(["true"], cwd="/"):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_cancelled_request_leaves_the_link_in_order() -> None:
    """The guest hears that nobody waits any more; its late answer goes to nobody, and the next request gets its own."""
    asked = anyio.Event()

    async def script(peer: Peer) -> None:
        await greet(peer)
        first = (await peer.hear(OPEN)).stream
        asked.set()
        assert (await peer.hear(DONE)).stream == first
        second = (await peer.hear(OPEN)).stream
        await peer.say(DONE, first, {**FACTS, "size": 1})
        await peer.say(DONE, second, {**FACTS, "size": 2})

    async with link_to(script) as link:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stat, link)
            await asked.wait()
            tasks.cancel_scope.cancel()
        assert (await link.stat("b", root="/workspace")).size == 2


async def test_a_forgotten_request_cannot_be_used_to_flood() -> None:
    """More for a request nobody waits for than was ever granted to it ends the link."""
    asked = anyio.Event()

    async def script(peer: Peer) -> None:
        await greet(peer)
        stream = (await peer.hear(OPEN)).stream
        asked.set()
        await peer.hear(DONE)
        while True:
            await peer.say(DATA, stream, None, bytes(MAX_BODY))

    async with link_to(script) as link:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stat, link)
            await asked.wait()
            tasks.cancel_scope.cancel()
        await link.wait_lost()
        with pytest.raises(SandboxLost, match="more data than was granted"):
            raise link.loss


async def test_output_is_granted_only_as_it_is_taken() -> None:
    """A guest gets credit for what was read, none for what waits, and never for more than it sent."""
    body = bytes(MAX_BODY - FRAME_COST)
    sent, granted = anyio.Event(), anyio.Event()
    seen: list[Frame] = []

    async def script(peer: Peer) -> None:
        await greet(peer)
        stream = (await peer.hear(OPEN)).stream
        for _ in range(4):
            await peer.say(DATA, stream, None, body)
        sent.set()
        seen.append(await peer.hear(CREDIT, OPEN))
        granted.set()
        await peer.say(DONE, stream, ENDED)

    async with link_to(script) as link, link.spawn(["true"], cwd="/") as process:
        await sent.wait()
        first = await process.receive()
        assert isinstance(first, Output) and first.body == body
        await granted.wait()
        assert (seen[0].kind, seen[0].meta) == (CREDIT, {"bytes": MAX_BODY})
        while isinstance(await process.receive(), Output):
            pass


async def test_input_goes_out_only_as_it_is_granted() -> None:
    """No more than WINDOW bytes are sent ahead of the guest, also when two write at once, and both get to the end."""
    received = bytearray()

    async def script(peer: Peer) -> None:
        await greet(peer)
        stream = (await peer.hear(OPEN)).stream
        while len(received) < WINDOW:
            received.extend((await peer.hear(DATA)).body)
        question = await peer.hear(DATA, OPEN)
        assert question.kind == OPEN  # asked after both had begun to write
        await peer.say(DONE, question.stream, FACTS)
        waiting = WINDOW
        while len(received) < 6 * WINDOW:
            await peer.say(CREDIT, stream, {"bytes": waiting})
            waiting = len((await peer.hear(DATA)).body)
            received.extend(bytes(waiting))
        await peer.hear(EOF)
        await peer.say(DONE, stream, ENDED)

    async with link_to(script) as link, link.spawn(["cat"], cwd="/", stdin=True) as process:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(process.write, bytes(3 * WINDOW))
            await anyio.wait_all_tasks_blocked()
            await stat(link)
            assert len(received) == WINDOW
        process.close_stdin()
        assert isinstance(await process.receive(), Exited)
        assert len(received) == 6 * WINDOW


async def test_a_question_that_fits_no_frame_is_refused_here() -> None:
    """A request too large to send is GuestRefused, nothing of it is sent, and the link goes on."""
    async with link_to(answering(saying(DONE, FACTS))) as link:
        with pytest.raises(GuestRefused, match="too_large"):
            link.spawn(["x" * MAX_JSON], cwd="/")
        assert await stat(link) == FileFacts(**FACTS)


# -- anything at all


USES: list[Callable[[Link], Awaitable[object]]] = [
    stat,
    lambda link: link.list("", root="/workspace", depth=2, limit=3),
    lambda link: link.read("a", root="/workspace", max_bytes=9),
    lambda link: link.remove("a", root="/workspace"),
    lambda link: link.write("a", b"abc", root="/workspace"),
    follow,
]


async def hear_and_see(use: int, answer: Callable[[int], bytes]) -> None:
    """Asks a guest that gives this answer and ends; only the two errors a caller knows may come of it."""

    async def lie(peer: Peer, stream: int) -> None:
        await peer.say_raw(answer(stream))
        await peer.end()

    async with link_to(answering(lie)) as link:
        with suppress(GuestRefused, SandboxLost):
            await USES[use](link)


WORDS = st.sampled_from(
    ["status", "user", "system", "max_rss_kb", "left", "kind", "size", "mode", "target", "entries", "more", "error",
     "errno", "created", "bytes", "path", "file", "directory", "not_found", "ENOENT"]
)  # fmt: skip
THINGS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=8,
)
ANSWERS = st.lists(
    st.tuples(st.integers(0, 9), st.dictionaries(WORDS, THINGS, max_size=6), st.binary(max_size=9)), max_size=3
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(use=st.integers(0, len(USES) - 1), frames=ANSWERS)
def test_any_frames_are_an_answer_a_refusal_or_a_loss(
    use: int, frames: list[tuple[int, dict[str, Any], bytes]]
) -> None:
    """Whatever frames come back, nothing but GuestRefused and SandboxLost reaches the caller, and in bounded time."""

    def answer(stream: int) -> bytes:
        data = b""
        for kind, meta, body in frames:
            text = json.dumps(meta).encode() if meta else b""
            data += header(kind, stream, len(text), len(body)) + text + body
        return data

    anyio.run(hear_and_see, use, answer)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(use=st.integers(0, len(USES) - 1), garbage=st.binary(min_size=1, max_size=60))
def test_any_bytes_are_an_answer_a_refusal_or_a_loss(use: int, garbage: bytes) -> None:
    """Nor do bytes that are no frames at all."""

    def answer(_: int) -> bytes:
        return garbage

    anyio.run(hear_and_see, use, answer)
