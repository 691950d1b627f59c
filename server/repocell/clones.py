"""The user's own clone, read without touching it: what is uncommitted there, and those files themselves.

Lives here: what git may be asked about a clone so that nothing its configuration names is run and nothing of it is written,
not even a time. How git is run is repos.py's. It may not know mirrors, workspaces or sandboxes.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import anyio.to_thread

from .errors import TooMuchUncommitted

MAX_UNCOMMITTED_FILES = 2_000
MAX_UNCOMMITTED_BYTES = 100 << 20
STATUS_SECONDS = 60.0


class RunGit(Protocol):
    """Runs git and returns what it printed; `config` is added to what always holds. Raises when it fails."""

    async def __call__(
        self, *args: str, seconds: float, ok: Sequence[int] = (0,), config: Mapping[str, str] | None = None
    ) -> str: ...


@dataclass(frozen=True)
class Change:
    """One path of the user's working tree that differs from its last commit."""

    path: str
    status: Literal["modified", "deleted", "untracked"]


@dataclass(frozen=True)
class Snapshot:
    """One uncommitted file as it lies there: content, or the target of a link, or None when it was deleted."""

    path: str
    content: bytes | None
    mode: int
    link: str | None = None


async def uncommitted(git: RunGit, clone: Path | None) -> Sequence[Change]:
    """What `git status` would list, computed without running anything the clone's configuration names."""
    if clone is None or not (clone / ".git").exists():
        return ()
    found = await git(
        "-C", str(clone), "config", "--includes", "--name-only", "-z", "--get-regexp", r"^filter\..*\.",
        ok=(0, 1), seconds=STATUS_SECONDS,
    )  # fmt: skip
    inert = {key: "false" if key.endswith(".required") else "" for key in found.split("\0") if key}
    args = ("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=all")
    with _own_index(clone) as places:
        listing = await git(*places, *args, config=inert, seconds=STATUS_SECONDS)
    changes: list[Change] = []
    for entry in filter(None, listing.split("\0")):
        code, path = entry[:2], entry[3:]
        if code == "??":
            changes.append(Change(path, "untracked"))
        else:
            changes.append(Change(path, "modified" if _lies_in(clone, path) else "deleted"))
    return changes


async def snapshots(clone: Path | None, changes: Sequence[Change]) -> Sequence[Snapshot]:
    """The uncommitted files themselves. Raises TooMuchUncommitted before reading more than is taken along."""
    return await anyio.to_thread.run_sync(_read_snapshots, clone, changes) if clone is not None else ()


# What is a worktree's own, see gitrepository-layout(5).
_OF_A_WORKTREE = ("HEAD", "index", "sharedindex.*", "config.worktree", "info/sparse-checkout")


@contextmanager
def _own_index(clone: Path) -> Generator[tuple[str, ...]]:
    """Where git finds a clone. One with a split index is shown through copies: git sets the shared part's time at each look."""
    place = clone / ".git"
    if place.is_file():
        place = clone / place.read_text(encoding="utf-8", errors="replace").removeprefix("gitdir: ").strip()
    if not any(place.glob("sharedindex.*")):
        yield "-C", str(clone)
        return
    common = place / "commondir"
    shared = place / common.read_text(encoding="utf-8").strip() if common.exists() else place
    with tempfile.TemporaryDirectory(prefix="repocell-index-") as name:
        for file in (file for pattern in _OF_A_WORKTREE for file in place.glob(pattern)):
            copy = Path(name) / file.relative_to(place)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(file, copy)
        (Path(name) / "commondir").write_text(f"{shared.resolve()}\n", encoding="utf-8")
        yield "--git-dir", name, "--work-tree", str(clone), "-C", str(clone)


def _lies_in(clone: Path, path: str) -> bool:
    """Whether a file is there, and not behind a link that took the place of one of its directories."""
    parents = [clone.joinpath(*Path(path).parts[:count]) for count in range(1, len(Path(path).parts))]
    return os.path.lexists(clone / path) and not any(parent.is_symlink() for parent in parents)


def _read_snapshots(clone: Path, changes: Sequence[Change]) -> Sequence[Snapshot]:
    sizes = [os.lstat(clone / change.path).st_size for change in changes if os.path.lexists(clone / change.path)]
    if len(changes) > MAX_UNCOMMITTED_FILES or sum(sizes) > MAX_UNCOMMITTED_BYTES:
        raise TooMuchUncommitted(len(changes), sum(sizes), MAX_UNCOMMITTED_FILES, MAX_UNCOMMITTED_BYTES)
    taken: list[Snapshot] = []
    for change in changes:
        path = clone / change.path
        try:
            if not _lies_in(clone, change.path):
                raise FileNotFoundError(change.path)
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode):
                taken.append(Snapshot(change.path, None, 0, os.readlink(path)))
            elif stat.S_ISREG(facts.st_mode):
                taken.append(Snapshot(change.path, path.read_bytes(), stat.S_IMODE(facts.st_mode)))
        except FileNotFoundError:
            taken.append(Snapshot(change.path, None, 0))
    return taken
