"""Runs the measurements and writes docs/performance.md: `python -m benchmarks [--quick]`."""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

import anyio

from . import layers

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small repositories, few rounds: does it run at all")
    chosen = parser.parse_args()
    sizes, rounds = ((100,), 3) if chosen.quick else (layers.SIZES, 15)
    with tempfile.TemporaryDirectory(prefix="repocell-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        text = anyio.run(layers.run, Path(name), rounds, sizes)
    target = Path(os.environ.get("REPOCELL_BENCH_TABLE", str(PAGE)))
    target.write_text(page(text, rounds), encoding="utf-8")
    sys.stdout.write(text)


def page(text: str, rounds: int) -> str:
    machine = f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    return (
        "# Performance\n\nWritten by `scripts/bench`. All rows of a column are measured side by side in one run "
        f"({rounds} interleaved rounds; {machine}); compare ratios, not milliseconds: machines differ and are shared.\n\n"
        f"## Workspaces\n\n{text}"
    )


if __name__ == "__main__":
    main()
