"""Which workspaces there are, on disk: one directory each, its manifest, and the lease of the server that uses it.

Lives here: reading and replacing manifests atomically, and the locks between server processes. What is on disk is the
truth; locks are the kernel's, so a killed server holds none. It may not know sandboxes, layers' contents or tools.
"""

import fcntl
import os
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
from pydantic import ValidationError

from ..errors import WorkspaceBusy
from ..models import WorkspaceRecord

_FILE = "workspace.json"
_LEASE = "lease"


class Manifests:
    """The workspaces below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cached: tuple[int, Sequence[str]] = (-1, ())

    def directory(self, workspace: str) -> Path:
        return self.folder / workspace

    def make(self, workspace: str) -> None:
        """An empty workspace directory with the place where its overlay will appear."""
        path = self.directory(workspace)
        path.mkdir(mode=0o711)
        (path / "mount").mkdir(mode=0o711)

    def save(self, record: WorkspaceRecord) -> None:
        """Replaces the manifest in one rename: before it, nothing happened; after it, all of it did."""
        path = self.directory(record.id) / _FILE
        temporary = path.with_suffix(".new")
        temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
        os.replace(temporary, path)

    def find(self, workspace: str) -> WorkspaceRecord | None:
        """The record of a workspace, or None when there is none that can be read."""
        if not workspace.startswith("ws_") or not workspace[3:].isalnum():
            return None
        try:
            return WorkspaceRecord.model_validate_json((self.directory(workspace) / _FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    def forget(self, workspace: str) -> None:
        """Takes a workspace out of being, in one step; what is left of its directory is no workspace any more."""
        with suppress(FileNotFoundError):
            (self.directory(workspace) / _FILE).unlink()

    def names(self) -> Sequence[str]:
        """Every directory here; whether it is a workspace, find() says. Cached while the folder does not change."""
        try:
            stamp = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            return ()  # somebody removed the state directory
        if stamp != self._cached[0]:
            self._cached = (stamp, sorted(os.listdir(self.folder)))
        return self._cached[1]

    def all(self) -> Sequence[WorkspaceRecord]:
        return [record for name in self.names() if (record := self.find(name)) is not None]

    @contextmanager
    def lease(self, workspace: str) -> Generator[None]:
        """Makes this process the only one that may run or change the workspace. Raises WorkspaceBusy."""
        try:
            descriptor = os.open(self.directory(workspace) / _LEASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise WorkspaceBusy(workspace) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceBusy(workspace) from None
            yield
        finally:
            os.close(descriptor)

    def is_leased(self, workspace: str) -> bool:
        try:
            with self.lease(workspace):
                return False
        except WorkspaceBusy:
            return True


@asynccontextmanager
async def locked(file: Path, *, alone: bool) -> AsyncGenerator[None]:
    """Holds a lock between processes: many may hold it together, or one alone. The kernel lets go of it for the dead."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(0.005)  # flock has no event to wait for but a blocked thread
        yield
    finally:
        os.close(descriptor)
