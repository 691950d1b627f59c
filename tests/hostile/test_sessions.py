"""Sessions in the hands of commands that break them: the next command runs what it says, says no more, and there is a next one.

The module's stage is used by all; every test has sessions of its own.
"""

import re
import secrets

import pytest

from hostile.stage import Stage
from repocell.workspaces.sessions import MAX_SESSIONS

pytestmark = pytest.mark.anyio

BUILTINS = "builtin eval unset printf export trap set exit declare compgen mapfile pwd return local read test echo : [ cd"
BREAKS = {
    "shell options exported": "export SHELLOPTS BASHOPTS",
    "odd options exported": "set -euxvf -o pipefail; shopt -s extglob nocasematch nullglob; export SHELLOPTS BASHOPTS; set +x",
    "everything exported from now on": "set -a; FOO=1; bar=2",
    "separators": "export IFS=abcehnostux/_; ",
    "separators of nothing": "export IFS=",
    "no path": "export PATH=",
    "unset path": "unset PATH HOME PWD OLDPWD SHLVL",
    "functions exported": f"for f in {BUILTINS}; do eval \"function $f {{ command echo hijacked; }}\"; export -f \"$f\"; done 2>/dev/null",
    "a function called builtin": "function builtin { command echo hijacked; }; true",
    "builtin and more": "function builtin { command echo hijacked; }; function exit { command echo hijacked; }; function pwd { echo hijacked; }; true",
    "aliases": "shopt -s expand_aliases; alias builtin='echo hijacked;' export='echo hijacked;' unset='echo hijacked;'\ntrue",
    "errors end it": "set -e",
    "nothing is run any more": "set -n",
    "unset names are errors": "set -u",
    "no output": "exec >&-",
    "nothing open": "exec <&- >&- 2>&-",
    "ten descriptors": "ulimit -n 10",
    "sixty descriptors": "ulimit -n 60",
    "no more processes": "ulimit -u 1",
    "readonly names": "readonly PATH; readonly -x IFS; declare -rx REPOCELL_JOB PWD OLDPWD HOME",
    "our own names": "export _repocell=1 _repocell_kept=1 _repocell_name=1 _repocell_job=1 _repocell_posix=1",
    "our own names for good": "readonly _repocell_kept=1",
    "posix": "export POSIXLY_CORRECT=1",
    "posix mode": "set -o posix",
    "a large value": "export LARGE=$(printf %060000d 0)",
    "newlines and quotes": "export ODD=$'a\\nb\"c\\'d\\\\e$(touch /workspace/run)`touch /workspace/run`\\x01\\xff;touch /workspace/run'",
    "no value": "declare -x NOVALUE; export NEITHER",
    "a file for every shell": "echo 'echo hijacked' > /tmp/env.sh; export BASH_ENV=/tmp/env.sh ENV=/tmp/env.sh",
    "traces elsewhere": "export BASH_XTRACEFD=1 PS4='$(echo hijacked)'; set -x",
    "compatible": "export BASH_COMPAT=31 LC_ALL=xx_XX.none LANG=none",
    "attributes": "declare -ix N=5; declare -lx LOW=ABC; declare -ux UP=abc; declare -nx REF=N; declare -ax LIST=(1 2); declare -Ax MAP=([a]=1)",
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
