"""Replacing text: exact, tolerant, refused. Pure functions."""

import re
import time

import pytest
from hypothesis import example, given, settings
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


@pytest.mark.parametrize(
    ("text", "old", "new", "after"),
    [
        ("\tif a:\n\t\tb()\n", "if a:\n    b()\n", "if a:\n    c()\n        d()\n", "\tif a:\n\t\tc()\n\t\t\td()\n"),
        ("        a()\n", "    a() \n", "if x:\n    b()\n", "    if x:\n        b()\n"),
        ("  a:\n    b\n", "a:\n  b\n", "a:\n  b\n\n  c\n", "  a:\n    b\n\n    c\n"),
    ],
)
def test_new_lines_are_indented_as_the_file_is(text: str, old: str, new: str, after: str) -> None:
    """Tabs for spaces where the file has tabs, deeper and less deep lines by as much as the others, blank lines not at all."""
    assert done(text, old, new).text == after


def test_lines_nested_in_another_way_do_not_match() -> None:
    """Only a whole block may be moved: a line that is inside a branch in the call and outside it in the file is refused."""
    assert "not found" in refused("  if a:\n    b()\n  c()\n", "if a:\n  b()\n  c()\n").why


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


def patched(text: str, diff: str) -> str:
    """The text with the hunks applied as patch(1) does, each line that is left or removed being checked."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    out: list[str] = []
    at = 0
    hunk = r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@\n((?:(?!@@ -)[^\n]*(?:\n|\Z))*)"
    for head, count, new_head, new_count, body in re.findall(hunk, diff):
        start = int(head) - (int(count) > 0)
        out += lines[at:start]
        assert len(out) == int(new_head) - (int(new_count) > 0)
        at, ends = start, (start + int(count), len(out) + int(new_count))
        kept = body if body.endswith("\n") else body + "\n"
        for line in re.findall(r"[^\n]*\n", kept.replace("\n\\ No newline at end of file\n", "\r\n")):
            whole = line[1:].removesuffix("\r\n") if line.endswith("\r\n") else line[1:]
            if line[0] in " -":
                assert lines[at] == whole
                at += 1
            if line[0] in " +":
                out.append(whole)
        assert (at, len(out)) == ends
    return "".join([*out, *lines[at:]])


LINES = st.lists(st.sampled_from(["a", "b", " a", "c  ", "", "dd"]), max_size=25).map("\n".join)


@settings(max_examples=400, deadline=None)
@given(LINES, st.data(), st.text(alphabet="ab \n", max_size=6), st.booleans())
def test_the_diff_is_the_change(text: str, data: st.DataObject, new: str, everywhere: bool) -> None:
    """Applied to the old text, the diff gives the new one, wherever the places are and whatever lines they join or split."""
    start = data.draw(st.integers(0, len(text)))
    old = text[start : data.draw(st.integers(start, min(len(text), start + 9)))]
    edit = replace(text, old, new, everywhere=everywhere)
    if isinstance(edit, Edit) and edit.diff.count("\n") < 55:
        assert patched(text, edit.diff) == edit.text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a\n", "b\r\n", "c \n", "  d\r\n", "e"]), min_size=3, max_size=12), st.data())
@example(["a\n", "b\r\n", "c \n"], None)
def test_lines_that_are_not_named_stay_as_they_are(lines: list[str], data: st.DataObject | None) -> None:
    """Whatever endings and spaces the lines around have, they are byte for byte the same after an edit."""
    text = "".join(lines)
    at = data.draw(st.integers(0, len(lines) - 1)) if data else 1
    old = lines[at].strip()
    edit = replace(text, old + "\n", "new\n") if text.count(old) == 1 else None
    if isinstance(edit, Edit):
        before, after = "".join(lines[:at]), "".join(lines[at + 1 :])
        assert edit.text.startswith(before)
        assert edit.text.endswith(after)
        assert edit.text[len(before) : len(edit.text) - len(after)].strip() == "new"


@pytest.mark.parametrize(
    ("text", "old", "new", "after"),
    [
        ("a\r\nb\r\n", "a\nb", "a\nx\nb", "a\r\nx\r\nb\r\n"),
        ("a\r\nb\r\n", "a", "x\ny", "x\r\ny\r\nb\r\n"),
        ("a\nb\r\nc\nd\n", "b", "x\ny", "a\nx\r\ny\r\nc\nd\n"),
        ("a\nb\r\nc\nd\n", "c\nd", "x\ny", "a\nb\r\nx\ny\n"),
        ("a\nb\r\nc\nd\n", "a\nb\nc\n", "a\nx\nc\n", "a\nx\nc\nd\n"),
        ("a\r\nb", "a\nb\n", "a\nb\nc\n", "a\r\nb\r\nc"),
        ("a\r\nb\r\n", "a\r\n", "a\n", "a\nb\r\n"),
        ("a\nb\n", "a\r\nb", "x\r\ny", "x\ny\n"),
        ("\ufeffa\n", "a", "b", "\ufeffb\n"),
        ("a\udcff\nb", "b", "c", "a\udcff\nc"),
        ("x\f1\nx\u20282\n", "x\u20282\n", "y\n", "x\f1\ny\n"),
    ],
)
def test_what_is_odd_stays_odd(text: str, old: str, new: str, after: str) -> None:
    """Endings, marks, undecodable bytes and a missing last newline stay; new lines get the ending of where they are."""
    assert done(text, old, new).text == after


def test_a_tolerant_match_leaves_shared_lines_alone() -> None:
    """Lines that old and new have in common keep the file's spaces, so that the diff shows the change only."""
    edit = done("if x:  \n    a = 1  \n    b = 2\t\n", "if x:\n    a = 1\n    b = 2\n", "if x:\n    a = 3\n    b = 2\n")
    assert edit.text == "if x:  \n    a = 3\n    b = 2\t\n"
    assert edit.diff.count("\n-") == 1


