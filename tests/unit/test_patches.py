"""Applying patches to texts and to sets of files: exact, tolerant, refused. Pure functions; real git makes the patches."""

import contextlib
import difflib
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import GIT_ENVIRONMENT, git
from repocell.errors import PatchRefused, PatchUnreadable
from repocell.tools.patch_formats import parse
from repocell.tools.patch_plan import Absent, Content, Plan, State, plan
from repocell.tools.patch_search import TooMuchWork, Work
from repocell.tools.patch_values import Hunk, Update
from repocell.tools.patches import Applied, Misfit, apply_hunks

CODE = "def f(x):\n    if x:\n        return 1\n    return 2\n\n\ndef g(x):\n    return 2\n"


def hunks_of(text: str) -> Sequence[Hunk]:
    (change,) = parse(text).changes
    assert isinstance(change, Update)
    return change.hunks


def unified(*hunks: str) -> Sequence[Hunk]:
    return hunks_of("--- a/x\n+++ b/x\n" + "".join(hunks))


def loose(*hunks: str) -> Sequence[Hunk]:
    return hunks_of("*** Begin Patch\n*** Update File: x\n" + "".join(hunks) + "*** End Patch\n")


def done(text: str, hunks: Sequence[Hunk]) -> Applied:
    result = apply_hunks(text, hunks, Work())
    assert isinstance(result, Applied), result
    return result


def refused(text: str, hunks: Sequence[Hunk]) -> Sequence[Misfit]:
    result = apply_hunks(text, hunks, Work())
    assert not isinstance(result, Applied), result
    return result


# -- against git and difflib

ODD_LINES = st.sampled_from(
    ["", "a", "b", "  a", "\tb", "a  ", "a\r", "\r", "é", "\u2028", "-- ", "--- a/x", "+++ b/x", "@@", "@@ -1 +1 @@", "\\",
     "+", "-", "*** End Patch", "diff --git a/x b/x", "Index: x", "GIT binary patch"]
)  # fmt: skip
ODD_TEXT = st.tuples(st.lists(ODD_LINES, max_size=14), st.sampled_from(["", "\n", "\r\n"])).map(
    lambda made: "\n".join(made[0]) + (made[1] if made[0] else "")
)


def git_diff(repo: Path, old: dict[str, str], new: dict[str, str], *options: str) -> str:
    """What git says changes from the old files to the new ones."""
    git(repo, "init", "--quiet") if not (repo / ".git").exists() else git(
        repo, "rm", "-q", "-r", "-f", "--ignore-unmatch", "."
    )
    for files in (old, new):
        for name in {*old, *new}:
            (repo / name).unlink(missing_ok=True)
        for name, text in files.items():
            (repo / name).write_bytes(text.encode())
        if files is old:
            git(repo, "add", "--all")
    if new.keys() - old.keys():
        git(repo, "add", "--intent-to-add", "--", *(new.keys() - old.keys()))
    return raw_diff(repo, "--text", *options)


def raw_diff(repo: Path, *options: str) -> str:
    """The diff byte for byte: no line ending is translated."""
    command = ["git", "-c", "core.autocrlf=false", "diff", *options]
    environment = {**os.environ, **GIT_ENVIRONMENT}
    return subprocess.run(
        command, cwd=repo, env=environment, check=True, capture_output=True, timeout=60
    ).stdout.decode()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(ODD_TEXT, ODD_TEXT), min_size=4, max_size=10), context=st.integers(1, 4))
def test_what_git_diff_makes_of_two_texts_leads_from_one_to_the_other(
    tmp_path: Path, pairs: list[tuple[str, str]], context: int
) -> None:
    """Byte for byte, with any line endings, with and without a last newline, added and deleted files included."""
    old = {f"{n}.txt": a for n, (a, b) in enumerate(pairs) if a or not b}
    new = {f"{n}.txt": b for n, (a, b) in enumerate(pairs) if b or not a}
    text = git_diff(tmp_path, old, new, f"-U{context}", "--no-renames")
    if old == new:
        return
    files: dict[str, State] = {name: Absent("missing") for name in {*old, *new}}
    files |= {name: Content(body.encode(), 0o644, "d") for name, body in old.items()}
    planned = plan(parse(text), files)
    assert planned.notes == ()
    found = {**files, **{step.path: step.after for step in planned.steps}}
    assert {n: c.body.decode() for n, c in found.items() if isinstance(c, Content)} == new


