"""Replacing text in a file: exact first, then more tolerant, never guessing between two places.

Lives here: pure functions from (text, old, new) to the new text and what was done, or the reason it was refused with help
to do better. Line endings, byte order marks and undecodable bytes pass through unchanged. Everything takes time linear in
the text and in what is looked for: searching is left to str.find, which is (two-way search, CPython 3.10 and later).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from ..models import MiB
from .diffs import Place, common_start, line_changes, unified
from .nearest import help_for

MAX_RESULT = 32 * MiB  # characters
MAX_PLACES = 200_000
MAX_LISTED = 8
MAX_LISTED_LINE = 160
MAX_TOLERANT = 500_000  # lines
_USE_A_PROGRAM = "Change it with a program in bash (sed, python3)."
_TYPOGRAPHIC = (
    (" ", "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{FIGURE SPACE}\N{THIN SPACE}"),
    ("-", "\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"),
    ("'", "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{SINGLE LOW-9 QUOTATION MARK}"),
    ('"', "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}"),
)


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


def replace(text: str, old: str, new: str, *, everywhere: bool = False) -> Edit | Refused:
    """Replaces the one place where `old` stands, or each of them with `everywhere`."""
    if not old:
        return Refused("old_string is empty.", "Use write_file to make a new file.")
    if old == new:
        return Refused("old_string and new_string are the same.", "There is nothing to change.")
    for note, find in _WAYS:
        places, size = _bounded(find(text, old, new), len(text))
        if len(places) > 1 and not everywhere:
            return _ambiguous(text, places)
        if len(places) > MAX_PLACES:
            return Refused(f"old_string matches more than {MAX_PLACES:,} places.", _USE_A_PROGRAM)
        if size > MAX_RESULT and places:
            return Refused(f"The file would have more than {MAX_RESULT:,} characters.", _USE_A_PROGRAM)
        if places:
            return Edit(_apply(text, places), unified(text, places), note, len(places))
    return Refused("old_string was not found.", help_for(text, old))


def _bounded(found: Iterator[Place], size: int) -> tuple[Sequence[Place], int]:
    """The places, until there are too many or the result, whose size comes with them, is too large."""
    places: list[Place] = []
    for place in islice(found, MAX_PLACES + 1):
        places.append(place)
        size += len(place.new) - (place.end - place.start)
        if size > 2 * MAX_RESULT:
            break
    return places, size


def _apply(text: str, places: Sequence[Place]) -> str:
    parts: list[str] = []
    at = 0
    for place in places:
        parts += [text[at : place.start], place.new]
        at = place.end
    return "".join([*parts, text[at:]])


def _ambiguous(text: str, places: Sequence[Place]) -> Refused:
    """The lines of the first places, with what stands around them, so that the caller can choose."""
    lines: list[str] = []
    shown: list[str] = []
    at, number = 0, 1
    for place in places[:MAX_LISTED]:
        number += text.count("\n", at, place.start)
        at = place.start
        lines.append(str(number))
        shown += _surroundings(text, place, number)
    many = len(places) > MAX_LISTED
    count = f"more than {MAX_PLACES:,}" if len(places) > MAX_PLACES else f"{len(places):,}"
    listed = ", ".join(lines) + (", ..." if many else "")
    return Refused(
        f"old_string matches {count} places (lines {listed}).",
        "\n".join(
            ["Add surrounding lines until it matches one, or set replace_all.", *shown, *(["..."] if many else [])]
        ),
    )


def _surroundings(text: str, place: Place, number: int) -> Sequence[str]:
    """The line where a place begins, the one before it, and the one behind the place, as grep shows them."""
    start = text.rfind("\n", 0, place.start) + 1
    found = text.find("\n", max(place.start, place.end - 1))
    behind = found + 1 if found >= 0 else len(text)
    out = [f"{number - 1}-{_line(text, text.rfind(chr(10), 0, start - 1) + 1)}"] if start else []
    out.append(f"{number}:{_line(text, start)}")
    if behind < len(text):
        out.append(f"{number + text.count(chr(10), place.start, behind)}-{_line(text, behind)}")
    return out


def _line(text: str, start: int) -> str:
    line = text[start : start + MAX_LISTED_LINE + 1].partition("\n")[0].removesuffix("\r")
    return line if len(line) <= MAX_LISTED_LINE else f"{line[:MAX_LISTED_LINE]}..."


# -- ways to find places, each from (text, old, new), in order and not overlapping


def _exact(text: str, old: str, new: str) -> Iterator[Place]:
    """As it is written, but for line endings: without "\\r" in old or new, those of the file are meant."""
    windows = text.count("\r\n")
    if not windows or "\r" in old or "\r" in new:
        return (Place(start, start + len(old), new) for start in _starts(text, old))
    both = {"\n": new, "\r\n": new.replace("\n", "\r\n")}
    if "\n" not in old:
        return _with_own_endings(text, len(old), _starts(text, old), both)
    adapted = old.replace("\n", "\r\n")
    places = (Place(start, start + len(adapted), both["\r\n"]) for start in _starts(text, adapted))
    if windows == text.count("\n"):
        return places
    plain = (Place(start, start + len(old), new) for start in _starts(text, old) if text[max(0, start - 1)] != "\r")
    return _apart(merge(places, plain, key=lambda place: place.start))


def _apart(places: Iterable[Place]) -> Iterator[Place]:
    """Of places that overlap, the first."""
    end = 0
    for place in places:
        if place.start >= end:
            yield place
            end = place.end


def _starts(text: str, old: str) -> Iterator[int]:
    at = text.find(old)
    while at >= 0:
        yield at
        at = text.find(old, at + len(old))


def _with_own_endings(text: str, size: int, starts: Iterator[int], both: dict[str, str]) -> Iterator[Place]:
    """Each place gets line endings like that of the line it is in; the last line, without one, like the line before it."""
    newline, ending = -1, "\r\n"
    for start in starts:
        if newline < start and (found := text.find("\n", start)) >= 0:
            newline, ending = found, "\r\n" if text[found - 1 : found] == "\r" else "\n"
        elif newline < start:
            newline = len(text)
        yield Place(start, start + size, both[ending])


def _typographic(text: str, old: str, new: str) -> Iterator[Place]:
    """With quotes, dashes and spaces as a keyboard has them. What old and new have in common stays as the file has it."""
    plain, asked = _plain(text), _plain(old)
    if plain == text and asked == old:
        return
    adapted = old.replace("\n", "\r\n")
    for place in _exact(plain, asked, new):
        before = old if place.end - place.start == len(old) else adapted
        head = common_start(before, place.new)
        tail = common_start(before[head:][::-1], place.new[head:][::-1])
        yield Place(place.start + head, place.end - tail, place.new[head : len(place.new) - tail])


def _plain(text: str) -> str:
    if not text.isascii():
        for plain, others in _TYPOGRAPHIC:
            for other in others:
                text = text.replace(other, plain)
    return text


def _by_lines(same: Callable[[str], str], *, reindent: bool) -> Callable[[str, str, str], Iterator[Place]]:
    """A way that compares whole lines by what `same` makes of them. Blank lines alone are never enough to match.

    Each line that is looked for becomes one character, so that lines are found as characters are. Lines that old and new
    share stay as the file has them.
    """

    def find(text: str, old: str, new: str) -> Iterator[Place]:
        asked = _lines(old)
        wanted = [same(line) for line in asked]
        if not any(wanted) or not len(wanted) - 2 < text.count("\n") < MAX_TOLERANT:
            return
        codes = {line: chr(number) for number, line in enumerate(dict.fromkeys(wanted), 1)}
        lines = _lines(text)
        shape = "".join([codes.get(same(line), "\0") for line in lines])
        written = _Written.of(asked, _lines(new))
        at = start = 0
        for number in _starts(shape, "".join([codes[line] for line in wanted])):
            block = lines[number : number + len(wanted)]
            indents = _indents(asked, block) if reindent else dict[str, str]()
            if indents is None:
                continue
            start += sum(map(len, lines[at:number])) + number - at
            end = min(start + sum(map(len, block)) + len(block), len(text))
            yield Place(start, end, written.over(block, indents, ended=text[end - 1] == "\n"))
            at, start = number + len(wanted), end

    return find


def _lines(text: str) -> list[str]:
    """Lines without their "\\n"; nothing behind the last one is no line."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


