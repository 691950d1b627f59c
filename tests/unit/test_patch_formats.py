"""Reading patches: unified diffs as git, diff and models write them, and the begin/end form. Pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.errors import PatchUnreadable
from repocell.tools.patch_formats import parse
from repocell.tools.patch_values import Add, Change, Delete, Update

HUNK = "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"
BODY = ((" ", "one"), ("-", "two"), ("+", "TWO"), (" ", "three"))


def only(text: str) -> Change:
    (change,) = parse(text).changes
    return change


def update(text: str) -> Update:
    change = only(text)
    assert isinstance(change, Update)
    return change


def refused(text: str) -> str:
    with pytest.raises(PatchUnreadable) as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "path"),
    [
        ("--- a/src/x.py\n+++ b/src/x.py\n", "src/x.py"),
        ("--- src/x.py\n+++ src/x.py\n", "src/x.py"),
        ("--- a/x.py\n+++ a/x.py\n", "a/x.py"),
        ("--- i/x.py\n+++ w/x.py\n", "x.py"),
        ("--- a/x.py\n+++ x.py\n", "x.py"),
        ("--- x.py.orig\n+++ x.py\n", "x.py"),
        ("--- a/x.py\t2024-01-01 10:00:00.000000000 +0100\n+++ b/x.py\t2024-01-02 10:00:00\n", "x.py"),
        ("--- a/two words.py\t\n+++ b/two words.py\t\n", "two words.py"),
        ('--- "a/\\303\\244\\n\\".py"\n+++ "b/\\303\\244\\n\\".py"\n', 'ä\n".py'),
        ("--- /workspace/x.py\n+++ /workspace/x.py\n", "x.py"),
        ("diff --git a/x.py b/x.py\nindex 1..2 100644\n--- a/x.py\n+++ b/x.py\n", "x.py"),
        ("Index: x.py\n=====\n--- x.py\n+++ x.py\n", "x.py"),
    ],
)
def test_a_unified_diff_names_its_file(names: str, path: str) -> None:
    """Prefixes, times, quotes and what stands before the names are taken off."""
    change = update(names + HUNK)
    assert change.path == path
    assert change.hunks[0].body == BODY
    assert change.hunks[0].start == 1


def test_a_mail_with_several_files_is_read() -> None:
    """Text before, between and after diffs is passed over, and so is a signature."""
    mail = (
        "From 1234 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nSubject: [PATCH] Two\n\nSome words.\n---\n x | 2 +-\n"
        f" 1 file changed\n\ndiff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n{HUNK}"
        f"diff --git a/y b/y\n--- a/y\n+++ b/y\n{HUNK}-- \n2.39.5\n\n"
    )
    assert [change.path for change in parse(mail).changes] == ["x", "y"]
    assert all(isinstance(c, Update) and c.hunks[0].body == BODY for c in parse(mail).changes)


def test_lines_that_look_like_headers_are_lines_where_the_counts_say_so() -> None:
    """Removing "-- x" and adding "++ y" looks like names of files, and is not."""
    change = update("--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,2 @@\n a\n--- x\n+++ y\n")
    assert change.hunks[0].body == ((" ", "a"), ("-", "-- x"), ("+", "++ y"))


@pytest.mark.parametrize("header", ["@@ -1,9 +1,1 @@", "@@ -1,1 +1,1 @@", "@@ -1 +1 @@ def f():", "@@ -1,2 +1,3 @@"])
def test_wrong_counts_are_tolerated_and_told(header: str) -> None:
    """The lines of a hunk are believed, not its counts."""
    hunk = update("--- a/x\n+++ b/x\n" + HUNK.replace("@@ -1,3 +1,3 @@", header) + "\n").hunks[0]
    assert (hunk.body, hunk.miscounted, hunk.start) == (BODY, True, 1)


@pytest.mark.parametrize("header", ["@@ @@", "@@ ... @@", "@@"])
def test_a_hunk_without_numbers_has_no_start(header: str) -> None:
    """Where a header names no line, the place has to be found."""
    hunk = update("--- a/x\n+++ b/x\n" + HUNK.replace("@@ -1,3 +1,3 @@", header)).hunks[0]
    assert (hunk.body, hunk.start) == (BODY, None)


def test_git_says_new_deleted_renamed_copied_and_modes() -> None:
    """The extended headers of git become changes of their own kind."""
    patch = (
        "diff --git a/n b/n\nnew file mode 100755\nindex 0..1\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n"
        "\\ No newline at end of file\n"
        "diff --git a/e b/e\nnew file mode 100644\nindex 0..1\n"
        "diff --git a/d b/d\ndeleted file mode 100644\nindex 1..0\n--- a/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"
        "diff --git a/f b/f\ndeleted file mode 100644\nindex 1..0\n"
        "diff --git a/old name b/new name\nsimilarity index 100%\nrename from old name\nrename to new name\n"
        f"diff --git a/c b/c2\nsimilarity index 90%\ncopy from c\ncopy to c2\n--- a/c\n+++ b/c2\n{HUNK}"
        "diff --git a/m m b/m m\nold mode 100644\nnew mode 100755\n"
    )
    new, empty, gone, bare, moved, copied, mode = parse(patch).changes
    assert (new, empty) == (Add(1, "n", "x", True), Add(9, "e", ""))
    assert isinstance(gone, Delete)
    assert gone.hunks[0].old == ("gone",)
    assert isinstance(bare, Delete)
    assert (bare.path, bare.hunks) == ("f", ())
    assert isinstance(moved, Update)
    assert (moved.path, moved.move_to, moved.copied, moved.hunks) == ("old name", "new name", False, ())
    assert isinstance(copied, Update)
    assert (copied.path, copied.move_to, copied.copied, copied.hunks[0].body) == ("c", "c2", True, BODY)
    assert isinstance(mode, Update)
    assert (mode.path, mode.executable) == ("m m", True)


def test_a_patch_with_crlf_throughout_is_read_as_if_it_had_lf() -> None:
    """Carriage returns at the end of all lines belong to the patch, not to the files; others do not."""
    text = "--- a/x\n+++ b/x\n" + HUNK
    assert parse(text.replace("\n", "\r\n")) == parse(text)
    assert update(text.replace("two", "two\r")).hunks[0].old == ("one", "two\r", "three")


BEGIN_END = """*** Begin Patch
*** Add File: new/a.py
+x = 1
+
+y = 2
*** Delete File: old.py
*** Update File: src/b.py
*** Move to: src/c.py
@@ class B:
@@     def f(self):
 one
