"""Interleaved timing: every contender once per round, medians at the end, so that a noisy machine is noisy for all."""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Contender = Callable[[], Awaitable[float | None]]


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    median: float
    p95: float


async def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Timing]:
    """Runs all contenders in turn. A contender may return the seconds that count; otherwise its whole time does."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            counted = await run()
            took = time.perf_counter() - started
            seen[name].append((took if counted is None else counted) * 1000)
    return {name: Timing(statistics.median(times), _p95(times)) for name, times in seen.items()}


def _p95(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, round(0.95 * (len(times) - 1)))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
