"""Assembling a server: settings in, services opened, the gate built, a transport served.

Lives here: the order in which things are made and unmade, once. With gate.py and auth.py the only module that knows MCP.
Services live in their own context, not in the SDK's lifespan, which is entered once per connection on some transports.
"""

import logging
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from . import __version__, tools
from .audit import AuditLog
from .audit_anchors import anchored, finish
from .auth import WhoIsCalling, local_principal
from .config import Settings
from .errors import Misconfigured, RuntimeUnusable, sole_error
from .gate import Gate, Ground, Ready
from .models import ProbeReport
from .repos import Repositories
from .runtimes import Runtime
from .runtimes.bubblewrap import Bubblewrap, Identity
from .store import Store, open_store
from .tools.base import Services, Tool
from .workspaces import layout, sweep
from .workspaces.layers import Layers
from .workspaces.lifecycle import Lifecycle
from .workspaces.manifests import Manifests, locked
from .workspaces.pool import Pool

INSTRUCTIONS = (
    "repocell gives you a cell: a private checkout of a repository in a sandbox. Start with workspace_open; then read, "
    "search, edit and run tests there with the other tools. Nothing you do in a cell touches the user's machine or their "
    "clone. There is no network in a cell. When several workspaces are open, pass workspace= with each call."
)


_log = logging.getLogger(__name__)
SWEEP_WAIT_SECONDS = 10.0
Owner = tuple[int, int] | None


def choose_runtime(settings: Settings) -> tuple[Runtime, Owner]:
    """The runtime by name, and who must own the files of its cells (None: the server's own user)."""
    if settings.runtime != "bubblewrap":
        raise Misconfigured(f"There is no runtime {settings.runtime!r}; this version has bubblewrap.")
    identity = Identity.for_server(settings.sandbox_uid)
    return Bubblewrap(identity, settings.state_dir), (identity.uid, identity.gid) if identity.drop else None


def choose_tools(settings: Settings) -> Mapping[str, Tool]:
    """The tools of the chosen toolsets, fixed for the server's life. Raises Misconfigured for one there is not."""
    unknown = [name for name in settings.toolsets or () if name not in tools.TOOLSETS]
    if unknown:
        raise Misconfigured(f"There is no toolset {unknown[0]!r}; there are {', '.join(tools.TOOLSETS)}.")
    return tools.by_name(settings.toolsets or tools.TOOLSETS)


@dataclass(frozen=True)
class Workspaces:
    """Everything about workspaces that a server, or a person at the command line, works with."""

    manifests: Manifests
    layers: Layers
    pool: Pool
    lifecycle: Lifecycle
    store: Store
    report: ProbeReport


@asynccontextmanager
async def open_workspaces(settings: Settings) -> AsyncGenerator[Workspaces]:
    """The state directory made ready, swept and opened; all sandboxes of this process end when the context is left.

    Raises Misconfigured when no sandbox can be made here or the state cannot be used; then nothing runs.
    """
    try:
        manifests, layers, search, runtime, report = await _prepare(settings)
    except OSError as error:
        why = error.strerror or "unknown error"
        raise Misconfigured(
            f"The state directory cannot be used ({why}). Make room, or choose another with --state-dir."
        ) from error
    try:
        async with open_store(settings.state_dir / "store.db") as store, anyio.create_task_group() as tasks:
            await collect(settings, manifests, layers, store)
            pool = Pool(settings, runtime, manifests, layers, search, tasks)
            await pool.heed(await store.stopped())
            tasks.start_soon(pool.suspend_idle)
            try:
                yield Workspaces(manifests, layers, pool, Lifecycle(pool, manifests, layers, store), store, report)
            finally:
                with anyio.CancelScope(shield=True):
                    await pool.shut_down()
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None


def _plan(settings: Settings, report: ProbeReport) -> str:
    if settings.plan == "overlay" and not report.overlay:
        raise Misconfigured(" ".join(report.notes) + " Set plan to auto or copy, or choose another --state-dir.")
    return settings.plan if settings.plan != "auto" else ("overlay" if report.overlay else "copy")


async def _prepare(settings: Settings) -> tuple[Manifests, Layers, Path, Runtime, ProbeReport]:
    """The state directory's folders, and a runtime that was tried there."""
    if shutil.which("git") is None:
        raise Misconfigured("git is not installed on this machine. Install it: 'sudo apt install git'.")
    runtime, owner, search = await anyio.to_thread.run_sync(_place, settings)
    report = await runtime.probe()
    if not report.usable:
        problem = report.problems[0]
        raise RuntimeUnusable(report.runtime, problem.cause, problem.remedy)
    manifests = Manifests(settings.state_dir / "workspaces")
    layers = Layers(settings.state_dir / "layers", owner, overlay=_plan(settings, report) == "overlay")
    await runtime.sweep()
    return manifests, layers, search, runtime, report


