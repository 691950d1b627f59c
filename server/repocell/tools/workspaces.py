"""Opening, looking at and closing workspaces.

Lives here: the tools' arguments, handlers and wording. How a workspace comes to be is the pool's and the mirrors' work.
"""

import posixpath
import time
from collections.abc import Sequence
from typing import Any

import anyio
from pydantic import Field

from ..clones import Change, Snapshot, snapshots
from ..errors import CallerMistake, DefaultRepositoryUnusable, NoSuchRepository
from ..models import WORKSPACE_DIR
from ..repos import Checkout
from ..together import together
from ..workspaces.workspace import Workspace
from .base import Arguments, Call, InWorkspace, Reply, Services, Tool, workspace_of
from .git import changes
from .shell import outcome
from .text import printable, size_of

MAX_NAMED = 20
MAX_STATUS_LINES = 100


class WorkspaceOpen(Arguments):
    repo: str | None = Field(default=None, description="Path or https/ssh URL; default: the server's repository.")
    ref: str | None = Field(default=None, description="Branch, tag or commit; default: where the repository's HEAD is.")
    workspace: str | None = Field(default=None, description="Open this existing workspace again instead.")
    task: str | None = Field(default=None, max_length=2000, description="What this workspace is for, in a sentence.")
    include_uncommitted: bool = Field(default=False, description="Take uncommitted files of a local repository along.")


async def workspace_open(services: Services, call: Call[WorkspaceOpen]) -> Reply:
    args = call.args
    if args.workspace is not None:
        ws = services.pool.get(call.principal, args.workspace)
        return await _opened(ws, "reopened", ())
    repo = args.repo if args.repo is not None else services.default_repo
    if repo is None:
        raise CallerMistake(
            "Say which repository: repo='/path/to/it' or an https URL. This server has no default (serve --repo)."
        )
    try:
        return await _open(services, call, repo)
    except NoSuchRepository as error:
        if args.repo is None:  # its name is the operator's, and may hold a credential or a path of the host
            raise DefaultRepositoryUnusable(error.why) from error
        raise


async def _open(services: Services, call: Call[WorkspaceOpen], repo: str) -> Reply:
    """A workspace, made while the clone is looked through for uncommitted work, which takes as long where files are many."""
    args, made = call.args, list[Workspace]()

    async def make() -> Checkout:
        await call.progress(0, None, "fetching")
        found = await services.repositories.checkout(repo, args.ref)
        await call.progress(1, None, "checking out")
        made.append(await services.lifecycle.open(call.principal, found, args.task))
        return found

    try:
        found, changes = await together(make, lambda: services.repositories.uncommitted(repo))
        if args.include_uncommitted:
            await bring_along(made[0], await snapshots(found.source.local, changes))
    except BaseException:
        with anyio.CancelScope(shield=True):
            for ws in made:
                await services.lifecycle.close(ws)
        raise
    return await _opened(made[0], "opened", _about_uncommitted(changes, taken=args.include_uncommitted))


async def bring_along(ws: Workspace, taken: Sequence[Snapshot]) -> None:
    """Writes the user's uncommitted files into the workspace as they lie in their clone."""
    for snapshot in taken:
        if snapshot.link is not None:
            argv = ("ln", "-sfnT", "--", snapshot.link, posixpath.join(WORKSPACE_DIR, snapshot.path))
            parent = posixpath.join(WORKSPACE_DIR, posixpath.dirname(snapshot.path))
            await ws.collect(("mkdir", "-p", "--", parent), max_bytes=4096)
            await ws.collect(argv, max_bytes=4096)
        elif snapshot.content is None:
            await ws.remove(snapshot.path)
        else:
            await ws.write(snapshot.path, snapshot.content, mode=0o755 if snapshot.mode & 0o100 else 0o644)


def _about_uncommitted(changes: Sequence[Change], *, taken: bool) -> Sequence[str]:
    if not changes:
        return ()
    count = len(changes)
    named = ", ".join(_named(change) for change in changes[:MAX_NAMED])
    more = f" and {count - MAX_NAMED} more" if count > MAX_NAMED else ""
    if taken:
        return (f"Uncommitted work taken along ({count} files): {named}{more}.",)
    return (f"Uncommitted work left behind ({count} files): {named}{more}. include_uncommitted=true takes it along.",)


def _named(change: Change) -> str:
    return f"{printable(change.path)} ({change.status})"


async def _opened(ws: Workspace, how: str, notes: Sequence[str]) -> Reply:
    record = ws.record
    # The cell is started here, so that what cannot work fails now and the first command finds it warm.
    listing = await ws.list("", depth=1, limit=200)
    names = [printable(entry.path) + ("/" if entry.kind == "directory" else "") for entry in listing.entries]
    shown = "  ".join(sorted(name for name in names if name != ".git/"))
    facts: dict[str, Any] = {
        "workspace": ws.id, "repo": record.repo, "commit": record.commit, "branch": record.branch, "base": record.base,
        "path": WORKSPACE_DIR, "notes": [*notes], "files": shown,
    }  # fmt: skip
    base = f" ({record.base})" if record.base else ""
    lines = [
        f"Workspace {ws.id} {how}: {record.repo} at {record.commit[:12]}{base}, on branch {record.branch}, in {WORKSPACE_DIR}.",
        *notes,
        f"Top level: {shown or '(empty)'}",
    ]
    return Reply("\n".join(lines), facts)


class WorkspaceStatus(InWorkspace):
    pass


