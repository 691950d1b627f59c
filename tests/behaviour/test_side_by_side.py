"""Many calls at once in one workspace, and jobs that outlive the connection that started them."""

import re
from pathlib import Path

import anyio
import pytest
from mcp import Client

from harness import ERAS, Connect, ask
from repocell.app import build, open_ground
from repocell.auth import local_principal
from repocell.config import load_settings
from repocell.gate import Ground

pytestmark = pytest.mark.anyio


async def test_reads_do_not_wait_for_a_command_or_each_other(connect: Connect, era: str) -> None:
    """While a command runs for minutes, thirty files are read at once, and none of the answers is mixed up."""
    answers: dict[int, str] = {}
    async with connect(era) as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="for n in $(seq 30); do echo line-$n > n$n.txt; done")

        async def read(number: int) -> None:
            answers[number] = (await ask(client, "read_file", path=f"n{number}.txt")).split()[1]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "bash", {"command": "sleep 600", "wait_s": 600})
            with anyio.fail_after(60):
                async with anyio.create_task_group() as readers:
                    for number in range(1, 31):
                        readers.start_soon(read, number)
            tasks.cancel_scope.cancel()
    assert answers == {number: f"line-{number}" for number in range(1, 31)}


async def test_changes_to_one_file_happen_one_after_the_other(connect: Connect, era: str) -> None:
    """Thirty edits of different lines of one file, asked for at once, are all in it: none is lost to another."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command='for n in $(seq 30); do echo "before $n."; done > all.txt')
        async with anyio.create_task_group() as tasks:
            for number in range(1, 31):
                change = {"path": "all.txt", "old_string": f"before {number}.", "new_string": f"after {number}."}
                tasks.start_soon(client.call_tool, "edit_file", change)
        assert (await ask(client, "bash", command="grep -c after all.txt; wc -l < all.txt")).startswith("30\n30\n")


@pytest.mark.parametrize("era", ERAS)
async def test_a_job_outlives_the_connection_that_started_it(folder: Path, repo: Path, era: str) -> None:
    """A client that connects again to a running server finds its job in the status, reads what it printed, and ends it."""
    settings = load_settings({"state_dir": folder / "state", "repo": str(repo)}, {"HOME": str(folder)})
    async with open_ground(settings) as ground:

        async def ready() -> Ground:
            return ground

        server = build(settings, ready, local_principal("somebody"))
        async with Client(server, mode=era) as client:
            await ask(client, "workspace_open")
            said = await ask(client, "bash", command="echo begun; sleep 600; echo never", background=True)
            found = re.search(r"job_\w+", said)
            assert found is not None
        async with Client(server, mode=era) as client:
            assert found.group() in await ask(client, "workspace_status")
            assert "begun" in await ask(client, "bash_output", job=found.group(), offset=0)
            assert "stopped" in await ask(client, "bash_stop", job=found.group())
