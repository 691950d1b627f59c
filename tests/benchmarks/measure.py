"""Interleaved timing: every contender once per round, medians at the end, so that a noisy machine is noisy for all."""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Contender = Callable[[], Awaitable[float | None]]
"""Does its work once. May return the seconds that count; otherwise its whole time does."""


class Failed(Exception):
    """A contender did not do what was asked of it; its text goes into the report."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    median: float
    p95: float


@dataclass(frozen=True)
class Rounds:
    """How often what is measured: calls take milliseconds, workspaces and starts tenths of seconds."""

    calls: int
    slow: int


async def interleaved(contenders: Mapping[str, Contender], rounds: int, warm: int = 1) -> dict[str, Timing]:
    """Runs all contenders in turn, `warm` rounds of them uncounted."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm + rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            counted = await run()
            took = time.perf_counter() - started
            if number >= warm:
                seen[name].append((took if counted is None else counted) * 1000)
    return {name: Timing(statistics.median(times), _p95(times)) for name, times in seen.items()}


def _p95(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, round(0.95 * (len(times) - 1)))]


def family(*named: str | int) -> list[int]:
    """The processes of these pids, or with one of these texts in their command line, and everything below them."""
    children: dict[int, list[int]] = {}
    pending: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.name))
        if any(name == int(path.name) if isinstance(name, int) else name.encode() in command for name in named):
            pending.append(int(path.name))
    found = set[int]()
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, [])
    return sorted(found)


def megabytes(pids: Sequence[int], field: str = "Pss") -> float:
    """The memory of some processes together, shared pages counted in proportion (PSS)."""
    return sum(_kilobytes(Path(f"/proc/{pid}/smaps_rollup"), field) for pid in pids) / 1000


def peak_megabytes(pid: int) -> float:
    """The most memory a process had since forget_peak()."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM") / 1000


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets the peak of the resident set


def _kilobytes(path: Path, field: str) -> float:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1.024
    return 0.0
