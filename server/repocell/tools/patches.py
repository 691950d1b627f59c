"""Applying hunks to a text: exactly first, then more tolerantly, never guessing between two places.

Lives here: pure functions from (text, hunks) to the new text and how each hunk was found, or why it was not. Line endings,
byte order marks, undecodable bytes and the state of the last newline are kept. What is tolerated, and in which order: WAYS
of patch_search.py, then context dropped at a hunk's edges as patch(1) does (its "fuzz").
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .nearest import nearest
from .patch_search import FUZZY_WAYS, WAYS, View, Way, Work
from .patch_values import Hunk

MAX_FUZZ = 2
MAX_LISTED = 8
_MAX_COMPARED = 150  # lines of a hunk up to which what is nearest is looked for
_READ_AGAIN = "Read the place again with read_file and copy it exactly."
_NOT_FOUND = "its lines were not found."


@dataclass(frozen=True)
class Applied:
    text: str
    added: int
    removed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Misfit:
    """A hunk without a place: its number in the file's change, its line in the patch, and why."""

    number: int
    line: int
    why: str


@dataclass(frozen=True)
class _Match:
    """Where a hunk goes: its place in the file, and the way it was found; `dropped` are lines of context at its start."""

    place: int
    body: Sequence[tuple[str, str]]
    size: int
    way: Way
    fuzz: int = 0
    dropped: int = 0
    note: str = ""
    shift: tuple[str, str] = ("", "")  # indentation in the hunk, and in the file


@dataclass
class _File:
    """A text while hunks are looked for in it. `taken`: the places found so far, as (first line, line after), sorted."""

    lines: Sequence[str]
    work: Work
    taken: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    floor: int = 0
    drift: int = 0
    carriage_returns: bool = True
    _views: dict[int, View] = field(default_factory=dict[int, View])

    def view(self, way: Way) -> View:
        if way is WAYS[1] and not self.carriage_returns:
            way = WAYS[0]
        found = self._views.get(id(way))
        if found is None:
            found = self._views[id(way)] = View(self.lines, way, self.work)
        return found

    def free(self, place: int, size: int) -> bool:
        at = bisect_left(self.taken, (place, place))
        before_ends = at == 0 or self.taken[at - 1][1] <= place
        return before_ends and (at == len(self.taken) or place + size <= self.taken[at][0])


def apply_hunks(text: str, hunks: Sequence[Hunk], work: Work) -> Applied | Sequence[Misfit]:
    """The text with every hunk applied, or all those that do not fit. Raises TooMuchWork."""
    bom, crlf = _outer_form(text, hunks)
    inner = text.removeprefix("\ufeff") if bom else text
    inner = inner.replace("\r\n", "\n") if crlf else inner
    lines = inner.split("\n")
    closed = lines[-1] == ""  # the last line ends in a newline, or there is none
    if closed:
        lines.pop()
    file = _File(lines, work, carriage_returns="\r" in inner)
    found: list[tuple[Hunk, _Match]] = []
    misfits: list[Misfit] = []
    notes: list[str] = []
    for number, hunk in enumerate(hunks, 1):
        match = _locate(file, hunk)
        if not isinstance(match, _Match):
            misfits.append(Misfit(number, hunk.line, _with_nearest(match, inner, hunk, file)))
            continue
        notes += _told(number, hunk, match, file)
        found.append((hunk, match))
        insort(file.taken, (match.place, match.place + match.size))
        file.floor = match.place + match.size
        file.drift = file.drift if hunk.start is None else _offset(hunk, match)
    if misfits:
        return misfits
    new = _rewritten(lines, found, closed)
    new = new.replace("\n", "\r\n") if crlf else new
    text = "\ufeff" + new if bom and new else new
    return Applied(text, sum(h.added for h in hunks), sum(h.removed for h in hunks), tuple(notes))


def _outer_form(text: str, hunks: Sequence[Hunk]) -> tuple[bool, bool]:
    """Whether the text's byte order mark, and its CRLF endings, stay out of sight of hunks that do not mention them."""
    bom = text.startswith("\ufeff") and not any(line.startswith("\ufeff") for h in hunks for _, line in h.body)
    endings = text.count("\n")
    crlf = 0 < endings == text.count("\r\n") and not any("\r" in line for hunk in hunks for _, line in hunk.body)
    return bom, crlf


def _nominal(hunk: Hunk, body: Sequence[tuple[str, str]]) -> int:
    """The line, counted from 0, that the header names. Without old lines it names the one before (POSIX diff)."""
    start = hunk.start or 0
    return start if not any(sign != "+" for sign, _ in body) else max(0, start - 1)


