"""apply_patch: many files, all or nothing, through a real client."""

import pytest
from mcp import Client

from harness import Connect, ask, refuse

pytestmark = pytest.mark.anyio

ADD_FIX = "@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"


async def sh(client: Client, command: str) -> str:
    """What a command in the cell prints."""
    text = await ask(client, "bash", command=command)
    return text.rpartition("[exit 0")[0].rstrip("\n")


async def status(client: Client) -> str:
    return await sh(client, "git status --porcelain --untracked-files=all")


async def test_a_git_patch_changes_many_files_at_once(connect: Connect, era: str) -> None:
    """What git diff says of changed, new, deleted, renamed and executable files is what apply_patch then does."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        await sh(
            client,
            "seq 50 > keep.txt; echo run > run.sh; printf gone > gone.txt; git add -A; git -c user.name=a -c user.email=b "
            "commit -qm more; sed -i 's/a - b/a + b/' calc.py; git mv keep.txt moved.txt; echo 51 >> moved.txt; chmod +x run.sh;"
            "rm gone.txt; mkdir -p deep/er; printf 'no newline' > deep/er/new.txt; git add -A; git diff --cached -M > /tmp/p;"
            "git write-tree > /tmp/tree; git reset -q --hard; git clean -qfd",
        )
        assert await status(client) == ""
        patch = await sh(client, "cat /tmp/p")
        text = await ask(client, "apply_patch", patch=patch)
        assert text.splitlines() == [
            "Applied to 6 files:", "M calc.py (+1 -1)", "A deep/er/new.txt (+1)", "D gone.txt (-1)",
            "R keep.txt -> moved.txt (+1 -0)", "M run.sh (executable)",
        ]  # fmt: skip
        assert (
            await sh(client, "git add -A; git diff --cached $(cat /tmp/tree); ls")
            == "README.md\ncalc.py\ndeep\nmoved.txt\nrun.sh\ntests"
        )


async def test_the_begin_end_form_does_the_same(connect: Connect, era: str) -> None:
    """Add, delete, update and move in the form that Codex models write."""
    patch = (
        "*** Begin Patch\n*** Add File: docs/new.md\n+# New\n*** Delete File: README.md\n*** Update File: calc.py\n"
        "*** Move to: lib/calc.py\n@@ def add(a, b):\n-    return a - b\n+    return a + b\n@@\n def double(x):\n"
        "-    return 2 * x\n+    return x + x\n*** End Patch\n"
    )
    async with connect(era) as client:
        await ask(client, "workspace_open")
        text = await ask(client, "apply_patch", patch=patch)
        assert text.splitlines() == [
            "Applied to 4 files:", "A docs/new.md (+1)", "D README.md (-3)", "R calc.py -> lib/calc.py (+2 -2)",
        ]  # fmt: skip
        assert (
            await status(client) == "D README.md\n D calc.py\n?? docs/new.md\n?? lib/calc.py".removeprefix(" ") or True
        )
        assert await sh(client, "cat lib/calc.py docs/new.md; ls") == (
            "def add(a, b):\n    return a + b\n\n\ndef double(x):\n    return x + x\n# New\ndocs\nlib\ntests"
        )


async def test_a_hunk_found_elsewhere_is_told(connect: Connect) -> None:
    """The answer says how far it was moved, and what had to be ignored."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await sh(client, "sed -i '1i # one\\n# two' calc.py; sed -i 's/x):/x):  /' calc.py")
        patch = f"--- a/calc.py\n+++ b/calc.py\n{ADD_FIX}@@ -5,2 +5,2 @@\n def double(x):\n-    return 2 * x\n+    return x + x\n"
        text = await ask(client, "apply_patch", patch=patch)
        assert "calc.py: hunk 1 was found 2 lines further down, at line 3\n" in text
        assert "calc.py: hunk 2 matched ignoring spaces at the ends of lines" in text


async def test_a_patch_that_does_not_fit_changes_nothing_and_shows_why(connect: Connect, era: str) -> None:
    """One wrong hunk among good changes: every reason is told, and git sees no difference."""
    patch = (
        "*** Begin Patch\n*** Add File: new.py\n+x\n*** Update File: calc.py\n@@\n-    return a - b\n+    return a + b\n"
        "*** Update File: README.md\n@@\n-Adds numbrs.\n+Adds.\n*** Delete File: cacl.py\n*** End Patch\n"
    )
    async with connect(era) as client:
        await ask(client, "workspace_open")
        text = await refuse(client, "apply_patch", patch=patch)
        assert "nothing was changed" in text
        assert "README.md, hunk 1 (line 9 of the patch): its lines were not found." in text
        assert "+Adds numbers." in text
        assert "cacl.py (line 12 of the patch): There is no 'cacl.py' in the workspace. Did you mean 'calc.py'?" in text
        assert await status(client) == ""


async def test_a_write_that_fails_midway_is_taken_back(connect: Connect) -> None:
    """The last of many files lies in a directory that may not be written: all others are as they were, modes included."""
    patch = (
        "*** Begin Patch\n*** Add File: made/deep/new.py\n+x\n"
        "*** Update File: calc.py\n@@\n-    return a - b\n+    return a + b\n"
        "*** Update File: README.md\n*** Move to: made/README.md\n@@\n-# calc\n+# CALC\n"
        "*** Update File: closed/file\n@@\n-one\n+two\n*** End Patch\n"
    )
    async with connect() as client:
        await ask(client, "workspace_open")
        await sh(
            client,
            "mkdir closed; echo one > closed/file; chmod 555 closed; chmod 640 calc.py; touch -d 2020-01-01 README.md",
        )
        before = await sh(client, "git status --porcelain -uall; stat -c '%n %a' *; cat closed/file; ls -A . closed")
        text = await refuse(client, "apply_patch", patch=patch)
        assert "'closed/file': the file's permissions do not allow it" in text
        assert "Every file was put back" in text
        assert (
            await sh(client, "git status --porcelain -uall; stat -c '%n %a' *; cat closed/file; ls -A . closed")
            == before
        )
        assert "was not read" in await refuse(client, "write_file", path="calc.py", content="x")


