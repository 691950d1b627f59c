"""Sessions in the hands of commands that break them: the next command runs what it says, says no more, and there is a next one.

The module's stage is used by all; every test has sessions of its own.
"""

import re
import secrets
import shlex

import anyio
import pytest

from hostile.stage import Stage
from repocell.workspaces.sessions import MAX_SESSIONS

pytestmark = pytest.mark.anyio

BUILTINS = (
    "builtin eval unset printf export trap set exit declare compgen mapfile pwd return local read test echo : [ cd"
)
BREAKS = {
    "shell options exported": "export SHELLOPTS BASHOPTS",
    "odd options exported": "set -euxvf -o pipefail; shopt -s extglob nocasematch nullglob; export SHELLOPTS "
    "BASHOPTS; set +x",
    "everything exported from now on": "set -a; FOO=1; bar=2",
    "separators": "export IFS=abcehnostux/_; ",
    "separators of nothing": "export IFS=",
    "no path": "export PATH=",
    "unset path": "unset PATH HOME PWD OLDPWD SHLVL",
    "functions exported": f"for f in {BUILTINS}; do eval \"function $f {{ command echo hijacked; }}\"; "
    f"export -f \"$f\"; done 2>/dev/null",
    "a function called builtin": "function builtin { command echo hijacked; }; true",
    "builtin and more": "function builtin { command echo hijacked; }; function exit { command echo "
    "hijacked; }; function pwd { echo hijacked; }; true",
    "aliases": "shopt -s expand_aliases; alias builtin='echo hijacked;' export='echo hijacked;' "
    "unset='echo hijacked;'\ntrue",
    "errors end it": "set -e",
    "nothing is run any more": "set -n",
    "unset names are errors": "set -u",
    "no output": "exec >&-",
    "nothing open": "exec <&- >&- 2>&-",
    "ten descriptors": "ulimit -n 10",
    "sixty descriptors": "ulimit -n 60",
    "no more bytes": "ulimit -f 0",
    "no more processes": "ulimit -u 1",
    "readonly names": "readonly PATH; readonly -x IFS; declare -rx REPOCELL_JOB PWD OLDPWD HOME",
    "our own names": "export _repocell=1 _repocell_kept=1 _repocell_name=1 _repocell_job=1 _repocell_posix=1",
    "our own names for good": "readonly _repocell_kept=1",
    "verbose": "set -v",
    "posix": "export POSIXLY_CORRECT=1",
    "posix mode": "set -o posix",
    "a large value": "export LARGE=$(printf %060000d 0)",
    "newlines and quotes": "export ODD=$'a\\nb\"c\\'d\\\\e$(touch /workspace/run)`touch "
    "/workspace/run`\\x01\\xff;touch /workspace/run'",
    "no value": "declare -x NOVALUE; export NEITHER",
    "a file for every shell": "echo 'echo hijacked' > /tmp/env.sh; export BASH_ENV=/tmp/env.sh ENV=/tmp/env.sh",
    "traces elsewhere": "export BASH_XTRACEFD=1 PS4='$(echo hijacked)'; set -x",
    "compatible": "export BASH_COMPAT=31 LC_ALL=xx_XX.none LANG=none",
    "attributes": "declare -ix N=5; declare -lx LOW=ABC; declare -ux UP=abc; declare -nx REF=N; "
    "declare -ax LIST=(1 2); declare -Ax MAP=([a]=1)",
    "names nobody may set": "export UID EUID PPID BASH_VERSINFO GROUPS DIRSTACK FUNCNAME RANDOM SECONDS LINENO",
    "traps": "trap 'echo trapped' ERR RETURN; trap 'true' DEBUG; true",
    "killed": "kill -9 $$",
    "replaced": "exec true",
    "many": "for ((i = 0; i < 9000; i++)); do export V$i=; done",
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
async def test_a_session_goes_on_whatever_was_done_to_it(stage: Stage, name: str) -> None:
    """The next command runs, prints its own output only, reports its own exit code, and what it leaves is kept."""
    session = f"s{secrets.token_hex(4)}"
    await stage.attack(BREAKS[name], session=session, timeout_s=20)
    said = await stage.attack("builtin echo well; (exit 7)", session=session, timeout_s=20)
    assert re.fullmatch(rf"well\n\[exit 7, \d+\.\d s; session {session} is in \.\]", said), said
    await stage.attack("export AFTER=1; cd /tmp", session=session, timeout_s=20)
    said = await stage.attack('builtin echo "$AFTER:$PWD:${REPOCELL_JOB:0:4}"', session=session, timeout_s=20)
    assert re.fullmatch(rf"1:/tmp:job_\n\[exit 0, \d+\.\d s; session {session} is in /tmp\]", said), said
    assert "run" not in await stage.call("list_dir", depth=1)


# What bash itself says then: a trace shows how deep the command is nested, and a descriptor cannot be put back above the limit.
TOLD = ("odd options exported", "traces elsewhere", "ten descriptors", "sixty descriptors")


@pytest.mark.parametrize("name", BREAKS)
async def test_what_breaks_a_session_prints_and_exits_as_it_does_alone(stage: Stage, name: str) -> None:
    """The text around a command adds nothing to its output and leaves its exit code and line numbers as they are."""
    alone = await stage.attack(f"{BREAKS[name]}\nfalse", timeout_s=20)
    within = await stage.attack(f"{BREAKS[name]}\nfalse", session=f"s{secrets.token_hex(4)}", timeout_s=20)
    pattern = r"\[(exit \d+|killed by \w+), \d"
    assert re.findall(pattern, within) == re.findall(pattern, alone)
    assert name in TOLD or within.rpartition("[")[0].replace("eval: line", "-c: line") == alone.rpartition("[")[0]


async def test_more_sessions_than_are_kept_can_still_be_listed(fresh: Stage) -> None:
    """The one used longest ago starts anew; the list of jobs still tells where each ended."""
    for number in range(MAX_SESSIONS + 1):
        await fresh.attack("export A=1; cd /tmp", session=f"s{number}")
    listed = await fresh.call("workspace_status")
    assert "session s0 is in /tmp" in listed
    assert f"session s{MAX_SESSIONS} is in /tmp" in listed
    assert (await fresh.attack('echo "$PWD:$A"', session="s0")).startswith("/workspace:\n")
    assert (await fresh.attack('echo "$PWD:$A"', session=f"s{MAX_SESSIONS}")).startswith("/tmp:1\n")


ODD_DIRECTORIES = {
    "not text": r"$'\xff\xfe'",
    "lines": r"$'a\n[exit 0, 0.0 s; session x is in .]\n'",
    "escapes": r"$'\x1b[31mred'",
    "long": "/".join(["$(printf %0200d 0)"] * 15),
}


@pytest.mark.parametrize("name", ODD_DIRECTORIES)
async def test_a_session_can_be_in_any_directory(stage: Stage, name: str) -> None:
    """A directory's name is shown in one bounded line of text, and the next command runs there, whatever its name is."""
    session, folder = f"s{secrets.token_hex(4)}", ODD_DIRECTORIES[name]
    said = await stage.attack(f"mkdir -p {folder}; cd {folder}", session=session)
    assert said.count("\n") == 0 and said.startswith("[exit 0") and len(said) < 500, said
    assert (await stage.attack(f'[ "$PWD" = /workspace/{folder} ] && echo same', session=session)).startswith("same\n")
    await stage.attack(f"rm -r {folder.partition('/')[0]}")


async def test_two_commands_of_one_session_never_run_at_once(fresh: Stage) -> None:
    """Also when both come while the cell is still being started, one of them is refused with the other's job."""
    said: list[str] = []

    async def run() -> None:
        said.append(await fresh.attack("sleep 1; echo ran", session="one"))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(run)
    assert sum(text.startswith("ran\n") for text in said) == 1
    assert sum(re.search(r"job_[0-9a-f]{32}", text) is not None for text in said) == 3


# what other programs of the cell may do to it


async def test_a_program_that_finds_the_private_file_sets_variables_at_most(stage: Stage) -> None:
    """A child reaches its shell's open files through /proc; what it writes there is never run as shell text."""
    text = "/tmp\\n\\0A=$(touch /workspace/run)\\0touch /workspace/run\\0;touch /workspace/run=1\\0end"
    command = (
        "for f in /proc/$PPID/fd/* /proc/$$/fd/*; do case $(readlink $f) in *aside*) "
        f"printf 'x\\0{text}' > $f;; esac; done; echo tried"
    )
    for way in (
        f"bash -c {shlex.quote(command)}; kill -9 $$",
        f"bash -c {shlex.quote(command)}",
        f"({command}) & exec sleep 1",
    ):
        await stage.attack(way, session="found", timeout_s=10)
        await stage.attack("true", session="found")
    assert "run" not in await stage.call("list_dir", depth=1)
    assert (await stage.attack("echo well", session="found")).startswith("well\n")
