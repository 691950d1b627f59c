"""Records on their way to somebody else, who can verify them without our state directory.

Lives here: the format of an export, and verifying one. Per chain: a line with its heads, then its records as they stand; of
those that were not asked for only the digests, with which the chain still computes up to its head.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationError

from .audit import GENESIS, digest_of, link
from .audit_trail import (
    Fault,
    Verified,
    Walked,
    denied,
    follow,
    missing,
    parse_line,
    read_head,
    segments_of,
    verify_chain,
)
from .models import AuditHead, Frozen

_RUN = 1000  # digests in one line
_OMITTED = "omitted"


class _Header(Frozen):
    """The line that opens a chain. `anchors`: what its head file and the store said before it was read."""

    export: Literal[1]
    chain: str
    records: int
    segments: int
    head: str
    anchors: tuple[AuditHead, ...]
    fault: str | None


def export_chain(
    state: Path, chain: str, numbers: Collection[int], anchors: Sequence[AuditHead]
) -> tuple[Verified, Iterator[bytes]]:
    """What verifying the chain found, and its lines up to the first fault. `numbers` are the records that are wanted."""
    stored = [anchor for anchor in anchors if anchor.chain == chain]
    own = read_head(state, chain)
    verified = verify_chain(state, chain, stored)
    heads = [head for head in (*stored, own) if head is not None]
    return verified, _lines(state, verified, frozenset(numbers), heads)


def _lines(state: Path, verified: Verified, numbers: frozenset[int], heads: Sequence[AuditHead]) -> Iterator[bytes]:
    header = _Header(
        export=1, chain=verified.chain, records=verified.records, head=verified.head, segments=verified.segments,
        anchors=tuple(heads), fault=verified.fault.what if verified.fault else None,
    )  # fmt: skip
    yield header.model_dump_json().encode() + b"\n"
    left_out: list[str] = []
    for number, line in enumerate(_raw(state, verified)):
        if number not in numbers:
            record = parse_line(line)
            left_out.append(digest_of(record.body) if record else "")
        if left_out and (number in numbers or len(left_out) == _RUN):
            yield _omission(left_out)
            left_out = []
        if number in numbers:
            yield line
    if left_out:
        yield _omission(left_out)


def _raw(state: Path, verified: Verified) -> Iterator[bytes]:
    left = verified.records
    for _, path in segments_of(state, verified.chain):
        with path.open("rb") as lines:
            for line in lines:
                if left == 0:
                    return
                left -= 1
                yield line


def _omission(digests: Sequence[str]) -> bytes:
    return json.dumps({_OMITTED: digests}, separators=(",", ":")).encode("ascii") + b"\n"


# -- verifying one


@dataclass
class _Block:
    """One chain of an export, as far as it was read."""

    header: _Header
    head: str = GENESIS
    count: int = 0
    fault: Fault | None = None

    def take(self, line: bytes, at: int) -> None:
        if self.fault is not None:
            return
        digests = _omitted(line)
        if digests is None:
            self.head, self.fault = follow(line, self.count, self.head, at)
            self._count(at)
        for digest in digests or ():
            self.head = link(self.head, digest)
            self._count(at)

    def _count(self, at: int) -> None:
        if self.fault is None:
            self.count += 1
            self.fault = denied(self.count, self.head, self.header.anchors, at)

    def verified(self) -> Verified:
        header = self.header
        walked = Walked(1, self.count, self.head)
        fault = self.fault or self._told() or missing(walked, header.anchors, header.segments)
        return Verified(header.chain, header.segments, self.count, self.head, live=False, fault=fault)

    def _told(self) -> Fault | None:
        header = self.header
        if header.fault is not None:
            return Fault(1, self.count, f"it was broken when it was exported: {header.fault}")
        if (self.count, self.head) != (header.records, header.head):
            return Fault(
                1, self.count, f"it ends with another head than that of the {header.records} records it tells of"
            )
        return None


def verify_export(lines: Iterable[bytes]) -> Sequence[Verified]:
    """Re-computes every chain of an export; the segment in a fault is the line of the file. Raises ValueError for no export."""
    blocks: list[_Block] = []
    for at, line in enumerate(lines, 1):
        opened = _opened(line)
        if opened is not None:
            blocks.append(opened)
        elif blocks:
            blocks[-1].take(line, at)
        else:
            raise ValueError("it does not begin like an export")
    return [block.verified() for block in blocks]


def _opened(line: bytes) -> _Block | None:
    if not line.startswith(b'{"export":'):
        return None
    try:
        return _Block(_Header.model_validate_json(line))
    except ValidationError:
        raise ValueError("a line that opens a chain cannot be read, or is of another version") from None


def _omitted(line: bytes) -> Sequence[str] | None:
    if not line.startswith(b'{"' + _OMITTED.encode()):
        return None
    try:
        value: object = json.loads(line)[_OMITTED]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(value, list):
        return None
    found = cast("list[object]", value)
    return [each for each in found if isinstance(each, str) and each.isascii()] if found else None
