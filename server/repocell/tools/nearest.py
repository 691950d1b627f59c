"""Help for an edit that matched nothing: the mistake it looks like, and the text that is most like it.

Lives here: pure functions from (text, old) to words. What they cost is bounded by characters looked at, not by tries.
"""

import re
from collections import Counter
from collections.abc import Sequence

from .diffs import line_changes

MAX_SHOWN = 40
MAX_LINE = 300
_MOST_TEXT = 16 << 20  # characters in which the lines of old are looked for
_MOST_COMPARED = 2_000_000  # characters compared with one line, when none of the lines is there as it is
_MOST_LINES, _MOST_PLACES = 5_000, 20
_ALIKE = 0.4
_NUMBERED = re.compile(r" *\d+\t")


def help_for(text: str, old: str) -> str:
    """What the caller most likely meant, and where."""
    return "\n".join([*_mistakes(text, old), nearest(text, old, "old_string")])


def _mistakes(text: str, old: str) -> Sequence[str]:
    """Mistakes that are named and not corrected: a guess might change what was meant."""
    found: list[str] = []
    if all(_NUMBERED.match(line) for line in old.splitlines() if line):
        found.append(
            "old_string has line numbers as read_file shows them; they are not part of the file. Leave them out."
        )
    for written, meant, name in (("\\n", "\n", "a line break"), ("\\t", "\t", "a tab"), ('\\"', '"', 'only "')):
        if written in old and old.replace(written, meant) in text:
            found.append(f"old_string contains the two characters {' and '.join(written)}; did you mean {name}?")
    if old.strip() and old.lower() != old.upper() and old.lower() in text.lower():
        found.append("It is there with other upper and lower case.")
    return found


def nearest(text: str, old: str, what: str) -> str:
    """The block of the text most like `old`, which is called `what`, as a small diff; or what to do instead."""
    if len(text) > _MOST_TEXT:
        return "Read the place again with read_file and copy it exactly."
    wanted = [line.strip() for line in _lines(old)]
    lines = text.split("\n")
    shape = [line.strip() if len(line) <= 10 * MAX_LINE else "" for line in lines]
    start = _most_in_common(shape, wanted)
    if start is None:
        start = _most_alike(shape, wanted)
    if start is None:
        return "Nothing in the file is like it. grep finds where the text stands; read_file shows it exactly."
    block = [line.removesuffix("\r") for line in lines[start : start + len(wanted)]]
    asked = [line.removesuffix("\r") for line in _lines(old)]
    return f"The nearest text is at lines {start + 1}-{start + len(block)} (- {what}, + the file):\n" + "\n".join(
        _compared(asked, block)
    )


def _lines(old: str) -> Sequence[str]:
    lines = old.split("\n", _MOST_LINES)[:_MOST_LINES]
    return lines if lines[-1] else lines[:-1]


def _most_in_common(shape: Sequence[str], wanted: Sequence[str]) -> int | None:
    """The line where a block begins that has the most text in common with what is wanted, line by line."""
    places: dict[str, list[int]] = {line: [] for line in wanted if len(line) > 2}
    for at, line in enumerate(shape):
        if (known := places.get(line)) is not None and len(known) < _MOST_PLACES:
            known.append(at)
    votes: Counter[int] = Counter()
    for offset, line in enumerate(wanted):
        for at in places.get(line, ()):
            votes[max(0, at - offset)] += len(line)
    return max(votes, key=lambda at: (votes[at], -at), default=None)


def _most_alike(shape: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Where a block would begin if its longest line is the one most like the longest that is wanted."""
    offset, anchor = max(enumerate(wanted), key=lambda item: len(item[1]), default=(0, ""))
    pairs = _pairs(anchor[:MAX_LINE])
    if len(anchor) < 3 or not pairs:
        return None
    best, best_at, left = _ALIKE, None, _MOST_COMPARED
    seen: set[str] = set()
    for at, line in enumerate(shape):
        if line in seen:
            continue
        seen.add(line)
        left -= min(len(line), MAX_LINE)
        if left < 0:
            break
        theirs = _pairs(line[:MAX_LINE])
        common = len(pairs & theirs)
        likeness = 0.75 * common / len(pairs) + 0.25 * 2 * common / (len(pairs) + len(theirs))
        if likeness > best:
            best, best_at = likeness, at
    return None if best_at is None else max(0, best_at - offset)


def _pairs(line: str) -> set[str]:
    return {line[at : at + 2] for at in range(len(line) - 1)}


def _compared(asked: Sequence[str], block: Sequence[str]) -> Sequence[str]:
    """Both as one small diff, with a line around each difference."""
    out: list[str] = []
    done = 0
    for span in line_changes(asked, block):
        out += _between(asked[done : span.before], first=done == 0)
        out += [f"-{line[:MAX_LINE]}" for line in asked[span.before : span.before_end][:MAX_SHOWN]]
        out += [f"+{line[:MAX_LINE]}" for line in block[span.after : span.after_end][:MAX_SHOWN]]
        done = span.before_end
    out += [f" {line[:MAX_LINE]}" for line in asked[done : done + 1]]
    return out if len(out) <= MAX_SHOWN else [*out[:MAX_SHOWN], "... (cut)"]


def _between(same: Sequence[str], *, first: bool) -> Sequence[str]:
    """Lines that are alike: those next to a difference, and a mark for the others."""
    shown = [f" {line[:MAX_LINE]}" for line in same]
    if first:
        return shown[-1:]
    return shown if len(shown) <= 3 else [shown[0], " ...", shown[-1]]
