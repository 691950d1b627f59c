"""The record of what was decided and what came of it: append-only, hash-linked JSON lines.

Lives here: one chain per server process, written before an effect happens, and its verification. A record is on its way to
the disk when write() returns (it survives kill -9), and room for what came of it is set aside before anything runs. It may
not know tools, policy or MCP; it records what it is told.
"""

import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .errors import AuditUnavailable

GENESIS = "0" * 64
PREVIEW = 400
RESERVE = 1 << 16  # bytes set aside for outcomes: hundreds of calls may be under way when the disk fills up
# The password part of a URL, and what stands behind a word that announces a secret.
_CREDENTIALS = re.compile(
    r"(://[^/\s@:\"]*:|(?:token|secret|password|passwd|api[_-]?key|authorization)[\"']?\s*[:=]\s*)[^\s@\"',]+", re.I
)


def link(previous: str, record: Mapping[str, Any]) -> str:
    """The hash that ties a record to the one before: SHA-256 over the previous hash and the record's canonical JSON."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def digest_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as the record keeps them: a digest of all, and a clipped preview; never file contents in full."""
    text = json.dumps(arguments, sort_keys=True, ensure_ascii=True, default=str)
    shown = _CREDENTIALS.sub(r"\1***", text)
    preview = shown if len(shown) <= PREVIEW else f"{shown[:PREVIEW]}... ({len(text)} characters)"
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "preview": preview}


class AuditLog:
    """One chain. Not reentrant across processes: every server process opens its own file."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{os.urandom(3).hex()}.jsonl"
            self.path = folder / name
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
            self._reserve, name = tempfile.mkstemp(dir=folder, prefix="reserve-")
            os.unlink(name)
        except OSError as error:
            raise AuditUnavailable(error.strerror or "unknown error") from error
        self._head, self._sequence, self._size = GENESIS, 0, 0
        self._reserved = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        os.close(self._reserve)

    @property
    def head(self) -> str:
        """The hash of the newest record."""
        return self._head

    def write(self, event: str, **facts: Any) -> int:
        """Appends one record and returns its number. Raises AuditUnavailable; then nothing may be done."""
        try:
            if not self._reserved:
                os.posix_fallocate(self._reserve, 0, RESERVE)
                self._reserved = True
            return self._append(event, facts)
        except OSError as error:
            raise AuditUnavailable(error.strerror or "unknown error") from error

    def conclude(self, event: str, **facts: Any) -> bool:
        """Appends what came of something that was begun, on the room set aside if need be; whether that worked."""
        try:
            self._append(event, facts)
        except OSError:
            self._reserved = False  # nothing new is begun before there is as much room again
            try:
                os.ftruncate(self._reserve, 0)
                self._append(event, facts)
            except OSError:
                return False
        return True

    def _append(self, event: str, facts: Mapping[str, Any]) -> int:
        number = self._sequence
        record = {"n": number, "time": time.time(), "event": event, **facts}
        digest = link(self._head, record)
        line = json.dumps({**record, "hash": digest}, separators=(",", ":"), ensure_ascii=True) + "\n"
        if os.write(self._descriptor, line.encode("ascii")) != len(line):
            os.ftruncate(self._descriptor, self._size)  # half a record would break the chain for good
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._head, self._sequence, self._size = digest, number + 1, self._size + len(line)
        return number


@dataclass(frozen=True)
class Verified:
    """What reading one chain found; `broken` says where and how it is not what was written."""

    path: Path
    records: int
    head: str
    broken: str | None


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            yield json.loads(line)


def verify(path: Path) -> Verified:
    """Re-computes a chain. A line cut short at the very end is a crash while writing, and said so."""
    head, count = GENESIS, 0
    try:
        for record in read(path):
            found = record.pop("hash", None)
            if record.get("n") != count:
                return Verified(path, count, head, f"record {count} is missing or out of order")
            head = link(head, record)
            if found != head:
                return Verified(path, count, head, f"record {count} was changed")
            count += 1
    except (ValueError, OSError) as error:
        return Verified(path, count, head, f"record {count} cannot be read: {error}")
    return Verified(path, count, head, None)
