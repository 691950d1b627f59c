"""The guest: the wire format, and the program that serves it inside a sandbox.

Lives here: frames, and the closed set of verbs a host may ask for. Standard library only, Python 3.9 or newer, one file,
because its text is pushed through stdin into whatever sandbox is at hand. It may not know policy, tools or the host.

Theory of operation. One byte stream carries many streams of frames. The host opens a stream with OPEN and a verb; the
guest answers with any number of DATA, ERR and NOTE frames and ends the stream with exactly one DONE or FAIL. Bytes are
sent only against credit the other side has granted, so no stream can starve another or fill anybody's memory. The guest
is PID 1 of its sandbox, installs no signal handler (a process inside can then neither kill, stop nor interrupt it, see
pid_namespaces(7)) and is not dumpable (nobody inside can read or write its memory or descriptors, see ptrace(2)).
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

VERSION = 1
OPEN, DATA, ERR, EOF, CREDIT, NOTE, DONE, FAIL = range(1, 9)
HEADER = struct.Struct("!BIII")  # kind, stream, length of the JSON object, length of the body
MAX_JSON = 1 << 20
MAX_BODY = 1 << 18
WINDOW = 1 << 20  # bytes each side may send on a new stream before the other grants more
MAX_DIGESTED = 64 << 20  # files above this get no digest and no line count: hashing them would hold up every stream

_CHUNK = 1 << 17
_QUEUE_LIMIT = 1 << 20
_PR_SET_DUMPABLE = 4
_JOB_VARIABLE = "REPOCELL_JOB"


class ProtocolError(Exception):
    """The peer sent something no honest peer sends; the connection cannot be trusted any further."""


class Refusal(Exception):
    """A request that cannot be done; becomes a FAIL frame and leaves the guest serving."""

    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.facts = dict(facts, error=code)


class Frame(NamedTuple):
    kind: int
    stream: int
    meta: Dict[str, Any]
    body: bytes


def encode(kind: int, stream: int, meta: Optional[Dict[str, Any]] = None, body: bytes = b"") -> bytes:
    """One frame as bytes. Raises ValueError when it would exceed the limits the other side enforces."""
    text = json.dumps(meta, separators=(",", ":")).encode("ascii") if meta else b""
    if len(text) > MAX_JSON or len(body) > MAX_BODY:
        raise ValueError(f"frame too large: {len(text)} bytes of JSON, {len(body)} of body")
    return HEADER.pack(kind, stream, len(text), len(body)) + text + body


class Decoder:
    """Bytes in, frames out, whatever the chunks they arrive in. After a ProtocolError it must not be fed again."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= HEADER.size:
                kind, stream, json_size, body_size = HEADER.unpack_from(buffer, start)
                if not OPEN <= kind <= FAIL:
                    raise ProtocolError(f"unknown frame kind {kind}")
                if json_size > MAX_JSON or body_size > MAX_BODY:
                    raise ProtocolError("frame exceeds the size limit")
                text = start + HEADER.size
                body = text + json_size
                end = body + body_size
                if len(buffer) < end:
                    break
                yield Frame(kind, stream, self._object(buffer[text:body]), bytes(buffer[body:end]))
                start = end
        finally:
            del buffer[:start]

    @staticmethod
    def _object(text: bytearray) -> Dict[str, Any]:
        if not text:
            return {}
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("frame metadata is not JSON") from error
        if type(value) is not dict:
            raise ProtocolError("frame metadata is not an object")
        return value

    @property
    def pending(self) -> int:
        """Bytes received that do not form a whole frame yet."""
        return len(self._buffer)


# ----------------------------------------------------------------------------------------------------------------------
# Paths and files
# ----------------------------------------------------------------------------------------------------------------------


def resolve(path: str, root: str, *, follow: bool = True) -> str:
    """The real path of `path` below `root`; without `follow` the last component is taken as it is."""
    if "\0" in path:
        raise Refusal("invalid", why="the path contains a NUL byte")
    base = os.path.realpath(root)
    full = os.path.normpath(os.path.join(root, path))
    if follow:
        real = os.path.realpath(full)
    else:
        real = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full)) if full != root else base
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise Refusal("outside", real=real)
    return real


