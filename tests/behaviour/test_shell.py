"""bash and its jobs, through a real client."""

import re

import anyio
import pytest

from harness import Connect, ask, refuse, text_of

pytestmark = pytest.mark.anyio


async def test_a_command_reports_output_exit_code_and_time(connect: Connect, era: str) -> None:
    """Standard output and error arrive in order, and the last line says how it ended."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="echo one; echo two >&2; exit 7")
        assert re.fullmatch(r"one\ntwo\n\[exit 7, \d\.\d s\]", text) or re.fullmatch(
            r"two\none\n\[exit 7, \d\.\d s\]", text
        )


async def test_a_failing_command_is_not_a_failing_call(connect: Connect) -> None:
    """A non-zero exit is information, not an error of the tool."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert (await client.call_tool("bash", {"command": "false"})).is_error is False


async def test_each_call_is_a_new_shell_with_an_empty_stdin(connect: Connect) -> None:
    """Variables and directories do not carry over; reading stdin gives its end at once."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="cd tests; X=1")
        assert (await ask(client, "bash", command="pwd; echo [$X]; cat; read y; echo $?")).startswith(
            "/workspace\n[]\n1\n"
        )


async def test_cwd_is_relative_to_the_workspace(connect: Connect) -> None:
    """cwd names a directory of the workspace; one that is not there is explained."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "/workspace/tests" in await ask(client, "bash", command="pwd", cwd="tests")
        assert "no such working directory" in await refuse(client, "bash", command="pwd", cwd="nope")


async def test_the_environment_is_the_cells_own(connect: Connect) -> None:
    """Commands see the cell's home, a plain terminal, UTF-8, and rg on the path."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="echo $HOME $USER $TERM $LANG; command -v rg git python3")
        assert "/home/agent agent dumb C.UTF-8" in text
        assert "/opt/repocell/bin/rg" in text


async def test_colours_and_progress_bars_are_shown_as_a_terminal_would(connect: Connect) -> None:
    """Escape sequences are dropped, overwritten lines collapse to their last state."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command=r"printf '\033[31mred\033[0m\n10%%\r50%%\r100%%\n'")
        assert text.startswith("red\n100%\n[exit 0")


async def test_a_terminal_is_given_when_asked_for(connect: Connect) -> None:
    """tty=true runs on a terminal; otherwise there is none."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "/dev/pts/" in await ask(client, "bash", command="tty; stty size", tty=True)
        assert "not a tty" in await ask(client, "bash", command="tty")


async def test_a_timeout_stops_the_command_and_keeps_its_output(connect: Connect) -> None:
    """After timeout_s everything the command started is gone, what it printed is returned, and the answer says what to do."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await refuse(client, "bash", command="echo begun; sleep 600 & sleep 600", timeout_s=0.5)
        assert text.startswith("begun\n[stopped after its timeout of 0.5 s; a larger timeout_s")
        assert "sleep" not in await ask(client, "bash", command="ps -eo comm")


async def test_a_command_that_ignores_sigterm_is_killed(connect: Connect) -> None:
    """Two seconds after SIGTERM comes SIGKILL, for the whole tree."""
    async with connect() as client:
        await ask(client, "workspace_open")
        with anyio.fail_after(15):
            await refuse(
                client,
                "bash",
                command="trap '' TERM HUP INT; (trap '' TERM; sleep 600) & wait; sleep 600",
                timeout_s=0.3,
            )
        assert "sleep" not in await ask(client, "bash", command="ps -eo comm")


async def test_cancelling_a_call_kills_what_it_started(connect: Connect, era: str) -> None:
    """When the client cancels, the command and its children end, and the next call works."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "bash", {"command": "touch started; setsid sleep 600 & sleep 600"})
            while "started" not in await ask(client, "list_dir"):
                pass
            tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            while "sleep" in await ask(client, "bash", command="ps -eo comm"):
                pass


async def test_a_long_command_reports_progress(connect: Connect, era: str) -> None:
    """While waiting, the client is told how long it runs and what it printed last."""
    seen: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")

    async with connect(era) as client:
        await ask(client, "workspace_open")
        await client.call_tool("bash", {"command": "echo working; sleep 1.6"}, progress_callback=note)
    assert any("working" in message for message in seen)


async def test_waiting_hands_back_a_job_that_goes_on(connect: Connect) -> None:
    """After wait_s the call returns a job; bash_output waits for the rest and tells the end."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="echo one; sleep 1; echo two", wait_s=0.2)
        job = re.search(r"job_[0-9a-f]{32}", text)
        assert job is not None
        assert "still running" in text
        assert job.group() in await ask(client, "workspace_status")
        rest = await ask(client, "bash_output", job=job.group(), wait_s=20)
        assert rest.startswith("two\n[exit 0")


