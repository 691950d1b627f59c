"""The guest: the wire format, and the program that serves it inside a sandbox.

Lives here: frames, and the closed set of verbs a host may ask for. It may not know policy, tools or the host. Standard
library only, Python 3.9 or newer, one file: its text is pushed through stdin into whatever sandbox is at hand.

Theory of operation. One byte stream carries many streams of frames. The host opens a stream with OPEN, a verb and its
arguments; the guest answers with any number of DATA, ERR and NOTE frames and ends the stream with exactly one DONE or FAIL,
also when the host says with DONE that it wants no more. Bytes are sent only against credit the other side has granted, so no
stream can starve another or fill anybody's memory; verbs that take longer than a few milliseconds are generators that
give way. The guest is PID 1 of its sandbox, installs no signal handler (a process inside can then neither kill, stop
nor interrupt it, see pid_namespaces(7)) and is not dumpable (nobody inside can read or write its memory, see ptrace(2)).
"""

from __future__ import annotations

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
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading typing would take a sixth of a cold start
    from collections.abc import Callable, Generator, Iterator
    from typing import Any, BinaryIO

    Meta = dict[str, Any]
    Steps = Generator["bytes | Meta | None", "bytes | None", Any]  # see Task

VERSION = 1
OPEN, DATA, ERR, EOF, CREDIT, NOTE, DONE, FAIL = range(1, 9)
HEADER = struct.Struct("!BIII")  # kind, stream, length of the JSON object, length of the body
MAX_JSON, MAX_BODY = 1 << 20, 1 << 18
WINDOW = 1 << 20  # the credit each side has on a new stream before the other grants more
FRAME_COST = 256  # credit a DATA or ERR frame takes besides its body: many tiny ones would fill memory as well
MAX_DIGESTED = 64 << 20  # files above this get no digest

_CHUNK = 1 << 17
_TURN_SECONDS, _KILL_SECONDS = 0.004, 10.0
_PIPE_BYTES = 1 << 20  # the most a pipe or terminal can hold of what was written before its writer ended
ASIDE, ASIDE_BYTES = 63, 1 << 16  # the descriptor a command may write on for us alone, and how much of it is told
_SPARE_DESCRIPTORS = 16  # kept free, so that a guest at its limit can still look for processes and kill them
_PR_SET_DUMPABLE, _MARK = 4, "REPOCELL_JOB"  # the mark: an environment variable that names a process's job


class ProtocolError(Exception):
    """The peer sent something no honest peer sends; the connection cannot be trusted any further."""


class Refusal(Exception):
    """A request that cannot be done; becomes a FAIL frame, as an OSError does, and leaves the guest serving."""

    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.facts = dict(facts, error=code)


class Frame:
    __slots__ = ("body", "kind", "meta", "stream")

    def __init__(self, kind: int, stream: int, meta: Meta, body: bytes) -> None:
        self.kind, self.stream, self.meta, self.body = kind, stream, meta, body


def encode(kind: int, stream: int, meta: Meta | None = None, body: bytes = b"") -> bytes:
    """One frame as bytes. Raises ValueError when it would exceed the limits the other side enforces."""
    text = json.dumps(meta, separators=(",", ":")).encode("ascii") if meta else b""
    if len(text) > MAX_JSON or len(body) > MAX_BODY:
        raise ValueError(f"frame too large: {len(text)} bytes of JSON, {len(body)} of body")
    return HEADER.pack(kind, stream, len(text), len(body)) + text + body