def kind_of(mode: int) -> str:
    for test, name in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink")):
        if test(mode):
            return name
    return "special"


def digest_of(path: str) -> Optional[str]:
    """Hex SHA-256 of a regular file, or None where there is none (absent, special, or above MAX_DIGESTED)."""
    import hashlib  # on first use: loading it costs more than the rest of a cold start's imports together

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_DIGESTED:
            return None
        return hashlib.sha256(file.read()).hexdigest()


class FileRead:
    """Streams a window of lines, or a range of bytes, out of a regular file, one block per step.

    Ends with the facts: size, mode, digest and number of lines (both None above MAX_DIGESTED), the lines and bytes sent,
    whether the window was cut at `max_bytes`, and whether the file looks binary (a NUL in its first 8 KiB, as git has it).
    """

    def __init__(self, guest: "Guest", stream: int, meta: Dict[str, Any]) -> None:
        self.guest, self.stream, self.credit = guest, stream, WINDOW
        self.path = resolve(meta["path"], meta["root"])
        self.start, self.count = int(meta.get("start_line", 1)), int(meta.get("line_count", 1 << 62))
        self.offset, self.room = int(meta.get("offset", 0)), int(meta["max_bytes"])
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.file = os.fdopen(fd, "rb", buffering=0)
        self.facts = os.fstat(fd)
        if not stat.S_ISREG(self.facts.st_mode):
            self.file.close()
            raise Refusal("is_a_directory" if stat.S_ISDIR(self.facts.st_mode) else "special")
        self.whole = self.facts.st_size <= MAX_DIGESTED and self.offset == 0
        self.steps = self._steps()

    def _steps(self) -> Iterator[bytes]:
        import hashlib

        digest = hashlib.sha256() if self.whole else None
        line, sent_lines, sent, binary, cut, ended = 1, 0, 0, None, False, b"\n"
        self.file.seek(self.offset)
        while True:
            block = self.file.read(_CHUNK)
            if not block:
                break
            if digest is not None:
                digest.update(block)
            if binary is None:
                binary = b"\0" in block[:8192]
            newlines, ended = block.count(b"\n"), block[-1:]
            window = self._cut_lines(block, line, newlines)
            line += newlines
            if window and not cut:
                cut = len(window) > self.room
                window = window[: self.room]
                self.room -= len(window)
                sent, sent_lines = sent + len(window), sent_lines + window.count(b"\n")
                yield window
            if (cut or line >= self.start + self.count) and not self.whole:
                break
        lines = line - 1 + (ended != b"\n")
        self.result = {
            "size": self.facts.st_size, "mode": stat.S_IMODE(self.facts.st_mode), "binary": bool(binary), "cut": cut,
            "sent": sent, "newlines_sent": sent_lines, "lines": lines if self.whole else None,
            "digest": digest.hexdigest() if digest is not None else None,
        }  # fmt: skip

    def _cut_lines(self, block: bytes, line: int, newlines: int) -> bytes:
        """The part of a block, whose first byte belongs to `line`, that lies in the window of lines."""
        last = self.start + self.count
        if line >= last or self.start - line > newlines:
            return b""
        begin, end = 0, len(block)
        for _ in range(self.start - line):
            begin = block.find(b"\n", begin) + 1
        if newlines >= last - line:
            end = begin
            for _ in range(last - max(line, self.start)):
                end = block.find(b"\n", end) + 1
        return block[begin:end]

    def step(self) -> None:
        """Sends one block, or the end. Called only while there is credit and room in the queue."""
        block = next(self.steps, None)
        if block is None:
            self.guest.finish(self.stream, DONE, self.result)
        elif block:
            self.credit -= len(block)
            self.guest.send(DATA, self.stream, None, block)

    def ready(self) -> bool:
        return self.credit > 0

    def close(self) -> None:
        self.file.close()