def test_renames_copies_and_modes_of_git_are_followed(tmp_path: Path) -> None:
    """What git says of a rename with changes, a copy and a mode is what happens."""
    git(tmp_path, "init", "--quiet")
    body = "".join(f"line {n}\n" for n in range(40))
    for name in ("moved", "copied", "run"):
        (tmp_path / name).write_text(f"{name}\n{body}")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-qm", "x")
    (tmp_path / "moved").rename(tmp_path / "new place")
    (tmp_path / "new place").write_text(f"moved\n{body}end\n")
    (tmp_path / "copy").write_text(f"copied\n{body}copy\n")
    (tmp_path / "copied").write_text(f"copied\n{body}changed\n")
    (tmp_path / "run").chmod(0o755)
    git(tmp_path, "add", "--all")
    text = raw_diff(tmp_path, "--cached", "-M", "-C")
    start = {name: Content(f"{name}\n{body}".encode(), 0o640, "d") for name in ("moved", "copied", "run")}
    planned = plan(parse(text), {**start, "new place": Absent(), "copy": Absent()})
    made = {step.path: step.after for step in planned.steps}
    assert made == {
        "moved": Absent(),
        "new place": Content(f"moved\n{body}end\n".encode(), 0o640),
        "copy": Content(f"copied\n{body}copy\n".encode(), 0o640),
        "copied": Content(f"copied\n{body}changed\n".encode(), 0o640),
        "run": Content(f"run\n{body}".encode(), 0o750),
    }
    assert "R moved -> new place (+1 -0)" in planned.summary
    assert "M run (executable)" in planned.summary


