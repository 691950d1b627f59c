"""The pool: opens, finds, suspends, resumes and closes workspaces, and owns every sandbox there is.

Lives here: which workspaces are live, and the task that holds each sandbox for as long as it lives. It may not know tools,
policy or MCP. A workspace without a sandbox is only files; it gets a new one at the next call.
"""

import logging
import os
import re
import shutil
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from ..config import Settings
from ..errors import NoSuchWorkspace, ServerStopping, WhichWorkspace
from ..guest.link import boot_argv, open_link
from ..models import HOME_DIR, MIRROR_DIR, TOOLS_DIR, PlainTree, Principal, ReadOnlyBind, SandboxSpec, new_id
from ..repos import Checkout, Repositories
from ..runtimes import Runtime
from ..store import Store, WorkspaceRecord
from . import checkout, toolchains
from .workspace import Cell, Workspace

_log = logging.getLogger(__name__)
GUEST_PYTHON = "/usr/bin/python3"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IDLE_CHECK_SECONDS = 30.0


class _Live:
    """A sandbox and how to end it."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.gone = anyio.Event()


class Pool:
    """Use through open_pool. Everything is per principal: somebody else's workspace looks like none."""

    def __init__(
        self, settings: Settings, runtime: Runtime, repositories: Repositories, store: Store, owner: tuple[int, int] | None,
        search: Path, tasks: TaskGroup,
    ) -> None:  # fmt: skip
        self._settings, self._runtime, self._store, self._owner = settings, runtime, store, owner
        self.repositories = repositories
        self._search, self._tasks = search, tasks
        self._known: dict[str, Workspace] = {}
        self._live: dict[str, _Live] = {}
        self._entering: dict[str, anyio.Lock] = {}
        self._stopping = False

    # -- finding

    def list(self, principal: Principal) -> Sequence[Workspace]:
        """The principal's workspaces, the most recently used first."""
        return [self._workspace(record) for record in self._store.all() if record.principal == principal]

    def get(self, principal: Principal, workspace: str | None) -> Workspace:
        """A workspace by id; without one, the only one the principal has."""
        if workspace is None:
            mine = self.list(principal)
            if len(mine) != 1:
                raise WhichWorkspace([ws.id for ws in mine])
            return mine[0]
        known = self._known.get(workspace)
        record = known.record if known is not None else self._store.find(workspace)
        if record is None or record.principal != principal:
            raise NoSuchWorkspace(workspace)
        return known or self._workspace(record)

    def _workspace(self, record: WorkspaceRecord) -> Workspace:
        found = self._known.get(record.id)
        if found is None:
            found = Workspace(record, self._store.directory(record.id), self._settings.limits, self.enter)
            self._known[record.id] = found
        return found

    def is_live(self, workspace: Workspace) -> bool:
        return workspace.id in self._live

    # -- opening and closing

    async def open(self, principal: Principal, found: Checkout, task: str | None) -> Workspace:
        """Makes a workspace of a commit. On failure or cancellation nothing of it is left."""
        ws_id, now = new_id("ws"), time.time()
        record = WorkspaceRecord(
            id=ws_id, principal=principal, repo=found.source.shown, mirror=found.mirror.name, commit=found.commit,
            base=found.branch, branch=f"agent/{_slug(task)}{ws_id[3:11]}", task=task, created=now, used=now,
        )  # fmt: skip
        folder = self._store.directory(ws_id)
        try:
            self._make_folders(folder)
            workspace = Workspace(record, folder, self._settings.limits, self.enter)
            self._known[ws_id] = workspace
            cell = await self.enter(workspace)
            await checkout.check_out(
                cell.link, commit=found.commit, branch=record.branch, upstream=found.branch, origin=found.source.shown
            )
            self._store.save(record)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._discard(ws_id)
            raise
        return workspace

    async def close(self, workspace: Workspace) -> None:
        """Ends the sandbox and deletes the workspace's files."""
        with anyio.CancelScope(shield=True):
            await self._discard(workspace.id)

    async def _discard(self, ws_id: str) -> None:
        await self.suspend(ws_id, "the workspace was closed")
        known = self._known.pop(ws_id, None)
        for job in known.jobs.values() if known is not None else ():
            job.log.close()
        await anyio.to_thread.run_sync(_delete, self._store.directory(ws_id))

    def _make_folders(self, folder: Path) -> None:
        """The tree a cell writes belongs to the cells' uid; everything around it to the server."""
        folder.mkdir(mode=0o711, parents=True)
        for name in ("workspace", "home"):
            (folder / name).mkdir(mode=0o755)
            if self._owner is not None:
                os.chown(folder / name, *self._owner)

    # -- live sandboxes

    async def enter(self, workspace: Workspace) -> Cell:
        """The workspace's live cell, started when there is none. Raises RuntimeUnusable or SandboxLost when it cannot be."""
        if self._stopping:
            raise ServerStopping
        workspace.record = workspace.record.model_copy(update={"used": time.time()})
        live = self._live.get(workspace.id)
        if live is not None and not live.cell.link.lost:
            return live.cell
        async with self._entering.setdefault(workspace.id, anyio.Lock()):
            live = self._live.get(workspace.id)
            if live is not None and live.cell.link.lost:
                await live.gone.wait()
                live = None
            if live is None:
                live = await self._tasks.start(self._host, workspace, name=f"cell {workspace.id}")
            return live.cell

    async def _host(self, workspace: Workspace, *, task_status: TaskStatus[_Live]) -> None:
        """Holds one sandbox from its start to its end, whoever ends it."""
        spec, live = self._spec(workspace), None
        try:
            async with (
                self._runtime.open(spec) as stream,
                open_link(stream, spec.limits, spec.environment) as link,
                anyio.create_task_group() as tasks,
            ):
                live = self._live[workspace.id] = _Live(Cell(link, tasks))
                task_status.started(live)
                await link.wait_lost()
                tasks.cancel_scope.cancel()
        except Exception as error:
            if live is None:
                raise
            _log.warning("the sandbox of %s ended: %s", workspace.id, error)
        finally:
            if live is not None:
                if self._live.get(workspace.id) is live:
                    del self._live[workspace.id]
                live.gone.set()

    def _spec(self, workspace: Workspace) -> SandboxSpec:
        folder, chosen = workspace.folder, self._settings.toolchains
        mirror = self._settings.state_dir / "mirrors" / workspace.record.mirror
        binds = [ReadOnlyBind(source=str(mirror), target=MIRROR_DIR)]
        binds.append(ReadOnlyBind(source=str(self._search), target=f"{TOOLS_DIR}/rg"))
        binds += [ReadOnlyBind(source=str(path), target=str(path)) for path in chosen]
        return SandboxSpec(
            argv=boot_argv(GUEST_PYTHON),
            tree=PlainTree(workspace=str(folder / "workspace"), home=str(folder / "home")),
            binds=tuple(binds),
            environment=cell_environment(chosen),
            limits=self._settings.limits,
        )

    async def suspend(self, ws_id: str, reason: str) -> None:
        """Ends a workspace's sandbox and everything running in it; its files stay."""
        live = self._live.get(ws_id)
        if live is not None:
            live.cell.link.abandon(reason)
            await live.gone.wait()

    async def suspend_idle(self) -> None:
        """Suspends what nobody used for a while. Runs until cancelled."""
        while True:
            await anyio.sleep(min(IDLE_CHECK_SECONDS, self._settings.idle_seconds / 2))
            before = time.time() - self._settings.idle_seconds
            for ws_id in [*self._live]:
                workspace = self._known[ws_id]
                if workspace.record.used < before and not workspace.running:
                    await self.suspend(ws_id, "it was suspended while idle")

    async def shut_down(self) -> None:
        """Suspends everything; afterwards nothing can be started."""
        self._stopping = True
        for workspace in self._known.values():
            if workspace.folder.exists():
                self._store.save(workspace.record)
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


def _slug(task: str | None) -> str:
    words = re.findall(r"[a-z0-9]+", (task or "").lower())
    return "".join(f"{word}-" for word in words[:5])[:40]


def _delete(folder: Path) -> None:
    """Removes a tree an untrusted program wrote: links are never followed, and closed directories are opened first."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for path, names, _ in os.walk(folder):
            for name in names:
                if not os.path.islink(os.path.join(path, name)):
                    os.chmod(os.path.join(path, name), 0o700)
        shutil.rmtree(folder)


@asynccontextmanager
async def open_pool(
    settings: Settings, runtime: Runtime, store: Store, owner: tuple[int, int] | None, search: Path
) -> AsyncGenerator[Pool]:
    """A pool whose sandboxes all end when the context is left."""
    repositories = Repositories(settings.state_dir / "mirrors", settings.git_environment)
    await runtime.sweep()
    async with anyio.create_task_group() as tasks:
        pool = Pool(settings, runtime, repositories, store, owner, search, tasks)
        tasks.start_soon(pool.suspend_idle)
        try:
            yield pool
        finally:
            with anyio.CancelScope(shield=True):
                await pool.shut_down()
            tasks.cancel_scope.cancel()
