"""The record of what was decided and what came of it: append-only, hash-linked JSON lines.

Lives here: writing one chain per server process, and its head beside it. A record is on its way to the disk when write()
returns (it survives kill -9), and room for what came of it is set aside before anything runs. Reading is audit_trail.py's. It
may not know tools, policy or MCP; it records what it is told.
"""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from .errors import AuditUnavailable
from .models import AuditHead, MiB
from .redaction import redact

GENESIS = "0" * 64
PREVIEW = 400
RESERVE = 1 << 16  # bytes set aside for outcomes: hundreds of calls may be under way when the disk fills up
SEGMENT = 64 * MiB
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
_sorted = json.JSONEncoder(sort_keys=True, ensure_ascii=True, default=str).encode


def link(previous: str, digest: str) -> str:
    """The hash of a record: SHA-256 over the hash before and the SHA-256 of its own bytes, both as hexadecimal lines.

    Two steps, so that a record can be left out of an export and its digest still carries the chain.
    """
    return hashlib.sha256(f"{previous}\n{digest}".encode("ascii")).hexdigest()


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def digest_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as the record keeps them: a digest of all, and a clipped preview without secrets."""
    text = _sorted(arguments)
    redacted = redact(arguments, PREVIEW)
    shown = text if redacted == arguments else _sorted(redacted)
    preview = shown if len(text) <= PREVIEW else f"{shown[:PREVIEW]}... ({len(text)} characters)"
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "preview": preview}


class AuditLog:
    """One chain. Not reentrant across processes: every server process opens its own.

    Its records are in <state>/audit/<chain>.<segment>.jsonl. Its head is in <state>/heads/<chain>, brought up to date with
    every record, and locked as long as the chain is written.
    """

    def __init__(self, state: Path, segment_bytes: int = SEGMENT) -> None:
        self.chain = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{os.urandom(3).hex()}"
        self._folder, self._limit = state / "audit", segment_bytes
        self._head, self._records, self._segment = GENESIS, 0, 1
        self._size: int = 0  # of this segment, bytes
        self._closed: bool = False
        self._reserved: bool = False
        try:
            for folder in (self._folder, state / "heads"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The head comes first: a segment without one has lost it.
            self._anchor = os.open(
                state / "heads" / self.chain, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._anchor, fcntl.LOCK_EX)
            self._tell()
            self._descriptor = self._open(1)
            self._reserve, name = tempfile.mkstemp(dir=self._folder, prefix="reserve-")
            os.unlink(name)
        except OSError as error:
            raise AuditUnavailable(error.strerror or "unknown error") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.seal()
        for descriptor in (self._descriptor, self._reserve, self._anchor):
            os.close(descriptor)

    @property
    def head(self) -> str:
        """The hash of the newest record."""
        return self._head

    @property
    def anchor(self) -> AuditHead:
        """Where the chain stands, for a place outside it."""
        return AuditHead(
            chain=self.chain, records=self._records, segment=self._segment, head=self._head, closed=self._closed
        )

    def write(self, event: str, **facts: Any) -> int:
        """Appends one record and returns its number. Raises AuditUnavailable; then nothing may be done."""
        try:
            if not self._reserved:
                os.posix_fallocate(self._reserve, 0, RESERVE)
                self._reserved = True
            if self._size >= self._limit:
                self._rotate()
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

    def seal(self) -> None:
        """Says beside the chain that it ended here. A record that comes later all the same opens it again."""
        self._closed = True
        with suppress(OSError):  # then it reads like a server that was killed, which loses nothing
            self._tell()

    def _append(self, event: str, facts: Mapping[str, Any]) -> int:
        number, before = self._records, (self._head, self._records, self._closed)
        body = _encode({"n": number, "time": time.time(), "event": event, **facts})
        digest = link(self._head, digest_of(body.encode("ascii")))
        line = f'{body[:-1]},"hash":"{digest}"}}\n'.encode("ascii")
        try:
            _whole(os.write(self._descriptor, line), line)
            self._head, self._records, self._closed = digest, number + 1, False
            self._tell()
        except OSError:
            self._head, self._records, self._closed = before
            os.ftruncate(
                self._descriptor, self._size
            )  # half a record, or one its head denies, would break the chain for good
            raise
        self._size += len(line)
        return number

    def _tell(self) -> None:
        # As long as any other, so that one write in place replaces it.
        state = "closed" if self._closed else "open  "
        line = f"{self._records:012d} {self._segment:05d} {self._head} {state}\n".encode("ascii")
        _whole(os.pwrite(self._anchor, line, 0), line)

    def _open(self, segment: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path(segment), flags, 0o600)

    def _path(self, segment: int) -> Path:
        return self._folder / f"{self.chain}.{segment:05d}.jsonl"

    def _rotate(self) -> None:
        """Goes on in a new segment, whose first record says what it follows; in the old one when that fails."""
        before = self._descriptor, self._segment, self._size
        self._descriptor = self._open(self._segment + 1)
        self._segment, self._size = self._segment + 1, 0
        try:
            self._append("continued", {"chain": self.chain, "segment": self._segment, "previous": self._head})
        except OSError:
            os.close(self._descriptor)
            os.unlink(self._path(self._segment))
            self._descriptor, self._segment, self._size = before
            raise
        os.close(before[0])


def _whole(written: int, line: bytes) -> None:
    if written != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
