"""How a commit becomes files: git, run inside a sandbox, on objects borrowed from a mirror it can only read.

Lives here: the scripts, and the reading of their failure. The host's git never touches what comes out of them. It may not
know where mirrors come from or what becomes of the files.
"""

from ..errors import GitFailed
from ..guest.link import Exited, Link
from ..models import MIRROR_DIR, WORKSPACE_DIR, WorkspaceRecord

# $1 commit, $2 what to call the origin. Alternates make the fetch of the refs free of objects; filters and hooks of the
# repository are not configured anywhere, so none can run. The index gets a time after every file's: git compares whole
# seconds, and would otherwise read again each file written in the second the index was (racy-git.txt).
_CHECK_OUT = f"""
set -e
git init --quiet .
echo {MIRROR_DIR}/objects > .git/objects/info/alternates
git remote add origin "$2"
git fetch --quiet --no-write-fetch-head {MIRROR_DIR} '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*'
git checkout --quiet --detach "$1"
touch -d "@$(( $(date +%s) + 2 ))" .git/index
"""

# $1 branch, $2 upstream branch or empty. A fresh checkout is detached, its HEAD the commit itself, and then no git has to be
# started: a ref is a file. Neither the index nor a file of the tree is read.
_TAKE_BRANCH = """
set -e
read -r head < .git/HEAD
case $head in
  ref:*) git update-ref "refs/heads/$1" HEAD ;;
  *) mkdir -p ".git/refs/heads/${1%/*}"; echo "$head" > ".git/refs/heads/$1" ;;
esac
echo "ref: refs/heads/$1" > .git/HEAD
[ -z "$2" ] || printf '[branch "%s"]\n\tremote = origin\n\tmerge = refs/heads/%s\n' "$1" "$2" >> .git/config
"""

# A copy has other inodes and times than its index says; looking once now saves every later command from looking.
_REFRESH = "git update-index -q --refresh || true"


async def check_out(link: Link, *, commit: str, origin: str) -> None:
    """Fills an empty workspace. Raises GitFailed with git's words; the files are then unusable and must be discarded."""
    await _script(link, "make the checkout", _CHECK_OUT, commit, origin)


async def take_branch(link: Link, record: WorkspaceRecord) -> None:
    """Puts a workspace on its own branch, at the commit it stands on."""
    await _script(link, "make the branch", _TAKE_BRANCH, record.branch, record.base or "")


async def refresh_index(link: Link) -> None:
    await _script(link, "refresh the index", _REFRESH)


async def _script(link: Link, what: str, script: str, *arguments: str) -> None:
    argv = ("bash", "--noprofile", "--norc", "-c", script, "git", *arguments)
    said = bytearray()
    async with link.spawn(argv, cwd=WORKSPACE_DIR) as process:
        while True:
            event = await process.receive()
            if isinstance(event, Exited):
                break
            said += event.body[: 4096 - len(said)]
    if not event.status.ok:
        raise GitFailed(what, said.decode(errors="replace").strip() or f"exit {event.status.exit}")