class FileWrite:
    """Replaces a file's content in one rename, if it is still what the writer believes it to be.

    `expect`: None (anything), "absent", or the digest the file must have now. Keeps the mode of a file that exists. On a
    conflict, error or lost connection the old file is untouched and the temporary one removed.
    """

    def __init__(self, guest: "Guest", stream: int, meta: Dict[str, Any]) -> None:
        self.guest, self.stream, self.expect = guest, stream, meta.get("expect")
        self.path = resolve(meta["path"], meta["root"])
        self.made = not os.path.lexists(self.path)
        if os.path.isdir(self.path):
            raise Refusal("is_a_directory")
        if not self.made and not stat.S_ISREG(os.stat(self.path).st_mode):
            raise Refusal("special")
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.mode = meta.get("mode") or (0o644 if self.made else stat.S_IMODE(os.stat(self.path).st_mode))
        self.temporary = os.path.join(os.path.dirname(self.path), f".repocell-{os.urandom(8).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.open(self.temporary, flags, 0o600)

    def data(self, body: bytes) -> None:
        view = memoryview(body)
        while view:
            view = view[os.write(self.fd, view) :]
        self.guest.send(CREDIT, self.stream, {"bytes": len(body)})

    def eof(self) -> None:
        os.fchmod(self.fd, self.mode)
        os.fsync(self.fd)
        if self.expect is not None:
            now = digest_of(self.path) or "absent"
            if now != self.expect:
                raise Refusal("conflict", found=now)
        written = digest_of(self.temporary)
        os.rename(self.temporary, self.path)
        self.temporary = ""
        self.guest.finish(self.stream, DONE, {"digest": written, "created": self.made, "mode": self.mode})

    def close(self) -> None:
        os.close(self.fd)
        if self.temporary:
            os.unlink(self.temporary)


def describe(path: str) -> Dict[str, Any]:
    facts = os.lstat(path)
    value: Dict[str, Any] = {"kind": kind_of(facts.st_mode), "size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode)}
    if value["kind"] == "symlink":
        value["target"] = os.readlink(path)
    return value


def verb_stat(meta: Dict[str, Any]) -> Dict[str, Any]:
    path = resolve(meta["path"], meta["root"], follow=False)
    value = describe(path)
    if meta.get("digest") and value["kind"] == "file":
        value["digest"] = digest_of(path)
    return value


def verb_list(meta: Dict[str, Any]) -> Dict[str, Any]:
    """Entries below a directory, depth first, sorted by name; at most `limit`, then `more` is true."""
    top = resolve(meta["path"], meta["root"])
    if not os.path.isdir(top):
        raise Refusal("not_found" if not os.path.lexists(top) else "not_a_directory")
    entries: List[Dict[str, Any]] = []
    pending = [("", 1)]
    while pending:
        relative, depth = pending.pop()
        try:
            names = sorted(os.listdir(os.path.join(top, relative)))
        except PermissionError:
            continue
        below: List[Tuple[str, int]] = []
        for name in names:
            path = os.path.join(relative, name)
            if len(entries) >= meta["limit"]:
                return {"entries": entries, "more": True}
            try:
                entry = describe(os.path.join(top, path))
            except FileNotFoundError:
                continue
            entries.append(dict(entry, path=path))
            if entry["kind"] == "directory" and depth < meta["depth"] and name not in meta["skip"]:
                below.append((path, depth + 1))
        pending.extend(reversed(below))
    return {"entries": entries, "more": False}


def verb_remove(meta: Dict[str, Any]) -> Dict[str, Any]:
    path = resolve(meta["path"], meta["root"], follow=False)
    if path == os.path.realpath(meta["root"]):
        raise Refusal("invalid", why="the root itself cannot be removed")
    if stat.S_ISDIR(os.lstat(path).st_mode):
        if meta.get("recursive"):
            import shutil  # rarely needed, slow to load

            shutil.rmtree(path)
        else:
            os.rmdir(path)
    else:
        os.unlink(path)
    return {}


def verb_move(meta: Dict[str, Any]) -> Dict[str, Any]:
    """Renames; copies where the file system cannot (a directory from a lower overlay layer gives EXDEV)."""
    source = resolve(meta["path"], meta["root"], follow=False)
    target = resolve(meta["to"], meta["root"], follow=False)
    os.lstat(source)
    if os.path.lexists(target):
        raise Refusal("exists", path=meta["to"])
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil

        shutil.move(source, target)
    return {}


# ----------------------------------------------------------------------------------------------------------------------
# Processes
# ----------------------------------------------------------------------------------------------------------------------


class Sighted(NamedTuple):
    """What /proc says of one process."""

    pid: int
    parent: int
    session: int
    state: str
    name: str


def sighted() -> Dict[int, Sighted]:
    """Every process of this sandbox but the guest and the dead."""
    found: Dict[int, Sighted] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or entry == "1":
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        name, _, rest = text.partition(" (")[2].rpartition(") ")
        fields = rest.split()
        if fields[0] not in "ZX":
            found[int(entry)] = Sighted(int(entry), int(fields[1]), int(fields[3]), fields[0], name)
    return found


def marker_of(pid: int) -> Optional[str]:
    """The job a process was started for, as its environment at exec says; None when it says nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            for item in file.read(1 << 20).split(b"\0"):
                if item.startswith(_JOB_VARIABLE.encode() + b"="):
                    return item.partition(b"=")[2].decode(errors="replace")
    except OSError:
        pass
    return None


class Process:
    """One command in a session of its own, with its output streams, its stdin and its exit status."""

    def __init__(self, guest: "Guest", stream: int, meta: Dict[str, Any]) -> None:
        self.guest, self.stream, self.credit = guest, stream, WINDOW
        self.job = meta["env"].get(_JOB_VARIABLE, "")
        self.outputs: Dict[int, int] = {}  # descriptor -> frame kind
        self.watched: Dict[int, bool] = {}
        self.stdin: Optional[int] = None
        self.pending: Deque[bytes] = deque()
        self.stdin_ends = False
        self.status: Optional[Dict[str, Any]] = None
        self.noted = False
        self.pid, self.pidfd = self._spawn(meta)
        guest.children[self.pid] = self
        guest.watch(self.pidfd, select.EPOLLIN, lambda _: guest.reap())
        self.listen()

    def _spawn(self, meta: Dict[str, Any]) -> Tuple[int, int]:
        child_ends: List[int] = []
        if meta.get("pty"):
            master, slave = os.openpty()
            child_ends.append(slave)
            set_window(master, meta["pty"])
            actions: List[Tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
            self.outputs[master] = DATA
            self.stdin = os.dup(master)
        else:
            out, out_end = os.pipe()
            err, err_end = os.pipe()
            self.outputs.update({out: DATA, err: ERR})
            child_ends += [out_end, err_end]
            if meta.get("stdin"):
                in_end, self.stdin = os.pipe()
            else:
                in_end = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            child_ends.append(in_end)
            actions = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((in_end, out_end, err_end))]
        for fd in [*self.outputs, *([self.stdin] if self.stdin is not None else [])]:
            os.set_blocking(fd, False)
        try:
            self._enter(meta["cwd"])
            self.guest.first_to_die(True)
            pid = os.posix_spawnp(
                meta["argv"][0], meta["argv"], dict(os.environ, **meta["env"]), file_actions=actions, setsid=True,
                setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )  # fmt: skip
            return pid, os.pidfd_open(pid)
        except BaseException:
            self.close()
            raise
        finally:
            self.guest.first_to_die(False)
            os.chdir("/")
            for fd in child_ends:
                os.close(fd)

    @staticmethod
    def _enter(directory: str) -> None:
        try:
            os.chdir(directory)
        except OSError as error:
            raise Refusal("no_directory", errno=errno.errorcode.get(error.errno or 0, "EIO")) from error

    def listen(self) -> None:
        """Watches the outputs while there is credit, and not otherwise: an unread pipe stops its writer."""
        for fd in self.outputs:
            wanted = self.credit > 0 and not self.guest.congested
            if wanted and not self.watched.get(fd):
                self.guest.watch(fd, select.EPOLLIN, lambda _, fd=fd: self.on_output(fd))
            elif not wanted and self.watched.get(fd):
                self.guest.unwatch(fd)
            self.watched[fd] = wanted

    def relay(self, fd: int) -> bool:
        """Sends what one output holds, up to a chunk; False when nothing is left for now, or no credit to send it."""
        if self.credit <= 0:
            return False
        try:
            body = os.read(fd, min(_CHUNK, self.credit))
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last holder of a terminal is gone
            body = b""
        if body:
            self.credit -= len(body)
            self.guest.send(self.outputs[fd], self.stream, None, body)
            if self.credit == 0:
                self.listen()
            return self.credit > 0
        if self.watched.pop(fd, False):
            self.guest.unwatch(fd)
        os.close(fd)
        del self.outputs[fd]
        return False

    def on_output(self, fd: int) -> None:
        self.relay(fd)
        self.settle()

    def exited(self, status: int, usage: resource.struct_rusage) -> None:
        signalled = os.WIFSIGNALED(status)
        self.status = {
            "exit": None if signalled else os.WEXITSTATUS(status), "signal": os.WTERMSIG(status) if signalled else None,
            "user": usage.ru_utime, "system": usage.ru_stime, "max_rss_kb": usage.ru_maxrss,
        }  # fmt: skip
        self.guest.unwatch(self.pidfd)
        os.close(self.pidfd)
        self.settle()

    def settle(self) -> None:
        """Reports the exit once all output written before it is on its way, and ends once nobody can write any more."""
        if self.status is None:
            return
        for fd in list(self.outputs):
            while self.relay(fd):
                pass
        if not self.outputs:
            self.guest.finish(self.stream, DONE, dict(self.status, left=self.left_behind()))
        elif not self.noted and self.credit > 0:
            self.noted = True
            self.guest.send(NOTE, self.stream, dict(self.status, left=self.left_behind()))

    def left_behind(self) -> List[List[Any]]:
        """Processes this command left running, as [pid, name]; asking the kernel for none at all costs a microsecond."""
        if not self.guest.has_children():
            return []
        mine = [p for p in sighted().values() if p.session == self.pid or marker_of(p.pid) == self.job != ""]
        return [[p.pid, p.name] for p in mine[:20]]

    def signal(self, number: int) -> None:
        for process in sighted().values():
            if process.session == self.pid:
                send_signal(process.pid, number)

    def destroy(self) -> int:
        """Kills everything that belongs to this command, and what belongs to nobody; returns how many were killed.

        A stop of the whole sandbox first (kill(2) with -1 is atomic against fork), so a fork bomb cannot outrun the scan.
        """
        send_signal(-1, signal.SIGSTOP)
        try:
            doomed = [pid for pid, owner in self.guest.owners().items() if owner in (self.job, None)]
            for pid in doomed:
                send_signal(pid, signal.SIGKILL)
        finally:
            send_signal(-1, signal.SIGCONT)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and not set(doomed).isdisjoint(sighted()):
            self.guest.reap()
            time.sleep(0.002)
        self.guest.reap()
        return len(doomed)

    def data(self, body: bytes) -> None:
        self.pending.append(body)
        self.feed(0)

    def eof(self) -> None:
        self.stdin_ends = True
        self.feed(0)

    def feed(self, _: int) -> None:
        """Writes to the command's stdin what it takes, and grants the host as much again."""
        while self.pending and self.stdin is not None:
            try:
                written = os.write(self.stdin, self.pending[0])
            except BlockingIOError:
                self.guest.watch(self.stdin, select.EPOLLOUT, self.feed)
                return
            except OSError:  # it closed its stdin; what it did not read is dropped, as a shell's pipe would
                written = len(self.pending[0])
            rest = self.pending.popleft()[written:]
            if rest:
                self.pending.appendleft(rest)
            self.guest.send(CREDIT, self.stream, {"bytes": written})
        if self.stdin is not None:
            self.guest.unwatch(self.stdin)
            if self.stdin_ends:
                os.close(self.stdin)
                self.stdin = None
        self.pending.clear()

    def close(self) -> None:
        for fd in self.outputs:
            if self.watched.pop(fd, False):
                self.guest.unwatch(fd)
            os.close(fd)
        self.outputs.clear()
        if self.stdin is not None:
            self.guest.unwatch(self.stdin)
            os.close(self.stdin)
            self.stdin = None


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself


def set_window(fd: int, size: List[int]) -> None:
    import termios

    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", int(size[0]), int(size[1]), 0, 0))


# ----------------------------------------------------------------------------------------------------------------------
# The program
# ----------------------------------------------------------------------------------------------------------------------

CODES = {
    errno.ENOENT: "not_found", errno.ENOTDIR: "not_a_directory", errno.EISDIR: "is_a_directory", errno.EACCES: "denied",
    errno.EPERM: "denied", errno.EROFS: "denied", errno.EEXIST: "exists", errno.ENOTEMPTY: "not_empty",
    errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EFBIG: "no_space", errno.ELOOP: "loop",
    errno.ENAMETOOLONG: "name_too_long", errno.E2BIG: "too_large", errno.EAGAIN: "too_many_processes",
    errno.ENOMEM: "no_memory", errno.EMFILE: "too_many_files", errno.ENFILE: "too_many_files", errno.ENXIO: "special",
    errno.ENOEXEC: "not_executable",
}  # fmt: skip

SIMPLE: Dict[str, Callable[[Dict[str, Any]], Dict[str, Any]]] = {
    "stat": verb_stat, "list": verb_list, "remove": verb_remove, "move": verb_move,
}  # fmt: skip


class Guest:
    """The event loop: the channel, the open streams, the children."""

    def __init__(self, channel: int, out: int, oom: int, score: bytes) -> None:
        self.channel, self.out, self.oom, self.score = channel, out, oom, score
        self.decoder = Decoder()
        self.poller = select.epoll()
        self.handlers: Dict[int, Callable[[int], None]] = {}
        self.streams: Dict[int, Any] = {}
        self.children: Dict[int, Process] = {}
        self.queue: Deque[bytes] = deque()
        self.queued = 0
        self.congested = False
        self.watch(channel, select.EPOLLIN, self.on_channel)
        self.blocked = False

    # -- descriptors

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        if fd in self.handlers:
            self.poller.modify(fd, events)
        else:
            self.poller.register(fd, events)
        self.handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None):
            self.poller.unregister(fd)

    # -- frames out

    def send(self, kind: int, stream: int, meta: Optional[Dict[str, Any]] = None, body: bytes = b"") -> None:
        frame = encode(kind, stream, meta, body)
        self.queue.append(frame)
        self.queued += len(frame)
        self.flush()

    def finish(self, stream: int, kind: int, meta: Dict[str, Any]) -> None:
        handler = self.streams.pop(stream, None)
        if handler is not None:
            handler.close()
        self.send(kind, stream, meta)

    def flush(self) -> None:
        while self.queue:
            try:
                sent = os.writev(self.out, list(self.queue)[:16])
            except BlockingIOError:
                break
            self.queued -= sent
            while self.queue and sent >= len(self.queue[0]):
                sent -= len(self.queue.popleft())
            if sent:
                self.queue[0] = self.queue[0][sent:]
        if self.blocked != bool(self.queue):
            self.blocked = bool(self.queue)
            if self.blocked:
                self.watch(self.out, select.EPOLLOUT, lambda _: self.flush())
            else:
                self.unwatch(self.out)
        congested = self.queued > _QUEUE_LIMIT
        if congested != self.congested:
            self.congested = congested
            for process in list(self.children.values()):
                process.listen()

    # -- frames in

    def on_channel(self, _: int) -> None:
        try:
            data = os.read(self.channel, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)  # the host is gone: PID 1 ends, and the kernel ends everything else
        for frame in self.decoder.feed(data):
            self.on_frame(frame)

    def on_frame(self, frame: Frame) -> None:
        handler = self.streams.get(frame.stream)
        try:
            if frame.kind == OPEN:
                if handler is not None:
                    raise ProtocolError("stream opened twice")
                self.open(frame)
            elif handler is None:
                return  # it ended here while this frame was on its way
            elif frame.kind == CREDIT:
                handler.credit += int(frame.meta["bytes"])
                if isinstance(handler, Process):
                    handler.listen()
                    handler.settle()
            elif frame.kind == DATA:
                handler.data(frame.body)
            elif frame.kind == EOF:
                handler.eof()
            else:
                raise ProtocolError(f"the host may not send frames of kind {frame.kind}")
        except Refusal as refusal:
            self.finish(frame.stream, FAIL, refusal.facts)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            self.finish(frame.stream, FAIL, {"error": CODES.get(error.errno or 0, "failed"), "errno": name})

    def open(self, frame: Frame) -> None:
        verb, meta, stream = frame.meta.get("verb"), frame.meta, frame.stream
        if verb == "spawn":
            self.streams[stream] = Process(self, stream, meta)
        elif verb == "read":
            self.streams[stream] = FileRead(self, stream, meta)
        elif verb == "write":
            self.streams[stream] = FileWrite(self, stream, meta)
        elif verb == "signal":
            self.send(DONE, stream, self.signal(meta))
        elif verb == "resize":
            self.send(DONE, stream, self.resize(meta))
        elif verb == "hello":
            self.send(DONE, stream, self.hello(meta))
        elif verb in SIMPLE:
            self.send(DONE, stream, SIMPLE[verb](meta))
        else:
            raise ProtocolError(f"unknown verb {verb!r}")

    # -- verbs about the guest and its children

    def hello(self, meta: Dict[str, Any]) -> Dict[str, Any]:
        """Takes the limits for everything that will run here; says who answers."""
        for name, value in meta["rlimits"].items():
            number = getattr(resource, f"RLIMIT_{name}")
            _, hard = resource.getrlimit(number)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))
        os.environ.clear()
        os.environ.update(meta["env"])
        return {"version": VERSION, "python": ".".join(map(str, sys.version_info[:3])), "pid": os.getpid()}

    def _process(self, meta: Dict[str, Any]) -> Process:
        handler = self.streams.get(meta["target"])
        if not isinstance(handler, Process):
            raise Refusal("not_found")
        return handler

    def signal(self, meta: Dict[str, Any]) -> Dict[str, Any]:
        process = self._process(meta)
        if meta.get("tree"):
            return {"killed": process.destroy()}
        process.signal(int(meta["signal"]))
        return {}

    def resize(self, meta: Dict[str, Any]) -> Dict[str, Any]:
        process = self._process(meta)
        if process.stdin is not None:
            set_window(process.stdin, meta["pty"])
        return {}

    def owners(self) -> Dict[int, Optional[str]]:
        """pid -> the job it belongs to: by session, else by ancestor, else by its environment, else None."""
        processes = sighted()
        by_session = {s.pid: s.job for s in self.streams.values() if isinstance(s, Process)}
        found: Dict[int, Optional[str]] = {}
        for pid in processes:
            at: Optional[Sighted] = processes[pid]
            while at is not None and at.session not in by_session:
                at = processes.get(at.parent)
            found[pid] = by_session[at.session] if at is not None else marker_of(pid)
        return found

    def has_children(self) -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            process = self.children.pop(pid, None)
            if process is not None:
                process.exited(status, usage)

    def first_to_die(self, victim: bool) -> None:
        """Commands inherit the highest OOM score, so the kernel takes them before the guest that reports on them.

        Written through a descriptor opened before the guest became undumpable; afterwards the file is not ours to open.
        """
        if self.oom >= 0:
            try:
                os.write(self.oom, b"1000" if victim else self.score)
            except OSError:
                pass  # where the server itself runs under a raised score it may not go back down; nothing is lost

    def run(self) -> None:
        while True:
            reading = [s for s in self.streams.values() if isinstance(s, FileRead) and s.ready()]
            wait = 0 if reading and not self.congested else (1 if self.has_children() else None)
            for fd, events in self.poller.poll(wait):
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler(events)
            for read in reading:
                if not self.congested and self.streams.get(read.stream) is read:
                    read.step()
            self.reap()


def main() -> None:
    """Takes over stdin and stdout as the channel, gives commands the null device instead, and serves until the host goes."""
    channel, out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.set_blocking(channel, False)
    os.set_blocking(out, False)
    try:
        oom = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        score = os.read(oom, 16).strip()
    except OSError:
        oom, score = -1, b"0"
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the guest could not protect its memory")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    Guest(channel, out, oom, score).run()


if __name__ == "__guest__":
    main()