-two
+TWO
 three
@@
-last
*** End of File
*** End Patch
"""


@pytest.mark.parametrize(
    "around",
    [
        "{}", "```\n{}```\n", "```diff\n{}\n```", "Here it is:\n\n{}\nDone.\n", "apply_patch <<'EOF'\n{}EOF\n",
        "<<EOF\n{}EOF", "bash -lc \"apply_patch <<'PATCH'\n{}PATCH\"", "```bash\napply_patch <<'EOF'\n{}EOF\n```\n", "\n\n{}\n\n",
        "\ufeff{}",
    ],
)  # fmt: skip
def test_the_begin_end_form_is_read_whatever_is_wrapped_around_it(around: str) -> None:
    """Fences, a heredoc, a shell command and words do not matter."""
    add, delete, change = parse(around.format(BEGIN_END)).changes
    assert isinstance(add, Add)
    assert isinstance(delete, Delete)
    assert isinstance(change, Update)
    assert (add.path, add.content, delete.path) == ("new/a.py", "x = 1\n\ny = 2\n", "old.py")
    assert (change.path, change.move_to) == ("src/b.py", "src/c.py")
    first, second = change.hunks
    assert (first.anchors, first.body, first.at_end) == (("class B:", "    def f(self):"), BODY, False)
    assert (second.anchors, second.body, second.at_end) == ((), (("-", "last"),), True)


UPDATE = "*** Begin Patch\n*** Update File: x\n{}*** End Patch\n"


@pytest.mark.parametrize(
    "text",
    [
        UPDATE.format("@@\n one\n-two\n+TWO\n three\n"),
        UPDATE.format(" one\n-two\n+TWO\n three\n"),
        UPDATE.format("@@\n one\n-two\n+TWO\n three\n").replace("*** End Patch\n", ""),
        UPDATE.format("@@\n one\n-two\n+TWO\n three\n").replace("*** Begin Patch\n", ""),
        UPDATE.format("@@\n one\n-two\n+TWO\n three\n\n\n"),
        UPDATE.format("\n@@\n one\n-two\n+TWO\n three\n@@\n only context\n"),
        UPDATE.format("--- a/x\n+++ b/x\n@@ ... @@\n one\n-two\n+TWO\n three\n"),
        " *** Begin Patch \n  *** Update File: x  \n@@\n one\n-two\n+TWO\n three\n  *** End Patch ",
        UPDATE.format("@@\n one\n-two\n+TWO\n three\n").replace("\n", "\r\n"),
    ],
    ids=["strict", "no-header", "no-end", "no-begin", "blank", "inert", "names", "padded", "crlf"],
)
def test_what_models_leave_out_or_add_is_tolerated(text: str) -> None:
    """Each says the same."""
    change = update(text)
    assert (change.path, [hunk.body for hunk in change.hunks]) == ("x", [BODY])


def test_an_empty_line_is_an_empty_line_of_context() -> None:
    """Its single space is lost easily."""
    assert update(UPDATE.format("@@\n a\n\n-b\n+c\n")).hunks[0].old == ("a", "", "b")
    assert update("--- a/x\n+++ b/x\n@@ -1,3 +1,2 @@\n a\n\n-b\n").hunks[0].old == ("a", "", "b")


def test_numbers_in_the_begin_end_form_are_taken_as_numbers() -> None:
    """A header that was meant for a unified diff is a line number, not a line to look for."""
    hunk = update(UPDATE.format("@@ -7,2 +7,2 @@\n one\n-two\n+TWO\n")).hunks[0]
    assert (hunk.start, hunk.anchors) == (7, ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'line 1: No change was found. Write a unified diff'),
        ("hello\nworld\n", "*** Begin Patch"),
        ("@@ -1 +1 @@\n-a\n+b\n", "line 1: This hunk has no file"),
        ("--- a/x\n+++ b/x\n", "line 1: Nothing changes in 'x'"),
        ("--- a/../x\n+++ b/../x\n" + HUNK, "line 1: '../x' is not a usable path"),
        ("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\nc\n+d\n", "line 6: A line of a hunk begins with ' ', '+' or '-'; this"),
        ("diff --git a/x b/x\nindex 1..2 100644\nGIT binary patch\nliteral 3\nabc\n", "line 3: It is a binary patch"),
        ("diff --git a/x b/x\nindex 1..2\nBinary files a/x and b/x differ\n", "line 3: It is a binary patch"),
        ("diff --git a/l b/l\nnew file mode 120000\nindex 0..1\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+to\n", "symbolic link"),
        ("diff --cc x\n--- a/x\n+++ b/x\n@@@ -1 -1 +1 @@@\n--a\n++b\n", "combined"),
        ("*** x\n--- y\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b\n", "context diff"),
        ("*** Begin Patch\n*** Frobnicate: x\n*** End Patch\n", "line 2: '*** Frobnicate: x' stands where"),
        ("*** Begin Patch\n*** Add File: x\nno plus\n*** End Patch\n", "line 3: A line of a new file begins with '+'"),
        ("*** Begin Patch\n*** Update File: x\n@@\n*** End Patch\n", "line 3: This hunk has no lines."),
        ("*** Begin Patch\n*** Update File: x\n@@\n-a\nb\n*** End Patch\n", "line 5: A line of a hunk begins"),
        ("*** Begin Patch\n*** Delete File: /etc/passwd\n*** End Patch\n", "line 2: '/etc/passwd' is not a usable path"),
        ("*** Begin Patch\n*** Delete File: .\n*** End Patch\n", "line 2: '.' is the workspace itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_its_line(text: str, words: str) -> None:
    """Every refusal names the line of the patch and what is wrong there."""
    assert words in refused(text)


def test_all_problems_are_told_at_once() -> None:
    """Two bad paths and a bad line make three lines of the answer; a hundred make twenty and a number."""
    text = refused("*** Begin Patch\n*** Delete File: /a\n*** Delete File: ../b\n*** Add File: c\nx\n*** End Patch\n")
    assert [line.partition(":")[0] for line in text.splitlines()[1:]] == ["line 2", "line 3", "line 5"]
    many = refused("*** Begin Patch\n" + "*** Delete File: /a\n" * 100)
    assert "(80 more)" in many


LINES = st.sampled_from([
    "*** Begin Patch", "*** End Patch", "*** Update File: x", "*** Add File: y", "*** Delete File: z", "*** Move to: w",
    "*** End of File", "@@", "@@ a", "@@ -1,2 +1,2 @@", "@@ -1 +1", "@@ -0,0 +1,9 @@", "--- a/x", "+++ b/x", "--- /dev/null",
    "+++ /dev/null", "diff --git a/x b/x", 'diff --git "a/\\303" "b/x', "new file mode 100644", "old mode 1", "new mode 100755",
    "rename from q", "rename to r", "copy from", "GIT binary patch", "\\ No newline at end of file", " a", "-a", "+b", "", "a",
    "```", "EOF", "<<EOF", "-- ", "\r", " \r", "***************", '--- "a', '+++ "b\\',
])  # fmt: skip


@given(st.lists(LINES, max_size=25).map("\n".join) | st.text())
def test_no_input_makes_it_raise_anything_else(text: str) -> None:
    """Any text is a patch with changes, or refused in words."""
    said = ""
    try:
        assert parse(text).changes
    except PatchUnreadable as error:
        said = str(error)
    assert not said or "\nline " in said
