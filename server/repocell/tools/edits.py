"""Replacing text in a file: exact first, then more tolerant, never guessing between two places.

Lives here: pure functions from (text, old, new) to the new text and what was done, or the reason it was refused with help
to do better. Line endings, byte order marks and undecodable bytes pass through unchanged.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONTEXT = 3
MAX_DIFF_LINES = 60
MAX_LISTED = 8
_NEAR_MISS_LINES, _NEAR_MISS_TEXT, _NEAR_MISS_TRIES = 20_000, 10_000, 40


@dataclass(frozen=True)
class Edit:
    """The whole new text, the changes as a short unified diff, and how tolerant the match had to be ('' for exact)."""

    text: str
    diff: str
    note: str
    count: int


@dataclass(frozen=True)
class Refused:
    why: str
    detail: str


@dataclass(frozen=True)
class _Place:
    start: int
    end: int
    new: str


def replace(text: str, old: str, new: str, *, everywhere: bool = False) -> Edit | Refused:
    """Replaces the one place where `old` stands, or each of them with `everywhere`."""
    if not old:
        return Refused("old_string is empty.", "Use write_file to make a new file.")
    if old == new:
        return Refused("old_string and new_string are the same.", "There is nothing to change.")
    if "\r\n" in text and "\r\n" not in old:
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
    places = _exact(text, old, new)
    note = ""
    for describe, same, adjust in _TOLERANT:
        if places:
            break
        places, note = _by_lines(text, old, new, same, adjust), describe
    if not places:
        return Refused("old_string was not found.", near_miss(text, old))
    if len(places) > 1 and not everywhere:
        lines = [str(text.count("\n", 0, place.start) + 1) for place in places[:MAX_LISTED]]
        shown = ", ".join(lines) + (", ..." if len(places) > MAX_LISTED else "")
        return Refused(
            f"old_string matches {len(places)} places (lines {shown}).",
            "Add surrounding lines until it matches one, or set replace_all.",
        )
    return Edit(_apply(text, places), _diff(text, places), note, len(places))


def _exact(text: str, old: str, new: str) -> Sequence[_Place]:
    found: list[_Place] = []
    at = text.find(old)
    while at >= 0:
        found.append(_Place(at, at + len(old), new))
        at = text.find(old, at + len(old))
    return found


def _keep(_line: str, _old: str, new: str) -> str:
    return new


def _reindent(line: str, old: str, new: str) -> str:
    """`new` moved by as much as the file's first line is indented more, or less, than `old`'s."""
    there, here = _indent(line), _indent(old)
    moved: list[str] = []
    for each in new.splitlines(keepends=True):
        if each.strip() and each.startswith(here):
            each = there + each[len(here) :]
        moved.append(each)
    return "".join(moved)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


_TOLERANT: Sequence[tuple[str, Callable[[str], str], Callable[[str, str, str], str]]] = (
    ("matched ignoring spaces at the ends of lines", lambda line: line.rstrip(), _keep),
    ("matched ignoring indentation, which was adapted", lambda line: line.strip(), _reindent),
)


def _by_lines(
    text: str, old: str, new: str, same: Callable[[str], str], adjust: Callable[[str, str, str], str]
) -> Sequence[_Place]:
    """Places where whole lines are the same under `same`. A single blank line is never enough to match."""
    wanted = [same(line) for line in old.splitlines()]
    if not any(wanted):
        return ()
    lines = text.splitlines(keepends=True)
    shape = [same(line) for line in lines]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found: list[_Place] = []
    at = 0
    while at <= len(lines) - len(wanted):
        if shape[at] == wanted[0] and shape[at : at + len(wanted)] == wanted:
            last = lines[at + len(wanted) - 1]
            ending = last[len(last.rstrip("\r\n")) :]
            body = adjust(lines[at], old, new)
            body = body if body.endswith(("\n", "\r\n")) or not body or not ending else body + ending
            end = starts[at + len(wanted)]
            found.append(_Place(starts[at], end, body if ending or not body.endswith("\n") else body.rstrip("\r\n")))
            at += len(wanted)
        else:
            at += 1
    return found


def _apply(text: str, places: Sequence[_Place]) -> str:
    parts: list[str] = []
    at = 0
    for place in places:
        parts += [text[at : place.start], place.new]
        at = place.end
    return "".join([*parts, text[at:]])


def _diff(text: str, places: Sequence[_Place]) -> str:
    """Unified hunks around the changes, from their positions: comparing whole files would cost more than the edit."""
    out: list[str] = []
    shift = 0
    for place in places:
        first = text.rfind("\n", 0, place.start) + 1
        stop = text.find("\n", place.end - 1 if place.end > place.start else place.end)
        last = len(text) if stop < 0 else stop + 1
        before = text[first:last].splitlines()
        after = (text[first : place.start] + place.new + text[place.end : last]).splitlines()
        line = text.count("\n", 0, first) + 1
        lead = text[:first].splitlines()[-CONTEXT:] if first < 1_000_000 else []
        tail = text[last : last + 2000].splitlines()[:CONTEXT]
        size = len(lead) + len(tail)
        out.append(f"@@ -{line - len(lead)},{len(before) + size} +{line - len(lead) + shift},{len(after) + size} @@")
        out += [f" {each}" for each in lead]
        out += _changed_lines(before, after)
        out += [f" {each}" for each in tail]
        shift += len(after) - len(before)
        if len(out) > MAX_DIFF_LINES:
            break
    shown = out[:MAX_DIFF_LINES]
    return "\n".join([*shown, f"... ({len(places)} places changed)"] if len(out) > MAX_DIFF_LINES else shown)


def _changed_lines(before: Sequence[str], after: Sequence[str]) -> Sequence[str]:
    out: list[str] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            out += [f" {line}" for line in before[a:b]]
        else:
            out += [f"-{line}" for line in before[a:b]] + [f"+{line}" for line in after[c:d]]
    return out


def near_miss(text: str, old: str) -> str:
    """The block most like `old`, as a diff against it; what helps most is seeing the difference."""
    wanted, lines = old.splitlines(), text.splitlines()
    if len(lines) > _NEAR_MISS_LINES or len(old) > _NEAR_MISS_TEXT:
        return "Read the place again with read_file and copy it exactly."
    anchors = [line.strip() for line in wanted if len(line.strip()) > 2]
    matcher = difflib.SequenceMatcher(autojunk=False)
    best, best_at = 0.0, -1
    matcher.set_seq2("\n".join(wanted))
    close: set[str] = (
        set(difflib.get_close_matches(anchors[0], {line.strip() for line in lines}, n=5, cutoff=0.6))
        if anchors
        else set()
    )
    offset = next((i for i, line in enumerate(wanted) if anchors and line.strip() == anchors[0]), 0)
    tries = 0
    for at, line in enumerate(lines):
        if line.strip() in close and len(line) < 1_000 and tries < _NEAR_MISS_TRIES:
            tries += 1
            start = max(0, at - offset)
            matcher.set_seq1("\n".join(lines[start : start + len(wanted)]))
            if matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
                best, best_at = ratio, start
    if best_at < 0:
        return "Nothing in the file is like it. grep finds where the text stands; read_file shows it exactly."
    block = lines[best_at : best_at + len(wanted)]
    diff = list(difflib.unified_diff(wanted, block, "old_string", "the file", lineterm="", n=1))[:MAX_DIFF_LINES]
    return f"The nearest text is at lines {best_at + 1}-{best_at + len(block)}:\n" + "\n".join(diff)
