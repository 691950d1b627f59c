"""The typed face of the guest's verbs: one method each, values in and out.

Lives here: what each verb sends and how its answer is checked. What is hostile about a guest is connection.py's concern;
what a command is, process.py's. It may not know workspaces, tools or how the stream was made.
"""

import hashlib
import importlib.resources
import posixpath
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
from anyio.abc import ByteStream
from pydantic import FailFast

from ..errors import SandboxLost, sole_error
from ..models import DirectoryEntry, FileFacts, FileWindow, Frozen, Limits, Written
from .agent import DATA, DONE, ERR, MAX_DIGESTED, NOTE, VERSION
from .connection import CODES_BY_TEXT, PATIENCE, Connection, GuestRefused
from .process import Exited, Output, Process, parse_exit
from .window import LineWindow

__all__ = ["Exited", "GuestRefused", "Link", "Output", "Process", "boot_argv", "open_link"]

_SOURCE = importlib.resources.files("repocell.guest").joinpath("agent.py").read_bytes()
_BOOT = (
    "import os,sys\n"
    "n=int(sys.argv[1]);b=b''\n"
    "while len(b)<n:\n"
    " c=os.read(0,n-len(b))\n"
    " if not c: sys.exit(71)\n"
    " b+=c\n"
    "exec(compile(b,'guest','exec'),{'__name__':'__guest__'})"
)
MAX_SCANNED = 256 << 20  # how far into a file above MAX_DIGESTED a line is looked for
_LISTS_AT_ONCE = 32


def boot_argv(python: str) -> tuple[str, ...]:
    """The command a runtime starts; the guest's text follows on its stdin, pushed by open_link."""
    return (python, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(len(_SOURCE)))


class _Listed(Frozen):
    """What a guest says of one directory; the paths are names."""

    entries: Annotated[tuple[DirectoryEntry, ...], FailFast()]
    more: bool


class _Opened(Frozen):
    """What a guest says of a file it is about to send."""

    size: int
    mode: int