class Decoder:
    """Bytes in, frames out, whatever the chunks they arrive in. After a ProtocolError it must not be fed again."""

    def __init__(self) -> None:
        self.pending = bytearray()  # what does not form a whole frame yet

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes; to be iterated to the end."""
        buffer, start = self.pending, 0
        buffer += data
        try:
            while len(buffer) - start >= HEADER.size:
                kind, stream, json_size, body_size = HEADER.unpack_from(buffer, start)
                if not OPEN <= kind <= FAIL or json_size > MAX_JSON or body_size > MAX_BODY:
                    raise ProtocolError(f"a frame of kind {kind}, {json_size} bytes of JSON and {body_size} of body")
                text = start + HEADER.size
                body = text + json_size
                if len(buffer) < body + body_size:
                    break
                start = body + body_size
                try:
                    meta: Meta = {**json.loads(buffer[text:body].decode("ascii") or "{}")}
                except (ValueError, TypeError, RecursionError) as error:
                    raise ProtocolError("frame metadata is not a JSON object") from error
                yield Frame(kind, stream, meta, bytes(buffer[body:start]))
        finally:
            del buffer[:start]


def resolve(path: str, root: str, *, follow: bool = True) -> str:
    """The real path of `path` below `root`; without `follow` the last component is taken as it is."""
    base = os.path.realpath(root)
    real = os.path.normpath(os.path.join(base, path))
    folder, name = os.path.split(real)
    real = os.path.realpath(real) if follow or real == base else os.path.join(os.path.realpath(folder), name)
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise Refusal("outside", real=real)
    return real


def open_regular(path: str) -> BinaryIO:
    """Opens a regular file for reading; others are not even opened, as that would wake the writer of a FIFO."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise Refusal("is_a_directory" if stat.S_ISDIR(mode) else "special")
    return open(path, "rb", buffering=0, opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK | os.O_NOFOLLOW))


def read(path: str, root: str, offset: int = 0) -> Steps:
    """Notes size and mode of a regular file and sends it from an offset on, as long as it is now."""
    with open_regular(resolve(path, root)) as file:
        facts = os.fstat(file.fileno())
        yield {"size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode)}
        left = facts.st_size - file.seek(offset)
        while left > 0 and (block := file.read(min(_CHUNK, left))):
            left -= len(block)
            yield block
    return {}


def digest_of(path: str) -> Steps:
    """Hex SHA-256 of a regular file; "absent" where nothing is, None where it is special or above MAX_DIGESTED."""
    import hashlib  # on first use, as all that is slow to load

    digest = hashlib.sha256()
    try:
        for part in read(path, "/"):
            if isinstance(part, dict) and part["size"] > MAX_DIGESTED:
                return None
            digest.update(part if isinstance(part, bytes) else b"")
            yield b""
    except FileNotFoundError:
        return "absent"
    except Refusal:
        return None
    return digest.hexdigest()


def write(path: str, root: str, expect: str | None = None, mode: int | None = None) -> Steps:
    """Replaces a file's content in one rename, if it is still what the writer believes it to be.

    `expect`: None (anything), "absent", or the digest the file must have now. Keeps the mode of a file that exists. After
    a refusal, an error or a lost connection the old file is untouched; directories made for a new one may be left.
    """
    path = resolve(path, root)
    folder, made, exclusive = os.path.dirname(path), not os.path.lexists(path), expect == "absent"
    if not made:
        with open_regular(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) if mode is None else mode
    elif expect is not None and not exclusive:
        raise Refusal("conflict", found="absent")
    os.makedirs(os.path.join(folder, "."), exist_ok=True)  # with the dot, a file there is refused as no directory
    name = os.path.join(folder, f".repocell-{os.urandom(8).hex()}")
    try:  # nameless where the file system can do that, so that no death leaves it behind
        fd, draft = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600), ""
    except OSError:
        fd, draft = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), name
    try:
        while (body := (yield None)) is not None:
            while body:
                body = body[os.write(fd, body) :]
        os.fchmod(fd, 0o644 if mode is None else mode)
        os.fsync(fd)
        if expect is not None and (found := (yield from digest_of(path))) != expect:
            raise Refusal("conflict", found=found)
        source, target = draft or f"/proc/self/fd/{fd}", path if exclusive else name
        if source != target:  # given a directory, Python takes linkat(2), which follows the link in /proc
            os.link(source, target, src_dir_fd=fd)
        if not exclusive:
            draft = name
            os.rename(name, path)
    except FileExistsError:
        raise Refusal("conflict", found=(yield from digest_of(path))) from None
    finally:
        os.close(fd)
        if os.path.lexists(draft):
            os.unlink(draft)
    return {"created": made, "mode": 0o644 if mode is None else mode}


