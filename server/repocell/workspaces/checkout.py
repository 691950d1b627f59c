"""How a commit becomes files: git, run inside the sandbox, on objects borrowed from a mirror it can only read.

Lives here: the script, and the reading of its failure. The host's git never touches what comes out of it. It may not know
where mirrors come from.
"""

from ..errors import GitFailed
from ..guest.link import Exited, Link
from ..models import MIRROR_DIR, WORKSPACE_DIR

SECONDS = 900.0

# $1 commit, $2 branch to work on, $3 upstream branch or empty, $4 what to call the origin. Alternates make the fetch of
# the refs free of objects; filters and hooks of the repository are not configured anywhere, so none can run.
SCRIPT = f"""
set -e
git init --quiet .
echo {MIRROR_DIR}/objects > .git/objects/info/alternates
git remote add origin "$4"
git fetch --quiet --no-write-fetch-head {MIRROR_DIR} '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*'
git checkout --quiet --no-track -B "$2" "$1"
if [ -n "$3" ]; then git branch --quiet --set-upstream-to="origin/$3"; fi
"""


async def check_out(link: Link, *, commit: str, branch: str, upstream: str | None, origin: str) -> None:
    """Fills an empty workspace. Raises GitFailed with git's words; the workspace is then unusable and must be discarded."""
    argv = ("bash", "--noprofile", "--norc", "-c", SCRIPT, "checkout", commit, branch, upstream or "", origin)
    said = bytearray()
    async with link.spawn(argv, cwd=WORKSPACE_DIR) as process:
        while True:
            event = await process.receive()
            if isinstance(event, Exited):
                break
            said += event.body[: 4096 - len(said)]
    if not event.status.ok:
        raise GitFailed("make the checkout", said.decode(errors="replace").strip() or f"exit {event.status.exit}")
