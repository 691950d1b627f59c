"""The wire format, with no wire: what one side encodes the other decodes, whatever the chunks, and anything else is refused.

Each case is delivered whole, one byte at a time, and with the start of another frame behind it.
"""

import json
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repocell.guest.agent import (
    CREDIT,
    DATA,
    DONE,
    ERR,
    FAIL,
    HEADER,
    MAX_BODY,
    MAX_JSON,
    NOTE,
    OPEN,
    Decoder,
    Frame,
    ProtocolError,
    encode,
)

Parts = tuple[int, int, dict[str, Any], bytes]
Deliver = Callable[[bytes], tuple[list[Parts], bytes]]
"""Feeds a decoder some bytes; returns the frames that came out and what waits for more."""

LATER = encode(DATA, 9, {"later": True}, b"later")[:-1]


def parts(frame: Frame) -> Parts:
    return frame.kind, frame.stream, frame.meta, frame.body


def feed(chunks: Sequence[bytes]) -> tuple[list[Parts], bytes]:
    decoder = Decoder()
    frames = [parts(frame) for chunk in chunks for frame in decoder.feed(chunk)]
    return frames, bytes(decoder.pending)


def whole(data: bytes) -> tuple[list[Parts], bytes]:
    return feed([data])


def byte_by_byte(data: bytes) -> tuple[list[Parts], bytes]:
    return feed([data[at : at + 1] for at in range(len(data))])


def with_more_behind(data: bytes) -> tuple[list[Parts], bytes]:
    frames, pending = feed([data + LATER])
    assert pending.endswith(LATER)
    return frames, pending.removesuffix(LATER)


@pytest.fixture(params=[whole, byte_by_byte, with_more_behind], ids=lambda way: way.__name__)
def deliver(request: pytest.FixtureRequest) -> Deliver:
    way: Deliver = request.param
    return way


def raw(kind: int, stream: int, text: bytes, body: bytes = b"") -> bytes:
    """A frame put together by hand, of any text."""
    return struct.pack("!BIII", kind, stream, len(text), len(body)) + text + body