@dataclass(frozen=True)
class _Written:
    """New lines that go over a block of the file: each with the line of the block that it leaves as it is, or None."""

    lines: Sequence[tuple[str, int | None]]

    @classmethod
    def of(cls, asked: Sequence[str], new: Sequence[str]) -> "_Written":
        kept: list[int | None] = []
        done = 0
        for span in line_changes(asked, new):
            kept += [*range(done, span.before), *[None] * (span.after_end - span.after)]
            done = span.before_end
        kept += range(done, len(asked))
        return cls([(line.removesuffix("\r"), place) for line, place in zip(new, kept, strict=True)])

    def over(self, block: Sequence[str], indents: Mapping[str, str], *, ended: bool) -> str:
        """The text to put in a block's place; `ended` when the block's last line has a line ending."""
        ending = "\r" if block[0].endswith("\r") else ""
        left = block if ended else [*block[:-1], block[-1] + ending]
        out = [left[kept] if kept is not None else _moved(line, indents) + ending for line, kept in self.lines]
        text = "\n".join(out)
        if ended and out:
            return text + "\n"
        return text.removesuffix("\r")


def _indents(asked: Sequence[str], block: Sequence[str]) -> Mapping[str, str] | None:
    """The file's indentation for each that was asked for; None when lines are nested in another way than was asked."""
    found: dict[str, str] = {}
    for mine, theirs in zip(asked, block, strict=True):
        if mine.strip() and found.setdefault(_indent(mine), _indent(theirs)) != _indent(theirs):
            return None
    return found if len(set(found.values())) == len(found) else None