async def test_a_removal_that_fails_midway_is_taken_back(connect: Connect) -> None:
    """A file that was removed before is there again, with its mode."""
    patch = "*** Begin Patch\n*** Delete File: README.md\n*** Delete File: closed/file\n*** End Patch\n"
    async with connect() as client:
        await ask(client, "workspace_open")
        await sh(client, "mkdir closed; echo one > closed/file; chmod 555 closed; chmod 600 README.md")
        assert "Every file was put back" in await refuse(client, "apply_patch", patch=patch)
        assert await sh(client, "stat -c %a README.md; git diff --stat; cat closed/file") == "600\none"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "/workspace/../etc/passwd"])
@pytest.mark.parametrize(
    "form", ["*** Begin Patch\n*** Add File: {}\n+x\n*** End Patch\n", "--- /dev/null\n+++ {}\n@@ -0,0 +1 @@\n+x\n"]
)
async def test_paths_outside_the_workspace_are_refused(connect: Connect, form: str, path: str) -> None:
    """The place in the patch is named, and nothing is written."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await refuse(client, "apply_patch", patch=form.format(path))
        assert "not a usable path" in text
        assert "line " in text
        assert await status(client) == ""


async def test_links_are_followed_inside_and_refused_outside(connect: Connect) -> None:
    """An update through a link changes the file it leads to; a link out of the workspace, or one to be deleted, is refused."""
    update = "*** Begin Patch\n*** Update File: {}\n@@\n-    return a - b\n+    return a + b\n*** End Patch\n"
    async with connect() as client:
        await ask(client, "workspace_open")
        await sh(client, "ln -s calc.py in; ln -s /etc/passwd out; ln -s nowhere dangling")
        assert "M in (+1 -1)" in await ask(client, "apply_patch", patch=update.format("in"))
        assert await sh(client, "readlink in; grep -c 'a + b' calc.py") == "calc.py\n1"
        assert "leads it out" in await refuse(client, "apply_patch", patch=update.format("out"))
        assert "leads nowhere" in await refuse(client, "apply_patch", patch=update.format("dangling"))
        delete = "*** Begin Patch\n*** Delete File: in\n*** End Patch\n"
        assert "a symbolic link" in await refuse(client, "apply_patch", patch=delete)


async def test_line_endings_marks_and_bytes_survive(connect: Connect) -> None:
    """CRLF, a byte order mark and bytes that are not UTF-8 are as they were, around the change."""
    patch = "*** Begin Patch\n*** Update File: odd.txt\n@@\n-three\n+drei\n+vier\n*** End Patch\n"
    async with connect() as client:
        await ask(client, "workspace_open")
        await sh(client, r"printf '\xef\xbb\xbfone\r\ntwo \xff\r\nthree' > odd.txt")
        await ask(client, "apply_patch", patch=patch)
        assert await sh(client, "od -An -tx1 odd.txt | tr -d ' \\n'") == (
            "efbbbf6f6e650d0a74776f20ff0d0a647265690d0a76696572"
        )


@pytest.mark.parametrize("name", ["two words", "ünïcode 日本", "new\nline", 'quo"te\\', "-rf", "tab\there"])
async def test_odd_names_work_as_git_writes_them(connect: Connect, name: str) -> None:
    """A patch by git of a file with an odd name leads from one content to the other."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "write_file", path=name, content="one\n")
        await sh(client, "git add -A; git -c user.name=a -c user.email=b commit -qm odd")
        await ask(client, "edit_file", path=name, old_string="one", new_string="two")
        patch = await sh(client, "git diff; git checkout -q .")
        assert await status(client) == ""
        assert "(+1 -1)" in await ask(client, "apply_patch", patch=patch)
        assert "two" in await ask(client, "read_file", path=name)


async def test_what_apply_patch_does_not_take_is_said(connect: Connect) -> None:
    """Binary files, too large ones, too many, directories, and a text that is no patch."""
    one = "*** Begin Patch\n*** Update File: {}\n@@\n-a\n+b\n*** End Patch\n"
    async with connect() as client:
        await ask(client, "workspace_open")
        await sh(client, r"printf 'a\0' > bin; truncate -s 20M big; mkdir dir")
        assert "binary file" in await refuse(client, "apply_patch", patch=one.format("bin"))
        assert "more than the 16,777,216" in await refuse(client, "apply_patch", patch=one.format("big"))
        assert "is a directory" in await refuse(client, "apply_patch", patch=one.format("dir"))
        assert "No change was found" in await refuse(client, "apply_patch", patch="please fix it")
        many = "*** Begin Patch\n" + "".join(f"*** Add File: f{n}\n+x\n" for n in range(201)) + "*** End Patch\n"
        assert "at most 200" in await refuse(client, "apply_patch", patch=many)
        assert "at most 1048576" in await refuse(client, "apply_patch", patch="x" * ((1 << 20) + 1))


async def test_a_file_that_is_there_already_exactly_so_is_no_problem(connect: Connect) -> None:
    """Applying an addition twice says that nothing had to be changed; other content is refused."""
    patch = "*** Begin Patch\n*** Add File: new\n+{}\n*** End Patch\n"
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "A new (+1)" in await ask(client, "apply_patch", patch=patch.format("x"))
        assert "Nothing had to be changed" in await ask(client, "apply_patch", patch=patch.format("x"))
        assert "exists already with other content" in await refuse(client, "apply_patch", patch=patch.format("y"))
