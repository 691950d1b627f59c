"""What a person may do to workspaces from the command line: look, diff, close, collect, stop.

Lives here: those verbs over the same pool and lifecycle the server uses, and their wording. The operator sees everybody's
workspaces. It may not know MCP. (cli.py has the options and the printing.)
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import anyio

from .app import Workspaces, collect, open_workspaces
from .config import Settings
from .errors import Misconfigured, NoSuchWorkspace
from .models import Stop, WorkspaceRecord
from .runtimes.watchdog import disk_usage
from .store import open_store
from .tools.git import diff_text
from .tools.text import size_of
from .workspaces.manifests import Manifests
from .workspaces.workspace import Workspace

STOP_SECONDS = 10.0


def manifests_of(settings: Settings) -> Manifests:
    folder = settings.state_dir / "workspaces"
    if not folder.is_dir():
        raise Misconfigured("There are no workspaces yet: no server has run with this state directory.")
    return Manifests(folder)


def rows(settings: Settings) -> Sequence[dict[str, str]]:
    """Every workspace as a row for people, the most recently used first."""
    manifests = manifests_of(settings)
    found: list[dict[str, str]] = []
    for record in sorted(manifests.all(), key=lambda record: -record.used):
        state = "live" if manifests.is_leased(record.id) else "suspended"
        found.append({
            "workspace": record.id, "owner": record.principal.name, "repo": record.repo, "branch": record.branch,
            "state": state, "used": f"{(time.time() - record.used) / 60:.0f} min ago", "task": (record.task or "")[:60],
        })  # fmt: skip
    return found


def show(settings: Settings, ws_id: str) -> dict[str, str]:
    """One workspace with what it costs on disk."""
    manifests = manifests_of(settings)
    record = _record(manifests, ws_id)
    layers = settings.state_dir / "layers"
    own = [layer for layer in record.layers if not layer.startswith("c")]
    points = ", ".join(f"{point.id} ({point.name})" for point in record.checkpoints) or "none"
    return {
        "workspace": record.id, "owner": record.principal.name, "repo": record.repo, "opened at": record.commit,
        "branch": record.branch, "task": record.task or "", "parent": record.parent or "",
        "state": "live" if manifests.is_leased(ws_id) else "suspended",
        "own files": size_of(disk_usage(*(str(layers / layer) for layer in own))),
        "layers": f"{len(record.lowers)} below, upper {record.upper}", "checkpoints": points,
    }  # fmt: skip


def _record(manifests: Manifests, ws_id: str) -> WorkspaceRecord:
    record = manifests.find(ws_id)
    if record is None:
        raise NoSuchWorkspace(ws_id)
    return record


async def diff(settings: Settings, ws_id: str, *, base: str) -> str:
    """What the workspace changes against a commit, new files included."""
    async with open_workspaces(settings) as spaces:
        return await diff_text(_workspace(spaces, ws_id), base)


async def close(settings: Settings, ws_id: str) -> None:
    async with open_workspaces(settings) as spaces:
        await spaces.lifecycle.close(_workspace(spaces, ws_id))


def _workspace(spaces: Workspaces, ws_id: str) -> Workspace:
    return spaces.pool.adopt(_record(spaces.manifests, ws_id))


async def gc(settings: Settings, limit: int) -> str:
    """Removes what nobody stands on, and checkouts beyond the limit."""
    async with open_workspaces(settings) as spaces:
        chosen = settings.model_copy(update={"layer_cache": limit})
        swept = await collect(chosen, spaces.manifests, spaces.layers, spaces.store)
    if swept is None:
        return "Other servers are busy with layers; nothing was collected. Try again."
    return f"Removed {swept.workspaces} unfinished workspaces and {swept.layers} layers; checkouts keep {size_of(swept.kept)}."


async def stop(settings: Settings, scope: str, name: str) -> str:
    """Stops what is covered, in every server, and keeps it stopped. Says what could not be seen to end."""
    manifests = manifests_of(settings)
    async with open_store(settings.state_dir / "store.db") as store:
        await store.stop(scope, name)
        for pid in await store.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        chosen = Stop.model_validate({"scope": scope, "name": name, "since": 0.0})
        covered = [record.id for record in manifests.all() if chosen.covers(record)]
        with anyio.move_on_after(STOP_SECONDS):
            while any(manifests.is_leased(ws_id) for ws_id in covered):  # noqa: ASYNC110 - a lock of another process has no event
                await anyio.sleep(0.01)
    still = [ws_id for ws_id in covered if manifests.is_leased(ws_id)]
    if still:
        return f"Stopped, but still ending: {', '.join(still)}."
    return f"Stopped {len(covered)} workspaces; their files are kept. 'repocell stop --release' lets them go on."


async def release(settings: Settings, scope: str, name: str) -> str:
    manifests_of(settings)
    async with open_store(settings.state_dir / "store.db") as store:
        await store.release(scope, name)
        for pid in await store.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        left = await store.stopped()
    return f"Released. {len(left)} other stops are in force." if left else "Released. Nothing is stopped any more."