def _place(settings: Settings) -> tuple[Runtime, Owner, Path]:
    """The runtime, checked, and its place on disk. Slow enough that a client who asks for the tools need not wait for it."""
    runtime, owner = choose_runtime(settings)
    runtime.check()
    layout.prepare(settings.state_dir, owner)
    return runtime, owner, layout.install_search(settings.state_dir)


async def collect(settings: Settings, manifests: Manifests, layers: Layers, store: Store) -> sweep.Swept | None:
    """Removes what nobody stands on, and rebuilds the index. None when other servers kept the lock for too long."""
    swept = None
    with anyio.move_on_after(SWEEP_WAIT_SECONDS):
        async with locked(layers.folder / "layers.lock", alone=True):
            swept = await anyio.to_thread.run_sync(sweep.sweep, manifests, layers, settings.layer_cache)
    await store.reconcile(manifests.all())
    return swept


@asynccontextmanager
async def open_ground(settings: Settings) -> AsyncGenerator[Ground]:
    """Services and the record; all cells end when the context is left. Raises Misconfigured, and then nothing runs."""
    async with open_workspaces(settings) as spaces:
        with AuditLog(settings.state_dir) as audit:
            audit.write("started", version=__version__, pid=os.getpid(), runtime=spaces.report.model_dump(mode="json"))
            async with anchored(audit, spaces.store, settings.state_dir), _listening_for_stops(spaces):
                repositories = Repositories(settings.state_dir / "mirrors", settings.git_environment)
                services = Services(spaces.pool, spaces.lifecycle, repositories, spaces.report, settings.repo)
                yield Ground(services, audit, spaces.store)


class Opening:
    """The ground of a server while it is being made: calls wait for it, or are told why there will be none."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._ground: Ground | None = None
        self.problem: Misconfigured | None = None

    async def ready(self) -> Ground:
        """Raises Misconfigured when it could not be made."""
        await self._done.wait()
        if self._ground is None:
            raise Misconfigured(str(self.problem))
        return self._ground

    @property
    def ground(self) -> Ground | None:
        return self._ground

    async def hold(self, settings: Settings) -> None:
        """Makes the ground and keeps it until cancelled. What is wrong is logged at once, and kept."""
        try:
            async with open_ground(settings) as self._ground:
                self._done.set()
                await anyio.sleep_forever()
        except Misconfigured as problem:
            _log.error("%s", problem)
            self.problem = problem
            self._done.set()


def build(settings: Settings, ready: Ready, who: WhoIsCalling) -> Server:
    """The server, ready for a transport. Raises Misconfigured for toolsets that do not exist."""
    gate = Gate(choose_tools(settings), ready, who)
    return Server(
        "repocell",
        version=__version__,
        title="repocell",
        instructions=INSTRUCTIONS,
        on_list_tools=gate.list_tools,
        on_call_tool=gate.call,
        on_list_resources=gate.list_resources,
        on_list_resource_templates=gate.list_templates,
        on_read_resource=gate.read_resource,
        on_completion=gate.complete,
    )


@asynccontextmanager
async def _listening_for_stops(spaces: Workspaces) -> AsyncGenerator[None]:
    """While the context lasts, `repocell stop` reaches this process: it is told by a signal and reads what was stopped."""

    async def listen(*, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            task_status.started()
            async for _ in signals:
                await spaces.pool.heed(await spaces.store.stopped())

    async with anyio.create_task_group() as tasks:
        await tasks.start(listen)
        await spaces.store.register(os.getpid())
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await spaces.store.unregister(os.getpid())
            tasks.cancel_scope.cancel()


async def serve_stdio(settings: Settings) -> bool:
    """Serves one client over stdin and stdout until it goes away or a signal asks us to end.

    It answers which tools there are while cells are still being tried. Where no cell can be made it says so at once, answers
    every call with the cause and the remedy, and returns False when the client has gone.
    """
    opening = Opening()
    server = build(settings, opening.ready, local_principal(settings.user))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, opening)
        tasks.start_soon(opening.hold, settings)
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
        with suppress(Misconfigured):
            await opening.ready()  # also one whose client left at once is to say what is wrong
        tasks.cancel_scope.cancel()
    return opening.problem is None


async def _end_on_signal(opening: Opening) -> None:
    """Ends every cell and then the process. The SDK reads stdin in a thread that nothing can interrupt, so no waiting for it."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if (ground := opening.ground) is not None:
                await ground.services.pool.shut_down()
                await finish(ground.audit, ground.store, signal=int(number))
            os._exit(128 + number)
