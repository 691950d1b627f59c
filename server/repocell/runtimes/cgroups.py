"""Limits on the sum of a cell's processes, through cgroups where this server may make them.

Lives here: finding a place for them (v2 delegated to this user, v1 as root), one group per cell, and removing groups a
dead server left. It may not know how sandboxes are made. Nothing here is required: without it limits are weaker, said so.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..models import Enforcement, Limits

ROOT = Path("/sys/fs/cgroup")
_PREFIX = "repocell"


@dataclass(frozen=True)
class Hierarchy:
    """Where this server may make groups: one directory per controller (v1), or the same one for all (v2)."""

    version: Enforcement
    parents: Mapping[str, Path]

    def make(self, name: str, limits: Limits) -> "CellGroup":
        """Makes one cell's group with its limits. Raises OSError, leaving nothing, when the kernel does not take them."""
        group = CellGroup(tuple(dict.fromkeys(parent / name for parent in self.parents.values())))
        try:
            for path in group.paths:
                path.mkdir()
            for controller, parent in self.parents.items():
                for file, value in _settings(self.version, controller, limits):
                    (parent / name / file).write_text(value, encoding="ascii")
        except OSError:
            group.remove()
            raise
        return group

    def sweep(self) -> None:
        """Removes empty groups whose server is gone; a group in use refuses to be removed."""
        for parent in set(self.parents.values()):
            for path in parent.glob(f"{_PREFIX}-*"):
                owner = path.name.split("-")[1]
                if not Path("/proc", owner).exists():
                    with suppress(OSError):
                        path.rmdir()


@dataclass(frozen=True)
class CellGroup:
    """The groups of one cell. Removing them needs its processes gone, which is the sandbox's work."""

    paths: tuple[Path, ...]

    def adopt(self, pid: int) -> None:
        for path in self.paths:
            (path / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def kills(self) -> int:
        """How many processes the kernel killed for the memory limit (memory.events in v2, memory.oom_control in v1)."""
        for path in self.paths:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError):
                    return read_kills((path / name).read_text(encoding="ascii"))
        return 0

    def remove(self) -> None:
        for path in self.paths:
            with suppress(OSError):
                path.rmdir()


def read_kills(text: str) -> int:
    """The number behind "oom_kill"; 0 where the kernel does not say (v1 before Linux 4.13)."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def group_name(cell: str) -> str:
    return f"{_PREFIX}-{os.getpid()}-{cell}"


def _settings(version: Enforcement, controller: str, limits: Limits) -> Iterator[tuple[str, str]]:
    quota = int(limits.cpus * 100_000)
    if version == "cgroup v2":
        if controller == "memory":
            yield "memory.max", str(limits.memory)
            yield "memory.swap.max", "0"
        elif controller == "pids":
            yield "pids.max", str(limits.pids)
        elif controller == "cpu":
            yield "cpu.max", f"{quota} 100000"
    elif controller == "memory":
        yield "memory.limit_in_bytes", str(limits.memory)
    elif controller == "pids":
        yield "pids.max", str(limits.pids)
    elif controller == "cpu":
        yield "cpu.cfs_period_us", "100000"
        yield "cpu.cfs_quota_us", str(quota)


def find(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Hierarchy | None:
    """The best place this server may make groups with memory and process limits, or None."""
    places = _own_groups(own)
    for found in (_unified(root, places.get("")), _legacy(root, places)):
        if found is not None and {"memory", "pids"} <= set(found.parents) and _works(found):
            return found
    return None


def _own_groups(file: Path) -> dict[str, str]:
    """controller -> this process's group; '' stands for the unified hierarchy."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = [line.split(":", 2) for line in lines]
    return {controller: path for _, names, path in fields for controller in names.split(",")}


def _unified(root: Path, own: str | None) -> Hierarchy | None:
    """The highest ancestor of our own group that was delegated to us with its controllers switched on."""
    if own is None or not (root / "cgroup.controllers").exists():
        return None
    candidates = [root / own.lstrip("/"), *(root / own.lstrip("/")).parents]
    delegated: Hierarchy | None = None
    for path in candidates:
        if not path.is_relative_to(root) or path == root:
            break
        try:
            enabled = (path / "cgroup.subtree_control").read_text(encoding="ascii").split()
        except OSError:
            break
        if os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK):
            parents = {name: path for name in ("memory", "pids", "cpu") if name in enabled}
            delegated = Hierarchy("cgroup v2", parents) if {"memory", "pids"} <= set(parents) else delegated
    return delegated


def _legacy(root: Path, places: Mapping[str, str]) -> Hierarchy | None:
    parents: dict[str, Path] = {}
    for controller in ("memory", "pids", "cpu"):
        path = root / controller / places.get(controller, "/").lstrip("/")
        if os.access(path, os.W_OK) and (path / "cgroup.procs").exists():
            parents[controller] = path
    return Hierarchy("cgroup v1", parents) if parents else None


def _works(hierarchy: Hierarchy) -> bool:
    """Tries it with a process that waits: rights on paper are not rights (namespaces, 'no internal processes')."""
    with subprocess.Popen(["sleep", "10"], stdin=subprocess.DEVNULL) as waiting:
        try:
            group = hierarchy.make(group_name("probe"), Limits())
            try:
                group.adopt(waiting.pid)
            finally:
                waiting.kill()
                waiting.wait()
                group.remove()
        except OSError:
            return False
        finally:
            waiting.kill()
    return True
