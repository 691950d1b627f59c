"""Named shell sessions: where a command was when it ended and what it had exported, handed on to the next.

Lives here: the text around a command that takes up what the last one left and leaves its own, and the reading of that. It
travels on a descriptor of its own (never with the output), is opaque to the host, and goes back where it came from.
"""

import posixpath
from dataclasses import dataclass

from ..guest.agent import ASIDE
from ..models import WORKSPACE_DIR

MAX_SESSIONS = 32  # per workspace; the one used longest ago is forgotten
_END = b"end"

# $1 the command, $2 the exported environment as bash declares it or empty, $3 the job. The command runs with the private
# descriptor closed: bash keeps its own copy where no child gets it, and puts it back before an EXIT trap runs. What is kept
# is written once, by the trap, or here when the command set a trap of its own.
_AROUND = f"""
_repocell_keep() {{
  [ -z "${{_repocell_kept-}}" ] || return 0
  _repocell_kept=1
  builtin printf '%s\\0%s\\0{_END.decode()}' "$PWD" "$(builtin declare -px)" >&{ASIDE}
}}
_repocell=$PWD
if [ -n "$2" ]; then builtin unset -v $(builtin compgen -e); builtin eval "$2" 2>/dev/null; PWD=$_repocell; fi
export REPOCELL_JOB=$3
trap '{{ _repocell_keep; }} 2>/dev/null' EXIT
_repocell=$1
set --
{{ builtin eval "$_repocell"; }} {ASIDE}>&-
{{ _repocell=$?; _repocell_keep; builtin set +x; }} 2>/dev/null
builtin exit $_repocell
"""


@dataclass(frozen=True)
class Session:
    """A session between two commands: the directory it is in, and its environment as text for bash to evaluate."""

    cwd: str = WORKSPACE_DIR
    exported: str = ""

    @property
    def place(self) -> str:
        """The directory as the caller would name it."""
        return posixpath.relpath(self.cwd, WORKSPACE_DIR) if self.cwd.startswith(WORKSPACE_DIR) else self.cwd

    def around(self, command: str, job: str) -> tuple[str, ...]:
        """The arguments of `bash -c` for a command in this session."""
        return (_AROUND, "bash", command, self.exported, job)


def read_session(aside: bytes) -> Session | None:
    """What a command left; None when it left nothing, or too much: it was killed, or replaced its shell."""
    parts = aside.split(b"\0")
    if len(parts) != 3 or parts[2] != _END or not parts[0].startswith(b"/"):
        return None
    cwd, exported = (part.decode("utf-8", errors="surrogateescape") for part in parts[:2])
    return Session(cwd, exported)
