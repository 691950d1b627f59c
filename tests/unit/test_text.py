"""Bounding text, and terminal output as text. Pure functions."""

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
