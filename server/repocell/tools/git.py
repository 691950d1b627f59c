"""What changed: git, run inside the cell on the cell's own repository.

Lives here: the tools around the working tree's history and their wording. Host git is never involved.
"""

from pydantic import Field

from ..errors import GitFailed
from ..models import MiB
from ..together import together
from ..workspaces.workspace import Collected, Workspace
from .base import MAX_TEXT, Call, InWorkspace, Reply, Services, Tool, workspace_of
from .files import FilePath
from .text import as_text, cut_middle

MAX_COLLECTED = 4 * MiB
_GIT = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "color.ui=false", "-c", "core.quotepath=false")
_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")

# Untracked files belong to a change too. They are put, as empty entries, into a throw-away copy of the index, so that one
# diff shows everything and the agent's own index is left as it is. $1 is the marker, the rest are diff's arguments.
_WITH_UNTRACKED = f"""
index=$(git rev-parse --git-path index) && copy=$(mktemp) && trap 'rm -f "$copy"' EXIT
[ -f "$index" ] && cp "$index" "$copy"
export GIT_INDEX_FILE=$copy
git add --intent-to-add --all . && {" ".join(_GIT)} {" ".join(_DIFF)} "$@"
"""


class GitDiff(InWorkspace):
    base: str = Field(default="HEAD", pattern=r"^[^-].*", description="Commit, branch or tag to compare with.")
    path: FilePath = Field(default="", description="Only this file or directory.")
    stat: bool = Field(default=False, description="Only names and counts.")


async def git_diff(services: Services, call: Call[GitDiff]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    text = await diff_text(ws, args.base, path=args.path, stat=args.stat)
    if not text:
        return Reply(f"Nothing differs from {args.base}" + (f" in {args.path}." if args.path else "."))
    return Reply(cut_middle(text, MAX_TEXT, "give a path, or stat=true, to see less at a time"))


async def diff_text(ws: Workspace, base: str, *, path: str = "", stat: bool = False) -> str:
    """What the working tree changes against a commit, new files included. Raises GitFailed for a commit there is not."""
    arguments = [*(["--stat=120"] if stat else []), base, "--", path or "."]
    untracked = [*_GIT, "ls-files", "--others", "--exclude-standard", "--directory", "-z", "--", path or "."]
    found, others = await together(  # side by side, since most often there are no others and the first is the answer
        lambda: ws.collect([*_GIT, *_DIFF, *arguments], max_bytes=MAX_COLLECTED),
        lambda: ws.collect(untracked, max_bytes=4096),
    )
    if others.out:
        argv = ["bash", "--noprofile", "--norc", "-c", _WITH_UNTRACKED, "diff", *arguments]
        found = await ws.collect(argv, max_bytes=MAX_COLLECTED)
    _check(found, f"compare with {base!r}")
    return as_text(found.out)


def _check(found: Collected, what: str) -> None:
    if not found.cut and not found.status.ok:
        lines = as_text(found.err).strip().splitlines()
        raise GitFailed(what, lines[0].removeprefix("fatal: ") if lines else f"exit {found.status.exit}")


async def changes(ws: Workspace) -> str:
    """`git status --short` with the branch on its first line."""
    argv = [*_GIT, "status", "--short", "--branch", "--ignore-submodules=dirty"]
    found = await ws.collect(argv, max_bytes=64 * 1024)
    _check(found, "say what changed")
    return as_text(found.out)


TOOLS = (
    Tool(
        name="git_diff", title="Show changes", toolset="core", effect="read", arguments=GitDiff, handler=git_diff,
        idempotent=True,
        description="Shows what the working tree changes against a commit as a unified diff, new files included, ignored "
        "ones not. Compares with HEAD by default, that is everything not committed yet; give base to compare with a branch "
        "or an earlier commit. stat=true shows names and counts only. Cut in the middle at 30,000 characters.",
    ),
)  # fmt: skip
