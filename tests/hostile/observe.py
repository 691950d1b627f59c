"""What the host sees of an attack, read from outside every cell, and the same action done without one.

Lives here: manifests of folders, processes below a server, mounts, control groups and listening sockets, waiting for any of
them with a deadline, and running a command outside as the positive control.
"""

import hashlib
import os
import shlex
import socket
import stat
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import anyio

SOON = 10.0
LOST = "sandbox was lost"


class Entry(NamedTuple):
    """A file as it lies on the host. `content` is a digest, the target of a link, or empty."""

    mode: int
    size: int
    changed: int
    content: str


class Seen(NamedTuple):
    """A process as the host sees it."""

    pid: int
    parent: int
    command: str


# -- files


def manifest(*roots: Path) -> dict[str, Entry]:
    """Everything below some folders: kind, mode, size, time of change and content. Links are not followed."""
    found: dict[str, Entry] = {}
    for root in roots:
        for folder, names, files in os.walk(root):
            for name in (".", *names, *files):
                path = Path(folder, name)
                facts = path.lstat()
                content, size = "", facts.st_size
                if stat.S_ISREG(facts.st_mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                elif stat.S_ISLNK(facts.st_mode):
                    content = os.readlink(path)
                found[str(path)] = Entry(facts.st_mode, size, facts.st_mtime_ns, content)
    return found


def bytes_below(root: Path) -> int:
    """Bytes allocated below a folder, whatever is done to it meanwhile, however deep it is."""
    done = subprocess.run(["du", "-s", "--block-size=1", str(root)], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0])


# -- processes


def processes() -> dict[int, Seen]:
    """Every process of the machine but the dead."""
    found: dict[int, Seen] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                fields = Path("/proc", name, "stat").read_text(errors="replace").rpartition(") ")[2].split()
                if fields[0] not in "ZX":
                    command = Path("/proc", name, "cmdline").read_text(errors="replace").replace("\0", " ")
                    found[int(name)] = Seen(int(name), int(fields[1]), command)
    return found


def below(pid: int) -> list[Seen]:
    """Every process that descends from one, by parent. In a cell all do: orphans go to its PID 1."""
    everything = processes()
    found: list[Seen] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        children = [seen for seen in everything.values() if seen.parent == parent]
        found += children
        pending += [child.pid for child in children]
    return found


def marked(mark: str) -> list[Seen]:
    """Processes whose command line carries a mark, the test runner's own excepted."""
    own = {os.getpid(), os.getppid()}
    return [seen for seen in processes().values() if mark in seen.command and seen.pid not in own]


def asleep(mark: str) -> list[Seen]:
    """The processes that carry a mark, but the shells that name them."""
    return [seen for seen in marked(mark) if "bash" not in seen.command]


def server_of(folder: Path) -> int:
    """The server that was started with this folder's state directory."""
    option = f"serve --state-dir {folder / 'state'}"
    found = [seen for seen in processes().values() if option in seen.command and not is_bubblewrap(seen)]
    assert len(found) == 1, found
    return found[0].pid


def guests_of(server: int) -> list[int]:
    """The PID 1 of each of a server's cells, as the host numbers them."""
    return [seen.pid for seen in below(server) if is_guest(seen)]


def is_bubblewrap(seen: Seen) -> bool:
    return os.path.basename(seen.command.partition(" ")[0]) == "bwrap"


def is_guest(seen: Seen) -> bool:
    with suppress(OSError):
        for line in Path("/proc", str(seen.pid), "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1] == "1" and not is_bubblewrap(seen)
    return False


def in_cells(server: int) -> list[Seen]:
    """What runs in a server's cells besides the guests."""
    return [seen for guest in guests_of(server) for seen in below(guest)]


def alive(pid: int) -> bool:
    return pid in processes()


def peak_memory(pid: int) -> int:
    """The most bytes a process ever had in memory."""
    for line in Path("/proc", str(pid), "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


def log_sizes(server: int) -> list[int]:
    """The bytes of each job's log that a server holds open; the files have no names."""
    found: list[int] = []
    for descriptor in Path("/proc", str(server), "fd").iterdir():
        with suppress(OSError):
            if "/job-" in os.readlink(descriptor):
                found.append(descriptor.stat().st_size)
    return found


# -- mounts, groups, sockets


def mounts(pid: int | str = "self") -> list[str]:
    """A process's mounts, without the numbers that differ from one to the next."""
    lines = Path("/proc", str(pid), "mountinfo").read_text().splitlines()
    return sorted(" ".join(line.split(" ")[3:6]) for line in lines)


def holders_of(path: Path) -> list[int]:
    """Processes in whose view of the file system something below a folder is mounted."""
    found: list[int] = []
    for pid in processes():
        with suppress(OSError):
            if f"{path}/" in Path("/proc", str(pid), "mountinfo").read_text():
                found.append(pid)
    return found


def groups_of(server: int) -> list[str]:
    """Control groups a server made for its cells."""
    found: list[str] = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(folder, name) for name in names if name.startswith(f"repocell-{server}-")]
    return found


def listening() -> set[int]:
    """The TCP ports somebody on the host listens on."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
            found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return found


@contextmanager
def listener(address: str | tuple[str, int]) -> Generator[socket.socket]:
    """A socket of the test's own that listens: on a host and port, or a unix path (abstract with a leading NUL)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind(address)
        sock.listen()
        sock.settimeout(SOON)
        yield sock


# -- acting and waiting


def outside(command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs shell text on the host as the positive control, on things of the test's own."""
    environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    argv = ["bash", "--noprofile", "--norc", "-c", command]
    return subprocess.run(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=60, check=False,
    )  # fmt: skip


def python(code: str, *arguments: object) -> str:
    """Shell text that runs a program on the system's Python."""
    return shlex.join(["/usr/bin/python3", "-I", "-c", code, *map(str, arguments)])


async def until(what: str, condition: Callable[[], object], seconds: float = SOON) -> None:
    """Waits for what only looking tells, and fails when it does not come in time."""
    deadline = anyio.current_time() + seconds
    while not condition():
        assert anyio.current_time() < deadline, f"not within {seconds:g} s: {what}"
        await anyio.sleep(0.02)


@contextmanager
def running(*argv: str) -> Generator[subprocess.Popen[bytes]]:
    """A process of the test's own, in a session of its own, ended with the context."""
    process = subprocess.Popen(argv, start_new_session=True, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def settled(look: Callable[[], Sequence[Seen]]) -> None:
    """Waits until some processes are there and stay the same for a moment."""
    before: Sequence[Seen] = ()
    with anyio.fail_after(SOON):
        while not before or [seen.pid for seen in before] != [seen.pid for seen in look()]:
            before = look()
            await anyio.sleep(0.15)


def kill_all(seen: Sequence[Seen]) -> None:
    """Ends processes a control started."""
    for each in seen:
        with suppress(OSError):
            os.kill(each.pid, 9)