FRAMES: dict[str, Parts] = {
    "empty": (DONE, 1, {}, b""),
    "facts only": (NOTE, 2, {"exit": 0, "left": [[7, "sleep"]], "none": None}, b""),
    "bytes only": (DATA, 3, {}, b"\x00\xff{}\n"),
    "facts and bytes": (ERR, 4, {"a": 1.5}, b"body"),
    "the highest stream": (CREDIT, 0xFFFF_FFFF, {"bytes": 1 << 20}, b""),
    "stream zero": (OPEN, 0, {"verb": "hello"}, b""),
    "a name that is not UTF-8": (FAIL, 5, {"path": "caf\udce9", "text": "\u00e9\U0001f600\x00"}, b""),
    "the largest body": (DATA, 6, {}, bytes(MAX_BODY)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_encoded_is_decoded(name: str, deliver: Deliver) -> None:
    """Kind, stream, facts and bytes of a frame arrive as they were sent, and nothing is left over."""
    assert deliver(encode(*FRAMES[name])) == ([FRAMES[name]], b"")


def test_frames_arrive_in_order(deliver: Deliver) -> None:
    """Frames that are sent one behind the other come out one by one, in that order."""
    data = b"".join(encode(*frame) for frame in FRAMES.values())
    assert deliver(data) == (list(FRAMES.values()), b"")


@pytest.mark.parametrize("way", [whole, byte_by_byte])
@pytest.mark.parametrize("missing", [1, 5, 6])
def test_a_frame_that_is_not_whole_waits(missing: int, way: Deliver) -> None:
    """As long as one byte is missing, nothing comes out and nothing is lost."""
    data = encode(DATA, 1, {"a": 1}, b"bytes")
    assert way(data[:-missing]) == ([], data[:-missing])


def test_the_rest_of_a_frame_completes_it() -> None:
    """A frame cut anywhere comes out whole once its rest has come, the next chunk's frames behind it."""
    data = encode(DATA, 1, {"a": 1}, b"bytes") + encode(DONE, 1)
    for at in range(len(data) + 1):
        frames, pending = feed([data[:at], data[at:]])
        assert (frames, pending) == ([(DATA, 1, {"a": 1}, b"bytes"), (DONE, 1, {}, b"")], b"")


# -- what is refused

LIES = {
    "kind zero": raw(0, 1, b""),
    "a kind behind the last": raw(FAIL + 1, 1, b""),
    "the highest kind": raw(255, 1, b""),
    "a list": raw(DONE, 1, b"[]"),
    "a list of pairs": raw(DONE, 1, b'[["a",1]]'),
    "a string": raw(DONE, 1, b'"a"'),
    "a number": raw(DONE, 1, b"1"),
    "null": raw(DONE, 1, b"null"),
    "not JSON": raw(DONE, 1, b"{a}"),
    "a cut object": raw(DONE, 1, b'{"a":1'),
    "two objects": raw(DONE, 1, b"{}{}"),
    "only space": raw(DONE, 1, b" "),
    "bytes that are no text": raw(DONE, 1, b'{"a":"\xff"}'),
    "text that is not escaped": raw(DONE, 1, '{"a":"é"}'.encode()),
    "text in UTF-16": raw(DONE, 1, '{"a":1}'.encode("utf-16")),
    "an endless number": raw(DONE, 1, b'{"a":' + b"9" * 5000 + b"}"),
    "an abyss": raw(DONE, 1, b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name: str) -> None:
    """A frame no honest peer sends raises ProtocolError, in one piece and in small ones."""
    with pytest.raises(ProtocolError):
        feed([LIES[name]])
    step = max(1, len(LIES[name]) // 100)
    with pytest.raises(ProtocolError):
        feed([LIES[name][at : at + step] for at in range(0, len(LIES[name]), step)])


@pytest.mark.parametrize("sizes", [(MAX_JSON + 1, 0), (0, MAX_BODY + 1), (0xFFFF_FFFF, 0xFFFF_FFFF)])
def test_a_frame_above_the_limits_is_refused_by_its_header(sizes: tuple[int, int]) -> None:
    """What would be too large is refused before anything of it is waited for."""
    with pytest.raises(ProtocolError):
        feed([HEADER.pack(DATA, 1, *sizes)])


def test_what_came_before_a_lie_is_delivered() -> None:
    """The frames ahead of a bad one come out, also when they arrive in the same chunk."""
    seen: list[Parts] = []
    with pytest.raises(ProtocolError):
        seen.extend(parts(frame) for frame in Decoder().feed(encode(DATA, 1, None, b"true") + LIES["a list"]))
    assert seen == [(DATA, 1, {}, b"true")]


@pytest.mark.parametrize("frame", [(NOTE, 1, {"a": "x" * MAX_JSON}, b""), (DATA, 1, {}, bytes(MAX_BODY + 1))])
def test_what_the_other_side_would_refuse_is_not_encoded(frame: Parts) -> None:
    """Too much for one frame is a ValueError for whoever wants to send it."""
    with pytest.raises(ValueError, match="too large"):
        encode(*frame)


def test_a_frame_at_the_limits_is_encoded_and_decoded() -> None:
    """Exactly MAX_JSON bytes of facts and MAX_BODY bytes fit."""
    frame: Parts = (DATA, 1, {"a": "x" * (MAX_JSON - len('{"a":""}'))}, bytes(MAX_BODY))
    assert whole(encode(*frame)) == ([frame], b"")


# -- anything at all

SCALARS = (
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False) | st.text(st.characters())
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
ANY_FRAME = st.tuples(
    st.integers(OPEN, FAIL),
    st.integers(0, 0xFFFF_FFFF),
    st.dictionaries(st.text(st.characters()), VALUES, max_size=4),
    st.binary(max_size=300),
)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The bytes in chunks of these sizes, and the rest."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@settings(deadline=None)
@given(frames=st.lists(ANY_FRAME, max_size=5), sizes=st.lists(st.integers(0, 200), max_size=20))
def test_any_frames_survive_any_chunks(frames: list[Parts], sizes: list[int]) -> None:
    """What is sent is received, however it is cut up on the way."""
    data = b"".join(encode(*frame) for frame in frames)
    assert feed(list(cut(data, sizes))) == (frames, b"")


def bounded(chunks: Sequence[bytes]) -> None:
    """Decodes until it is refused; what waits never exceeds one frame."""
    decoder = Decoder()
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                assert OPEN <= frame.kind <= FAIL
                assert len(frame.body) <= MAX_BODY
                json.dumps(frame.meta)
            assert len(decoder.pending) < HEADER.size + MAX_JSON + MAX_BODY
    except ProtocolError:
        pass


@settings(deadline=None)
@given(chunks=st.lists(st.binary(max_size=200), max_size=8))
def test_arbitrary_bytes_are_frames_or_refused(chunks: list[bytes]) -> None:
    """No bytes raise anything but ProtocolError, or make the decoder keep more than a frame."""
    bounded(chunks)


@settings(deadline=None)
@given(
    frames=st.lists(
        st.tuples(
            st.integers(0, 10), st.integers(0, 3), st.binary(max_size=30) | st.just(b"{}"), st.binary(max_size=9)
        ),
        max_size=6,
    ),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4),
    sizes=st.lists(st.integers(0, 60), max_size=10),
)
def test_frames_with_wrong_bytes_are_frames_or_refused(
    frames: list[tuple[int, int, bytes, bytes]], flips: list[tuple[int, int]], sizes: list[int]
) -> None:
    """Nor do bytes that look like frames but for a few."""
    data = bytearray(b"".join(raw(*frame) for frame in frames))
    for at, change in flips:
        if at < len(data):
            data[at] ^= change
    bounded(list(cut(bytes(data), sizes)))


def test_a_frame_that_never_ends_is_bounded() -> None:
    """A peer that announces the largest frame and sends it slowly fills no more memory than that frame's."""
    header = HEADER.pack(DATA, 1, MAX_JSON, MAX_BODY)
    bounded([header, *[b" " * 65536] * ((MAX_JSON + MAX_BODY) // 65536 - 1)])


def until_refused(chunks: Sequence[bytes]) -> tuple[list[Parts], bool]:
    """The frames that come out, and whether what follows them was refused."""
    seen: list[Parts] = []
    decoder = Decoder()
    try:
        for chunk in chunks:
            seen.extend(parts(frame) for frame in decoder.feed(chunk))
    except ProtocolError:
        return seen, True
    return seen, False


@settings(deadline=None)
@given(
    frames=st.lists(ANY_FRAME | st.sampled_from([*LIES.values()][:-1]), max_size=5),
    flips=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 255)), max_size=2),
    sizes=st.lists(st.integers(0, 60), max_size=20),
)
def test_chunks_do_not_change_what_is_understood(
    frames: list[Parts | bytes], flips: list[tuple[int, int]], sizes: list[int]
) -> None:
    """Good or bad, the same bytes give the same frames and the same refusal, whole or in pieces of any size."""
    mutable = bytearray(b"".join(frame if isinstance(frame, bytes) else encode(*frame) for frame in frames))
    for at, change in flips:
        if at < len(mutable):
            mutable[at] ^= change
    data = bytes(mutable)
    whole_story = until_refused([data])
    assert until_refused(list(cut(data, sizes))) == whole_story
    assert until_refused([data[at : at + 1] for at in range(min(len(data), 9000))]) == whole_story or len(data) > 9000


def test_a_slow_peer_costs_time_in_proportion() -> None:
    """The largest frame in tiny pieces is looked at once for each piece, not from its start again and again."""
    data = encode(DATA, 1, None, bytes(MAX_BODY))
    begun = time.process_time()
    assert feed([data[at : at + 1] for at in range(0, len(data))])[0] == [(DATA, 1, {}, bytes(MAX_BODY))]
    assert time.process_time() - begun < 5


def test_many_frames_in_one_piece_cost_time_in_proportion() -> None:
    """A hundred thousand of the smallest frames at once come out in a fraction of what moving them each time would take."""
    data = encode(DONE, 1) * 100_000
    begun = time.process_time()
    frames, pending = feed([data])
    assert (len(frames), pending) == (100_000, b"")
    assert time.process_time() - begun < 5
