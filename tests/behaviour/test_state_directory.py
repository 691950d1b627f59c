"""Where state is kept: what the server does when the place is odd, full, closed or changed behind its back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Connect, ask, child_environment, connect_to_server, git, refuse, text_of

pytestmark = pytest.mark.anyio
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make such a place, or run cells under another uid"
)


def serve(state: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Starts a server that is not expected to come up; its stdin is empty, so one that does ends at once."""
    command = [*prefix, sys.executable, "-m", "repocell.cli", "serve", "--state-dir", str(state)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        env=child_environment(state.parent),
    )  # fmt: skip


def in_mounts(script: str) -> list[str]:
    """A prefix that runs a command in a mount namespace of its own, after a script."""
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]


async def test_a_state_directory_below_a_file_is_refused_with_words(folder: Path) -> None:
    """A path that cannot be made names the option that changes it."""
    (folder / "file").write_text("x")
    done = serve(folder / "file" / "state")
    assert done.returncode == 1
    assert "--state-dir" in done.stderr
    assert "Traceback" not in done.stderr


@needs_root
async def test_a_private_folder_above_is_refused_with_words(folder: Path) -> None:
    """When cells run under a uid of their own that cannot get there, the server says so before it serves."""
    (folder / "private").mkdir(mode=0o700)
    done = serve(folder / "private" / "state")
    assert done.returncode == 1
    assert "private home" in done.stderr
    (folder / "open").mkdir(mode=0o755)
    assert serve(folder / "open" / "state").returncode == 0


@needs_root
async def test_a_read_only_place_is_refused_with_words(folder: Path) -> None:
    """A file system that takes no writes is said; nothing is served from it."""
    (folder / "ro").mkdir()
    done = serve(folder / "ro" / "state", *in_mounts(f"mount -t tmpfs -o ro none {folder}/ro"))
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


@needs_root
async def test_a_full_place_is_refused_with_words(folder: Path) -> None:
    """A place without room for what every server needs is refused, not half used."""
    (folder / "tiny").mkdir()
    script = f"mount -t tmpfs -o size=256k,mode=755 none {folder}/tiny && head -c 250k /dev/zero > {folder}/tiny/fill"
    done = serve(folder / "tiny" / "state", *in_mounts(script))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "repocell:" in done.stderr


@needs_root
async def test_a_file_system_without_overlays_gets_copies(folder: Path, repo: Path) -> None:
    """Where overlays cannot be kept the probe finds out, and workspaces are copies with the same promises."""
    (folder / "plain").mkdir()
    script = f"mount -t ramfs none {folder}/plain && chmod 755 {folder}/plain"
    doctor = subprocess.run(
        [*in_mounts(f"{script} && mkdir {folder}/plain/state"), sys.executable, "-m", "repocell.cli", "doctor", "--state-dir",
         f"{folder}/plain/state"],
        capture_output=True, text=True, timeout=60, check=False, env=child_environment(folder),
    )  # fmt: skip
    assert "copies, not overlays" in doctor.stdout
    prefix = in_mounts(script)
    async with connect_to_server(
        folder, ["--repo", str(repo), "--state-dir", f"{folder}/plain/state"], "legacy", prefix=prefix
    ) as client:
        ws = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "bash", command="echo x > new; git mv tests t2; rm README.md")
        text = await ask(client, "workspace_fork")
        child = text.split(" into ")[1].split(":")[0]
        for each in (ws, child):
            assert "t2/test_calc.py" in await ask(client, "bash", workspace=each, command="git status --short; ls t2/*")


async def test_rewritten_history_is_followed_and_old_workspaces_live(connect: Connect, repo: Path) -> None:
    """A remote that rewrote its branch gives its new commit to the next open; an open workspace keeps every old object."""
    async with connect() as client:
        old = (await ask(client, "workspace_open")).split()[1]
        git(repo, "commit", "--quiet", "--amend", "--message", "rewritten")
        git(repo, "reflog", "expire", "--expire=now", "--all")
        git(repo, "gc", "--quiet", "--prune=now")
        new = (await ask(client, "workspace_open")).split()[1]
        assert "rewritten" in await ask(client, "bash", workspace=new, command="git log --oneline")
        text = await ask(
            client, "bash", workspace=old, command="git log --oneline; git fsck 2>&1; git show --stat HEAD | tail -1"
        )
        assert "first" in text
        assert "missing" not in text


async def test_five_hundred_forks_of_forks_work(connect: Connect) -> None:
    """A line of 501 generations is no deeper to mount than its writes are: the last one answers with every file."""
    async with connect() as client:
        ws = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "bash", command="echo root > root.txt")
        for _ in range(501):
            ws = (await ask(client, "workspace_fork", workspace=ws)).split(" into ")[1].split(":")[0]
        assert "root\n" in await ask(client, "bash", workspace=ws, command="cat root.txt")


async def test_a_renamed_directory_of_the_checkout_is_explained(connect: Connect) -> None:
    """Where the overlay refuses to rename a directory, the answer says why and what works; that way does work."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="git mv tests renamed")
        if "[exit 0" not in text:
            assert "mv OLD NEW" in text
        assert "R  tests/test_calc.py -> renamed/test_calc.py" in await ask(
            client, "bash", command="[ -d renamed ] || mv tests renamed; git add -A; git status --short"
        )


async def test_a_disk_that_fills_up_is_said_and_the_neighbour_lives(connect: Connect, folder: Path) -> None:
    """A cell beyond its disk limit has its processes stopped by the host; the answer comes, the neighbour works."""
    config = folder / "config.toml"
    config.write_text("[limits]\ndisk = 33554432\n")
    async with connect("legacy", environment={"REPOCELL_CONFIG": str(config)}) as client:
        one = (await ask(client, "workspace_open")).split()[1]
        two = (await ask(client, "workspace_open")).split()[1]
        loop = "i=0; while :; do head -c 1M /dev/urandom > big$i || exit 5; i=$((i+1)); sleep 0.02; done"
        text = text_of(await client.call_tool("bash", {"workspace": one, "command": loop, "timeout_s": 60}))
        assert "killed by" in text or "lost" in text
        assert "[exit 0" in await ask(client, "bash", workspace=two, command="echo fine > f")
        await ask(client, "bash", workspace=one, command="rm -f big*")
        assert "[exit 0" in await ask(client, "bash", workspace=one, command="true")


async def test_an_unfinished_open_is_answered_and_swept(connect: Connect, folder: Path) -> None:
    """An open that fails leaves no workspace and no layer of its own."""
    async with connect() as client:
        await refuse(client, "workspace_open", ref="nope")
        assert "No workspaces" in await ask(client, "workspace_list")
    assert list((folder / "state" / "workspaces").iterdir()) == []