def _moved(line: str, indents: Mapping[str, str]) -> str:
    """A new line indented as the file is: like the lines it knows, deeper than the nearest, or by as much as all are."""
    own = _indent(line)
    if not indents or not line.strip():
        return line
    known = max((each for each in indents if own.startswith(each)), key=len, default=None)
    if known is not None:
        deeper, tab = own[len(known) :], _tab_width(indents)
        return indents[known] + (deeper.replace(" " * tab, "\t") if tab else deeper) + line[len(own) :]
    least = min(indents, key=len)
    return indents[least].removesuffix(least) + line if indents[least].endswith(least) else line


def _tab_width(indents: Mapping[str, str]) -> int:
    """How many of the caller's spaces stand for one tab of the file, 4 if that cannot be seen; 0 when none do."""
    if any("\t" in mine or theirs.strip("\t") for mine, theirs in indents.items()) or not any(indents.values()):
        return 0
    least = min(indents, key=len)
    steps = [(len(mine) - len(least), len(tabs) - len(indents[least])) for mine, tabs in indents.items()]
    return min((spaces // tabs for spaces, tabs in steps if tabs > 0), default=4)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


_WAYS: Sequence[tuple[str, Callable[[str, str, str], Iterator[Place]]]] = (
    ("", _exact),
    ("matched ignoring spaces at the ends of lines", _by_lines(str.rstrip, reindent=False)),
    ("matched ignoring indentation, which was adapted", _by_lines(str.strip, reindent=True)),
    (
        "matched although the file's quotes, dashes or spaces are other ones; they were kept around the change",
        _typographic,
    ),
)
