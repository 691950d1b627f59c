"""Forks, checkpoints, restores, several servers, stops: through real clients, over both plans where files are concerned."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from harness import Connect, ask, child_environment, connect_to_server, refuse

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["overlay", "copy"])
def plan(request: pytest.FixtureRequest, folder: Path) -> dict[str, str]:
    """Server settings that choose how workspaces get their files; both plans keep the same promises."""
    config = folder / "config.toml"
    config.write_text(f'plan = "{request.param}"\n')
    return {"REPOCELL_CONFIG": str(config)}


def repocell(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repocell.cli", *args, "--state-dir", str(folder / "state")]
    environment = child_environment(folder)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


async def opened(client: object, **arguments: object) -> str:
    return (await ask(client, "workspace_open", **arguments)).split()[1]  # pyright: ignore[reportArgumentType]


async def test_a_fork_has_the_same_files_and_goes_its_own_way(connect: Connect, plan: dict[str, str], era: str) -> None:
    """Tracked, untracked, ignored files and the home directory are in both; what is written later is in one."""
    async with connect(era, environment=plan) as client:
        one = await opened(client)
        await ask(
            client,
            "bash",
            command="echo mine >> calc.py; echo new > new.txt; rm README.md; echo h > ~/h; mkdir -p a/b; mv tests a/b/",
        )
        two = (await ask(client, "workspace_fork", task="second try")).split(" into ")[1].split(":")[0]
        for ws in (one, two):
            text = await ask(
                client, "bash", workspace=ws, command="cat calc.py new.txt ~/h; ls a/b/tests; git status --short"
            )
            assert "mine\nnew\nh\ntest_calc.py" in text
            assert " D README.md" in text
        await ask(client, "write_file", workspace=two, path="only-two", content="x")
        assert "There is no" in await refuse(client, "read_file", workspace=one, path="only-two")
        assert "agent/second-try-" in await ask(client, "bash", workspace=two, command="git branch --show-current")
        assert "agent/second-try-" not in await ask(client, "bash", workspace=one, command="git branch --show-current")


async def test_a_checkpoint_can_be_gone_back_to_and_nothing_is_lost(connect: Connect, plan: dict[str, str]) -> None:
    """Restore brings every file back, deletions and renames included, and keeps what was there before."""
    async with connect("legacy", environment=plan) as client:
        await opened(client)
        await ask(client, "bash", command="echo one > f; git add f; git commit -qm one; mkdir d; echo x > d/x")
        point = (await ask(client, "workspace_checkpoint", name="good")).split()[4]
        await ask(client, "bash", command="rm -rf d f calc.py; mv tests t2; echo two > g; git commit -qam two")
        restored = await ask(client, "workspace_restore", checkpoint=point)
        text = await ask(client, "bash", command="cat f d/x; ls; git log --oneline | head -1; git status --short")
        assert "one\nx\n" in text
        assert "g\n" not in text
        assert re.search(r"one\n\?\? d/", text)
        before = re.search(r"kept as (cp_[0-9a-f]+)", restored)
        assert before is not None
        await ask(client, "workspace_restore", checkpoint=before.group(1))
        assert "two" in await ask(client, "bash", command="cat g; ls t2")


async def test_processes_end_first_and_are_named(connect: Connect) -> None:
    """Fork, checkpoint and restore end running jobs and say which, so that no two overlays share an upper directory."""
    async with connect() as client:
        await opened(client)
        await ask(client, "bash", command="sleep 600", background=True)
        text = await ask(client, "workspace_checkpoint")
        assert "'sleep 600'" in text
        assert "sleep" not in await ask(client, "bash", command="ps -eo comm")


async def test_an_unknown_checkpoint_lists_those_there_are(connect: Connect) -> None:
    """A wrong checkpoint id is answered with the right ones."""
    async with connect() as client:
        await opened(client)
        assert "workspace_checkpoint makes one" in await refuse(client, "workspace_restore", checkpoint="cp_1")
        await ask(client, "workspace_checkpoint", name="good")
        assert "(good)" in await refuse(client, "workspace_restore", checkpoint="cp_1")


async def test_git_status_reads_no_file_right_after_opening(connect: Connect, plan: dict[str, str]) -> None:
    """What git noted when the layer was made is true of the workspace: diff-files believes its notes, or lists a file.

    The control: once a file's time differs, it is listed.
    """
    async with connect(environment=plan) as client:
        await opened(client)
        ws = await opened(client)
        newer = 'test -z "$(find . -path ./.git -prune -o -newer .git/index -print)" && echo index is newest'
        noted = f"git diff-files --name-only; {newer}"
        assert (await ask(client, "bash", workspace=ws, command=noted)).startswith("index is newest\n")
        touched = "touch -d 2002-02-02 calc.py; git diff-files --name-only"
        assert (await ask(client, "bash", workspace=ws, command=touched)).startswith("calc.py\n")


async def test_thirty_generations_of_forks_keep_every_file(connect: Connect) -> None:
    """Deep stacks work: each generation adds a file, and the last has them all."""
    async with connect() as client:
        ws = await opened(client)
        for number in range(30):
            await ask(client, "bash", workspace=ws, command=f"echo {number} > g{number}")
            child = (await ask(client, "workspace_fork", workspace=ws)).split(" into ")[1].split(":")[0]
            await ask(client, "workspace_close", workspace=ws, discard=True)
            ws = child
        assert "30\n" in await ask(client, "bash", workspace=ws, command="ls g* | wc -l")


async def test_a_tall_stack_is_flattened(connect: Connect) -> None:
    """More layers than are stacked comfortably become one, with the same files and a clean git status."""
    async with connect() as client:
        ws = await opened(client)
        for number in range(70):
            await ask(client, "workspace_checkpoint", workspace=ws, name=str(number))
        await ask(client, "bash", workspace=ws, command="echo kept > kept")
        text = await ask(
            client, "bash", workspace=ws, command="cat kept calc.py; git status --short; mount | grep -c lowerdir"
        )
        assert "kept\ndef add" in text
        assert "?? kept\n" in text
        assert " M " not in text


async def test_two_servers_share_one_state_directory(folder: Path, repo: Path) -> None:
    """A workspace live in one server is busy for the other, and free once it is suspended; both see it listed."""
    options = ["--repo", str(repo)]
    async with connect_to_server(folder, options, "legacy", {"REPOCELL_IDLE_SECONDS": "4"}) as first:
        ws = await opened(first)
        async with connect_to_server(folder, options, "legacy") as second:
            assert "in use by another server" in await ask(second, "workspace_list")
            assert "another repocell server" in await refuse(second, "bash", workspace=ws, command="true")
            assert "another repocell server" in await refuse(second, "workspace_fork", workspace=ws)
            assert "another repocell server" in await refuse(second, "workspace_close", workspace=ws, discard=True)
            other = await opened(second)
            with anyio.fail_after(20):
                while "suspended" not in await ask(second, "workspace_list"):
                    await anyio.lowlevel.checkpoint()
            assert "[exit 0" in await ask(second, "bash", workspace=ws, command="echo hi > from-second")
            await ask(second, "workspace_close", workspace=other)


async def test_two_servers_opening_the_same_commit_make_one_layer(folder: Path, repo: Path) -> None:
    """Concurrent first opens build the checkout once."""
    options = ["--repo", str(repo)]
    async with (
        connect_to_server(folder, options, "legacy") as first,
        connect_to_server(folder, options, "legacy") as second,
        anyio.create_task_group() as tasks,
    ):
        for client in (first, second, first, second):
            tasks.start_soon(opened, client)
    sealed = [path.name for path in (folder / "state" / "layers").glob("c*.json")]
    assert len(sealed) == 1


async def test_stop_ends_everything_at_once_until_released(connect: Connect, folder: Path) -> None:
    """`repocell stop` ends what runs in every server within moments; calls are refused until --release; files stay."""
    async with connect() as client:
        ws = await opened(client)
        await ask(client, "bash", command="echo kept > kept; sleep 600", background=True)
        stopped = await anyio.to_thread.run_sync(repocell, folder, "stop")
        assert "Stopped 1 workspaces" in stopped.stdout
        assert "a person stopped everything" in await refuse(client, "bash", workspace=ws, command="true")
        assert "suspended" in await ask(client, "workspace_list")
        released = await anyio.to_thread.run_sync(repocell, folder, "stop", "--release")
        assert "Nothing is stopped" in released.stdout
        with anyio.fail_after(5):
            while (await client.call_tool("bash", {"command": "true"})).is_error:
                await anyio.lowlevel.checkpoint()
        assert "kept" in await ask(client, "read_file", path="kept")


async def test_one_workspace_can_be_stopped_alone(connect: Connect, folder: Path) -> None:
    """A stop of one workspace leaves its neighbour working."""
    async with connect() as client:
        one, two = await opened(client), await opened(client)
        await anyio.to_thread.run_sync(repocell, folder, "stop", "--workspace", one)
        assert "stopped this workspace" in await refuse(client, "bash", workspace=one, command="true")
        assert "[exit 0" in await ask(client, "bash", workspace=two, command="true")


async def test_people_can_list_show_diff_close_and_collect(connect: Connect, folder: Path) -> None:
    """The command line shows and ends workspaces without any client."""
    async with connect() as client:
        ws = await opened(client, task="the task")
        await ask(client, "write_file", path="new.txt", content="hello\n")
    listed = repocell(folder, "workspaces", "list")
    assert ws in listed.stdout
    assert "suspended" in listed.stdout
    assert "own files" in repocell(folder, "workspaces", "show", ws).stdout
    assert "+hello" in repocell(folder, "workspaces", "diff", ws).stdout
    assert "Closed" in repocell(folder, "workspaces", "close", ws).stdout
    assert "Removed" in repocell(folder, "workspaces", "gc", "--limit", "0").stdout
    assert [path.name for path in (folder / "state" / "layers").iterdir() if path.is_dir()] == []
    missing = repocell(folder, "workspaces", "show", ws)
    assert missing.returncode == 1
    assert "There is no workspace" in missing.stderr


async def test_a_workspace_deleted_behind_the_servers_back_is_gone_with_words(connect: Connect, folder: Path) -> None:
    """Its directory removed, a workspace is no workspace; a neighbour on the same layer is untouched."""
    async with connect() as client:
        one, two = await opened(client), await opened(client)

    shutil.rmtree(folder / "state" / "workspaces" / one)
    async with connect() as client:
        assert "There is no workspace" in await refuse(client, "bash", workspace=one, command="true")
        assert "[exit 0" in await ask(client, "bash", workspace=two, command="true")


async def test_a_missing_layer_is_said_and_neighbours_live(connect: Connect, folder: Path) -> None:
    """What a workspace wrote, removed from disk, is a clear refusal; restoring a checkpoint or closing still works."""
    async with connect() as client:
        one, two = await opened(client), await opened(client)
        await ask(client, "workspace_checkpoint", workspace=one)

    record = json.loads((folder / "state" / "workspaces" / one / "workspace.json").read_text())
    shutil.rmtree(folder / "state" / "layers" / record["upper"])
    async with connect() as client:
        text = await refuse(client, "bash", workspace=one, command="true")
        assert "layers were removed" in text
        assert "[exit 0" in await ask(client, "bash", workspace=two, command="true")
        await ask(client, "workspace_restore", workspace=one, checkpoint=record["checkpoints"][0]["id"])
        assert "[exit 0" in await ask(client, "bash", workspace=one, command="cat calc.py")


async def test_a_damaged_checkout_layer_is_made_anew_for_the_next(connect: Connect, folder: Path) -> None:
    """A checkout that somebody changed is not handed out again; the next open gets the commit's own files."""
    async with connect() as client:
        await opened(client)
        (sealed,) = (folder / "state" / "layers").glob("c*.json")
        victim = folder / "state" / "layers" / sealed.stem / "workspace"
        (victim / "calc.py").unlink()
        ws = await opened(client)
        assert "def add" in await ask(client, "read_file", workspace=ws, path="calc.py")
