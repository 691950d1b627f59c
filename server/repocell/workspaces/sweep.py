"""Removing what nobody stands on: half-made workspaces, layers without a workspace, checkouts beyond the size limit.

Lives here: what may be deleted, worked out from the manifests. Callers hold the layers' lock alone. Plain functions on
directories: they run in a worker thread. It may not know sandboxes.
"""

import fcntl
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from .layers import BUILDING, Layers, remove_tree
from .manifests import Manifests


@dataclass(frozen=True)
class Swept:
    """What was removed, and the bytes of checkouts that are kept."""

    workspaces: int
    layers: int
    kept: int


def sweep_workspace(manifests: Manifests, layers: Layers, ws_id: str) -> None:
    """Removes one workspace's directory and every layer that no manifest names."""
    remove_tree(manifests.directory(ws_id))
    _sweep_layers(manifests, layers)


def sweep(manifests: Manifests, layers: Layers, limit: int) -> Swept:
    """Removes everything a dead server left, then the checkouts used longest ago while all together exceed `limit`."""
    workspaces = 0
    for name in manifests.names():
        record = manifests.find(name)
        if (record is None or not record.settled) and not manifests.is_leased(name):
            manifests.forget(name)
            remove_tree(manifests.directory(name))
            workspaces += 1
    gone = _sweep_layers(manifests, layers)
    collected, kept = _collect_checkouts(manifests, layers, limit)
    return Swept(workspaces, gone + collected, kept)


def _referenced(manifests: Manifests) -> Collection[str]:
    return {layer for record in manifests.all() for layer in record.layers}


def _sweep_layers(manifests: Manifests, layers: Layers) -> int:
    """Removes layers no manifest names, sealed checkouts excepted, and what is left of unfinished ones."""
    kept, gone = _referenced(manifests), 0
    for name in layers.names():
        if name in kept or (name.startswith("c") and layers.record(name) is not None):
            continue
        if name.startswith(BUILDING) and _is_locked(layers, name):
            continue
        layers.delete(name)
        gone += 1
    for path in layers.stray_scratch():
        remove_tree(path)
    for path in layers.folder.glob(f"{BUILDING}*.lock"):
        if not layers.exists(path.stem):
            path.unlink()
    return gone


def _is_locked(layers: Layers, name: str) -> bool:
    try:
        descriptor = os.open(layers.lock_of(name), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _collect_checkouts(manifests: Manifests, layers: Layers, limit: int) -> tuple[int, int]:
    kept = _referenced(manifests)
    checkouts = sorted(layers.checkouts(), key=lambda pair: pair[1])
    total, gone = sum(record.size for record, _ in checkouts), 0
    for record, _ in checkouts:
        if total <= limit:
            break
        if record.id not in kept:
            layers.delete(record.id)
            with suppress(FileNotFoundError):
                layers.lock_of(record.id).unlink()
            total, gone = total - record.size, gone + 1
    return gone, total