def describe(path: str, root: str | None) -> Meta:
    """What a path names, a link not followed; with a root, the path is one below it."""
    path = resolve(path, root, follow=False) if root else path
    facts, kinds = os.lstat(path), {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    kind = kinds.get(stat.S_IFMT(facts.st_mode), "special")
    target = os.readlink(path) if kind == "symlink" else None
    return {"kind": kind, "size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode), "target": target}


def list_directory(path: str, root: str, limit: int) -> Meta:
    """The first `limit` entries of a directory by name, and no more than a frame holds; `more` when it has others."""
    from heapq import nsmallest  # on first use, as all that is slow to load

    entries, top, room = list["Meta"](), resolve(path, root), MAX_JSON * 3 // 4
    with os.scandir(top) as found:
        names = nsmallest(limit + 1, (entry.name for entry in found))
    for name in names:
        try:
            entry = dict(describe(os.path.join(top, name), None), path=name)
        except OSError:
            continue  # gone by now
        room -= 128 + len(json.dumps([name, entry["target"]]))
        if len(entries) == limit or room < 0:
            return {"entries": entries, "more": True}
        entries.append(entry)
    return {"entries": entries, "more": False}


def remove(path: str, root: str, recursive: bool = False) -> Meta:
    """Removes a file, a link or an empty directory; answers with the command that does it for a whole tree."""
    real = resolve(path, root, follow=False)
    if real == os.path.realpath(root):
        raise Refusal("invalid", why="the root itself cannot be removed")
    if not stat.S_ISDIR(os.lstat(real).st_mode):
        os.unlink(real)
    elif recursive:
        return {"argv": ["rm", "-rf", "--", real]}
    else:
        os.rmdir(real)
    return {}


def move(path: str, to: str, root: str) -> Meta:
    """Renames; answers with the command that copies where only that works (a directory of a lower overlay layer)."""
    source, target = (resolve(name, root, follow=False) for name in (path, to))
    os.lstat(source)
    if source == os.path.realpath(root) or target.startswith(source + "/"):
        raise Refusal("invalid", why="a directory cannot be moved into itself")
    if os.path.lexists(target):
        raise Refusal("exists")
    os.makedirs(os.path.join(os.path.dirname(target), "."), exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return {"argv": ["mv", "-nT", "--", source, target]}
    return {}


class Task:
    """A verb at work, as a generator. It yields bytes to send (none: gives way), facts to note, or None to wait for input."""

    def __init__(self, guest: Guest, number: int, steps: Steps) -> None:
        self.guest, self.number, self.steps, self.credit, self.waiting = guest, number, steps, WINDOW, False
        guest.streams[number] = self
        self.resume()

    def ready(self) -> bool:
        """There is something to do, and leave to send a whole chunk."""
        return not self.waiting and len(self.guest.unsent) <= WINDOW and self.credit >= _CHUNK + FRAME_COST

    def resume(self) -> None:
        """Works for a few milliseconds, or until it has to wait."""
        until = time.monotonic() + _TURN_SECONDS
        while self.ready() and time.monotonic() < until:
            self.take(None)

    def take(self, given: bytes | None) -> None:
        """One step, with input or the end of it where that is waited for."""
        try:
            block = self.steps.send(given)
        except StopIteration as stop:
            self.guest.finish(self.number, DONE, stop.value)
            return
        self.waiting = block is None
        if given:
            self.guest.send(CREDIT, self.number, {"bytes": len(given)})
        if isinstance(block, dict):
            self.guest.send(NOTE, self.number, block)
        elif block:
            self.credit -= len(block) + FRAME_COST
            self.guest.send(DATA, self.number, None, block)

    def close(self) -> None:
        self.waiting = True  # for ever
        self.steps.close()


def sighted() -> dict[int, tuple[int, int, int, str]]:
    """pid -> parent, session, start in clock ticks since boot, and name, of all processes here but the guest and the dead."""
    found: dict[int, tuple[int, int, int, str]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                before, _, rest = file.read().rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = rest.split()
        if pid != 1 and (fields[0] not in "ZX" or int(fields[17]) > 1):  # the first thread may end before the others
            found[pid] = (int(fields[1]), int(fields[3]), int(fields[19]), before.partition(" (")[2])
    return found


def mark_of(pid: int) -> str:
    """The job a process was started for, as its environment at exec says; "" when it says nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            after = (b"\0" + file.read(1 << 20)).partition(f"\0{_MARK}=".encode())[2]
    except OSError:
        return ""
    return after.partition(b"\0")[0].decode(errors="replace")


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself


class Process:
    """One command in a session of its own, with its output streams, its stdin and its exit status."""

    pid, old, terminal, ending, noted = 0, 0, False, False, False
    status: Meta | None = None

    def __init__(self, guest: Guest, number: int, argv: list[str], env: Meta | None = None, **how: Any) -> None:
        self.guest, self.number, self.credit, self.job = guest, number, WINDOW, (env or {}).get(_MARK, "")
        self.outputs, self.input = dict[int, int](), bytearray()  # descriptor -> frame kind; what waits for stdin
        self.unsettled: set[int] = set()  # descriptors that may hold output from before the exit
        self.started = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        self.start(argv, env or {}, **how)
        guest.streams[number] = guest.children[self.pid] = self
        self.resume()

    def start(self, argv: list[str], env: Meta, cwd: str = "/", stdin: Any = 0, pty: Any = 0, aside: Any = 0) -> None:
        """Commands inherit the highest OOM score, so that the kernel takes them before the guest that reports on them."""
        self.stdin, self.aside = os.dup(0), os.dup(0)  # the null device at first
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        theirs: list[int] = []
        try:
            if pty:
                master, slave = os.openpty()
                theirs.append(slave)
                self.outputs[master], self.terminal = DATA, True
                os.dup2(master, self.stdin, inheritable=False)
                self.resize(*pty)
                actions = [(os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0)]
                actions += [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
            elif stdin:
                theirs += os.pipe()
                os.dup2(theirs[1], self.stdin, inheritable=False)
                actions = [(os.POSIX_SPAWN_DUP2, theirs[0], 0)]
            for target, kind in () if pty else ((1, DATA), (2, ERR)):
                fd, end = os.pipe()
                theirs.append(end)
                self.outputs[fd] = kind
                actions.append((os.POSIX_SPAWN_DUP2, end, target))
            if aside:
                theirs.append(os.memfd_create("aside"))
                os.dup2(theirs[-1], self.aside, inheritable=False)
                actions.append((os.POSIX_SPAWN_DUP2, theirs[-1], ASIDE))
            for fd in (self.stdin, *self.outputs):
                os.set_blocking(fd, False)
            if not os.path.isdir(cwd) or not os.access(cwd, os.X_OK):
                raise Refusal("no_directory")
            os.chdir(cwd)
            os.write(self.guest.oom, b"1000")
            self.pid = os.posix_spawnp(
                argv[0], argv, dict(os.environ, **env), file_actions=actions, setsid=True, setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM],
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        finally:
            os.write(self.guest.oom, self.guest.score)
            os.chdir("/")
            for fd in theirs:
                os.close(fd)

    def resume(self) -> None:
        """Watches the outputs while there is credit, and not otherwise: an unread pipe stops its writer."""
        for fd in self.outputs:
            if self.credit > FRAME_COST and len(self.guest.unsent) <= WINDOW:
                self.guest.watch(fd, select.EPOLLIN, self.on_output, self.number)
        self.settle()

    def on_output(self, fd: int) -> None:
        self.relay(fd)
        self.settle()

    def relay(self, fd: int) -> bool:
        """Sends what one output holds, up to a chunk; False when nothing is left for now, or no leave to send it."""
        room = min(_CHUNK, self.credit - FRAME_COST)
        if room <= 0 or len(self.guest.unsent) > WINDOW:
            self.guest.unwatch(fd)
            return False
        try:
            body = os.read(fd, room)
        except BlockingIOError:
            self.unsettled.discard(fd)
            return False
        except OSError:  # EIO: the last holder of a terminal is gone
            body = b""
        if body:
            self.credit -= len(body) + FRAME_COST
            self.old -= len(body)
            self.guest.send(self.outputs[fd], self.number, None, body)
        else:
            del self.outputs[fd]
            self.guest.unwatch(fd)
            os.close(fd)
        if not body or self.old <= 0:
            self.unsettled.discard(fd)
        return bool(body)

    def exited(self, status: int, used: resource.struct_rusage) -> None:
        self.status = {"status": status, "user": used.ru_utime, "system": used.ru_stime, "max_rss_kb": used.ru_maxrss}
        self.status["aside"] = os.pread(self.aside, ASIDE_BYTES, 0).decode("latin-1")
        os.dup2(0, self.aside, inheritable=False)  # what it holds is memory, and its writer's to answer for
        self.unsettled, self.old = {*self.outputs}, _PIPE_BYTES * len(self.outputs)
        self.settle()

    def settle(self) -> None:
        """Reports the exit once all output written before it is on its way, and ends once nobody can write any more."""
        if self.status is None:
            return
        while sum([self.relay(fd) for fd in [*self.unsettled]]):
            pass
        if not self.outputs:
            self.guest.finish(self.number, DONE, dict(self.status, left=self.left_behind()))
        elif not self.unsettled and not self.noted:
            self.noted = True
            self.guest.send(NOTE, self.number, dict(self.status, left=self.left_behind()))

    def left_behind(self) -> list[tuple[int, str]]:
        """Processes this command left running, as [pid, name]; asking the kernel for none at all costs a microsecond."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return []
        return [*self.kin().items()][:20]

    def take(self, given: bytes | None) -> None:
        """Input for the command, or the end of it: on a terminal as a person types it."""
        self.ending = given is None
        self.input += (b"\4" if self.terminal else b"") if given is None else given
        self.feed(self.stdin)

    def feed(self, fd: int) -> None:
        """Writes to the command's stdin what it takes, and grants the host as much again."""
        while self.input:
            try:
                written = os.write(fd, self.input)
            except BlockingIOError:
                self.guest.watch(fd, select.EPOLLOUT, self.feed, self.number)
                return
            except OSError:  # it closed its stdin; what it did not read is dropped, as a shell's pipe would
                written = len(self.input)
            del self.input[:written]
            if not self.ending:  # nothing comes after the end
                self.guest.send(CREDIT, self.number, {"bytes": written})
        self.guest.unwatch(fd)
        if self.ending and not self.terminal:
            os.dup2(0, fd, inheritable=False)

    def resize(self, rows: int, columns: int) -> Meta:
        fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        return {}

    def kin(self, strangers: bool = False, send: int = 0) -> dict[int, str]:
        """pid -> name of what belongs to this command: its session, what descends from it, what carries its job's mark.

        With `strangers` also what hides where it comes from (a new session, no parent, no environment) and is no older
        than the command; the mark of a job that still runs is believed. All found are sent a signal, if there is one to `send`.
        """
        everyone, found = sighted(), dict[int, str]()
        sessions = {s.pid: s for s in self.guest.streams.values() if isinstance(s, Process)}
        sessions[self.pid] = self
        alive = {process.job for process in sessions.values() if process is not self} - {"", self.job}
        for pid, (parent, session, started, name) in everyone.items():
            for _ in everyone:  # up the family, which is finite whatever became of it while it was looked at
                if session in sessions or parent not in everyone:
                    break
                parent, session = everyone[parent][:2]
            if session in sessions:
                mine = sessions[session] is self
            else:
                mark = mark_of(pid)
                mine = mark == self.job != "" or (strangers and started >= self.started and mark not in alive)
            if mine:
                found[pid] = name
                send_signal(pid, send)
        return found

    def signal(self, signal: int) -> Meta:
        self.kin(send=signal)
        return {}

    def kill(self, grace: float = 0.0) -> Steps:
        """Kills everything of this command, and strangers no older than it; asks first, when given seconds of grace.

        Looks again until nothing is left, since processes fork meanwhile. What outruns that (a fork bomb) is caught by a
        stop of the whole sandbox (kill(2) with -1 is atomic against fork). Refused with "unkillable" after _KILL_SECONDS.
        """
        killed, asked = set[int](), time.monotonic() + grace
        self.kin(send=signal.SIGTERM if grace else 0)
        while time.monotonic() < asked and self.kin():
            yield self.guest.reap(after=0.001)
        until = time.monotonic() + _KILL_SECONDS
        while doomed := self.kin(strangers=True, send=signal.SIGKILL).keys():
            if time.monotonic() > until:
                raise Refusal("unkillable")
            if killed and not doomed <= killed:
                send_signal(-1, signal.SIGSTOP)
                self.kin(strangers=True, send=signal.SIGKILL)
                send_signal(-1, signal.SIGCONT)
            killed |= doomed
            yield self.guest.reap(after=0.001)
        return {}

    def close(self) -> None:
        """Gives up its descriptors. A command that still runs is killed with its group: nobody would hear of it any more."""
        for fd in (self.stdin, self.aside, *self.outputs):
            self.guest.unwatch(fd)
            os.close(fd)
        self.outputs.clear()
        if self.pid and self.status is None:
            send_signal(-self.pid, signal.SIGKILL)


def hello(rlimits: dict[str, int], env: dict[str, str]) -> Meta:
    """Takes the limits and the environment of everything that will run here; says who answers."""
    for name, value in rlimits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    os.environ.clear()
    os.environ.update(env)
    return {"version": VERSION, "pid": os.getpid()}


VERBS: dict[str, Callable[..., Steps | Meta]] = {
    "hello": hello, "read": read, "write": write, "stat": describe, "list": list_directory, "remove": remove, "move": move,
}  # fmt: skip


class Guest:
    """The event loop: the open streams, the children, and the channel, which is stdin and stdout until taken over here."""

    def __init__(self) -> None:
        self.channel, self.out, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
        for fd, taken in ((0, self.channel), (1, self.out)):
            os.dup2(null, fd)
            os.set_blocking(taken, False)
        try:  # opened now: afterwards the guest is not dumpable, and the file no longer its own
            self.oom = os.open("/proc/self/oom_score_adj", os.O_RDWR)
            self.score = os.read(self.oom, 16).strip()
            os.write(self.oom, b"1000")
            os.write(self.oom, self.score)
        except OSError:
            self.oom, self.score = null, b""  # where it cannot be raised and lowered again, it stays
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the guest could not protect its memory")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Children that end are learnt of by a descriptor, not a handler. A forged SIGCHLD makes the guest look, no more.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        ended = libc.signalfd(-1, (ctypes.c_ulong * 32)(1 << (signal.SIGCHLD - 1)), os.O_NONBLOCK | os.O_CLOEXEC)
        os.umask(0o022)
        self.decoder, self.unsent, self.poller = Decoder(), bytearray(), select.epoll()
        self.handlers: dict[int, tuple[int, Callable[[int], object]]] = {}  # descriptor -> stream, and what to call
        self.streams: dict[int, Task | Process] = {}
        self.children: dict[int, Process] = {}
        self.watch(self.channel, select.EPOLLIN, self.on_channel)
        self.watch(ended, select.EPOLLIN, self.reap)

    def watch(self, fd: int, events: int, handler: Callable[[int], object], stream: int = 0) -> None:
        """Calls `handler` while one of `events` holds. What goes wrong in it fails the stream."""
        if fd not in self.handlers:
            self.poller.register(fd, events)
            self.handlers[fd] = (stream, handler)

    def unwatch(self, fd: int) -> None:
        """Not even registered any more: epoll(7) would go on to report a hang-up, without end."""
        if self.handlers.pop(fd, None):
            self.poller.unregister(fd)

    def send(self, kind: int, stream: int, meta: Meta | None = None, body: bytes = b"") -> None:
        self.unsent += encode(kind, stream, meta, body)
        if self.out not in self.handlers:
            self.flush(self.out)

    def finish(self, stream: int, kind: int, meta: Meta) -> None:
        if handler := self.streams.pop(stream, None):
            handler.close()
        self.send(kind, stream, meta)

    def flush(self, out: int) -> None:
        was_congested = len(self.unsent) > WINDOW
        try:
            while self.unsent:
                del self.unsent[: os.write(out, self.unsent)]
            self.unwatch(out)
        except BlockingIOError:
            self.watch(out, select.EPOLLOUT, self.flush)
        except OSError:
            os._exit(0)  # the host is gone: PID 1 ends, and the kernel ends everything else
        if was_congested and len(self.unsent) <= WINDOW:
            for handler in list(self.streams.values()):
                self.attempt(handler.number, handler.resume)

    def on_channel(self, channel: int) -> None:
        if not (data := os.read(channel, _CHUNK)):
            os._exit(0)
        for frame in self.decoder.feed(data):
            self.attempt(frame.stream, self.on_frame, frame)

    def attempt(self, stream: int, action: Callable[..., object], *arguments: Any) -> None:
        """Does a part of one stream's work; what goes wrong there ends that stream with FAIL and nothing else."""
        try:
            action(*arguments)
            return
        except Refusal as refusal:
            facts = refusal.facts
        except (OSError, MemoryError) as error:
            facts = {"errno": errno.errorcode.get(getattr(error, "errno", errno.ENOMEM), "EIO")}
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error) as why:
            facts = {"error": "invalid", "why": str(why)[:200]}
        self.finish(stream, FAIL, facts)

    def on_frame(self, frame: Frame) -> None:
        stream = self.streams.get(frame.stream)
        if frame.kind == OPEN and not stream:
            self.open(frame.stream, **frame.meta)
        elif stream and frame.kind == CREDIT:
            stream.credit += frame.meta["bytes"]
            stream.resume()
        elif stream and frame.kind in (DATA, EOF):
            stream.take(frame.body if frame.kind == DATA else None)
        elif stream:  # there is none where it ended while this frame was on its way
            raise Refusal("cancelled")

    def open(self, number: int, verb: str, **arguments: Any) -> None:
        if verb in ("signal", "resize", "kill"):
            process = self.streams.get(arguments.pop("target"))
            if not isinstance(process, Process):
                raise Refusal("not_found")
            answer: Steps | Meta = getattr(process, verb)(**arguments)
        else:
            free = os.dup(0)  # descriptors are given out lowest first, so this tells how many are taken
            os.close(free)
            if free + _SPARE_DESCRIPTORS > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
                raise Refusal("too_many_files")
            answer = arguments if verb == "spawn" else VERBS[verb](**arguments)
        if not isinstance(answer, dict):
            Task(self, number, answer)
        elif "argv" in answer:
            Process(self, number, **answer)
        else:
            self.send(DONE, number, answer)

    def reap(self, _: int = 0, after: float = 0) -> bytes:
        """Takes every ended child, orphans that came here included."""
        signal.sigtimedwait([signal.SIGCHLD], after)
        pid = -1
        while pid:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            process = self.children.pop(pid, None)
            if process is not None and self.streams.get(process.number) is process:
                self.attempt(process.number, process.exited, status, usage)
        return b""

    def run(self) -> None:
        while True:
            ready = [stream for stream in self.streams.values() if isinstance(stream, Task) and stream.ready()]
            for fd, _ in self.poller.poll(0 if ready else None):
                if fd in self.handlers:
                    self.attempt(*self.handlers[fd], fd)
            for task in ready:
                self.attempt(task.number, task.resume)


if __name__ == "__guest__":
    Guest().run()
