"""What ripgrep prints, as lines to show: bounded, ordered, clipped around what matched.

Lives here: pure functions from ripgrep's output and complaints to text. It may not run anything: search.py does.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .text import printable

MAX_LINE = 500
MAX_COLUMNS = 16_384  # bytes of a line that ripgrep prints
_ROW = re.compile(rb"(\d+)(?::(\d+):|-)")
_BINARY = re.compile(rb"(.*): (?:binary file matches|WARNING: stopped searching binary file)[^\n]*")
_OTHER_NAMES = {
    "javascript": "js",
    "typescript": "ts",
    "shell": "sh",
    "bash": "sh",
    "golang": "go",
    "c++": "cpp",
    "c#": "cs",
}
_HINTS = (
    (
        "look-around",
        "There is no look-ahead or look-behind here; match more and narrow the result, or use grep -P in bash",
    ),
    ("backreferences", "There are no back-references here; use grep -P in bash"),
    ("repetition quantifier", "To find a brace itself, write \\{"),
    ("unclosed group", "To find a parenthesis itself, write \\("),
    ("unopened group", "To find a parenthesis itself, write \\)"),
    ("unclosed character class", "To find a bracket itself, write \\["),
    ("is not allowed in a regex", "Set multiline to find text across lines"),
)


@dataclass(frozen=True)
class Shown:
    """Entries to page through, in order, and what they add up to."""

    entries: Sequence[str]
    total: str


def whole(out: bytes, end: bytes, *, cut: bool) -> Sequence[bytes]:
    """The records that are complete: of a result that was cut, the last one is not."""
    records = out.split(end)
    return records[:-1] if cut else [record for record in records if record]


def file_names(out: bytes, *, cut: bool) -> Sequence[str]:
    return sorted(name_of(path) for path in whole(out, b"\0", cut=cut))


def file_counts(out: bytes, *, cut: bool) -> Shown:
    """Lines `path:count`; ripgrep prints a path, NUL, and a count."""
    rows = sorted(row.split(b"\0") for row in whole(out, b"\n", cut=cut) if row.count(b"\0") == 1)
    counts = [(name_of(path), int(count)) for path, count in rows if count.isdigit()]
    total = f"{len(counts):,} files, {sum(count for _, count in counts):,} matches"
    return Shown([f"{name}:{count}" for name, count in counts], total)


def content(out: bytes, *, cut: bool, context: bool) -> Shown:
    """Lines `path:number:text` (`-` instead of `:` for context), files in order.

    A line that begins a new group stands behind a "--", in one entry, so that pages count lines and not separators.
    """
    groups: dict[bytes, list[str]] = {}
    names: dict[bytes, str] = {}
    matches, apart = 0, False
    for row in whole(out, b"\n", cut=cut):
        path, found, rest = row.partition(b"\0")
        if not found:
            binary = _BINARY.fullmatch(row)
            if binary:
                groups.setdefault(binary[1], []).append(f"{name_of(binary[1])}: matches, but binary")
                matches += 1
            apart = apart or row == b"--"
            continue
        head = _ROW.match(rest)
        if head is None:
            continue
        if path not in names:
            names[path] = name_of(path)
        group = groups.setdefault(path, [])
        mark = "-" if head[2] is None else ":"
        matches += mark == ":"
        line = f"{names[path]}{mark}{head[1].decode()}{mark}{clip(rest[head.end() :], int(head[2] or 1))}"
        group.append(f"--\n{line}" if apart or (context and not group) else line)
        apart = False
    return Shown([entry for path in sorted(groups) for entry in groups[path]], f"{matches:,} matching lines")


def clip(line: bytes, column: int) -> str:
    """A line, or the part of a long one around a match; `column` counts bytes from 1."""
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    if len(text) <= MAX_LINE:
        return text
    at = len(line[: column - 1].decode("utf-8", errors="replace"))
    start = 0 if at < MAX_LINE - 100 or column > len(line) else min(at - MAX_LINE // 4, len(text) - MAX_LINE)
    end = start + MAX_LINE
    where = f"match at column {column:,}, " if start or column > len(line) else ""
    size = f"{len(text):,} characters" if len(line) < MAX_COLUMNS else "a very long line"
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''} ({where}{size})"


def name_of(path: bytes) -> str:
    return printable(path.decode("utf-8", errors="surrogateescape").removeprefix("./"))


def complaint(said: str) -> str:
    """ripgrep's own words without what only somebody at its command line can do, and what to do here."""
    said = said.replace("rg: ", "", 1).strip()
    kept = said.partition("\n\nConsider enabling")[0].strip()
    found = re.search(r"^error: (.*)", kept, re.MULTILINE)
    if kept.startswith("regex parse error") and found:
        kept = f"regex parse error: {found[1]}"
    hint = next((f". {words}" for sign, words in _HINTS if sign in kept), "")
    return f"{kept[:500].rstrip('.')}{hint}."


def near_types(asked: str, listed: str) -> Sequence[str]:
    """ripgrep's types that have files ending like `asked`, or are named like it; `listed` is its --type-list."""
    types = dict(line.split(": ", 1) for line in listed.splitlines() if ": " in line)
    ending = [name for name, globs in types.items() if f"*.{asked.lower().lstrip('.')}" in globs.split(", ")]
    like = difflib.get_close_matches(asked.lower(), list(types), n=3, cutoff=0.6)
    known = [name for name in (_OTHER_NAMES.get(asked.lower()),) if name in types]
    return list(dict.fromkeys([*known, *ending, *like]))[:3]