def _offset(hunk: Hunk, match: _Match) -> int:
    """How far from the line its header names a hunk was found."""
    return match.place - match.dropped - _nominal(hunk, hunk.body)


def _locate(file: _File, hunk: Hunk) -> _Match | str:
    """Where the hunk goes, or why that cannot be said."""
    if not hunk.old:
        return _locate_insertion(file, hunk)
    for way in WAYS:
        match = _search(file, hunk, hunk.body, way, 0, 0)
        if match is not None:
            return match
    if hunk.fuzzy:
        match = _locate_fuzzily(file, hunk)
        if match is not None:
            return match
    done = [key.removesuffix("\r") for key in hunk.new]
    places = file.view(WAYS[1]).places(done) if any(line.strip() for line in done) else ()
    if len(places) == 1 and hunk.added:
        first = places[0] + 1
        return f"it seems to be applied already: what it makes stands at lines {first}-{first + len(done) - 1}."
    return _NOT_FOUND


def _locate_fuzzily(file: _File, hunk: Hunk) -> _Match | str | None:
    signs = [sign for sign, _ in hunk.body]
    lead = next(n for n, sign in enumerate(signs) if sign != " ")
    tail = next(n for n, sign in enumerate(reversed(signs)) if sign != " ")
    tried = {(0, 0)}
    for fuzz in range(1, MAX_FUZZ + 1):
        head, foot = min(fuzz, lead), min(fuzz, tail)
        if (head, foot) in tried:
            continue
        tried.add((head, foot))
        body = hunk.body[head : len(hunk.body) - foot]
        if not any(sign != "+" and text.strip() for sign, text in body):
            continue
        for way in FUZZY_WAYS:
            match = _search(file, hunk, body, way, head, fuzz)
            if match is not None:
                return match
    return None


def _locate_insertion(file: _File, hunk: Hunk) -> _Match | str:
    """A hunk that only adds: after its anchors, at the line it names, or at the end, as its form has it."""
    end = len(file.lines)
    place, note = end, "" if hunk.at_end or not end else "had no context, so its lines were put at the end of the file"
    if hunk.anchors:
        after = _after_anchors(file, hunk.anchors)
        if isinstance(after, str):
            return after
        place, note = after + 1, ""
    elif hunk.start is not None:
        place = _nominal(hunk, hunk.body) + file.drift
        note = f"had no context, so its lines were put after line {place}" if place else ""
    if not 0 <= place <= end:
        return f"the file has {end:,} lines, and the hunk has no lines that would tell another place."
    if not file.free(place, 0):
        return "it overlaps another hunk."
    return _Match(place, hunk.body, 0, WAYS[0], note=note)


def _search(
    file: _File, hunk: Hunk, body: Sequence[tuple[str, str]], way: Way, dropped: int, fuzz: int
) -> _Match | str | None:
    """The one place of a hunk's old lines under one way of comparing, why it is not one, or None where there is none."""
    old = [text for sign, text in body if sign != "+"]
    wanted = list(map(way.key, old))
    if not way.whole and not any(wanted):
        return None
    expected = _nominal(hunk, body) + dropped + file.drift if hunk.start is not None else None
    view = file.view(way)
    file.work.spend(len(wanted))
    open_end = hunk.at_end or hunk.old_open or hunk.new_open
    if expected is not None and not open_end and file.free(expected, len(old)) and view.stand_at(expected, wanted):
        places: Sequence[int] = (expected,)
    else:
        places = view.places(wanted)
    shifts: dict[int, tuple[str, str]] = {}
    if way.moved:
        file.work.spend(len(places) * len(old) * 20)
        shifts = {p: shift for p in places if (shift := _shift(file.lines[p : p + len(old)], body)) is not None}
        places = list(shifts)
    if not places:
        return None
    free = [place for place in places if file.free(place, len(old))]
    place = _choose(file, hunk, free, len(old), expected)
    if isinstance(place, str):
        return place
    return _Match(place, body, len(old), way, fuzz, dropped, shift=shifts.get(place, ("", "")))


def _choose(file: _File, hunk: Hunk, places: Sequence[int], size: int, expected: int | None) -> int | str:
    """The place that is meant: at the end where the hunk says so, after earlier hunks, nearest to its line or anchors."""
    if hunk.at_end or hunk.old_open or hunk.new_open:
        places = [place for place in places if place + size == len(file.lines)] or places
    places = [place for place in places if place >= file.floor] or places
    if not places:
        return "its lines stand only where an earlier hunk of the patch applies."
    if len(places) == 1:
        return places[0]
    if expected is not None:
        ranked = sorted(places, key=lambda place: abs(place - expected))
        if abs(ranked[0] - expected) != abs(ranked[1] - expected):
            return ranked[0]
        places = sorted(ranked[:2])
    elif hunk.anchors:
        anchor = _after_anchors(file, hunk.anchors)
        if isinstance(anchor, str):
            return f"its lines stand at {_listed(places)}, and {anchor}"
        after = [place for place in places if place >= anchor]
        if after:
            return after[0]
    way_out = (
        "correct the line number in its header"
        if expected is not None
        else 'put a line that stands before the right one, and only there, after "@@"'
    )
    return f"its lines stand equally well at {_listed(places)}; add context until one is left, or {way_out}."