async def workspace_status(services: Services, call: Call[WorkspaceStatus]) -> Reply:
    ws = workspace_of(services, call)
    status = (await changes(ws)).splitlines()
    changed = status[1 : MAX_STATUS_LINES + 1]
    if len(status) - 1 > MAX_STATUS_LINES:
        changed.append(f"... {len(status) - 1 - MAX_STATUS_LINES} more")
    jobs = {job.id: f"{job.command[:100]!r} - {outcome(ws, job)}" for job in ws.jobs.values()}
    points = {point.id: point.name for point in ws.record.checkpoints}
    limits = limit_lines(services, ws)
    facts: dict[str, Any] = {
        "workspace": ws.id, "repo": ws.record.repo, "branch": status[0].removeprefix("## "), "changes": changed,
        "jobs": jobs, "checkpoints": points, "limits": limits, "network": "none",
    }  # fmt: skip
    lines = [
        f"Workspace {ws.id}: {ws.record.repo}, {status[0].removeprefix('## ')}, opened at {ws.record.commit[:12]}.",
        "Changes: " + ("none" if not changed else ""), *(f"  {line}" for line in changed),
        "Jobs: " + ("none" if not jobs else ""), *(f"  {job}: {text}" for job, text in jobs.items()),
        "Checkpoints: " + (", ".join(f"{point} ({name})" for point, name in points.items()) or "none"),
        "Limits: " + "; ".join(f"{name} {text}" for name, text in limits.items()),
        "Network: none",
    ]  # fmt: skip
    return Reply("\n".join(lines), facts)


def limit_lines(services: Services, ws: Workspace) -> dict[str, str]:
    """Each limit of the cell, and how it is kept on this machine."""
    limits, how = ws.limits, services.report.limits
    values = {
        "memory": size_of(limits.memory), "processes": f"{limits.pids}", "cpu": f"{limits.cpus:g}",
        "disk": size_of(limits.disk), "open files": f"{limits.open_files}", "temporary files": size_of(limits.temporary),
    }  # fmt: skip
    return {name: f"{value} ({how.get(name, 'not enforced')})" for name, value in values.items()}


class WorkspaceList(Arguments):
    pass


async def workspace_list(services: Services, call: Call[WorkspaceList]) -> Reply:
    rows: list[dict[str, Any]] = []
    for ws in services.pool.list(call.principal):
        record = ws.record
        state = "live" if services.pool.is_live(ws) else "suspended"
        if services.pool.is_elsewhere(ws):
            state = "in use by another server"
        rows.append({
            "workspace": ws.id, "repo": record.repo, "commit": record.commit[:12], "branch": record.branch, "state": state,
            "jobs": len(ws.running), "task": record.task, "idle": f"{max(0, time.time() - ws.last_used):.0f} s",
        })  # fmt: skip
    if not rows:
        return Reply("No workspaces. workspace_open makes one.", {"workspaces": []})
    lines = [
        f"{row['workspace']}  {row['repo']} at {row['commit']} on {row['branch']}, {row['state']}, "
        f"{row['jobs']} jobs, last used {row['idle']} ago" + (f": {row['task'][:100]}" if row["task"] else "")
        for row in rows
    ]
    return Reply("\n".join(lines), {"workspaces": rows})


class WorkspaceClose(InWorkspace):
    discard: bool = Field(default=False, description="Close although uncommitted changes would be lost.")


async def workspace_close(services: Services, call: Call[WorkspaceClose]) -> Reply:
    ws = workspace_of(services, call)
    if not call.args.discard:
        async with ws.writing:
            status = (await changes(ws)).splitlines()[1:]
        if status:
            raise CallerMistake(
                f"{ws.id} was not closed: {len(status)} changed files would be lost ({', '.join(status[:5])}). "
                "Set discard=true to close all the same."
            )
    await services.lifecycle.close(ws)
    return Reply(f"Closed {ws.id}. Its processes have ended and its files are deleted.")


TOOLS = (
    Tool(
        name="workspace_open", title="Open a workspace", toolset="core", effect="open", arguments=WorkspaceOpen,
        handler=workspace_open, open_world=True,
        description="Makes a workspace: a private checkout of a repository at a commit, on a branch of its own, in a sandbox. "
        "The source repository is never written to; its uncommitted work is named, and taken along when asked. Returns the "
        "workspace id other tools take. It lives until workspace_close; after a restart, workspace= opens it again.",
    ),
    Tool(
        name="workspace_status", title="Workspace status", toolset="core", effect="read", arguments=WorkspaceStatus,
        handler=workspace_status, idempotent=True,
        description="Shows a workspace's branch, changed files, jobs and their ids, the limits of its cell with how each is "
        "enforced on this machine, and what network it has. Call it to find a job again, or when something was refused "
        "for a limit.",
    ),
    Tool(
        name="workspace_list", title="List workspaces", toolset="core", effect="read", arguments=WorkspaceList,
        handler=workspace_list, idempotent=True,
        description="Lists your workspaces, the most recently used first: id, repository, commit, branch, whether its sandbox "
        "is live or suspended, running jobs and task. A suspended one wakes at the next call that uses it.",
    ),
    Tool(
        name="workspace_close", title="Close a workspace", toolset="core", effect="open", arguments=WorkspaceClose,
        handler=workspace_close, destructive=True,
        description="Ends a workspace: its processes stop and its files are deleted for good. Refuses while there are "
        "uncommitted changes, naming them, unless discard is true. The source repository is not touched. Not needed to "
        "pause: an idle workspace sleeps by itself.",
    ),
)  # fmt: skip
