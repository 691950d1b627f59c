"""What a person reads in the record: calls with what came of them, filtered, in the order of time.

Lives here: joining records into entries, choosing among them, and their cells. It believes what it reads; whether it may be
believed is audit_trail.py's to say. It may not know how terminals are written to.
"""

import heapq
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from .audit_trail import is_live, parse_line, segments_of

RUNNING, LOST = "running", "no outcome"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"(\d{1,9})([smhdw])")
_CLIP = 200  # characters of the facts of an event
_SHORT = 11  # characters of a workspace's id: enough to tell one from another
_COLOURS = {"allow": "green", "deny": "red", "ask": "yellow", "done": "green", RUNNING: "cyan", LOST: "red"}
_PLAIN = ("n", "time", "event")
Cell = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One call with what came of it, or one other event. `numbers`: of its records; `time`: when it was decided."""

    chain: str
    numbers: tuple[int, ...]
    time: float
    event: str
    facts: Mapping[str, Any]
    outcome: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Wanted:
    """Which entries somebody wants to see; None is all. Times are seconds since the epoch, a workspace may be a prefix."""

    workspace: str | None = None
    tool: str | None = None
    verdict: str | None = None
    since: float | None = None
    until: float | None = None

    def covers(self, entry: Entry) -> bool:
        facts = entry.facts
        return (
            (self.workspace is None or str(facts.get("workspace") or "").startswith(self.workspace))
            and (self.tool is None or facts.get("tool") == self.tool)
            and (self.verdict is None or facts.get("verdict") == self.verdict)
            and (self.since is None or entry.time >= self.since)
            and (self.until is None or entry.time <= self.until)
        )


def parse_when(text: str, now: float) -> float:
    """A moment: ISO 8601 (local time unless it says otherwise), or how long ago, like 2h. Raises ValueError."""
    if ago := _AGO.fullmatch(text.strip()):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time; write it like 2026-07-28T14:00 or, for two hours ago, 2h") from None


# -- joining


@dataclass
class _Joining:
    """Calls of one chain that were decided and whose outcome did not come yet."""

    chain: str
    pending: dict[int, Entry] = field(default_factory=dict[int, Entry])

    def take(self, record: Mapping[str, Any]) -> Iterator[Entry]:
        facts = {key: value for key, value in record.items() if key not in _PLAIN}
        entry = Entry(self.chain, (record["n"],), float(record["time"]), str(record["event"]), facts)
        begun = self.pending.pop(facts["of"], None) if entry.event == "outcome" and "of" in facts else None
        if begun is not None:
            seconds = facts.get("seconds")
            took = float(seconds) if isinstance(seconds, int | float) else None
            numbers = (*begun.numbers, *entry.numbers)
            yield Entry(self.chain, numbers, begun.time, begun.event, begun.facts, str(facts.get("outcome", "")), took)
        elif entry.event == "decided" and facts.get("verdict") != "deny":
            self.pending[record["n"]] = entry
        else:
            yield entry

    def rest(self, live: bool) -> Iterator[Entry]:
        for entry in self.pending.values():
            ran = entry.facts.get("verdict") == "allow" or bool(entry.facts.get("approval"))
            outcome = (RUNNING if live else LOST) if ran else ""
            yield Entry(self.chain, entry.numbers, entry.time, entry.event, entry.facts, outcome)


def entries(state: Path, chain: str) -> Iterator[Entry]:
    """Calls in the order in which they ended, and other events. Lines that cannot be read are left out."""
    live, joining = is_live(state, chain), _Joining(chain)
    for record in _records(state, chain):
        try:
            yield from joining.take(record)
        except (KeyError, TypeError, ValueError):
            continue
    yield from joining.rest(live)


def _records(state: Path, chain: str) -> Iterator[Mapping[str, Any]]:
    for _, path in segments_of(state, chain):
        with path.open("rb") as lines:
            for line in lines:
                record = parse_line(line)
                loaded = _loaded(record.body) if record is not None else None
                if isinstance(loaded, dict):
                    yield cast("dict[str, Any]", loaded)


def _loaded(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def choose(found: Iterable[Entry], wanted: Wanted, last: int) -> Sequence[Entry]:
    """The newest `last` entries that are wanted (0: all of them), the oldest first."""
    covered = (entry for entry in found if wanted.covers(entry))
    if last == 0:
        return sorted(covered, key=_when)
    return list(reversed(heapq.nlargest(last, covered, key=_when)))


def _when(entry: Entry) -> tuple[float, str, int]:
    return entry.time, entry.chain, entry.numbers[0]


# -- rendering


def rows(chosen: Sequence[Entry]) -> Sequence[Sequence[Cell]]:
    """Cells with their colours: calls in columns, other events as a time and a text."""
    lines = [_call(entry) if entry.event == "decided" else _event(entry) for entry in chosen]
    calls = [line for line, entry in zip(lines, chosen, strict=True) if entry.event == "decided"]
    widths = [max(len(text) for text, _ in column) for column in zip(*calls, strict=True)]
    return [_padded(line, widths) if len(line) == len(widths) else line for line in lines]


def _padded(line: Sequence[Cell], widths: Sequence[int]) -> Sequence[Cell]:
    columns = zip(line[:-1], widths, strict=False)
    return [*((text.ljust(width), colour) for (text, colour), width in columns if width), line[-1]]


def _event(entry: Entry) -> Sequence[Cell]:
    rest = json.dumps(entry.facts, sort_keys=True) if entry.facts else ""
    what = f"{entry.event} {rest if len(rest) <= _CLIP else rest[:_CLIP] + '...'}"
    return [(_moment(entry), "dim"), (printable(what.rstrip()), "dim")]


def _call(entry: Entry) -> Sequence[Cell]:
    facts, verdict, outcome = entry.facts, _said(entry.facts, "verdict"), printable(entry.outcome)
    arguments = facts.get("arguments")
    what = (
        cast("Mapping[str, Any]", arguments).get("preview", "") if isinstance(arguments, Mapping) else arguments or ""
    )
    return [
        (_moment(entry), "dim"), (_said(facts, "principal"), ""), (_said(facts, "workspace")[:_SHORT], "dim"),
        (_said(facts, "tool"), "bold"), (verdict, _COLOURS.get(verdict, "")), (_said(facts, "rule"), "dim"),
        (_said(facts, "approval"), "yellow"), (outcome, _COLOURS.get(outcome, "yellow")),
        (f"{entry.seconds:.2f}s" if entry.seconds is not None else "", ""), (printable(str(what)), ""),
    ]  # fmt: skip


def _moment(entry: Entry) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
    except (ValueError, OverflowError, OSError):  # nobody wrote such a time: it was changed
        return printable(str(entry.time))


def _said(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return "" if value is None else printable(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def printable(text: str) -> str:
    """What a terminal shows as it stands: control characters and invisible ones are written out."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def to_json(entry: Entry) -> dict[str, Any]:
    """One entry for programs: a call and what came of it in one object."""
    own = {"chain": entry.chain, "n": entry.numbers[0], "time": entry.time, "event": entry.event}
    came = {"outcome": entry.outcome, "seconds": entry.seconds} if entry.event == "decided" else {}
    return {**entry.facts, **own, **came}
