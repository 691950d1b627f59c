"""Finding lines in a file: under several ways of comparing, everywhere they stand, within a budget of work.

Lives here: the ways, the index of a file's lines under one of them, and the budget. A search first asks the index and
scans only for lines that are all repeated in the file; it may not know what is looked for, or what becomes of it.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

_WORK = 1 << 29
_EACH = 500  # what one more place costs, besides being looked for
_LOOKS = 3
_PLAIN = {
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-"),
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000"), " "),
}
_UNDECODED = re.compile("[\udc80-\udcff\ufffd]+")  # what a file tool shows for bytes that are not UTF-8


class TooMuchWork(Exception):
    """The budget is spent; the patch and the files are too much alike in too many places."""


class Work:
    """What may still be spent, in characters looked at; `looks`: how often a nearest place may still be shown."""

    def __init__(self, budget: int = _WORK) -> None:
        self._left = budget
        self.looks = _LOOKS

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise TooMuchWork


@dataclass(frozen=True)
class Way:
    """One way of comparing lines. `note` is '' where it need not be told.

    `whole`: lines count as they are. Otherwise added lines get the line ending, and where `moved` the indentation, of their
    place.
    """

    note: str
    key: Callable[[str], str]
    whole: bool = True
    moved: bool = False


def _plain(line: str) -> str:
    return _UNDECODED.sub("\ufffd", line).translate(_PLAIN).rstrip()


WAYS = (
    Way("", lambda line: line),
    Way("", lambda line: line.removesuffix("\r"), whole=False),
    Way("ignoring spaces at the ends of lines", lambda line: line.rstrip(), whole=False),
    Way("taking typographic quotes, dashes and spaces for plain ones", _plain, whole=False),
    Way("ignoring indentation, which was adapted", lambda line: line.strip(), whole=False, moved=True),
)
FUZZY_WAYS = WAYS[1:3]


class View:
    """A file's lines under one way of comparing, and where each stands."""

    def __init__(self, lines: Sequence[str], way: Way, work: Work) -> None:
        work.spend(sum(map(len, lines)) + 32 * len(lines))
        self.keys = list(map(way.key, lines))
        self._last = dict(zip(self.keys, range(len(self.keys)), strict=True))
        self._counts = Counter(self.keys)
        self._work = work
        self._text, self._starts = "", list[int]()

    def stand_at(self, place: int, wanted: Sequence[str]) -> bool:
        return place >= 0 and self.keys[place : place + len(wanted)] == wanted

    def only(self, key: str) -> int | None:
        """Where a line stands that stands once."""
        return self._last[key] if self._counts.get(key) == 1 else None

    def places(self, wanted: Sequence[str]) -> Sequence[int]:
        """Every line at which the wanted ones stand, in order."""
        self._work.spend(len(wanted))
        only: int | None = None
        for offset, key in enumerate(wanted):
            count = self._counts.get(key, 0)
            if count == 0:
                return ()
            if count == 1:
                only = self._last[key] - offset
        if only is not None:
            return (only,) if self.stand_at(only, wanted) else ()
        return self._scan("\n" + "\n".join(wanted) + "\n")

    def _scan(self, needle: str) -> Sequence[int]:
        if not self._text:
            self._text = "\n" + "\n".join(self.keys) + "\n"
            self._starts = [0, *accumulate(len(key) + 1 for key in self.keys)]
            self._work.spend(len(self._text) + 8 * len(self._starts))
        found: list[int] = []
        at = -1
        while True:
            before, at = at, self._text.find(needle, at + 1)
            self._work.spend((at if at >= 0 else len(self._text)) - before + 2 * len(needle) + _EACH)
            if at < 0:
                return found
            found.append(bisect_left(self._starts, at))
