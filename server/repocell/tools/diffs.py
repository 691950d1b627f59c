"""Short unified diffs from where a text was changed, in time linear in the text and with a bounded number of lines.

Lives here: places of a text, the line changes they make, and their wording. It may not look for places: edits.py does.
Whole files are never compared; only lines that a change touches are, and only while that is cheap. Lines end at "\\n".
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

CONTEXT = 3
MAX_LINES = 60
MAX_LINE = 400
_COMPARED_LINES, _COMPARED_PAIRS, _COMPARED_TEXT = 400, 5_000, 100_000
_NO_NEWLINE = "\\ No newline at end of file"


@dataclass(frozen=True, slots=True)
class Place:
    """A span of a text, and what to put there."""

    start: int
    end: int
    new: str


@dataclass(frozen=True, slots=True)
class Span:
    """Lines of one text that became lines of another: indices, ends exclusive."""

    before: int
    before_end: int
    after: int
    after_end: int


@dataclass(frozen=True, slots=True)
class _Change:
    """Whole lines of the text from `start` to `end`, the first of them number `line` from 1, that become `new`."""

    start: int
    end: int
    line: int
    new: str


def common_start(one: str, other: str) -> int:
    """How many first characters are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def lines_of(text: str) -> list[str]:
    """Lines with their ends; joined they are the text."""
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])


def line_changes(before: Sequence[str], after: Sequence[str]) -> Sequence[Span]:
    """What differs. Where comparing would cost too much, one span from the first difference to the last."""
    shorter = min(len(before), len(after))
    head = next((n for n in range(shorter) if before[n] != after[n]), shorter)
    tail = next((n for n in range(shorter - head) if before[-1 - n] != after[-1 - n]), shorter - head)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    if not old and not new:
        return ()
    if not _cheap(old, new):
        return (Span(head, head + len(old), head, head + len(new)),)
    codes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [Span(head + a, head + b, head + c, head + d) for tag, a, b, c, d in codes if tag != "equal"]


def _cheap(old: Sequence[str], new: Sequence[str]) -> bool:
    """SequenceMatcher takes time in the pairs of lines that are alike, times the pieces it finds."""
    if max(len(old), len(new)) > _COMPARED_LINES:
        return False
    there = Counter(new)
    return sum(there[line] * count for line, count in Counter(old).items()) <= _COMPARED_PAIRS


def unified(text: str, places: Sequence[Place]) -> str:
    """Hunks around the changes at these places (in order, not overlapping), cut after MAX_LINES lines."""
    out: list[str] = []
    for hunk in _hunks(_line_changes(text, places), text):
        out += hunk
        if len(out) > MAX_LINES:
            return "\n".join(
                [*out[:MAX_LINES], f"... (cut; {len(places):,} {'places' if len(places) > 1 else 'place'})"]
            )
    return "\n".join(out)


def _line_changes(text: str, places: Sequence[Place]) -> Iterator[_Change]:
    """Changes of whole lines, one by one, so that only those that are shown cost anything."""
    at, line, number = 0, 1, 0
    while number < len(places):
        start = text.rfind("\n", 0, places[number].start) + 1
        end, new, number = _touched(text, places, number, start)
        line += text.count("\n", at, start)
        at = start
        yield from _split(_Change(start, end, line, new), text)


def _touched(text: str, places: Sequence[Place], number: int, start: int) -> tuple[int, str, int]:
    """Where the lines end that a place and others on these lines touch, what they become, and the number of the next place.

    The line behind a place is touched when the one before it lost its end.
    """
    parts: list[str] = []
    at = end = start
    while number < len(places) and (not parts or places[number].start < end):
        place = places[number]
        parts += [text[at : place.start], place.new]
        at, number = place.end, number + 1
        last = next((part for part in reversed(parts) if part), "\n")
        whole = last.endswith("\n") and text[at - 1 : at] in ("", "\n")
        if (
            whole or at >= end
        ):  # otherwise the line's end is known, and not looked for again for each place of a long line
            end = at if whole else text.find("\n", at) + 1 or len(text)
    return end, "".join([*parts, text[at:end]]), number


