"""Patches that lead out of the workspace, at special files, or made to take long: nothing outside changes, and all end soon."""

from pathlib import Path

import anyio
import pytest

from harness import Connect, ask
from hostile.observe import LOST, manifest, outside, server_of
from hostile.stage import Stage
from hostile.test_resources import beside

pytestmark = pytest.mark.anyio

FORMS = {
    "add": "*** Begin Patch\n*** Add File: {}\n+changed\n*** End Patch\n",
    "delete": "*** Begin Patch\n*** Delete File: {}\n*** End Patch\n",
    "update": "*** Begin Patch\n*** Update File: {}\n@@\n+changed\n*** End Patch\n",
    "move": "*** Begin Patch\n*** Update File: {}\n*** Move to: caught\n*** End Patch\n",
    "move-there": "*** Begin Patch\n*** Update File: README.md\n*** Move to: {}\n*** End Patch\n",
    "unified": "--- a/{0}\n+++ b/{0}\n@@ -0,0 +1 @@\n+changed\n",
    "git-new": "diff --git a/x b/x\nnew file mode 100755\n--- /dev/null\n+++ b/{}\n@@ -0,0 +1 @@\n+changed\n",
    "git-copy": "diff --git a/x b/y\nsimilarity index 100%\ncopy from {}\ncopy to caught\n",
    "git-rename": "diff --git a/x b/y\nsimilarity index 100%\nrename from README.md\nrename to {}\n",
    "git-link": "diff --git a/planted b/planted\nnew file mode 120000\n--- /dev/null\n+++ b/planted\n@@ -0,0 +1 @@\n+{}\n",
}
PATHS = {
    "dotdot": "../../../../../..{decoy}/secret.txt",
    "absolute": "{decoy}/secret.txt",
    "prefixed": "a/../../../../../../..{decoy}/secret.txt",
    "quoted": '"{decoy}/secret.txt"',
    "octal": '"\\057etc\\057passwd"',
    "link": "leads/file",
    "below-a-link": "leads/folder/secret.txt",
    "new-below-a-link": "leads/folder/made/new.txt",
    "link-to-the-root": "leads/root{decoy}/secret.txt",
    "own-root": "/proc/self/root{decoy}/secret.txt",
    "nul": "leads/file\0.png",
}


@pytest.fixture(scope="module")
async def links(stage: Stage) -> Stage:
    """Links in the workspace to the decoy, its folder and the root of the file system."""
    plant = "mkdir -p leads && cd leads && ln -sfn {0}/secret.txt file && ln -sfn {0} folder && ln -sfn / root"
    await ask(stage.client, "bash", command=plant.format(stage.decoy), workspace=stage.cell)
    return stage


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
async def test_a_patch_cannot_be_led_out_of_the_workspace(links: Stage, path: str) -> None:
    """Whatever form names it, the host's file is neither read nor changed, nor is the sandbox lost."""
    named = path.format(decoy=links.decoy)
    before = manifest(links.decoy, links.repo)
    for form in FORMS.values():
        with anyio.fail_after(20):
            said = await links.call("apply_patch", patch=form.format(named))
        assert links.secret not in said
        assert LOST not in said
        assert "inside the server" not in said
    assert manifest(links.decoy, links.repo) == before
    assert not links.on_host("caught").exists()
    await links.attack("git checkout -q README.md; git clean -qfd -e leads")


def test_patch_follows_a_path_that_leads_out(stage: Stage) -> None:
    """The control of the test above: outside, such a patch writes where it says."""
    target = stage.folder / "written"
    patch = FORMS["unified"].format("../written")
    done = outside(
        f"mkdir -p below && cd below && printf '%s' '{patch}' | git apply --unsafe-paths -p1 -", cwd=stage.folder
    )
    assert done.returncode == 0, done.stderr
    assert target.read_text() == "changed\n"


async def test_git_hooks_are_files_of_the_cell(fresh: Stage) -> None:
    """A hook written by a patch is what one written by write_file is: in the cell, where it can harm nobody else."""
    before = manifest(fresh.repo)
    patch = FORMS["git-new"].format(".git/hooks/pre-commit")
    assert "A .git/hooks/pre-commit" in await fresh.call("apply_patch", patch=patch)
    assert manifest(fresh.repo) == before


SPECIAL = {
    "pipe": "mkfifo special",
    "endless": "ln -s /dev/zero special",
    "circle": "ln -s special special",
    "directory": "mkdir special && mkfifo special/pipe",
    "unreadable": "echo x > special && chmod 000 special",
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=list(SPECIAL))
async def test_no_special_file_holds_up_a_patch(stage: Stage, make: str) -> None:
    """On pipes, devices, circles and closed files every form answers at once, and changes nothing."""
    await stage.attack(f"chmod -R u+rwX special 2>/dev/null; rm -rf special; {make}")
    for name in ("add", "delete", "update", "move", "git-copy"):
        with anyio.fail_after(5):
            said = await stage.call("apply_patch", patch=FORMS[name].format("special"))
        assert LOST not in said
        assert "nothing was changed" in said
    await stage.healthy()


HEAD = "*** Begin Patch\n*** Update File: alike.txt\n"
ALIKE = {
    "one-large-hunk": ("a\n" * 400_000, HEAD + "@@\n" + "-a\n" * 200_000 + "+b\n"),
    "numbered": ("a\n" * 400_000, "--- alike.txt\n+++ alike.txt\n" + "@@ -90000,2 +1 @@\n a\n-b\n+c\n" * 30_000),
    "many-hunks": ("0\n1\n2\n" * 100_000, HEAD + "@@\n 0\n-1\n 2\n+x\n" * 50_000),
    "missing": ("0\n1\n2\n" * 100_000, HEAD + "@@\n 0\n-2\n+x\n" * 60_000),
    "nearest": (("foo = 1\n" + "bar\n" * 50) * 300, HEAD + "@@\n foo = 1\n" + " baz\n" * 390 + "-x\n"),
    "anchors": ("0\n1\n2\n" * 100_000, HEAD + "@@ 0\n" * 150_000 + "-2\n+x\n"),
    "headers": ("a\n", "--- a\n+++ a\n" * 80_000),
    "files": ("a\n", "*** Begin Patch\n" + "*** Delete File: x\n" * 50_000),
    "no-hunk-lines": ("a\n", HEAD + "@@\n" * 300_000),
    "escapes": ("a\n", 'diff --git "' + "\\303" * 200_000 + '" "' + "\\" * 99_999),
    "heredocs": ("a\n", "<<A\n" * 200_000),
    "blank": ("a\n", "\n" * 1_000_000),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
async def test_a_patch_takes_seconds_at_most(connect: Connect, folder: Path, name: str) -> None:
    """A patch of a megabyte made to take long is applied or refused in seconds, and others are answered meanwhile."""
    text, patch = ALIKE[name]
    async with connect() as client:
        first, second = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        stage = Stage(client, folder, folder, server_of(folder), first, second, folder, "")
        await stage.call("write_file", path="alike.txt", content=text)
        said = await beside(stage, stage.call("apply_patch", patch=patch), 25)
    assert len(said) < 40_100
    assert "inside the server" not in said