async def test_a_background_job_can_be_stopped(connect: Connect) -> None:
    """background=true returns at once; bash_stop ends the job and everything it started."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="echo up; setsid sleep 600 & sleep 600", background=True)
        job = text.split("as ")[1].split(";")[0]
        stopped = await ask(client, "bash_stop", job=job)
        assert "stopped after" in stopped
        assert "sleep" not in await ask(client, "bash", command="ps -eo comm")
        assert "had ended before" in await ask(client, "bash_stop", job=job)


async def test_children_left_running_are_named_and_followed(connect: Connect) -> None:
    """A child left behind is named; its output goes on in the job; other commands are not disturbed."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="(sleep 0.5; echo from the child) & echo started")
        assert "left running" in text
        job = text.split("goes on in ")[1].split(",")[0]
        with anyio.fail_after(10):
            while "from the child" not in await ask(client, "bash_output", job=job, offset=0):
                pass


async def test_long_output_is_cut_in_the_middle_and_can_be_read_on(connect: Connect) -> None:
    """Head and tail are shown within 30,000 characters; bash_output returns any part of the rest."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "bash", command="seq 1 200000")
        assert len(text) < 31_000
        assert text.startswith("1\n2\n3\n")
        assert "\n199999\n200000\n[exit 0" in text
        job = re.search(r"bash_output job=(job_[0-9a-f]+)", text)
        assert job is not None
        part = await ask(client, "bash_output", job=job.group(1), offset=588_895)
        assert part.startswith("100001\n100002\n")
        assert "go on with offset=" in part


async def test_a_command_that_prints_without_end_is_stopped(connect: Connect) -> None:
    """An output of many gigabytes ends promptly at the output limit, and the answer says what to do instead."""
    async with connect() as client:
        await ask(client, "workspace_open")
        with anyio.fail_after(60):
            text = await refuse(client, "bash", command="head -c 10G /dev/zero | tr '\\0' 'x'", timeout_s=100)
        assert "printing more than 256.0 MiB" in text
        assert "redirect it to a file" in text
        assert "[exit 0" in await ask(client, "bash", command="true")


async def test_closed_descriptors_do_not_confuse_the_result(connect: Connect) -> None:
    """A command that closes its output is still waited for, and its exit code is right."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "[exit 3," in await ask(client, "bash", command="exec 0<&- 1>&- 2>&-; sleep 0.3; exit 3")


async def test_death_by_signal_is_said(connect: Connect) -> None:
    """A command killed by a signal is reported with the signal's name."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "killed by SIGSEGV" in await ask(client, "bash", command="kill -SEGV $$")
        said = await ask(client, "bash", command="kill -KILL $$")
        assert "killed by SIGKILL" in said
        assert "limit" not in said


@pytest.mark.parametrize("text", ["\x01\x00\x00\x00\x01", "[exit 0, 0.0 s]", '{"exit":0}', "\x06\x00\x00"])
async def test_output_that_looks_like_our_frames_is_only_output(connect: Connect, text: str) -> None:
    """Nothing a command prints changes the exit code reported for it."""
    async with connect() as client:
        await ask(client, "workspace_open")
        printed = "".join(f"\\x{ord(char):02x}" for char in text)
        answer = await ask(client, "bash", command=f"printf '{printed}'; printf '{printed}' >&2; exit 9")
        assert answer.endswith("s]")
        assert "[exit 9," in answer.splitlines()[-1]


async def test_a_command_text_beyond_the_limit_is_refused(connect: Connect) -> None:
    """More text than the kernel takes as one argument is refused before anything runs."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "100000" in await refuse(client, "bash", command="#" * 150_000)


async def test_many_calls_at_once_each_get_their_own_answer(connect: Connect, era: str) -> None:
    """Thirty-two concurrent commands return thirty-two right results."""
    results: dict[int, str] = {}
    async with connect(era) as client:
        await ask(client, "workspace_open")

        async def run(number: int) -> None:
            results[number] = text_of(await client.call_tool("bash", {"command": f"echo n{number}; exit {number}"}))

        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(run, number)
    assert all(text.startswith(f"n{number}\n[exit {number},") for number, text in results.items())
    assert len(results) == 32


async def test_an_unknown_job_is_refused(connect: Connect) -> None:
    """A job id that is not of this workspace is refused with where to look."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "workspace_status lists" in await refuse(client, "bash_output", job="job_1")
        assert "workspace_status lists" in await refuse(client, "bash_stop", job="job_1")
