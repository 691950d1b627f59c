"""Runs the measurements and writes docs/performance.md: `python -m benchmarks [--quick]`."""

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from . import layers, peers, standing, tools, trees
from .ground import prepared
from .measure import Rounds
from .report import Row, page

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@dataclass(frozen=True)
class Plan:
    """How much is measured. `sizes`: files of the repositories workspaces are opened of, and rounds with each."""

    rounds: Rounds
    files: int
    sizes: Mapping[int, int]


FULL = Plan(Rounds(100, 15), 7_000, {100: 15, 7_000: 9, 50_000: 3})
BRIEF = Plan(Rounds(40, 7), 7_000, {100: 7, 7_000: 3})
QUICK = Plan(Rounds(10, 3), 1_000, {100: 3})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--quick", dest="plan", action="store_const", const=QUICK, help="a minute or two: does it run at all"
    )
    length.add_argument("--brief", dest="plan", action="store_const", const=BRIEF, help="a few minutes: fewer rounds")
    parser.set_defaults(plan=FULL)
    parser.add_argument("--only", choices=("tools", "layers"), help="leave the other part out")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="repocell-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        text = anyio.run(run, Path(name), chosen.plan, chosen.only)
    target = Path(os.environ.get("REPOCELL_BENCH_TABLE", str(PAGE)))
    target.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


async def run(folder: Path, plan: Plan, only: str | None) -> str:
    """The page's text."""
    began = time.monotonic()
    rounds, files, sizes = plan.rounds, plan.files, tuple(plan.sizes)
    found: list[Row] = []
    matrix = "Not measured in this run."
    if only != "layers":
        (folder / "calls").mkdir()
        repo = trees.project(folder / "calls" / "project", files)
        async with prepared(folder / "calls", repo, rounds) as ground:
            found += [*await tools.all_rows(ground), *await standing.all_rows(ground)]
    if only != "tools":
        (folder / "layers").mkdir()
        measured = await layers.measure(folder / "layers", plan.sizes)
        found += layers.rows(measured, sizes)
        matrix = layers.matrix(measured, sizes)
    facts = [
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {_memory()} of memory, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}",
        f"{rounds.calls} rounds of calls that take milliseconds, {rounds.slow} of slower ones; "
        f"{(time.monotonic() - began) / 60:.0f} minutes in all",
        f"searches and git in a project of {files:,} files; workspaces of repositories of "
        + ", ".join(f"{size:,} files ({count} rounds)" for size, count in plan.sizes.items()),
    ]
    if plan is QUICK:
        facts.append("**a quick run: too few rounds to say anything, it only shows that everything runs**")
    return page(facts, found, matrix, [known.source for known in peers.ALL])


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


if __name__ == "__main__":
    main()