class Link:
    """The verbs over one connection. Everything it raises is GuestRefused (this request) or SandboxLost (all of them)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def lost(self) -> bool:
        return self._connection.lost

    @property
    def loss(self) -> SandboxLost:
        return self._connection.loss

    async def wait_lost(self) -> None:
        await self._connection.wait_lost()

    def abandon(self, reason: str) -> None:
        """Ends the connection; see Connection.abandon."""
        self._connection.abandon(reason)

    async def hello(self, limits: Limits, environment: Mapping[str, str]) -> None:
        """Hands over limits and environment. Raises SandboxLost when it is not our guest that answers."""
        rlimits = {
            "NPROC": limits.pids, "NOFILE": limits.open_files, "FSIZE": limits.disk, "DATA": limits.memory, "CORE": 0
        }  # fmt: skip
        if await self._connection.request("hello", rlimits=rlimits, env=dict(environment)) != {
            "version": VERSION,
            "pid": 1,
        }:
            raise self._connection.distrust("is not the guest that was sent")

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str] | None = None,
        stdin: bool = False,
        pty: tuple[int, int] | None = None,
        aside: bool = False,
    ) -> Process:
        """Starts a command; the answer to whether it could be started comes with the first receive().

        With `aside` it has a descriptor ASIDE of its own; what it wrote there comes with its exit, at most ASIDE_BYTES.
        """
        terminal = list(pty) if pty else None
        stream = self._connection.open(
            "spawn", argv=list(argv), cwd=cwd, env=dict(environment or {}), stdin=stdin, pty=terminal, aside=aside
        )
        return Process(self._connection, stream)

    async def read(
        self, path: str, *, root: str, max_bytes: int, start_line: int = 1, line_count: int = 1 << 62, offset: int = 0
    ) -> FileWindow:
        """Whole lines from `start_line` on, or bytes from `offset` on, but at most `max_bytes`.

        A file up to MAX_DIGESTED bytes is read to its end for its digest and number of lines, unless from an offset on.
        Raises GuestRefused, "too_large" among others when a line lies behind MAX_SCANNED.
        """
        stream = self._connection.open("read", path=path, root=root, offset=offset)
        window = LineWindow(start_line, start_line + line_count, max_bytes)
        digest, left = hashlib.sha256(), 0
        try:
            with self._connection.within(4 * self._connection.patience):
                note = await stream.receive()
                if note.kind != NOTE:
                    raise self._connection.distrust("sent a file without its facts")
                opened = self._connection.parse(_Opened, note.meta)
                whole, left = opened.size <= MAX_DIGESTED and offset == 0, opened.size - offset
                while whole or not window.full:
                    frame = await stream.receive()
                    if frame.kind == DONE:
                        break
                    left -= len(frame.body)
                    if frame.kind != DATA or left < 0:
                        raise self._connection.distrust("sent something else than a file")
                    if not whole and not window.begun and opened.size - left > MAX_SCANNED:
                        raise GuestRefused("too_large", {})
                    window.add(frame.body)
                    if whole:
                        digest.update(frame.body)
        finally:
            self._connection.forget(stream)
        return FileWindow(
            body=window.body, size=opened.size, mode=opened.mode, binary=b"\0" in window.head, cut=window.cut,
            sent=len(window.body), newlines_sent=window.body.count(b"\n"), lines=window.lines if whole else None,
            digest=digest.hexdigest() if whole else None,
        )  # fmt: skip

    async def write(
        self, path: str, body: bytes, *, root: str, expect: str | None = None, mode: int | None = None
    ) -> Written:
        """Replaces a file in one rename; `expect` is "absent", the digest it must have now, or None for anything.

        Raises GuestRefused "conflict" when it is something else. Cancelled, the file is the old or the new one.
        """
        stream = self._connection.open("write", path=path, root=root, expect=expect, mode=mode)
        try:
            with self._connection.within(4 * self._connection.patience):
                await stream.send(body)
                stream.send_eof()
                meta = await self._connection.last(stream)
        finally:
            self._connection.forget(stream)
        digest = hashlib.sha256(body).hexdigest() if len(body) <= MAX_DIGESTED else None
        return self._connection.parse(Written, meta, digest=digest)

    async def stat(self, path: str, *, root: str, digest: bool = False) -> FileFacts:
        """What a path names, links not followed; with `digest` also that of a regular file up to MAX_DIGESTED bytes."""
        facts = self._connection.parse(
            FileFacts, await self._connection.request("stat", path=path, root=root), digest=None
        )
        if digest and facts.kind == "file":
            window = await self.read(path, root=root, max_bytes=0)
            facts = facts.model_copy(update={"digest": window.digest})
        return facts

    async def list(
        self, path: str, *, root: str, depth: int, limit: int, skip: Sequence[str] = ()
    ) -> tuple[Sequence[DirectoryEntry], bool]:
        """Entries below a directory, each directory's before what is in it, and whether there are more than `limit`.

        Where there are more, those nearest to the top are taken. What cannot be looked into is passed over.
        """
        found: list[DirectoryEntry] = []
        folders, more = [""], False
        for _ in range(depth):
            level: list[DirectoryEntry] = []
            for at in range(0, len(folders), _LISTS_AT_ONCE):
                room = limit - len(found) - len(level)
                if more or room < 0:
                    break
                entries, more = await self._list_folders(path, folders[at : at + _LISTS_AT_ONCE], root, room)
                level += entries
            found += level
            folders = [e.path for e in level if e.kind == "directory" and posixpath.basename(e.path) not in skip]
        more = more or len(found) > limit
        return sorted(found[:limit], key=lambda entry: entry.path.split("/")), more

    async def _list_folders(
        self, path: str, folders: Sequence[str], root: str, limit: int
    ) -> tuple[Sequence[DirectoryEntry], bool]:
        """The entries of several directories below a path, at most `limit` of each, and whether one of them has more."""
        streams = [
            self._connection.open("list", path=posixpath.join(path, name), root=root, limit=limit) for name in folders
        ]
        found: list[DirectoryEntry] = []
        more = False
        try:
            with self._connection.within(self._connection.patience):
                for folder, stream in zip(folders, streams, strict=True):
                    try:
                        listed = self._connection.parse(_Listed, await self._connection.last(stream))
                    except GuestRefused:
                        if not folder:
                            raise
                        continue
                    if len(listed.entries) > limit or any("/" in entry.path for entry in listed.entries):
                        raise self._connection.distrust("sent something else than a directory's entries")
                    found += [e.model_copy(update={"path": posixpath.join(folder, e.path)}) for e in listed.entries]
                    more = more or listed.more
        finally:
            for stream in streams:
                self._connection.forget(stream)
        return found, more

    async def remove(self, path: str, *, root: str, recursive: bool = False) -> None:
        """Removes a file, a link or an empty directory, or a whole tree; a failure may leave a part of one."""
        await self._change("remove", path=path, root=root, recursive=recursive)

    async def move(self, path: str, to: str, *, root: str) -> None:
        """Renames, or copies where the file system cannot; cancelled then, a part may stand at `to`."""
        await self._change("move", path=path, to=to, root=root)

    async def _change(self, verb: str, **meta: Any) -> None:
        """A request that the guest answers at once, or hands to a program whose words tell how it failed."""
        stream, said = self._connection.open(verb, **meta), b""
        try:
            with self._connection.within(10 * self._connection.patience):
                while (frame := await stream.receive()).kind in (DATA, ERR):
                    said = (said + frame.body)[:1000]
        finally:
            self._connection.forget(stream)
        if frame.kind == DONE and not frame.meta:
            return
        if not parse_exit(self._connection, frame.meta).ok:
            text = said.decode(errors="replace").strip()
            raise GuestRefused(CODES_BY_TEXT.get(text.rpartition(": ")[2], "failed"), {"why": text})


@asynccontextmanager
async def open_link(
    stream: ByteStream, limits: Limits, environment: Mapping[str, str], patience: float = PATIENCE
) -> AsyncGenerator[Link]:
    """Pushes the guest into a fresh sandbox and greets it. Raises SandboxLost when it does not answer as it should.

    Leaving the context abandons the link; the sandbox itself is destroyed by leaving the runtime's context.
    """
    connection = Connection(stream, patience)
    link = Link(connection)
    try:
        with anyio.fail_after(patience):
            await stream.send(_SOURCE)
    except (TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise SandboxLost("the program inside it did not start") from error
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            try:
                await link.hello(limits, environment)
                yield link
            finally:
                link.abandon("it was closed")
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
