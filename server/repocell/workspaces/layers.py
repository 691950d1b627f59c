"""Layers: directories stacked under a cell. Checkouts made once and shared; what workspaces wrote, each its own.

Lives here: their names, making and deleting them, and which tree a workspace's stack becomes. The host never writes into a
layer and never reads what is in one, but to measure or delete it. It may not know leases, tools or git.
"""

import hashlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ..models import LayerRecord, OverlayTree, PlainTree, WorkspaceRecord
from ..runtimes.watchdog import disk_usage

FLATTEN_ABOVE = 64  # layers below an upper; the kernel allows 500, and one page of mount options (overlayfs.rst)
BUILDING = "b"  # the prefix of layers somebody is making; they hold a lock of that name meanwhile
_PARTS = ("workspace", "home")


class Layers:
    """The layers below one folder. `owner` is the cells' uid and gid when the server has to give it what it makes."""

    def __init__(self, folder: Path, owner: tuple[int, int] | None, *, overlay: bool) -> None:
        self.folder, self.overlay = folder, overlay
        self._owner = owner

    def path(self, layer: str) -> Path:
        return self.folder / layer

    def lock_of(self, layer: str) -> Path:
        return self.folder / f"{layer}.lock"

    def exists(self, layer: str) -> bool:
        return (self.folder / layer).is_dir()

    def is_empty(self, layer: str) -> bool:
        """Whether nothing was written to a layer that lies on top of others."""
        with os.scandir(self.folder / layer) as entries:
            return next(entries, None) is None

    def make(self, *, empty: bool, prefix: str = "u") -> str:
        """A new writable layer: empty when it goes on top of others, else with the two directories a cell needs."""
        name = f"{prefix}{secrets.token_hex(8)}"
        self._directory(name)
        if empty:
            self._directory(f"{name}.work")
        else:
            for part in _PARTS:
                self._directory(f"{name}/{part}")
        return name

    def _directory(self, name: str) -> None:
        path = self.folder / name
        path.mkdir(mode=0o755)
        if self._owner is not None:
            os.chown(path, *self._owner)

    def tree(self, record: WorkspaceRecord, mount: Path) -> OverlayTree | PlainTree:
        """The tree a workspace's cell works on."""
        if record.lowers:
            return self.stacked(record.upper, record.lowers, mount)
        return self.plain(record.upper)

    def stacked(self, upper: str, lowers: Sequence[str], mount: Path) -> OverlayTree:
        work = f"{upper}.work"
        return OverlayTree(folder=str(self.folder), lowers=tuple(lowers), upper=upper, work=work, mount=str(mount))

    def plain(self, layer: str) -> PlainTree:
        return PlainTree(workspace=str(self.folder / layer / "workspace"), home=str(self.folder / layer / "home"))

    # -- checkouts

    def checkout_names(self, mirror: str, commit: str) -> Iterable[str]:
        """Names a commit's layer may have: the plain one, and others should somebody have damaged that."""
        stem = hashlib.sha256(f"{mirror} {commit}".encode()).hexdigest()[:16]
        return (f"c{stem}", *(f"c{stem}{number}" for number in range(1, 100)))

    def find_checkout(self, mirror: str, commit: str) -> str | None:
        """A layer with this commit's files that nobody has changed since it was sealed."""
        for name in self.checkout_names(mirror, commit):
            record = self.record(name)
            if record is None:
                return None
            if self.exists(name) and self._seal(name) == record.seal:
                with suppress(OSError):
                    os.utime(self._file(name))
                return name
        return None

    def seal(self, made: str, mirror: str, commit: str) -> str:
        """Turns a finished writable layer into the checkout layer of a commit."""
        for name in self.checkout_names(mirror, commit):
            if self.record(name) is None and not self.exists(name):
                break
        else:
            raise FileExistsError(commit)
        os.rename(self.path(made), self.path(name))
        size = disk_usage(str(self.path(name)))
        record = LayerRecord(
            id=name, mirror=mirror, commit=commit, created=time.time(), size=size, seal=self._seal(name)
        )
        temporary = self._file(name).with_suffix(".new")
        temporary.write_text(record.model_dump_json(), encoding="utf-8")
        os.replace(temporary, self._file(name))
        return name

    def record(self, name: str) -> LayerRecord | None:
        try:
            return LayerRecord.model_validate_json(self._file(name).read_bytes())
        except (OSError, ValidationError):
            return None

    def checkouts(self) -> Sequence[tuple[LayerRecord, float]]:
        """Every sealed checkout with the time of its last use."""
        found: list[tuple[LayerRecord, float]] = []
        for file in self.folder.glob("c*.json"):
            record = self.record(file.stem)
            if record is not None:
                found.append((record, file.stat().st_mtime))
        return found

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _seal(self, name: str) -> str:
        """Changes when entries of the top directories, the index or the head of a checkout do. Costs microseconds."""
        digest = hashlib.sha256()
        for path in ("workspace", "workspace/.git", "workspace/.git/HEAD", "workspace/.git/index", "home"):
            try:
                facts = os.lstat(self.folder / name / path)
                digest.update(f"{path} {facts.st_mode} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}\n".encode())
            except OSError:
                digest.update(f"{path} missing\n".encode())
        return digest.hexdigest()

    # -- deleting

    def names(self) -> Sequence[str]:
        return [name for name in os.listdir(self.folder) if not name.endswith((".json", ".work", ".new", ".lock"))]

    def delete(self, layer: str) -> None:
        """Removes a layer, its record and its scratch directory. Whoever stands on it must be gone."""
        with suppress(FileNotFoundError):
            self._file(layer).unlink()
        for name in (layer, f"{layer}.work"):
            remove_tree(self.folder / name)

    def stray_scratch(self) -> Sequence[Path]:
        """Scratch directories and half-written records without their layer."""
        strays = [path for path in self.folder.glob("*.work") if not self.exists(path.stem)]
        return [*strays, *self.folder.glob("*.new")]


def remove_tree(folder: Path) -> None:
    """Removes what an untrusted program wrote: links are never followed, closed directories are opened first.

    Trees deeper than a path may be long are no matter to chmod and rm, which walk by descriptor.
    """
    if folder.is_file():
        folder.unlink()
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", "--", str(folder)], check=False, capture_output=True)
