"""Jobs by their ids: whose they are, how many are kept, and what readers of one get while it ends. Through a real client."""

import re

import anyio
import pytest
from mcp import Client

from harness import Connect, ask, refuse, text_of

pytestmark = pytest.mark.anyio

TOOLS = ("bash_output", "bash_stop", "bash_input")
KEPT = 32


async def background(client: Client, command: str, **arguments: object) -> str:
    """Starts a job; returns its id."""
    found = re.search(r"job_[0-9a-f]{32}", await ask(client, "bash", command=command, background=True, **arguments))
    assert found is not None
    return found.group()


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_job_belongs_to_its_workspace(connect: Connect, tool: str) -> None:
    """In another workspace, and once its own is closed, there is no such job; it is neither read nor ended."""
    async with connect() as client:
        mine, other = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        job = await background(client, "echo private; sleep 600", workspace=mine, tty=True)
        said = await refuse(client, tool, job=job, workspace=other)
        assert "There is no job" in said
        assert "private" not in said
        assert "still running" in await ask(client, "bash_output", job=job, workspace=mine)
        await ask(client, "workspace_close", workspace=mine, discard=True)
        assert "There is no workspace" in await refuse(client, tool, job=job, workspace=mine)
        assert "There is no job" in await refuse(client, tool, job=job, workspace=other)


NO_JOBS = ("", "job_", "job_" + "0" * 32, "../job", "*", "job_1\n", "\0", "x" * 100_000, "ws_1", "\N{SNOWMAN}")


@pytest.mark.parametrize("tool", TOOLS)
async def test_what_is_no_job_is_refused_in_few_words(connect: Connect, tool: str) -> None:
    """An id nobody was given is answered with where to look, whatever it looks like."""
    async with connect() as client:
        await ask(client, "workspace_open")
        for job in NO_JOBS:
            said = await refuse(client, tool, job=job)
            assert "workspace_status lists" in said
            assert len(said) < 700


async def test_the_jobs_that_ended_longest_ago_are_forgotten(connect: Connect) -> None:
    """However early a job began, what it printed can be read when it has ended and many short ones ended before it."""
    async with connect() as client:
        await ask(client, "workspace_open")
        early = await background(client, "until [ -e first ]; do sleep 0.05; done; echo early")
        await ask(client, "bash", command="touch first")
        await ask(client, "bash_output", job=early, wait_s=10)
        late = await background(client, "until [ -e go ]; do sleep 0.05; done; echo late")
        for _ in range(KEPT + 2):
            await ask(client, "bash", command="true")
        await ask(client, "bash", command="touch go")
        assert "late" in await ask(client, "bash_output", job=late, wait_s=10)
        await ask(client, "bash", command="true")
        assert "late" in await ask(client, "bash_output", job=late, offset=0)
        said = await refuse(client, "bash_output", job=early)
        assert "many others have since" in said
        assert (await ask(client, "workspace_status")).count(": 'true' - exit 0") <= KEPT + 1


async def test_many_jobs_run_and_are_read_at_once(connect: Connect) -> None:
    """Forty jobs at once, each read by two callers until it ends: every reader gets the output of its own job."""
    async with connect() as client:
        await ask(client, "workspace_open")
        jobs = [
            await background(client, f"until [ -e go ]; do sleep 0.1; done; echo output-{number}-end")
            for number in range(40)
        ]
        seen: list[list[str]] = [[] for _ in jobs]

        async def read(number: int) -> None:
            result = await client.call_tool("bash_output", {"job": jobs[number], "wait_s": 60, "offset": 0})
            seen[number].append(text_of(result))

        async with anyio.create_task_group() as tasks:
            for number in (*range(40), *range(40)):
                tasks.start_soon(read, number)
            await ask(client, "bash", command="touch go")
        for number, texts in enumerate(seen):
            assert [re.findall(r"output-\d+-end", text) for text in texts] == [[f"output-{number}-end"]] * 2


async def test_a_reader_of_a_job_outlives_its_workspace(connect: Connect) -> None:
    """Whoever waits for a job when its workspace is closed is told that it was lost, with what it had printed."""
    async with connect() as client:
        workspace = (await ask(client, "workspace_open")).split()[1]
        job = await background(client, "echo printed; sleep 600")
        said: list[str] = []

        async def read() -> None:
            said.append(text_of(await client.call_tool("bash_output", {"job": job, "wait_s": 60, "offset": None})))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            while "printed" not in await ask(client, "bash_output", job=job, offset=0):
                pass
            await ask(client, "workspace_close", workspace=workspace, discard=True)
        assert "lost after" in said[0]
        assert "bug in repocell" not in said[0]


async def test_two_callers_may_stop_one_job(connect: Connect) -> None:
    """Stopping what is being stopped, or has been, says how it ended."""
    async with connect() as client:
        await ask(client, "workspace_open")
        job = await background(client, "trap '' TERM; sleep 600")
        said: list[str] = []

        async def stop() -> None:
            said.append(await ask(client, "bash_stop", job=job))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(stop)
        assert all("stopped after" in text for text in said)
