"""Replacing text: exact, tolerant, refused. Pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.tools.edits import Edit, Refused, replace

CODE = "def f(x):\n    if x:\n        return 1\n    return 2\n\n\ndef g(x):\n    return 2\n"


def done(text: str, old: str, new: str, *, everywhere: bool = False) -> Edit:
    result = replace(text, old, new, everywhere=everywhere)
    assert isinstance(result, Edit), result
    return result


def refused(text: str, old: str, new: str = "x") -> Refused:
    result = replace(text, old, new)
    assert isinstance(result, Refused), result
    return result


@given(st.text(), st.text(min_size=1), st.text(), st.text())
def test_a_unique_match_is_replaced_and_nothing_else(before: str, old: str, new: str, after: str) -> None:
    """Whenever old stands exactly once, the result is what str.replace gives."""
    text = before + old + after
    if text.count(old) == 1 and text.find(old, text.find(old) + 1) < 0 and old != new and "\r" not in text + new:
        assert done(text, old, new).text == text.replace(old, new)


@given(
    st.text(alphabet="ab\n", max_size=30), st.text(alphabet="ab\n", min_size=1, max_size=3), st.text(alphabet="xy\n")
)
def test_everywhere_is_what_str_replace_does(text: str, old: str, new: str) -> None:
    """replace_all of exact matches equals str.replace."""
    if old in text and old != new:
        assert done(text, old, new, everywhere=True).text == text.replace(old, new)


@given(st.text(), st.text(), st.text(), st.booleans())
def test_no_input_makes_it_raise(text: str, old: str, new: str, everywhere: bool) -> None:
    """Any input gives an edit or a refusal with words."""
    result = replace(text, old, new, everywhere=everywhere)
    assert isinstance(result, Edit) or (result.why and result.detail)


def test_two_matches_are_refused_with_their_lines() -> None:
    """An ambiguous old string names the lines and changes nothing."""
    assert "2 places (lines 4, 8)" in refused(CODE, "    return 2").why


def test_trailing_spaces_are_tolerated_and_said() -> None:
    """A match that differs only in spaces at line ends is made, with a note."""
    edit = done("a  \nb\nc\n", "a\nb\n", "x\n")
    assert edit.text == "x\nc\n"
    assert "ends of lines" in edit.note


def test_other_indentation_is_adapted_and_said() -> None:
    """Text given without its indentation is found, and the replacement is moved to where it belongs."""
    edit = done(CODE, "if x:\n    return 1\n", "if not x:\n    return 0\n")
    assert "    if not x:\n        return 0\n    return 2\n" in edit.text
    assert "indentation" in edit.note


def test_tolerant_matches_are_not_guessed_between() -> None:
    """Two tolerant matches are as ambiguous as two exact ones."""
    assert "2 places" in refused("  a\n    a\n", "\ta\n").why


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_endings_of_the_file_win(ending: str) -> None:
    """old and new are given with \\n; the file keeps its own endings."""
    text = ending.join(["one", "two", "three", ""])
    assert done(text, "one\ntwo", "1\n2").text == ending.join(["1", "2", "three", ""])


def test_a_miss_shows_the_nearest_block() -> None:
    """The most similar lines are shown as a diff against what was asked for."""
    detail = refused(CODE, "def f(y):\n    if y:\n        return 1\n").detail
    assert "lines 1-3" in detail
    assert "-def f(y):" in detail
    assert "+def f(x):" in detail


def test_an_empty_or_equal_string_is_refused_with_what_to_do() -> None:
    """Nothing to look for, or nothing to change, is said before anything else."""
    assert "write_file" in refused("a", "").detail
    assert "the same" in refused("a", "a", "a").why


def test_the_diff_has_right_line_numbers() -> None:
    """Hunk headers count lines before and after, across several places."""
    edit = done("a\nx\nb\nc\nd\ne\nf\ng\nx\nh\n", "x\n", "1\n2\n", everywhere=True)
    assert "@@ -1,5 +1,6 @@" in edit.diff
    assert "@@ -6,5 +7,6 @@" in edit.diff