def test_typographic_characters_are_tolerated_and_kept() -> None:
    """Quotes, dashes and spaces that no keyboard has are matched by those it has, and stay where nothing changes."""
    edit = done("\u201cone\u201d \u2013 it\u2019s\u00a0two\n", '"one" - it\'s two', '"one" - it\'s three')
    assert edit.text == "\u201cone\u201d \u2013 it\u2019s\u00a0three\n"
    assert "quotes" in edit.note
    assert "2 places" in refused("\u201ca\u201d \u2018a\u2019 \u201ea\u201d", '"a"').why


def test_ambiguous_places_are_shown_with_their_lines() -> None:
    """Each candidate comes with its line and its neighbours, clipped, and not more than a few of them."""
    detail = refused(CODE, "    return 2").detail
    assert "3-        return 1\n4:    return 2\n5-\n7-def g(x):\n8:    return 2" in detail
    many = refused("x = " + "y" * 5000 + "\n" + "x = 1\n" * 50, "x =")
    assert "51 places" in many.why
    assert len(many.detail) < 2_000


@pytest.mark.parametrize(
    ("text", "old", "says"),
    [
        ("a\nb\n", "a\\nb", "did you mean a line break"),
        ('say "hi"\n', 'say \\"hi\\"', 'did you mean only "'),
        ("def f():\n    pass\n", "     1\tdef f():\n     2\t    pass\n", "line numbers"),
        ("const Value = 1\n", "const value = 1", "upper and lower"),
    ],
)
def test_common_mistakes_are_named_and_not_guessed(text: str, old: str, says: str) -> None:
    """What looks like a mistake in writing the call is named; nothing is changed."""
    assert says in refused(text, old).detail


def test_a_miss_with_right_lines_is_shown_where_most_of_them_are() -> None:
    """A block with one wrong line is shown where its other lines stand, also when its first line stands elsewhere too."""
    text = "def f(x):\n    pass\n\n\ndef f(x):\n    y = x + 1\n    return y\n"
    detail = refused(text, "def f(x):\n    y = x + 2\n    return y\n").detail
    assert "lines 5-7" in detail
    assert " def f(x):\n-    y = x + 2\n+    y = x + 1\n     return y" in detail


def test_a_change_far_inside_a_long_line_is_shown() -> None:
    """Of a line of a megabyte the diff shows the part that changed, not its start."""
    diff = done("a" * 1_000_000 + "needle" + "b" * 1_000_000 + "\n", "needle", "thread").diff
    assert "needle" in diff
    assert "thread" in diff
    assert len(diff) < 2_000


SLOW = {
    "same-lines-miss": ("a\n" * 400_000, "a\n" * 20_000 + "b", "x", False),
    "few-lines-often": ("0\n1\n2\n" * 2_000, "0\n1\n2\n" * 2_000, "2\n1\n0\n" * 2_000, False),
    "anchor-often": (("foo = 1\n" + "bar\n" * 50) * 300, "foo = 1\n" + "baz\n" * 2_000, "x", False),
    "similar-lines": ("".join("ab" * 300 + f"{n}\n" for n in range(3_000)), "ab" * 290 + "zzz", "x", False),
    "everywhere-in-a-line": ("x = 1;" * 190_000, "x", "y\n", True),
    "everywhere-tolerant": ("a \nb \n" * 100_000, "a\nb\n", "a\nc\n", True),
    "mixed-endings": ("a\r\nb\n" * 100_000, "b\na", "c\nd", True),
    "once-in-many": ("a" * 16_000_000, "a", "b", False),
    "no-end-of-growth": ("a" * 1_000_000, "a", "b" * 1_000_000, True),
    "long-old": ("a\n" * 2_000_000, "a\n" * 1_999_999 + "b", "x", False),
}


@pytest.mark.parametrize("case", SLOW.values(), ids=list(SLOW))
def test_no_edit_is_slow(case: tuple[str, str, str, bool]) -> None:
    """Whatever is alike and however often, an edit is made or refused in seconds at most, with a short answer."""
    text, old, new, everywhere = case
    began = time.process_time()
    result = replace(text, old, new, everywhere=everywhere)
    assert time.process_time() - began < 4
    assert len(result.diff if isinstance(result, Edit) else result.detail) < 30_000