def _split(change: _Change, text: str) -> Iterator[_Change]:
    """The lines of a change that really differ; a large change is only trimmed where both texts begin and end alike."""
    before, after = text[change.start : change.end], change.new
    if len(before) + len(after) > _COMPARED_TEXT:
        yield _trimmed(change, before)
        return
    olds, news = lines_of(before), lines_of(after)
    offset, done = change.start, 0
    for span in line_changes(olds, news):
        offset += sum(map(len, olds[done : span.before]))
        end = offset + sum(map(len, olds[span.before : span.before_end]))
        yield _Change(offset, end, change.line + span.before, "".join(news[span.after : span.after_end]))
        offset, done = end, span.before_end


def _trimmed(change: _Change, before: str) -> _Change:
    head = before.rfind("\n", 0, common_start(before, change.new)) + 1
    rest, new = before[head:], change.new[head:]
    same = common_start(rest[::-1], new[::-1])
    cut = rest.find("\n", len(rest) - same) + 1
    tail = len(rest) - cut if cut and same and cut <= len(rest) else 0
    return _Change(
        change.start + head, change.end - tail, change.line + before.count("\n", 0, head), new[: len(new) - tail]
    )


# -- hunks


@dataclass(frozen=True, slots=True)
class _Side:
    """Lines of one text that a hunk shows: the number of the first, and how many."""

    line: int
    count: int

    def __str__(self) -> str:
        return f"{self.line if self.count else self.line - 1},{self.count}"


def _hunks(changes: Iterable[_Change], text: str) -> Iterator[Sequence[str]]:
    group: list[_Change] = []
    shift = 0
    for change in changes:
        if group and change.line - _behind(group[-1], text) >= 2 * CONTEXT:
            hunk, shift = _hunk(group, text, shift)
            yield hunk
            group = []
        group.append(change)
        if len(group) > MAX_LINES:
            break
    if group:
        yield _hunk(group, text, shift)[0]


def _behind(change: _Change, text: str) -> int:
    """The number of the line behind a change."""
    return change.line + _count(text[change.start : change.end])


def _count(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and text != "")


def _hunk(group: Sequence[_Change], text: str, shift: int) -> tuple[Sequence[str], int]:
    """The lines of one hunk with its header, and how many lines later the new text is behind it."""
    first = _back(text, group[0].start)
    last = _forward(text, group[-1].end)
    body: list[str] = []
    at, added = first, shift
    for change in group:
        body += _marked(" ", text[at : change.start])
        before = text[change.start : change.end]
        skip = _skipped(before, change.new)
        body += _marked("-", before, skip) + _marked("+", change.new, skip)
        at = change.end
        added += _count(change.new) - _count(before)
    body += _marked(" ", text[at:last])
    line = group[0].line - text.count("\n", first, group[0].start)
    size = _count(text[first:last])
    header = f"@@ -{_Side(line, size)} +{_Side(line + shift, size + added - shift)} @@"
    return [header, *body], added


def _back(text: str, at: int) -> int:
    for _ in range(CONTEXT):
        at = text.rfind("\n", 0, max(0, at - 1)) + 1
    return at


def _forward(text: str, at: int) -> int:
    for _ in range(CONTEXT):
        at = text.find("\n", at) + 1 or len(text)
    return at


def _skipped(before: str, after: str) -> int:
    """Characters to leave out at the start of a long first line: the change is shown, not what stands far before it."""
    old, new = before.partition("\n")[0], after.partition("\n")[0]
    if max(len(old), len(new)) <= MAX_LINE:
        return 0
    return max(0, common_start(old, new) - MAX_LINE // 4)


def _marked(mark: str, text: str, skip: int = 0) -> list[str]:
    """Lines behind a mark, no more of them than can be shown."""
    out: list[str] = []
    at = 0
    while at < len(text) and len(out) <= MAX_LINES:
        end = text.find("\n", at)
        stop = end if end >= 0 else len(text)
        start = at + (skip if at == 0 else 0)
        clipped = text[start : min(stop, start + MAX_LINE)].removesuffix("\r")
        out.append(mark + ("..." if start > at else "") + clipped + ("..." if stop > start + MAX_LINE else ""))
        at = stop + 1
    if text and not text.endswith("\n") and len(out) <= MAX_LINES:
        out.append(_NO_NEWLINE)
    return out
