"""Named shell sessions: where a command was when it ended and what it had exported, handed on to the next.

Lives here: the text around a command that takes up what the last one left and leaves its own, and the reading of that. It
travels on a descriptor of its own (never with the output) and as data: whatever is read there becomes a directory and
variables, never shell text. It may not know jobs or how commands are started.
"""

import posixpath
import re
from dataclasses import dataclass

from ..guest.agent import ASIDE
from ..models import WORKSPACE_DIR

MAX_SESSIONS = 32  # per workspace; the one used longest ago is forgotten
_END = b"end"
_FILE = f"/proc/self/fd/{ASIDE}"
_VARIABLE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*(=.*)?", re.DOTALL)
# What bash does not let anybody set, what each command has of its own, and what belongs to the text below.
_NOT_KEPT = re.compile(rb"(_|PWD|REPOCELL_JOB|BASHOPTS|SHELLOPTS|BASH_VERSINFO|UID|EUID|PPID|_repocell\w*)(=|$)")

# $1 the command, $2 the job, then, if there is something to take up, a word and the variables. It is one compound command on
# one line: it is read whole before the command runs, so that aliases and `set -v` do not reach the rest, and the line numbers
# in messages are the command's own. What runs behind the command is `builtin` and keywords only, as functions may have any
# other name; one of that name is removed, which works in POSIX mode alone, where `unset` is looked for before functions.
# The command runs with the private descriptor closed: bash keeps its own copy where no child gets it, and puts it back before
# an EXIT trap runs. What is kept is written once, by the trap, or at the end when the command set a trap of its own. The names
# of what is exported are put there first and read back, as a command substitution would cost a process.
_AROUND = " ".join(
    line.strip()
    for line in f"""
{{ _repocell_keep() {{
  if [[ ${{_repocell_kept-}} != $$ ]]; then
    _repocell_kept=$$;
    _repocell_posix=${{POSIXLY_CORRECT+set}};
    POSIXLY_CORRECT=${{POSIXLY_CORRECT-}};
    unset -f builtin;
    if [[ ! $_repocell_posix ]]; then unset -v POSIXLY_CORRECT; fi;
    builtin trap - DEBUG ERR RETURN;
    builtin trap '' XFSZ;
    {{
      builtin compgen -e;
      builtin mapfile -t _repocell_names < {_FILE};
      builtin printf '\\0';
      builtin pwd;
      builtin printf '\\0';
      for _repocell_name in "${{_repocell_names[@]}}"; do
        builtin printf '%s\\0' "$_repocell_name${{!_repocell_name+"=${{!_repocell_name}}"}}";
      done;
      builtin printf {_END.decode()};
    }} >| {_FILE};
  fi;
}};
{{
  _repocell=$1 _repocell_job=$2 _repocell_pwd=$PWD;
  if (( $# > 2 )); then
    builtin compgen -e >| {_FILE};
    builtin mapfile -t _repocell_names < {_FILE};
    builtin unset -v "${{_repocell_names[@]}}";
    for _repocell_name in "${{@:4}}"; do builtin export -- "$_repocell_name"; done;
  fi;
  builtin export PWD="$_repocell_pwd" REPOCELL_JOB="$_repocell_job";
}} 2>/dev/null;
builtin trap '{{ _repocell_keep; }} >/dev/null 2>&1' EXIT;
builtin set --;
{{ builtin eval "$_repocell"; }} {ASIDE}>&-;
{{ _repocell=$?; _repocell_keep; builtin set +vx; }} >/dev/null 2>&1;
builtin exit "$_repocell"; }}
""".splitlines()
).strip()


@dataclass(frozen=True)
class Session:
    """A session between two commands: the directory it is in, and what it exports, as NAME=VALUE, or NAME without a value.

    Where nothing was told yet that is None: what the cell exports anyway.
    """

    cwd: str = WORKSPACE_DIR
    exported: tuple[str, ...] | None = None

    @property
    def place(self) -> str:
        """The directory as the caller would name it; it may hold any character, and what is no text."""
        inside = self.cwd == WORKSPACE_DIR or self.cwd.startswith(f"{WORKSPACE_DIR}/")
        return posixpath.relpath(self.cwd, WORKSPACE_DIR) if inside else self.cwd

    def around(self, command: str, job: str) -> tuple[str, ...]:
        """The arguments of `bash -c` for a command in this session."""
        kept = () if self.exported is None else ("kept", *self.exported)
        return (_AROUND, "bash", command, job, *kept)


def read_session(aside: bytes) -> Session | None:
    """What a command left; None when it left nothing, too much, or what no shell of ours writes."""
    _, where, *variables, end = aside.split(b"\0") if aside.count(b"\0") > 1 else (b"", b"", aside)
    if end != _END or not (where.startswith(b"/") and where.endswith(b"\n")):
        return None
    if not all(_VARIABLE.fullmatch(variable) for variable in variables):
        return None
    kept = tuple(_text(variable) for variable in variables if not _NOT_KEPT.match(variable))
    return Session(_text(where[:-1]), kept)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="surrogateescape")
