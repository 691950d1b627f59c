"""Repositories to measure on: one of many small files, and one that looks like a project's source."""

import random
from pathlib import Path

from harness import make_repo

NEEDLE = "retry_with_backoff"
WORDS = (
    "value",
    "name",
    "index",
    "result",
    "config",
    "request",
    "handler",
    "parse",
    "token",
    "buffer",
    "limit",
    "path",
)


def small_files(path: Path, files: int) -> Path:
    """So many small files, a hundred to a directory."""
    return make_repo(path, {f"d{n // 100}/f{n}.txt": f"file {n}\n" * 20 for n in range(files)})


def project(path: Path, files: int) -> Path:
    """A tree as a project has it: nested packages, files of a few kilobytes, one in twenty a .yml, one in a hundred a needle."""
    dice = random.Random(7)
    content: dict[str, str | bytes] = {".gitignore": "build/\n*.pyc\n"}
    for number in range(files):
        suffix = "yml" if number % 20 == 0 else "py"
        name = f"pkg{number % 17}/part{number % 101}/module{number}.{suffix}"
        content[name] = source(dice, min(2_000, int(dice.lognormvariate(4.2, 1.0))), needle=number % 100 == 50)
    return make_repo(path, content)


def source(dice: random.Random, lines: int, *, needle: bool) -> str:
    made = [
        f"    {dice.choice(WORDS)}_{n} = {dice.choice(WORDS)}({dice.randrange(1000)})  # {dice.choice(WORDS)}"
        for n in range(lines)
    ]
    if needle:
        made.append(f"    {NEEDLE}(3)")
    return "\n".join(["def run():", *made, ""])


def numbered(lines: int) -> str:
    """Short lines, so that a whole file of them fits into one answer of read_file."""
    return "".join(f"a{n:04}\n" for n in range(lines))
