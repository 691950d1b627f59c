"""Named shell sessions and typing on terminals, through a real client."""

import re

import pytest

from harness import Connect, ask, refuse

pytestmark = pytest.mark.anyio


async def test_a_session_carries_directory_and_exported_variables(connect: Connect, era: str) -> None:
    """What was exported and where the shell stood is there in the next command of that session, and in no other."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        said = await ask(
            client, "bash", session="build", command="cd tests; export A='1 2' B=$'x\\ny'; C=private; unset TMPDIR"
        )
        assert said.endswith("; session build is in tests]")
        command = 'echo "$PWD|$A|$B|$C|${TMPDIR-none}"'
        assert (await ask(client, "bash", session="build", command=command)).startswith(
            "/workspace/tests|1 2|x\ny||none\n"
        )
        assert (await ask(client, "bash", session="other", command=command)).startswith("/workspace||||/tmp\n")
        assert (await ask(client, "bash", command=command)).startswith("/workspace||||/tmp\n")


@pytest.mark.parametrize(
    "ending",
    ["exit 3", "set -e; false", "trap 'echo bye' EXIT; true", "set -u; echo $nothing", "if", "set -x; true", "return"],
)
async def test_however_a_command_ends_its_session_goes_on(connect: Connect, ending: str) -> None:
    """Exits, errors, traps and syntax errors leave the session usable, and print no more than they would alone."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", session="s", command="cd tests; export A=1")
        alone = await ask(client, "bash", command=ending, cwd="tests")
        within = await ask(client, "bash", session="s", command=ending)
        status = re.search(r"\[exit \d+", alone)
        assert status is not None
        assert status.group() in within
        assert ("bye" in alone) == ("bye" in within)
        assert "_repocell" not in within.partition("[exit")[0]
        assert (await ask(client, "bash", session="s", command="echo $A:$PWD")).startswith("1:/workspace/tests\n")


@pytest.mark.parametrize("ending", ["exec true", "kill -9 $$", "export BIG=$(printf %070000d 0)"])
async def test_a_session_that_is_not_told_how_it_ended_stays_as_it_was(connect: Connect, ending: str) -> None:
    """A replaced or killed shell, or an environment too large to keep, leaves the session where it was, and that is said."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", session="s", command="export A=1")
        assert "session s is as it was before" in await ask(client, "bash", session="s", command=f"cd /tmp; {ending}")
        assert (await ask(client, "bash", session="s", command="echo $A:$PWD")).startswith("1:/workspace\n")


async def test_a_session_runs_one_command_at_a_time(connect: Connect) -> None:
    """A second command is refused with the job that has the session; when that has ended it is free again."""
    async with connect() as client:
        await ask(client, "workspace_open")
        said = await ask(client, "bash", session="s", command="cd tests; sleep 600", background=True)
        found = re.search(r"job_\w+", said)
        assert found is not None
        assert found.group() in await refuse(client, "bash", session="s", command="pwd")
        assert "/workspace\n" in await ask(client, "bash", session="t", command="pwd")
        await ask(client, "bash_stop", job=found.group())
        assert "/workspace" in await ask(client, "bash", session="s", command="pwd")


async def test_children_do_not_get_a_sessions_private_descriptor(connect: Connect) -> None:
    """Programs a session starts have the usual descriptors and no other, and cannot write what the next command reads."""
    async with connect() as client:
        await ask(client, "workspace_open")
        plain = await ask(client, "bash", command="ls /proc/self/fd")
        kept = await ask(client, "bash", session="s", command="ls /proc/self/fd")
        assert plain.partition("[")[0] == kept.partition("[")[0]
        await ask(client, "bash", session="s", command="sh -c 'printf \"/tmp\\\\0\\\\0end\" >&63' 2>/dev/null")
        assert (await ask(client, "bash", session="s", command="pwd")).startswith("/workspace\n")


async def test_a_background_child_does_not_hold_a_session(connect: Connect) -> None:
    """A shell that left a loop running has ended: its session can be used at once, and the loop can be stopped."""
    async with connect() as client:
        await ask(client, "workspace_open")
        said = await ask(client, "bash", session="s", command="cd tests; (while :; do sleep 1; done) &")
        assert "session s is in tests" in said
        assert (await ask(client, "bash", session="s", command="pwd")).startswith("/workspace/tests\n")


async def test_a_session_whose_directory_is_gone_says_so(connect: Connect) -> None:
    """The next command is refused with what to do; naming a directory moves the session on."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", session="s", command="mkdir gone; cd gone; rmdir ../gone")
        assert "cwd" in await refuse(client, "bash", session="s", command="pwd")
        assert (await ask(client, "bash", session="s", command="pwd", cwd="tests")).startswith("/workspace/tests\n")
        assert (await ask(client, "bash", session="s", command="pwd")).startswith("/workspace/tests\n")


async def test_typing_on_a_terminal_gets_an_answer(connect: Connect, era: str) -> None:
    """A prompt is answered, Ctrl-C interrupts, and Ctrl-D ends."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        command = "trap 'echo caught' INT; read x; echo got $x; sleep 500; cat; echo done"
        said = await ask(client, "bash", command=command, tty=True, wait_s=0, timeout_s=60)
        found = re.search(r"as (job_\w+)", said)
        assert found is not None
        job = found.group(1)
        assert "got 4321" in await ask(client, "bash_input", job=job, text="4321\n")
        assert "caught" in await ask(client, "bash_input", job=job, text="\u0003")
        assert "line\nline" in await ask(client, "bash_input", job=job, text="line\n")
        assert re.search(r"done\n\[exit 0", await ask(client, "bash_input", job=job, eof=True))
        assert "reads nothing any more" in await refuse(client, "bash_input", job=job, text="x")


async def test_a_job_without_a_terminal_cannot_be_typed_on(connect: Connect) -> None:
    """Its input is empty; the answer names tty=true."""
    async with connect() as client:
        await ask(client, "workspace_open")
        said = await ask(client, "bash", command="sleep 600", background=True)
        found = re.search(r"job_\w+", said)
        assert found is not None
        assert "tty=true" in await refuse(client, "bash_input", job=found.group(), text="x\n")


async def test_a_program_that_does_not_read_is_told(connect: Connect) -> None:
    """Typing more than a terminal holds to a program that never reads ends with how much waits, not with a hang."""
    async with connect() as client:
        await ask(client, "workspace_open")
        said = await ask(client, "bash", command="stty raw -echo; sleep 600", tty=True, background=True)
        found = re.search(r"job_\w+", said)
        assert found is not None
        assert "does not read" in await refuse(client, "bash_input", job=found.group(), text="x" * 99_000)
        assert "stopped" in await ask(client, "bash_stop", job=found.group())
