"""Reading audit chains, and holding them against what is known of them elsewhere.

Lives here: what a chain is on disk, and where and how one is not what was written. A chain is believed as far as its links
hold, its segments follow each other, and every head kept outside agrees with it. Nothing here writes. It may not know the
store; what the store remembers comes as heads.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from .audit import GENESIS, digest_of, link
from .models import AuditHead

_SEGMENT = re.compile(r"(.+)\.(\d{5,})\.jsonl")
_HEAD = re.compile(r"(\d{12}) (\d{5,}) ([0-9a-f]{64}) (open  |closed)\n")
_RECORD = re.compile(rb'(\{"n":(\d{1,18}),.*),"hash":"([0-9a-f]{64})"\}\n', re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One line of a chain: its number, its own text without the hash, and the hash it carries."""

    number: int
    body: bytes
    hash: str


@dataclass(frozen=True)
class Fault:
    """Where a chain is not what was written, and how. `record` is the first that is concerned."""

    segment: int
    record: int
    what: str


@dataclass(frozen=True)
class Verified:
    """What reading one chain found. `notes` are no faults: what a killed server leaves behind, what was not there to ask."""

    chain: str
    segments: int
    records: int
    head: str
    live: bool
    fault: Fault | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Walked:
    """How far the links of a chain held, up to the last whole record or the first fault."""

    segment: int
    records: int
    head: str
    fault: Fault | None = None
    torn: bool = False


# -- what is on disk


def parse_line(line: bytes) -> Record | None:
    found = _RECORD.fullmatch(line)
    return None if found is None else Record(int(found[2]), found[1] + b"}", found[3].decode("ascii"))


def segments_of(state: Path, chain: str) -> Sequence[tuple[int, Path]]:
    """The segments that are there, in order."""
    return sorted((number, path) for name, number, path in _segments(state, chain) if name == chain)


def _segments(state: Path, prefix: str = "") -> Iterator[tuple[str, int, Path]]:
    """Chain, number and path of files among the records; number 0 for one that is no segment."""
    with suppress(FileNotFoundError):
        for name in os.listdir(state / "audit"):
            if name.startswith(prefix) and name.endswith(".jsonl"):
                named = _SEGMENT.fullmatch(name)
                chain, number = (named[1], int(named[2])) if named else (name.removesuffix(".jsonl"), 0)
                yield chain, number, state / "audit" / name


def chains(state: Path, anchors: Sequence[AuditHead] = ()) -> Sequence[str]:
    """Every chain that anything tells of, the oldest first; also those of which only an anchor is left."""
    names = {
        name for name, _, _ in _segments(state)
    }  # before the heads: a chain that is begun meanwhile has its head first
    return sorted(names | {path.name for path in (state / "heads").glob("*")} | {anchor.chain for anchor in anchors})


def read_head(state: Path, chain: str) -> AuditHead | None:
    """What the head file says. None when there is none, or none that can be read."""
    with suppress(OSError, ValueError, ValidationError):
        found = _HEAD.fullmatch((state / "heads" / chain).read_text(encoding="ascii"))
        if found:
            return AuditHead(
                chain=chain, records=int(found[1]), segment=int(found[2]), head=found[3], closed=found[4] == "closed"
            )
    return None


def all_heads(state: Path) -> Sequence[AuditHead]:
    names = sorted(path.name for path in (state / "heads").glob("*"))
    return [head for name in names if (head := read_head(state, name)) is not None]


