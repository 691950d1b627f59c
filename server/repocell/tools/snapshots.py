"""Branching off, keeping and going back: tools on whole workspaces as they are on disk.

Lives here: the tools' arguments, handlers and wording. What they do is the lifecycle's work.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from ..workspaces.jobs import Job
from .base import Call, InWorkspace, Reply, Services, Tool, workspace_of


def _ended(jobs: Sequence[Job]) -> str:
    if not jobs:
        return ""
    listed = "\n".join(f"  {job.id}: {job.command[:100]!r}" for job in jobs)
    return f"\nRunning processes had to end first; start again what you need:\n{listed}"


class WorkspaceFork(InWorkspace):
    task: str | None = Field(default=None, max_length=2000, description="What the new workspace is for.")


async def workspace_fork(services: Services, call: Call[WorkspaceFork]) -> Reply:
    ws = workspace_of(services, call)
    child, ended = await services.lifecycle.fork(ws, call.args.task)
    facts: dict[str, Any] = {
        "workspace": child.id, "parent": ws.id, "branch": child.record.branch, "ended_jobs": [job.id for job in ended.jobs],
    }  # fmt: skip
    return Reply(
        f"Forked {ws.id} into {child.id}: the same files, uncommitted ones included, on branch {child.record.branch}. "
        f"Both go on independently; pass workspace= with each call now.{_ended(ended.jobs)}",
        facts,
    )


class WorkspaceCheckpoint(InWorkspace):
    name: str = Field(default="checkpoint", min_length=1, max_length=100, description="What to call it.")


async def workspace_checkpoint(services: Services, call: Call[WorkspaceCheckpoint]) -> Reply:
    ws = workspace_of(services, call)
    point, ended = await services.lifecycle.checkpoint(ws, call.args.name)
    facts: dict[str, Any] = {"checkpoint": point.id, "name": point.name, "ended_jobs": [job.id for job in ended.jobs]}
    return Reply(f"Kept the files as {point.id} ({point.name}).{_ended(ended.jobs)}", facts)


class WorkspaceRestore(InWorkspace):
    checkpoint: str = Field(description="Checkpoint id, as workspace_checkpoint gave it.")


async def workspace_restore(services: Services, call: Call[WorkspaceRestore]) -> Reply:
    ws = workspace_of(services, call)
    point, before, ended = await services.lifecycle.restore(ws, call.args.checkpoint)
    facts: dict[str, Any] = {
        "restored": point.id, "kept_before": before.id, "ended_jobs": [job.id for job in ended.jobs],
    }  # fmt: skip
    return Reply(
        f"The files are as they were at {point.id} ({point.name}). What they were just before is kept as {before.id}."
        f"{_ended(ended.jobs)}",
        facts,
    )


TOOLS = (
    Tool(
        name="workspace_fork", title="Fork a workspace", toolset="snapshots", effect="open", arguments=WorkspaceFork,
        handler=workspace_fork,
        description="Makes a second workspace with the same files, uncommitted and ignored ones included, on a branch of its "
        "own, in the time of one mount. Processes running in the first one end and are listed; both then go on separately. "
        "Use it to try two ways from the same point.",
    ),
    Tool(
        name="workspace_checkpoint", title="Make a checkpoint", toolset="snapshots", effect="write",
        arguments=WorkspaceCheckpoint, handler=workspace_checkpoint,
        description="Keeps all files of a workspace, ignored ones and the home directory included, as they are now, in the "
        "time of one mount. Running processes end and are listed. workspace_restore goes back to it; workspace_status lists "
        "the checkpoints there are.",
    ),
    Tool(
        name="workspace_restore", title="Restore a checkpoint", toolset="snapshots", effect="write",
        arguments=WorkspaceRestore, handler=workspace_restore, destructive=True,
        description="Puts all files of a workspace, its git repository included, back to a checkpoint. Nothing is lost: what "
        "they were before is kept as a checkpoint of its own, whose id is returned. Running processes end and are listed.",
    ),
)  # fmt: skip