@st.composite
def edits(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Lines that are all different, and the same after some edits."""
    old = [f"line {n}" for n in range(draw(st.integers(1, 40)))]
    new: list[str] = []
    for n, line in enumerate(old):
        what = draw(st.sampled_from(["keep"] * 6 + ["drop", "change", "insert"]))
        new += {"keep": [line], "drop": [], "change": [f"changed {n}"], "insert": [f"new {n}", line]}[what]
    return old, new


def join(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def difflib_patch(old: Sequence[str], new: Sequence[str], context: int = 3) -> str:
    return "\n".join(difflib.unified_diff(old, new, "a/x", "b/x", lineterm="", n=context)) + "\n"


def begin_end(old: Sequence[str], new: Sequence[str]) -> str:
    lines = difflib_patch(old, new).splitlines()[2:]
    return join(
        ["*** Begin Patch", "*** Update File: x", *("@@" if x[:2] == "@@" else x for x in lines), "*** End Patch"]
    )


@settings(deadline=None)
@given(edits(), st.lists(st.just("inserted"), max_size=30), st.lists(st.just("added"), max_size=30))
def test_a_patch_applies_to_a_file_that_has_grown(
    pair: tuple[list[str], list[str]], before: list[str], after: list[str]
) -> None:
    """Lines before and after the place change nothing, in either form, and a move is told."""
    old, new = pair
    if old == new:
        return
    text, wanted = join([*before, *old, *after]), join([*before, *new, *after])
    applied = done(text, hunks_of(difflib_patch(old, new)))
    assert applied.text == wanted
    assert bool(applied.notes) == bool(before)
    assert done(text, hunks_of(begin_end(old, new))).text == wanted


@settings(deadline=None)
@given(edits(), st.sampled_from(["", "\ufeff"]), st.booleans())
def test_line_endings_marks_and_a_missing_newline_stay(
    pair: tuple[list[str], list[str]], mark: str, closed: bool
) -> None:
    """A patch with \\n applies to a file with \\r\\n; a byte order mark and the state of the last newline are kept."""
    old, new = pair
    if old == new or not new:
        return
    end = "\r\n" if closed else ""
    applied = done(mark + "\r\n".join(old) + end, hunks_of(begin_end(old, new)))
    assert applied.text == mark + "\r\n".join(new) + end


# -- how a place is found


def test_trailing_spaces_are_tolerated_and_said() -> None:
    """Lines that differ only in spaces at their ends match; lines of context keep theirs."""
    applied = done("a  \nb\t\nc\n", unified("@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"))
    assert applied.text == "a  \nB\nc\n"
    assert applied.notes == ("hunk 1 matched ignoring spaces at the ends of lines",)


def test_other_indentation_is_adapted_and_said() -> None:
    """A hunk whose lines are all moved alike is moved to where it belongs."""
    applied = done(CODE, loose("@@\n if x:\n-    return 1\n+    if not x:\n+        return 0\n"))
    assert "    if x:\n        if not x:\n            return 0\n    return 2\n" in applied.text
    assert "indentation" in applied.notes[0]


@pytest.mark.parametrize(
    "hunk", [" if x:\n-        return 1\n+        return 0\n", " if x:\n-  return 1\n+  return 0\n"]
)
def test_lines_that_are_not_moved_alike_are_no_match(hunk: str) -> None:
    """Where indentation differs in more than one way there is no telling what added lines should have."""
    assert "not found" in refused(CODE, loose(hunk))[0].why


def test_lost_signs_of_context_are_not_taken_for_indentation() -> None:
    """Context that is one space short has lost its sign; moving the added lines by that would be wrong."""
    assert "not found" in refused("x:\n    a\n    b\nc\n", loose("@@\n    a\n+    new\n    b\n"))[0].why


def test_typographic_characters_match_plain_ones_and_stay() -> None:
    """Models write plain quotes and dashes for others; lines of context keep what they have."""
    applied = done("say \u201chi\u201d \u2013 now\nold\n", loose('@@\n say "hi" - now\n-old\n+new\n'))
    assert applied.text == "say \u201chi\u201d \u2013 now\nnew\n"
    assert "typographic" in applied.notes[0]


def test_bytes_that_are_not_utf8_match_what_stands_for_them_and_stay() -> None:
    """A file is shown with replacement characters, which then come back in a patch."""
    applied = done("caf\udce9\nold\n", loose("@@\n caf\ufffd\n-old\n+new\n"))
    assert applied.text == "caf\udce9\nnew\n"


@pytest.mark.parametrize(("first", "last", "fuzz"), [("one", "FIVE", 1), ("ONE", "five", 1), ("ONE", "FIVE", 1)])
def test_context_at_the_edges_may_differ_and_is_said(first: str, last: str, fuzz: int) -> None:
    """Up to two lines of context at each end are dropped, as patch(1) does."""
    text = f"{first}\ntwo\nthree\nfour\n{last}\n"
    applied = done(text, unified("@@ -1,5 +1,5 @@\n one\n two\n-three\n+THREE\n four\n five\n"))
    assert applied.text == text.replace("three", "THREE")
    assert f"fuzz {fuzz}" in applied.notes[0]


def test_context_next_to_the_change_may_not_all_differ() -> None:
    """Three lines of other context at one end are too many; nor are lines dropped in the begin/end form."""
    hunk = "@@ -1,5 +1,5 @@\n x\n y\n z\n-three\n+THREE\n four\n"
    assert refused("1\n2\n3\nthree\nfour\n", unified(hunk))
    assert refused("one\nthree\n", loose("@@\n ONE\n-three\n+THREE\n"))


TWICE = "a\nsame\nb\n" + "-\n" * 10 + "c\nsame\nd\n"


def test_two_equally_good_places_are_refused_with_their_lines() -> None:
    """Without a line number nothing decides; the answer says what would."""
    (misfit,) = refused(TWICE, loose("@@\n-same\n+other\n"))
    assert "equally well at lines 2, 15" in misfit.why
    assert '"@@"' in misfit.why
    assert misfit.line == 3


def test_a_line_number_decides_between_places_unless_they_are_equally_far() -> None:
    """The nearer place is taken, and told; a tie is refused."""
    applied = done(TWICE, unified("@@ -12 +12 @@\n-same\n+other\n"))
    assert applied.text.splitlines()[14] == "other"
    assert applied.notes == ("hunk 1 was found 3 lines further down, at line 15",)
    assert "equally well at lines 1, 3;" in refused("s\nx\ns\nx\ns\nx\nx\ns\n", unified("@@ -2 +2 @@\n-s\n+o\n"))[0].why


def test_a_line_before_it_decides_between_places() -> None:
    """The hunk goes to the first place after its "@@" lines, which are looked for one after the other."""
    text = "class A:\n    def f():\n        pass\nclass B:\n    def g():\n        pass\n    def f():\n        pass\n"
    for anchors, line in (
        (["class B:"], 6),
        (["class B:", "    def f():"], 8),
        (["class B:", "def f():"], 8),
        (["def g():"], 6),
    ):
        hunk = "".join(f"@@ {anchor}\n" for anchor in anchors) + "-        pass\n+        return\n"
        assert done(text, loose(hunk)).text.splitlines()[line - 1] == "        return", anchors
    (misfit,) = refused(text, loose("@@ def f():\n-        pass\n+        return\n"))
    assert 'the line "@@ def f():" stands at lines 2, 7' in misfit.why
    (misfit,) = refused(text, loose("@@ class C:\n-        pass\n+        return\n"))
    assert 'the line "@@ class C:" was not found' in misfit.why


def test_the_end_of_the_file_decides_between_places() -> None:
    """*** End of File means the last place."""
    assert done("x\ny\nx\n", loose("@@\n-x\n+z\n*** End of File\n")).text == "x\ny\nz\n"


def test_lines_without_context_go_where_the_patch_says() -> None:
    """After the "@@" line, after the line of the header, or at the end; the last two are told."""
    assert done("a\nb\n", loose("@@ a\n+new\n")).text == "a\nnew\nb\n"
    after = done("a\nb\n", unified("@@ -1,0 +2 @@\n+new\n"))
    assert (after.text, after.notes) == ("a\nnew\nb\n", ("hunk 1 had no context, so its lines were put after line 1",))
    end = done("a\nb\n", loose("@@\n+new\n"))
    assert (end.text, len(end.notes)) == ("a\nb\nnew\n", 1)
    assert "has 2 lines" in refused("a\nb\n", unified("@@ -9,0 +10 @@\n+new\n"))[0].why


def test_hunks_in_another_order_than_their_places_apply() -> None:
    """Order matters only where it decides; two hunks never change the same lines."""
    assert done("a\nb\nc\nd\n", loose("@@\n-d\n+D\n", "@@\n-a\n+A\n")).text == "A\nb\nc\nD\n"
    assert "earlier hunk" in refused("a\nb\n", loose("@@\n-a\n+A\n", "@@\n-a\n b\n"))[0].why


def test_a_hunk_that_is_applied_already_is_said() -> None:
    """A repeated patch is told so, not only that its lines are not there."""
    hunks = unified("@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n")
    assert "applied already: what it makes stands at lines 1-3" in refused("a\nB\nc\n", hunks)[0].why


def test_every_hunk_that_does_not_fit_is_told_with_what_is_nearest() -> None:
    """Each has its number and its line in the patch, and the difference to the nearest text."""
    first, second = refused(CODE, loose("@@\n-def f(y):\n+def h(y):\n", "@@\n     return 2\n-def g(z):\n+def g():\n"))
    assert (first.number, first.line, second.number, second.line) == (1, 3, 2, 6)
    assert "-def f(y):\n+def f(x):" in first.why
    assert "nearest" in second.why


def test_a_long_hunk_that_does_not_fit_is_shown_against_what_is_nearest() -> None:
    """The one line of it that differs is seen, and where it stands."""
    lines = [f"a line of some length, number {n}" for n in range(60)]
    hunk = "@@\n" + "".join(f" {line}\n" for line in [*lines[20:40], "other", *lines[41:45]]) + "+new\n"
    why = refused(join(lines), loose(hunk))[0].why
    assert "lines 21-45" in why
    assert f"-other\n+{lines[40]}\n" in why


# -- files


def test_nothing_is_planned_when_one_hunk_does_not_fit() -> None:
    """All reasons are told, and what was given is as it was."""
    files: dict[str, State] = {
        "a": Content(b"a\n", 0o644, "1"), "b": Content(b"b\n", 0o644, "2"), "c": Absent("There is no 'c'."),
        "d": Content(b"d\n", 0o644, "3"),
    }  # fmt: skip
    text = (
        "*** Begin Patch\n*** Update File: a\n@@\n-a\n+A\n*** Update File: b\n@@\n-x\n+y\n*** Delete File: c\n"
        "*** Add File: d\n+new\n*** End Patch\n"
    )
    before = dict(files)
    with pytest.raises(PatchRefused) as caught:
        plan(parse(text), files)
    assert files == before
    said = str(caught.value)
    assert "b, hunk 1 (line 7 of the patch): its lines were not found" in said
    assert "c (line 10 of the patch): There is no 'c'." in said
    assert "d (line 11 of the patch): it exists already" in said
    assert "\na" not in said


def planned(text: str, **files: str) -> Plan:
    known: dict[str, State] = {name: Content(body.encode(), 0o644, "d") for name, body in files.items()}
    return plan(parse(text), {**{name: Absent("missing") for name in "abc"}, **known})


def test_several_changes_of_one_file_follow_each_other() -> None:
    """A later part of the patch sees what an earlier one made."""
    text = (
        "*** Begin Patch\n*** Update File: a\n@@\n-1\n+2\n*** Update File: a\n*** Move to: b\n@@\n-2\n+3\n"
        "*** Add File: a\n+new\n*** Update File: b\n@@\n-3\n+4\n*** End Patch\n"
    )
    made = {step.path: step.after for step in planned(text, a="1\n").steps}
    assert made == {"a": Content(b"new\n", None), "b": Content(b"4\n", 0o644)}


def test_a_file_is_not_deleted_with_other_content_than_the_patch_shows() -> None:
    """A unified diff says what it deletes; that must be all there is."""
    text = "--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n"
    assert [step.after for step in planned(text, a="1\n").steps] == [Absent()]
    with pytest.raises(PatchRefused, match="holds more lines"):
        planned(text, a="1\n2\n")
    with pytest.raises(PatchRefused, match="not found"):
        planned(text, a="2\n")


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        ("*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** End Patch\n", {"a": "1", "b": "2"}, "b exists already"),
        ("*** Begin Patch\n*** Delete File: a\n*** Delete File: a\n*** End Patch\n", {"a": "1"}, "took it away"),
        ("*** Begin Patch\n*** Update File: a\n@@\n-1\n+2\n*** End Patch\n", {"a": "\0"}, "binary file"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_with_files_is_refused(text: str, files: dict[str, str], words: str) -> None:
    """A name that is taken, a file that is gone by then, a binary one."""
    with pytest.raises(PatchRefused, match=words):
        planned(text, **files)


def test_a_file_that_is_there_already_exactly_so_is_no_problem() -> None:
    """Adding it again changes nothing, and is said."""
    made = planned("*** Begin Patch\n*** Add File: a\n+1\n*** End Patch\n", a="1\n")
    assert (made.steps, made.notes) == ((), ("a was there already, exactly like that",))


def test_a_hunk_from_nothing_makes_a_missing_file() -> None:
    """diff -N and models write a new file without /dev/null."""
    made = planned("--- a/a\n+++ b/a\n@@ -0,0 +1 @@\n+1\n")
    assert [step.after for step in made.steps] == [Content(b"1\n", None)]


@settings(deadline=None)
@given(edits(), st.randoms(use_true_random=False), st.booleans())
def test_a_spoiled_patch_is_refused_in_words_or_applies(
    pair: tuple[list[str], list[str]], chance: random.Random, git_form: bool
) -> None:
    """Lines that are lost, doubled or changed never raise anything but the two refusals."""
    old, new = pair
    lines = (difflib_patch(old, new) if git_form else begin_end(old, new)).splitlines()
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines) + 1)
        lines[at : at + chance.randint(0, 2)] = chance.choice(
            [[], ["+"], ["-line 3"], ["@@"], [" line 1", " line 2"], lines[:at]]
        )
    try:
        made = plan(parse("\n".join(lines)), {"x": Content(join(old).encode(), 0o644, "d")})
    except (PatchUnreadable, PatchRefused):
        return
    assert all(step.path == "x" for step in made.steps)


# -- work


def repeated(lines: Sequence[str], count: int) -> Iterator[str]:
    for n in range(count):
        yield lines[n % len(lines)]


def slow_cases() -> dict[str, tuple[str, str]]:
    """Texts and patches whose lines are as much alike as can be."""
    same = "a\n" * 4_000_000
    few = join(list(repeated(["0", "1", "2"], 1_000_000)))
    body = "-a\n" * 200_000 + "+b\n"
    return {
        "one-large-hunk": (same, f"@@\n{body}"),
        "one-large-hunk-numbered": (same, f"@@ -2000000,200000 +1,1 @@\n{body}"),
        "one-large-hunk-missing": (same, "@@\n" + " a\n" * 200_000 + "-b\n+c\n"),
        "large-with-other-ends": (few, "@@ -3,1 +1 @@\n" + " 0\n 1\n 2\n" * 60_000 + "-0\n 0\n"),
        "many-hunks": (few, "@@ -500000,2 +1,2 @@\n-0\n-1\n-2\n-0\n+x\n" * 29_000),
        "many-hunks-missing": (few, "@@\n 0\n-2\n+x\n" * 60_000),
        "many-anchors": (few, "@@ 0\n" * 150_000 + "-2\n+x\n"),
        "many-insertions": (few, "@@ -5,0 +5 @@\n+x\n" * 50_000),
        "empty-lines": ("\n" * (16 << 20), "@@\n \n-\n+x\n"),
    }


@pytest.mark.parametrize("name", slow_cases())
def test_alike_lines_take_seconds_at_most(name: str) -> None:
    """Sixteen megabytes of file and one of patch are applied or refused within the budget, whatever they hold."""
    text, patch = slow_cases()[name]
    assert len(text) <= 16 << 20
    assert len(patch) <= 1 << 20
    whole = "*** Begin Patch\n*** Update File: x\n" + patch if "-0 +" not in patch else "--- x\n+++ x\n" + patch
    hunks = hunks_of(whole)
    started = time.monotonic()
    with contextlib.suppress(TooMuchWork):
        apply_hunks(text, hunks, Work())
    assert time.monotonic() - started < 20


def test_a_large_honest_patch_is_quick() -> None:
    """Ten thousand hunks against sixteen megabytes, every one of them moved."""
    lines = [f"{n:07} some line of text" for n in range(500_000)]
    hunks = "".join(f"@@ -{n},2 +{n},2 @@\n {lines[n]}\n-{lines[n + 1]}\n+x\n" for n in range(0, 400_000, 40))
    started = time.monotonic()
    applied = done(join(["moved", *lines]), hunks_of("--- x\n+++ x\n" + hunks))
    assert applied.text.count("\nx\n") == 10_000
    assert time.monotonic() - started < 20