def is_live(state: Path, chain: str) -> bool:
    """Whether a server is writing it: the lock on the head file ends with its process."""
    try:
        descriptor = os.open(state / "heads" / chain, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# -- verifying


def verify_chain(state: Path, chain: str, anchors: Sequence[AuditHead] = ()) -> Verified:
    """Re-computes a chain and holds it against its head file and the anchors; a chain may be written meanwhile."""
    before, live = read_head(state, chain), is_live(state, chain)
    stored = [anchor for anchor in anchors if anchor.chain == chain]
    known = [*stored, before] if before is not None else stored
    there = segments_of(state, chain)
    walked = _walk(there, known)
    fault = walked.fault or missing(walked, known, len(there)) or _beyond(walked, read_head(state, chain), live)
    notes: list[str] = []
    if fault is None and not live:
        notes = [*_notes(walked, read_head(state, chain))]
    if fault is None and not stored:
        notes.append("the store remembers nothing of it")
    return Verified(chain, len(there), walked.records, walked.head, live, fault, tuple(notes))


def _walk(segments: Sequence[tuple[int, Path]], anchors: Sequence[AuditHead]) -> Walked:
    """Follows the links from the first record to the last whole one, or to the first that does not hold."""
    head, count, torn = GENESIS, 0, False
    for expected, (number, path) in enumerate(segments, 1):
        if number != expected:
            what = "this segment is missing" if number else "the file is no segment of a chain"
            return Walked(expected, count, head, Fault(expected, count, what))
        try:
            with path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n") and expected == len(segments):
                        torn = True
                        break
                    head, fault = follow(line, count, head, expected)
                    count += fault is None
                    if fault := fault or denied(count, head, anchors, expected):
                        return Walked(expected, count, head, fault)
        except OSError as error:
            return Walked(expected, count, head, Fault(expected, count, f"cannot be read: {error.strerror}"))
    return Walked(max(len(segments), 1), count, head, None, torn)


def follow(line: bytes, number: int, previous: str, segment: int) -> tuple[str, Fault | None]:
    """The hash after this line when it is the record that belongs here, else the hash before and what is wrong."""
    record = parse_line(line)
    if record is None:
        return previous, Fault(segment, number, f"record {number} cannot be read")
    if record.number != number:
        return previous, Fault(
            segment, number, f"record {number} is missing or out of place; record {record.number} is there"
        )
    if record.hash != link(previous, digest_of(record.body)):
        return previous, Fault(segment, number, f"record {number} was changed")
    return record.hash, None


def denied(count: int, head: str, anchors: Sequence[AuditHead], segment: int) -> Fault | None:
    if all(anchor.head == head for anchor in anchors if anchor.records == count):
        return None
    what = f"the records up to here link, but are not those that were anchored: record {count - 1} or one before was rewritten"
    return Fault(segment, count - 1, what)


def missing(walked: Walked, anchors: Sequence[AuditHead], there: int) -> Fault | None:
    """What the anchors know of and is not there: the tail, whole segments, everything."""
    newest = max(anchors, key=lambda anchor: anchor.records, default=None)
    if newest is None or newest.records <= walked.records:
        return None
    count = newest.records - walked.records
    if not there:
        return Fault(1, 0, f"the whole chain is missing: {newest.records} records are anchored")
    if newest.segment > there:
        return Fault(there + 1, walked.records, f"this segment is missing, with all after it: {count} records")
    return Fault(walked.segment, walked.records, f"the tail was cut off: {count} records are missing")


def _beyond(walked: Walked, head: AuditHead | None, live: bool) -> Fault | None:
    """What is there and the head file, read after the chain, does not know of. One record of a killed server may be."""
    if head is None:
        return Fault(1, 0, "its head file is missing or cannot be read")
    extra = walked.records - head.records
    if extra > (0 if head.closed else 1) or (head.closed and walked.torn and not live):
        return Fault(walked.segment, head.records, f"{extra or 'bytes of'} records were added after the last one")
    return None


def _notes(walked: Walked, head: AuditHead | None) -> Iterator[str]:
    if walked.torn:
        yield "its last line was cut short while it was written: the server was killed, or the power failed"
    elif head is not None and walked.records > head.records:
        yield "its head does not know the last record: the server was killed between writing the two"
    elif head is not None and not head.closed:
        yield "its server was killed"
