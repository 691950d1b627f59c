"""ripgrep's output as lines to show, and what is told of files by their first bytes. Pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.tools.kinds import image_type, is_utf16, kind_of
from repocell.tools.ripgrep import MAX_LINE, clip, complaint, content, file_counts, file_names, near_types


def test_files_are_in_order_and_a_cut_record_is_left_out() -> None:
    """What was cut in the middle of a name, a count or a line is not shown as if it were whole."""
    assert file_names(b"./b\0./a\0./c", cut=True) == ["a", "b"]
    assert file_counts(b"./b:1\x002\n./a\x003\n./c\x001", cut=True).entries == ["a:3", "b:1:2"]
    assert content(b"./a\x001:1:x\n./a\x002:1:y", cut=True, context=False).entries == ["a:1:x"]


def test_names_and_lines_that_look_alike_are_told_apart() -> None:
    """Colons and dashes in names and text do not change what a line is."""
    shown = content(b"./a:1-b\x0012:3:4:5-6\n./a:1-b\x0013-7:8: x\n", cut=False, context=False)
    assert shown.entries == ["a:1-b:12:4:5-6", "a:1-b-13-7:8: x"]
    assert shown.total == "1 matching lines"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=2000), st.integers(1, 3000))
def test_a_clipped_line_is_short_and_a_part_of_it(line: str, column: int) -> None:
    """However long the line is and wherever the match, what is shown is a part of it, and not much longer than the limit."""
    shown = clip(line.encode(), column)
    assert len(shown) <= MAX_LINE + 80
    part = shown.rpartition(" (")[0] if len(line) > MAX_LINE else shown
    assert part.removeprefix("...").removesuffix("...") in line or part in line


@given(st.integers(0, 9000), st.sampled_from(["a", "\u00fc", "\U0001f600"]))
def test_a_clipped_line_shows_its_match(before: int, filler: str) -> None:
    """The match is in what is shown, whatever stands before and behind it."""
    start = filler * (before // len(filler.encode()))
    assert "needle" in clip((start + "needle" + "b" * 5000).encode(), len(start.encode()) + 1)


def test_complaints_lose_what_cannot_be_done_here() -> None:
    """Advice about options of a command line is left out, and the sign of the mistake is kept."""
    said = "rg: regex parse error:\n    (?:(?=x))\n       ^^^\nerror: look-around is not supported\n\nConsider enabling --pcre2"
    assert complaint(said).startswith("regex parse error: look-around is not supported. There is no look-ahead")
    assert "--pcre2" not in complaint(said)


@pytest.mark.parametrize(
    ("asked", "near"), [("tsx", ["ts"]), ("pyy", ["py"]), ("typescript", ["ts"]), (".py", ["py"]), ("zzz", [])]
)
def test_types_are_suggested_by_ending_and_by_name(asked: str, near: list[str]) -> None:
    """An ending finds its type, a slip of the pen the right name, and so does a language's long name."""
    assert near_types(asked, "java: *.java\npy: *.py, *.pyi\nts: *.ts, *.tsx\n") == near


@pytest.mark.parametrize(
    ("head", "image", "kind", "utf16"),
    [
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp", "RIFF media (wav, avi)", False),
        (b"RIFF\0\0\0\0WAVEfmt ", None, "RIFF media (wav, avi)", False),
        (b"GIF89a\1\0\1\0", "image/gif", None, False),
        (b"\xff\xd8\xff\xe0\0", "image/jpeg", None, False),
        (b"\xff\xfea\0", None, "UTF-16 text, little-endian", True),
        (b"\xff\xfe\0\0a\0\0\0", None, "UTF-16 text, little-endian", False),
        (b"", None, None, False),
    ],
)
def test_first_bytes_tell_the_format(head: bytes, image: str | None, kind: str | None, utf16: bool) -> None:
    """A container is an image only when it says so."""
    assert (image_type(head), kind_of(head), is_utf16(head)) == (image, kind, utf16)
