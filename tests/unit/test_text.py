"""Bounding text, and terminal output as text. Pure functions."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.tools.text import as_text, cut_middle, printable, size_of


@given(st.text(), st.integers(min_value=400, max_value=2000))
def test_cut_text_fits_and_keeps_both_ends(text: str, limit: int) -> None:
    """The result is never longer than the limit, and begins and ends as the text does."""
    cut = cut_middle(text * 50, limit, "read on with X")
    assert len(cut) <= limit
    if len(text * 50) > limit:
        assert "read on with X" in cut


@given(st.binary())
def test_any_bytes_become_printable_text(data: bytes) -> None:
    """Output of any kind turns into text without control characters but newline and tab."""
    assert all(char in "\n\t" or ord(char) >= 32 for char in as_text(data))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07text", "text"),
        (b"10%\r20%\r100%\n", "100%\n"),
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"bell\x07", "bell\ufffd"),
    ],
)
def test_terminal_tricks_are_undone(raw: bytes, shown: str) -> None:
    """Colours, titles, overwritten lines and Windows line ends read as a person would see them."""
    assert as_text(raw) == shown


@pytest.mark.parametrize(
    ("name", "shown"), [("a\nb", "a\\nb"), ("a\x1bb", "a\\x1bb"), ("bad\udcff", "bad\\xff"), ("ü", "ü")]
)
def test_names_are_shown_on_one_line(name: str, shown: str) -> None:
    """Control characters and undecodable bytes of file names are escaped."""
    assert printable(name) == shown


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (10 << 20, "10.0 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_are_said_in_units(count: int, text: str) -> None:
    """Sizes carry their unit."""
    assert size_of(count) == text


@given(st.text(alphabet="ab\n", min_size=1), st.integers(min_value=400, max_value=900))
def test_cut_text_keeps_the_head_and_the_tail(piece: str, limit: int) -> None:
    """What is left stands at the start and at the end of the whole text, and the note counts what is missing."""
    text = (piece + "c") * 1000
    cut = cut_middle(text, limit, "read on")
    head, note, tail = re.split(r"\n?(\[\.\.\. [^\n]*\])\n", cut, maxsplit=1)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) > 50
    assert len(tail) > 50
    missing = re.search(r"\(([\d,]+) characters", note)
    assert missing
    assert (
        0
        <= len(text) - len(head) - len(tail) - int(missing[1].replace(",", ""))
        <= head.count("\n") + piece.count("\n") + 1
    )


SLOW = {
    "one-line": b"x" * (10 << 20),
    "progress": b"50%\r" * (1 << 20),
    "open-escapes": b"\x1b[" * (128 << 10),
    "open-titles": b"\x1b]" * (128 << 10),
    "escapes": b"\x1b" * (256 << 10),
    "long-parameters": b"\x1b[" + b"0;" * (1 << 20),
    "spaces": b"\x1b[" + b" " * (1 << 20),
    "colours": b"\x1b[1;31mx\x1b[0m" * (64 << 10),
    "undecodable": b"\xff" * (1 << 20),
}


@pytest.mark.parametrize("data", SLOW.values(), ids=list(SLOW))
def test_no_output_is_slow(data: bytes) -> None:
    """Output takes time in its length, whatever it is made of."""
    began = time.process_time()
    assert len(cut_middle(as_text(data), 30_000, "read on")) <= 30_000
    assert time.process_time() - began < 2
