"""Durable state that several processes share: the index of workspaces, stops, running servers, heads of audit chains.

Lives here: what any store can do, and opening one by name. Workspaces' own truth is their manifests on disk; a store is
their index and can be rebuilt. It may not know sandboxes, tools or MCP.
"""

import importlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, cast

import anyio.to_thread

from ..models import AuditHead, Stop, WorkspaceRecord


class Store(Protocol):
    """Every method is one transaction: on disk, as far as kill -9 goes, when it returns."""

    # -- the index of workspaces

    async def put(self, record: WorkspaceRecord) -> None: ...

    async def remove(self, ws_id: str) -> None: ...

    async def indexed(self) -> Sequence[str]:
        """Ids in the index, the most recently used first."""
        ...

    async def reconcile(self, records: Sequence[WorkspaceRecord]) -> None:
        """Makes the index say what the manifests say."""
        ...

    # -- stops

    async def stop(self, scope: str, name: str) -> None: ...

    async def release(self, scope: str, name: str) -> None: ...

    async def stopped(self) -> Sequence[Stop]: ...

    # -- running servers

    async def register(self, pid: int) -> None:
        """Says that a server with this pid runs and wants to hear of stops; replaces what a dead one of that pid left."""
        ...

    async def unregister(self, pid: int) -> None: ...

    async def running(self) -> Sequence[int]:
        """Pids of servers that are alive; a pid that was given to another process is not one of them."""
        ...

    # -- heads of audit chains

    async def anchor(self, heads: Sequence[AuditHead]) -> bool:
        """Keeps where these chains stand, never going back; whether that worked. A store that is busy or full says no."""
        ...

    async def anchored(self) -> Sequence[AuditHead]: ...


class _Kind(Protocol):
    def open_store(self, file: Path) -> AbstractAsyncContextManager[Store]: ...


@asynccontextmanager
async def open_store(file: Path, kind: str = "sql") -> AsyncGenerator[Store]:
    """The store in one file, brought to the current schema first. Raises Misconfigured when it cannot be used.

    Loaded by name, in a thread: SQLAlchemy takes as long to import as all else of ours, and a server need not have it to
    answer which tools there are.
    """
    module = await anyio.to_thread.run_sync(importlib.import_module, f"{__name__}.{kind}")
    async with cast("_Kind", module).open_store(file) as store:
        yield store