def _after_anchors(file: _File, anchors: Sequence[str]) -> int | str:
    """The line of the last "@@" line, each looked for after the one before; the first must be the only one of its kind."""
    at = -1
    for number, anchor in enumerate(anchors):
        for way in WAYS[1:]:
            places = file.view(way).places([way.key(anchor)])
            places = [p for p in places if p > at] if number else [p for p in places if p >= file.floor] or places
            if places:
                break
        else:
            return f'the line "@@ {anchor[:100]}" was not found{" after the one before it" if number else ""}.'
        if number == 0 and len(places) > 1:
            return f'the line "@@ {anchor[:100]}" stands at {_listed(places)}; put the line before it on an "@@" line of its own.'
        at = places[0]
    return at


def _listed(places: Iterable[int]) -> str:
    lines = [str(place + 1) for place in places]
    more = f" and {len(lines) - MAX_LISTED:,} more" if len(lines) > MAX_LISTED else ""
    return f"lines {', '.join(lines[:MAX_LISTED])}{more}"


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _shift(there: Sequence[str], body: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The hunk's indentation and the file's, when all lines are moved alike; None otherwise.

    One space is no move: it is what a hunk looks like whose lines of context lack their sign, and then added lines are not
    moved.
    """
    old = [text for sign, text in body if sign != "+"]
    pairs = [(_indent(a), _indent(b)) for a, b in zip(old, there, strict=True) if a.strip()]
    here, found = min(pairs, key=lambda pair: len(pair[0]))
    alike = all(a.startswith(here) and found + a[len(here) :] == b for a, b in pairs)
    added = all(text.startswith(here) for sign, text in body if sign == "+" and text.strip())
    lost_sign = f"{here} " == found or f"{found} " == here
    return (here, found) if alike and added and not lost_sign else None


def _rewritten(lines: Sequence[str], found: Sequence[tuple[Hunk, _Match]], closed: bool) -> str:
    """The text after the matches, which do not overlap."""
    out: list[str] = []
    at = 0
    for hunk, match in sorted(found, key=lambda pair: (pair[1].place, pair[1].size)):
        out += lines[at : match.place]
        at = match.place
        ending = "\r" if lines and lines[min(at, len(lines) - 1)].endswith("\r") else ""
        for sign, text in match.body:
            if sign == "+":
                out.append(_fitted(text, match, ending))
                continue
            if sign == " ":
                out.append(lines[at])
            at += 1
        if at == len(lines) and (hunk.old_open or hunk.new_open):
            closed = not hunk.new_open
    out += lines[at:]
    return "\n".join(out) + ("\n" if closed else "") if out else ""


def _fitted(text: str, match: _Match, ending: str) -> str:
    """An added line with the line ending, and the indentation, of its place."""
    if match.way.whole:
        return text
    here, there = match.shift
    if here != there and text.strip():
        text = there + text[len(here) :]
    return text.removesuffix("\r") + ending


def _told(number: int, hunk: Hunk, match: _Match, file: _File) -> Sequence[str]:
    """How the hunk was found, where that is not exactly as it says."""
    said: list[str] = [match.note] if match.note else []
    if match.size:
        off = _offset(hunk, match) if hunk.start is not None else 0
        if off and off != file.drift:
            lines = f"{abs(off):,} line{'s' if abs(off) != 1 else ''}"
            said.append(f"was found {lines} further {'down' if off > 0 else 'up'}, at line {match.place + 1:,}")
        if match.fuzz:
            said.append(f"matched with fuzz {match.fuzz} (context at its edges was left out)")
        if match.way.note:
            said.append(f"matched {match.way.note}")
    if hunk.miscounted:
        said.append("has wrong line counts in its header")
    return [f"hunk {number} {'; '.join(said)}"] if said else []


def _with_nearest(why: str, text: str, hunk: Hunk, file: _File) -> str:
    """The reason, with what is most like the hunk where that helps: when its lines were not found."""
    if why != _NOT_FOUND:
        return why
    file.work.looks -= 1
    if file.work.looks < 0 or len(hunk.old) > _MAX_COMPARED:
        return f"{why} {_READ_AGAIN}"
    return f"{why} " + nearest(text, "\n".join(hunk.old), "the hunk")
