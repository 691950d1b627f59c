"""The pool: finds workspaces, wakes and suspends them, and owns every sandbox there is.

Lives here: which workspaces are live, and the task that holds each sandbox for as long as it lives. It may not know tools,
policy or MCP. A workspace without a sandbox is only files; it gets a new one at the next call.
"""

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, TaskGroup, TaskStatus

from ..config import Settings
from ..errors import NoSuchWorkspace, ServerStopping, Stopped, WhichWorkspace, WorkspaceDamaged
from ..guest.link import Link, boot_argv, open_link
from ..models import (
    HOME_DIR,
    MIRROR_DIR,
    TOOLS_DIR,
    OverlayTree,
    PlainTree,
    Principal,
    ReadOnlyBind,
    SandboxSpec,
    Stop,
    WorkspaceRecord,
)
from ..runtimes import Runtime
from ..runtimes.breaches import Told
from . import checkout, toolchains
from .jobs import Job
from .layers import Layers
from .manifests import Manifests
from .workspace import Cell, Workspace

_log = logging.getLogger(__name__)
GUEST_PYTHON = "/usr/bin/python3"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IDLE_CHECK_SECONDS = 30.0


class _Live:
    """A sandbox and the moment it is gone."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.gone = anyio.Event()


class Pool:
    """Everything is per principal: somebody else's workspace looks like none."""

    def __init__(
        self, settings: Settings, runtime: Runtime, manifests: Manifests, layers: Layers, search: Path, tasks: TaskGroup
    ) -> None:
        self._settings, self._runtime, self._manifests, self._layers = settings, runtime, manifests, layers
        self._search, self._tasks = search, tasks
        self._known: dict[str, Workspace] = {}
        self._live: dict[str, _Live] = {}
        self._turns: dict[str, anyio.Lock] = {}
        self._stops: Sequence[Stop] = ()
        self._stopping = False

    # -- finding

    def list(self, principal: Principal) -> Sequence[Workspace]:
        """The principal's workspaces, the most recently used first."""
        mine = [ws for name in self._manifests.names() if (ws := self._find(name)) is not None]
        return sorted(
            (ws for ws in mine if ws.record.principal == principal and ws.record.settled),
            key=lambda ws: -ws.record.used,
        )

    def get(self, principal: Principal, workspace: str | None) -> Workspace:
        """A workspace by id; without one, the only one the principal has."""
        if workspace is None:
            mine = self.list(principal)
            if len(mine) != 1:
                raise WhichWorkspace([ws.id for ws in mine])
            return mine[0]
        found = self._find(workspace)
        if found is None or found.record.principal != principal:
            raise NoSuchWorkspace(workspace)
        return found

    def _find(self, ws_id: str) -> Workspace | None:
        known = self._known.get(ws_id)
        if known is not None and self._manifests.directory(ws_id).is_dir():
            return known
        record = self._manifests.find(ws_id)
        return self.adopt(record) if record is not None else None

    def adopt(self, record: WorkspaceRecord) -> Workspace:
        found = self._known.get(record.id)
        if found is None:
            found = Workspace(record, self._manifests.directory(record.id), self._settings.limits, self.enter)
            self._known[record.id] = found
        return found

    def is_live(self, workspace: Workspace) -> bool:
        return workspace.id in self._live

    def is_elsewhere(self, workspace: Workspace) -> bool:
        """Whether another server process has it."""
        return not self.is_live(workspace) and self._manifests.is_leased(workspace.id)

    def save(self, workspace: Workspace, **changes: Any) -> None:
        """Replaces the record, in memory and on disk; the caller holds the workspace's lease."""
        record = WorkspaceRecord.model_validate({**dict(workspace.record), **changes, "used": workspace.last_used})
        self._manifests.save(record)
        workspace.record = record

    # -- live sandboxes

    async def enter(self, workspace: Workspace) -> Cell:
        """The workspace's live cell, started when there is none. Raises RuntimeUnusable or SandboxLost when it cannot be."""
        if self._stopping:
            raise ServerStopping
        self._refuse_stopped(workspace.record)
        workspace.last_used = time.time()
        live = self._live.get(workspace.id)
        if live is not None and not live.cell.link.lost:
            return live.cell
        async with self._turn(workspace.id):
            live = self._live.get(workspace.id)
            if live is not None and live.cell.link.lost:
                await live.gone.wait()
                live = None
            if live is None:
                live = await self._tasks.start(self._host, workspace, name=f"cell {workspace.id}")
            return live.cell

    def _turn(self, ws_id: str) -> anyio.Lock:
        return self._turns.setdefault(ws_id, anyio.Lock())

    async def _host(self, workspace: Workspace, *, task_status: TaskStatus[_Live]) -> None:
        """Holds one sandbox, and the workspace's lease, from its start to its end, whoever ends it."""
        live = None
        try:
            with self._manifests.lease(workspace.id):
                record = self._manifests.find(workspace.id)
                if record is None:
                    raise NoSuchWorkspace(workspace.id)
                workspace.record = record
                self._refuse_damaged(record)
                tree = self._layers.tree(record, workspace.folder / "mount")
                spec = self._spec(tree, record.mirror)
                async with self._entered(spec) as (link, stream), anyio.create_task_group() as tasks:
                    if not record.branched:
                        await checkout.take_branch(link, record)
                        self.save(workspace, branched=True)
                    live = self._live[workspace.id] = _Live(
                        Cell(link, tasks, lambda: stream.extra(Told.breaches, None))
                    )
                    task_status.started(live)
                    await link.wait_lost()
                    tasks.cancel_scope.cancel()
                if self._manifests.find(workspace.id) is not None:
                    self.save(workspace)
        except Exception as error:
            if live is None:
                raise
            _log.warning("the sandbox of %s ended: %s", workspace.id, error)
        finally:
            if live is not None:
                if self._live.get(workspace.id) is live:
                    del self._live[workspace.id]
                live.gone.set()

    @asynccontextmanager
    async def sandbox(self, tree: PlainTree | OverlayTree, mirror: str | None = None) -> AsyncGenerator[Link]:
        """A sandbox on a tree, with the guest greeted; gone when the context is left."""
        async with self._entered(self._spec(tree, mirror)) as (link, _):
            yield link

    @asynccontextmanager
    async def _entered(self, spec: SandboxSpec) -> AsyncGenerator[tuple[Link, ByteStream]]:
        async with self._runtime.open(spec) as stream, open_link(stream, spec.limits, spec.environment) as link:
            yield link, stream

    def _spec(self, tree: PlainTree | OverlayTree, mirror: str | None) -> SandboxSpec:
        binds = [ReadOnlyBind(source=str(self._search), target=f"{TOOLS_DIR}/rg")]
        if mirror is not None:
            binds.append(ReadOnlyBind(source=str(self._settings.state_dir / "mirrors" / mirror), target=MIRROR_DIR))
        chosen = self._settings.toolchains
        binds += [ReadOnlyBind(source=str(path), target=str(path)) for path in chosen]
        return SandboxSpec(
            argv=boot_argv(GUEST_PYTHON),
            tree=tree,
            binds=tuple(binds),
            environment=cell_environment(chosen),
            limits=self._settings.limits,
        )

    def _refuse_damaged(self, record: WorkspaceRecord) -> None:
        missing = [layer for layer in (record.upper, *record.lowers) if not self._layers.exists(layer)]
        if missing:
            raise WorkspaceDamaged(record.id, f"{len(missing)} of its layers were removed behind the server's back")

    # -- suspending

    async def suspend(self, ws_id: str, reason: str) -> None:
        """Ends a workspace's sandbox and everything running in it; its files stay."""
        live = self._live.get(ws_id)
        if live is not None:
            live.cell.link.abandon(reason)
            await live.gone.wait()

    @asynccontextmanager
    async def still(self, workspace: Workspace, reason: str) -> AsyncGenerator[Sequence[Job]]:
        """Nothing of a workspace runs, here or in another server, while the context lasts. Yields the jobs that ended.

        The record is the one on disk now. Raises WorkspaceBusy, and NoSuchWorkspace when it is gone.
        """
        async with self._turn(workspace.id):
            running = [*workspace.running]
            await self.suspend(workspace.id, reason)
            with self._manifests.lease(workspace.id):
                record = self._manifests.find(workspace.id)
                if record is None:
                    raise NoSuchWorkspace(workspace.id)
                workspace.record = record
                workspace.seen.clear()
                yield running

    async def drop(self, ws_id: str) -> None:
        """Ends what runs of a workspace and forgets it."""
        await self.suspend(ws_id, "the workspace was closed")
        known = self._known.pop(ws_id, None)
        for job in known.jobs.values() if known is not None else ():
            job.log.close()

    async def suspend_idle(self) -> None:
        """Suspends what nobody used for a while. Runs until cancelled."""
        while True:
            await anyio.sleep(min(IDLE_CHECK_SECONDS, self._settings.idle_seconds / 2))
            before = time.time() - self._settings.idle_seconds
            for ws_id in [*self._live]:
                workspace = self._known[ws_id]
                if workspace.last_used < before and not workspace.running:
                    await self.suspend(ws_id, "it was suspended while idle")

    async def heed(self, stops: Sequence[Stop]) -> None:
        """Takes a person's stops as they are now: what they cover ends at once and is refused until they are lifted."""
        self._stops = stops
        async with anyio.create_task_group() as tasks:
            for ws_id in [*self._live]:
                if any(stop.covers(self._known[ws_id].record) for stop in stops):
                    tasks.start_soon(self.suspend, ws_id, "a person stopped it")

    def _refuse_stopped(self, record: WorkspaceRecord) -> None:
        for stop in self._stops:
            if stop.covers(record):
                raise Stopped(
                    {"workspace": "this workspace", "principal": "all your work"}.get(stop.scope, "everything")
                )

    async def shut_down(self) -> None:
        """Suspends everything; afterwards nothing can be started."""
        self._stopping = True
        async with anyio.create_task_group() as tasks:
            for ws_id in [*self._live]:
                tasks.start_soon(self.suspend, ws_id, "the server is shutting down")


def cell_environment(chosen: Sequence[Path]) -> dict[str, str]:
    """What every command in a cell starts with. No pagers, no prompts, nothing of the host's environment."""
    variables = dict(toolchains.environment(chosen))
    from_toolchains = variables.pop("PATH")
    path = [*filter(None, [from_toolchains]), f"{HOME_DIR}/.local/bin", BASE_PATH, TOOLS_DIR]
    return {
        **variables,
        "PATH": ":".join(path), "HOME": HOME_DIR, "USER": "agent", "LOGNAME": "agent", "SHELL": "/bin/bash",
        "LANG": "C.UTF-8", "TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true", "NO_COLOR": "1", "DEBIAN_FRONTEND": "noninteractive", "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": "/tmp",
    }  # fmt: skip
