"""Assembling a server: settings in, services opened, the gate built, a transport served.

Lives here: the order in which things are made and unmade, once. With gate.py and auth.py the only module that knows MCP.
Services live in their own context, not in the SDK's lifespan, which is entered once per connection on some transports.
"""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from . import __version__, tools
from .audit import AuditLog
from .auth import WhoIsCalling, local_principal
from .config import Settings
from .errors import Misconfigured, RuntimeUnusable, sole_error
from .gate import Gate
from .runtimes import Runtime
from .runtimes.bubblewrap import Bubblewrap, Identity
from .store import Store
from .tools.base import Services
from .workspaces import layout
from .workspaces.pool import open_pool

INSTRUCTIONS = (
    "repocell gives you a cell: a private checkout of a repository in a sandbox. Start with workspace_open; then read, "
    "search, edit and run tests there with the other tools. Nothing you do in a cell touches the user's machine or their "
    "clone. There is no network in a cell. When several workspaces are open, pass workspace= with each call."
)


def choose_runtime(settings: Settings) -> tuple[Runtime, tuple[int, int] | None]:
    """The runtime by name, and who must own the files of its cells (None: the server's own user)."""
    if settings.runtime != "bubblewrap":
        raise Misconfigured(f"There is no runtime {settings.runtime!r}; this version has bubblewrap.")
    identity = Identity.for_server(settings.sandbox_uid)
    return Bubblewrap(identity), (identity.uid, identity.gid) if identity.drop else None


@asynccontextmanager
async def open_server(settings: Settings, who: WhoIsCalling) -> AsyncGenerator[Server]:
    """A server whose cells all end when the context is left. Raises Misconfigured, and then nothing runs."""
    runtime, owner = choose_runtime(settings)
    layout.prepare(settings.state_dir, owner)
    report = await runtime.probe()
    if not report.usable:
        problem = report.problems[0]
        raise RuntimeUnusable(report.runtime, problem.cause, problem.remedy)
    search = layout.install_search(settings.state_dir)
    store = Store(settings.state_dir / "workspaces")
    with AuditLog(settings.state_dir / "audit") as audit:
        audit.write("started", version=__version__, pid=os.getpid(), runtime=report.model_dump(mode="json"))
        try:
            async with open_pool(settings, runtime, store, owner, search) as pool:
                gate = Gate(tools.by_name(), Services(pool, report, settings.repo), audit, who)
                yield Server(
                    "repocell",
                    version=__version__,
                    title="repocell",
                    instructions=INSTRUCTIONS,
                    on_list_tools=gate.list_tools,
                    on_call_tool=gate.call,
                )
        except BaseExceptionGroup as group:
            raise sole_error(group) from None
        finally:
            audit.write("stopped")


async def serve_stdio(settings: Settings) -> None:
    """Serves one client over stdin and stdout until it goes away or a signal asks us to end."""
    async with open_server(settings, local_principal(settings.user)) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, tasks.cancel_scope)
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
        tasks.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
