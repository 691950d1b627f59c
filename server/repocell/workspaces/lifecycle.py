"""How workspaces begin, branch off, go back and end: plans of layers, made real by one manifest written.

Lives here: open, fork, checkpoint, restore, close. Each prepares new layers, then replaces a manifest; killed before that
nothing happened, killed after it all of it did, and what was prepared for nothing is swept. Processes end first, always:
the kernel allows two live overlays on one upper directory and corrupts it.
"""

import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread

from ..errors import NoSuchCheckpoint
from ..models import Checkpoint, OverlayTree, PlainTree, Principal, WorkspaceRecord, new_id
from ..repos import Checkout
from ..store import Store
from . import checkout, copying, sweep
from .jobs import Job
from .layers import BUILDING, FLATTEN_ABOVE, Layers
from .manifests import Manifests, locked
from .pool import Pool
from .workspace import Workspace


@dataclass(frozen=True)
class Ended:
    """What a change of layers cost: the jobs whose processes had to end."""

    jobs: Sequence[Job]


class Lifecycle:
    """The verbs on whole workspaces; uses the pool for sandboxes."""

    def __init__(self, pool: Pool, manifests: Manifests, layers: Layers, store: Store) -> None:
        self._pool, self._manifests, self._layers, self._store = pool, manifests, layers, store
        self._lock = layers.folder / "layers.lock"
        self._making: dict[str, anyio.Lock] = {}

    # -- begin

    async def open(self, principal: Principal, found: Checkout, task: str | None) -> Workspace:
        """Makes a workspace of a commit. On failure or cancellation nothing of it is left."""
        ws_id, now = new_id("ws"), time.time()
        try:
            async with self._standing_on(found) as base:
                upper, lowers = await self._on_top((base,))
                record = WorkspaceRecord(
                    id=ws_id, principal=principal, repo=found.source.shown, mirror=found.mirror.name, commit=found.commit,
                    base=found.branch, branch=branch_name(task, ws_id), task=task, created=now, used=now, upper=upper,
                    lowers=lowers,
                )  # fmt: skip
                self._manifests.make(ws_id)
                self._manifests.save(record)
            workspace = self._pool.adopt(record)
            await self._pool.enter(workspace)
            self._pool.save(workspace, settled=True)
            await self._store.put(workspace.record)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._discard(ws_id)
            raise
        return workspace

    @asynccontextmanager
    async def _standing_on(self, found: Checkout) -> AsyncGenerator[str]:
        """The layer of a commit, which nobody collects while the context lasts; made first when there is none."""
        while True:
            await self._make_checkout(found)
            async with locked(self._lock, alone=False):
                base = self._layers.find_checkout(found.mirror.name, found.commit)
                if base is not None:
                    yield base
                    return

    async def _make_checkout(self, found: Checkout) -> None:
        """Checks a commit out into a layer, unless there is one that is whole. Two processes never make the same."""
        mirror, commit = found.mirror.name, found.commit
        stem = next(iter(self._layers.checkout_names(mirror, commit)))
        if self._layers.find_checkout(mirror, commit) is not None:
            return
        async with self._making.setdefault(stem, anyio.Lock()), locked(self._layers.lock_of(stem), alone=True):
            if self._layers.find_checkout(mirror, commit) is not None:
                return
            made = self._layers.make(empty=False, prefix=BUILDING)
            async with locked(self._layers.lock_of(made), alone=True):
                try:
                    async with self._pool.sandbox(self._layers.plain(made), mirror) as link:
                        await checkout.check_out(link, commit=commit, origin=found.source.shown)
                    await anyio.to_thread.run_sync(self._layers.seal, made, mirror, commit)
                finally:
                    await self._delete_layer(made)

    async def _on_top(self, lowers: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """A new writable layer over these: an empty one, or, where overlays do not work, a copy of the only one."""
        if self._layers.overlay:
            return self._layers.make(empty=True), lowers
        return await self._copy_of(self._layers.plain(lowers[0])), ()

    # -- freeze, fork, return

    async def fork(self, workspace: Workspace, task: str | None) -> tuple[Workspace, Ended]:
        """A second workspace with the same files, on a branch of its own."""
        ws_id, now = new_id("ws"), time.time()
        try:
            async with locked(self._lock, alone=False), self._pool.still(workspace, "it was forked") as jobs:
                record = workspace.record
                if self._layers.overlay:
                    upper, lowers = self._layers.make(empty=True), await self._freeze(workspace)
                else:
                    upper, lowers = await self._copy_of(self._layers.plain(record.upper)), ()
                child = record.model_copy(update={
                    "id": ws_id, "task": task or record.task, "branch": branch_name(task or record.task, ws_id),
                    "created": now, "used": now, "upper": upper, "lowers": lowers, "checkpoints": (),
                    "parent": record.id, "branched": False, "settled": True,
                })  # fmt: skip
                self._manifests.make(ws_id)
                self._manifests.save(child)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._discard(ws_id)
            raise
        await self._store.put(child)
        return self._pool.adopt(child), Ended(jobs)

    async def checkpoint(self, workspace: Workspace, name: str) -> tuple[Checkpoint, Ended]:
        """Keeps the files as they are now under a name; work goes on on top."""
        async with locked(self._lock, alone=False), self._pool.still(workspace, "a checkpoint was made") as jobs:
            record = workspace.record
            if self._layers.overlay:
                point = _point(name, await self._freeze(workspace))
                self._replace(workspace, upper=workspace.record.upper, lowers=point.lowers, also=point)
            else:
                point = _point(name, (await self._copy_of(self._layers.plain(record.upper)),))
                self._replace(workspace, upper=record.upper, lowers=(), also=point)
        return point, Ended(jobs)

    async def restore(self, workspace: Workspace, checkpoint_id: str) -> tuple[Checkpoint, Checkpoint, Ended]:
        """Puts the files back to a checkpoint; what they were before is kept as a checkpoint of its own."""
        async with locked(self._lock, alone=False), self._pool.still(workspace, "a checkpoint was restored") as jobs:
            record = workspace.record
            known = {point.id: point for point in record.checkpoints}
            if checkpoint_id not in known:
                raise NoSuchCheckpoint(checkpoint_id, [f"{point.id} ({point.name})" for point in known.values()])
            wanted = known[checkpoint_id]
            upper, lowers = await self._on_top(wanted.lowers)
            before = _point(f"before {wanted.name}", (record.upper, *record.lowers))
            self._replace(workspace, upper=upper, lowers=lowers, also=before)
        return wanted, before, Ended(jobs)

    def _replace(
        self, workspace: Workspace, *, upper: str, lowers: tuple[str, ...], also: Checkpoint | None = None
    ) -> None:
        points = (*workspace.record.checkpoints, *([also] if also is not None else []))
        self._pool.save(workspace, upper=upper, lowers=lowers, checkpoints=points)

    async def _freeze(self, workspace: Workspace) -> tuple[str, ...]:
        """The layers that hold the files as they are now, for others to stand on; what is written from now on is not in them."""
        record = workspace.record
        if self._layers.is_empty(record.upper):
            return record.lowers
        lowers = await self._flattened((record.upper, *record.lowers))
        self._replace(workspace, upper=self._layers.make(empty=True), lowers=lowers)
        return lowers

    async def _flattened(self, lowers: tuple[str, ...]) -> tuple[str, ...]:
        """The same stack, or one layer with the same files when the stack grew too tall to mount comfortably."""
        if len(lowers) <= FLATTEN_ABOVE:
            return lowers
        scratch = self._layers.make(empty=True)
        mount = self._layers.folder / f"{scratch}.work" / "mount"
        mount.mkdir()
        try:
            return (await self._copy_of(self._layers.stacked(scratch, lowers, mount)),)
        finally:
            await self._delete_layer(scratch)

    async def _copy_of(self, tree: PlainTree | OverlayTree) -> str:
        made = self._layers.make(empty=False)
        try:
            target_tree = self._layers.plain(made)
            async with self._pool.sandbox(tree) as source, self._pool.sandbox(target_tree) as target:
                await copying.copy(source, target)
                await checkout.refresh_index(target)
        except BaseException:
            await self._delete_layer(made)
            raise
        return made

    # -- end

    async def close(self, workspace: Workspace) -> None:
        """Ends the sandbox and deletes the workspace and the layers only it stood on."""
        async with self._pool.still(workspace, "the workspace was closed"):
            self._manifests.forget(workspace.id)
        with anyio.CancelScope(shield=True):
            await self._discard(workspace.id)

    async def _discard(self, ws_id: str) -> None:
        """Removes every trace of a workspace; safe to repeat, and safe when it was never more than half made."""
        self._manifests.forget(ws_id)
        await self._pool.drop(ws_id)
        await self._store.remove(ws_id)
        async with locked(self._lock, alone=True):
            await anyio.to_thread.run_sync(sweep.sweep_workspace, self._manifests, self._layers, ws_id)

    async def _delete_layer(self, layer: str) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._layers.delete, layer)


def _point(name: str, lowers: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(id=new_id("cp"), name=name, created=time.time(), lowers=lowers)


def branch_name(task: str | None, ws_id: str) -> str:
    words = re.findall(r"[a-z0-9]+", (task or "").lower())
    slug = "".join(f"{word}-" for word in words[:5])[:40]
    return f"agent/{slug}{ws_id[3:11]}"
