"""Durable state: which workspaces exist and whose they are.

Lives here: one small JSON file per workspace beside its files, replaced atomically; what is on disk is the truth. It may
not know sandboxes, tools or MCP.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from .models import Frozen, Principal

_FILE = "workspace.json"


class WorkspaceRecord(Frozen):
    """What must survive the server about one workspace. Times are seconds since the epoch."""

    id: str
    principal: Principal
    repo: str
    mirror: str
    commit: str
    base: str | None
    branch: str
    task: str | None
    created: float
    used: float


class Store:
    """The records below one folder: a directory per workspace, named by its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def directory(self, workspace: str) -> Path:
        return self.folder / workspace

    def save(self, record: WorkspaceRecord) -> None:
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

    def all(self) -> Sequence[WorkspaceRecord]:
        """Every workspace, the most recently used first."""
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = os.listdir(self.folder)
        found = [record for name in names if (record := self.find(name)) is not None]
        return sorted(found, key=lambda record: record.used, reverse=True)
