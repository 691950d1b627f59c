"""The shipped seccomp program, loaded into this kernel by bwrap: what it denies is denied, what tools need still works.

Lives here: one probe per denied call, three ways to make it, and programs that must not notice the filter. It may not
know the plan beyond the names it lists: what each probe must answer is written down here.
"""

import contextlib
import ctypes
import functools
import json
import os
import platform
import pty
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from errno import EAFNOSUPPORT, EINVAL, ENOSYS, EPERM, EPROTONOSUPPORT, errorcode
from pathlib import Path

import pyseccomp  # pyright: ignore[reportMissingTypeStubs]: it has types, and no marker that says so
import pytest

from repocell.runtimes.seccomp import ABSENT, DENIED, DENIED_BY_NUMBER, program

MACHINE = platform.machine()
PATIENCE = 60  # seconds, for a whole run of the prober

NO_POINTER = 1  # an address nobody has mapped: the kernel answers EFAULT where it reads it
NO_FD = (1 << 64) - 1
NO_PROCESS = 0x7FFF_FFFF
NO_USER = 0x7FFF_FFFE
NO_CLASS = 7 << 13  # of input and output priorities
BAD_FLAGS = 0xFFFF_FFF0
HIGH = 1 << 32

# Refused by the kernel as EINVAL whatever stands beside it: signal handlers cannot be shared without memory. So these
# clones never make a process.
CLONE_IMPOSSIBLE = 0x0000_0800
# Refused as EINVAL before the kernel looks at the family.
SOCK_IMPOSSIBLE = 0x1000_0001

# An errno no kernel gives. Painted over the filter's own, it tells the filter's answers from the kernel's.
DYE = 4000


class Control(Enum):
    """How the same call is shown to answer otherwise without the filter."""

    # In a cell without the filter that holds every capability over its own namespaces.
    CELL = "cell"
    # Outside, by a runner with the capability: the kernel asks for it in the first user namespace. To other runners it
    # says EPERM by itself, which looks like the filter's, and the dyed filter has to do.
    HOST = "host"
    # Hosts can be set to refuse the call to everybody: the dyed filter has to do.
    DYED = "dyed"


@dataclass(frozen=True)
class Probe:
    """A call so wrong that it does no harm where it is let through."""

    syscall: str
    arguments: tuple[int, ...]
    errno: int = EPERM
    control: Control = Control.CELL
    capability: int = -1
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.syscall}-{self.note}" if self.note else self.syscall


CAP_DAC_READ_SEARCH = 2
CAP_SYS_PACCT = 20
CAP_SYS_ADMIN = 21
CAP_SYS_TTY_CONFIG = 26
CAP_SYSLOG = 34


def on_the_host(syscall: str, arguments: tuple[int, ...], capability: int) -> Probe:
    return Probe(syscall, arguments, control=Control.HOST, capability=capability)


def dyed_only(syscall: str, arguments: tuple[int, ...]) -> Probe:
    return Probe(syscall, arguments, control=Control.DYED)


MOUNTS = [
    Probe("mount", (NO_POINTER, NO_POINTER, NO_POINTER, 0, 0)),
    Probe("umount2", (NO_POINTER, BAD_FLAGS)),
    Probe("pivot_root", (NO_POINTER, NO_POINTER)),
    Probe("chroot", (NO_POINTER,)),
    Probe("fsopen", (NO_POINTER, BAD_FLAGS)),
    Probe("fsconfig", (NO_FD, BAD_FLAGS, 0, 0, 0)),
    Probe("fsmount", (NO_FD, BAD_FLAGS, 0)),
    Probe("fspick", (NO_FD, NO_POINTER, BAD_FLAGS)),
    Probe("move_mount", (NO_FD, NO_POINTER, NO_FD, NO_POINTER, BAD_FLAGS)),
    Probe("open_tree", (NO_FD, NO_POINTER, BAD_FLAGS)),
    Probe("open_tree_attr", (NO_FD, NO_POINTER, BAD_FLAGS, 0, 1)),
    Probe("mount_setattr", (NO_FD, NO_POINTER, BAD_FLAGS, 0, 0)),
]

CLONE_FLAGS = {
    "mount": 0x0002_0000,
    "cgroup": 0x0200_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}

NAMESPACES = [
    Probe("setns", (NO_FD, 0)),
    Probe("unshare", (0,)),
    Probe("unshare", (CLONE_FLAGS["user"] | 1,), note="user"),
    Probe("unshare", (0x80 | 1,), note="time"),
    *(Probe("clone", (flag | CLONE_IMPOSSIBLE,), note=kind) for kind, flag in CLONE_FLAGS.items()),
    Probe("clone", (sum(CLONE_FLAGS.values()) | CLONE_IMPOSSIBLE | signal.SIGCHLD,), note="all"),
    Probe("clone", (HIGH | CLONE_FLAGS["user"] | CLONE_IMPOSSIBLE,), note="user-and-high-half"),
    Probe("clone3", (NO_POINTER, 0), ENOSYS),
]

OTHER_PROCESSES = [
    Probe("ptrace", (16, NO_PROCESS, 0, 0)),
    Probe("process_vm_readv", (NO_PROCESS, 0, 0, 0, 0, BAD_FLAGS)),
    Probe("process_vm_writev", (NO_PROCESS, 0, 0, 0, 0, BAD_FLAGS)),
    Probe("process_madvise", (NO_FD, NO_POINTER, 1, 0, BAD_FLAGS)),
    Probe("kcmp", (NO_PROCESS, NO_PROCESS, 0, 0, 0)),
    Probe("pidfd_getfd", (NO_FD, 0, 0)),
]

# Refused by the kernel for what they ask, after it looked for the process: so PID 1 keeps what it has.
THE_GUEST = [
    Probe("prlimit64", (1, 0xFFFF, 0, 0)),
    Probe("prlimit64", (HIGH | 1, 0xFFFF, 0, 0), note="and-high-half"),
    Probe("sched_setaffinity", (1, 8, NO_POINTER)),
    Probe("sched_setattr", (1, NO_POINTER, 0)),
    Probe("sched_setparam", (1, NO_POINTER)),
    Probe("sched_setscheduler", (1, 0, NO_POINTER)),
    *(Probe("setpriority", (which, 1, 0), note=note) for note, which in {"process": 0, "group": 1}.items()),
    Probe("setpriority", (2, NO_USER, 0), note="user"),
    *(Probe("ioprio_set", (which, 1, NO_CLASS), note=note) for note, which in {"process": 1, "group": 2}.items()),
    Probe("ioprio_set", (3, NO_USER, NO_CLASS), note="user"),
]

KEYRINGS = [
    Probe("add_key", (NO_POINTER, NO_POINTER, 0, 0, 0)),
    Probe("request_key", (NO_POINTER, NO_POINTER, 0, 0)),
    Probe("keyctl", (0xFFFF, 0, 0, 0, 0)),
]

ATTACK_SURFACE = [
    on_the_host("bpf", (0xFFFF, 0, 0), CAP_SYS_ADMIN),
    Probe("perf_event_open", (NO_POINTER, 0, 0, NO_FD, BAD_FLAGS)),
    dyed_only("io_uring_setup", (0, NO_POINTER)),  # kernel.io_uring_disabled
    Probe("io_uring_enter", (NO_FD, 0, 0, BAD_FLAGS, 0, 0)),
    Probe("io_uring_register", (NO_FD, 0, 0, 0)),
    Probe("userfaultfd", (BAD_FLAGS | 1,)),
    Probe("io_setup", (0, NO_POINTER), ENOSYS),
    on_the_host("fanotify_init", (BAD_FLAGS, 0), CAP_SYS_ADMIN),
    on_the_host("open_by_handle_at", (NO_FD, NO_POINTER, 0), CAP_DAC_READ_SEARCH),
]

THE_HOST = [
    dyed_only("kexec_load", (0, 1 << 20, NO_POINTER, BAD_FLAGS)),  # lockdown, kernel.kexec_load_disabled
    dyed_only("kexec_file_load", (NO_FD, NO_FD, 0, NO_POINTER, BAD_FLAGS)),
    dyed_only("init_module", (NO_POINTER, 1, NO_POINTER)),  # kernel.modules_disabled
    dyed_only("finit_module", (NO_FD, NO_POINTER, BAD_FLAGS)),
    dyed_only("delete_module", (NO_POINTER, 0)),
    Probe("reboot", (0, 0, 0, 0)),
    Probe("swapon", (NO_POINTER, BAD_FLAGS)),
    on_the_host("swapoff", (NO_POINTER,), CAP_SYS_ADMIN),
    Probe("quotactl", (BAD_FLAGS | 0xFF, NO_POINTER, 0, 0)),
    Probe("quotactl_fd", (NO_FD, 0, 0, 0)),
    on_the_host("acct", (NO_POINTER,), CAP_SYS_PACCT),
    on_the_host("syslog", (10, 0, 0), CAP_SYSLOG),  # asks how large the log is
    Probe("settimeofday", (NO_POINTER, 0)),
    Probe("clock_settime", (0xFFFF, NO_POINTER)),
    Probe("adjtimex", (NO_POINTER,)),
    Probe("clock_adjtime", (0, NO_POINTER)),
    Probe("iopl", (4,)),
    Probe("ioperm", (0, 0, 0)),
    on_the_host("vhangup", (), CAP_SYS_TTY_CONFIG),  # the prober has no terminal to hang up
    on_the_host("lookup_dcookie", (0, 0, 0), CAP_SYS_ADMIN),
    Probe("nfsservctl", (0xFFFF, 0, 0)),
    Probe("uselib", (NO_POINTER,)),
    Probe("ustat", (0xFFFF_FFFF, NO_POINTER)),
]

TERMINALS = [
    Probe("ioctl", (NO_FD, 0x5412, NO_POINTER), note="TIOCSTI"),
    Probe("ioctl", (NO_FD, HIGH | 0x5412, NO_POINTER), note="TIOCSTI-and-high-half"),
    Probe("ioctl", (NO_FD, 0x541C, NO_POINTER), note="TIOCLINUX"),
    Probe("ioctl", (NO_FD, HIGH | 0x541C, NO_POINTER), note="TIOCLINUX-and-high-half"),
    Probe("ioctl", (NO_FD, 0x5423, NO_POINTER), note="TIOCSETD"),
    Probe("ioctl", (NO_FD, HIGH | 0x5423, NO_POINTER), note="TIOCSETD-and-high-half"),
]

DENIED_SOCKETS = {
    "unspecified": (0, 0),
    "x25": (9, 0),
    "key": (15, 2),
    "packet": (17, 0),
    "packet-and-high-half": (HIGH | 17, 0),
    "rds": (21, 0),
    "can": (29, 1),
    "tipc": (30, 0),
    "bluetooth": (31, 1),
    "alg": (38, 0),
    "vsock": (40, 0),
    "qipcrtr": (42, 0),
    "xdp": (44, 0),
    "negative": (NO_FD, 0),
    "netlink-sock-diag": (16, 4),
    "netlink-audit": (16, 9),
    "netlink-netfilter": (16, 12),
    "netlink-kobject-uevent": (16, 15),
    "netlink-generic": (16, 16),
    "netlink-generic-and-high-halves": (HIGH | 16, HIGH | 16),
    "netlink-negative": (16, NO_FD),
}
SOCKETS = [
    Probe(syscall, (family, SOCK_IMPOSSIBLE, protocol, 0), EAFNOSUPPORT, note=note)
    for syscall in ("socket", "socketpair")
    for note, (family, protocol) in DENIED_SOCKETS.items()
]
RARE_PROTOCOLS = [
    *(
        Probe("socket", (family, SOCK_IMPOSSIBLE, protocol), EPROTONOSUPPORT, note=f"{name}-{family}")
        for family in (2, 10)
        for name, protocol in {
            "dccp": 33,
            "l2tp": 115,
            "sctp": 132,
            "smc": 256,
            "sctp-and-high-half": HIGH | 132,
        }.items()
    ),
    *(
        Probe("socket", (family, SOCK_IMPOSSIBLE - 1 | kind, 6), EPROTONOSUPPORT, note=f"{name}-type-{family}")
        for family in (2, 10)
        for name, kind in {"sctp": 5, "dccp": 6}.items()
    ),
]

ALL_PROBES = [
    *MOUNTS,
    *NAMESPACES,
    *OTHER_PROCESSES,
    *THE_GUEST,
    *KEYRINGS,
    *ATTACK_SURFACE,
    *THE_HOST,
    *TERMINALS,
    *SOCKETS,
    *RARE_PROTOCOLS,
]
PROBES = [probe for probe in ALL_PROBES if probe.syscall not in ABSENT[MACHINE]]

# Calls the filter lets through, recognised by the kernel's own answer.
ALLOWED_SOCKETS = {
    "unix": (1, 0),
    "unix-and-high-half": (HIGH | 1, 0),
    "inet": (2, 0),
    "inet-icmp": (2, 1),
    "inet-tcp": (2, 6),
    "inet-udp": (2, 17),
    "inet-multipath-tcp": (2, 262),
    "inet6": (10, 0),
    "inet6-icmp": (10, 58),
    "netlink-route": (16, 0),
    "netlink-route-and-high-halves": (HIGH | 16, HIGH),
}
ALLOWED = [
    *(
        Probe(syscall, (family, SOCK_IMPOSSIBLE, protocol, 0), EINVAL, note=note)
        for syscall in ("socket", "socketpair")
        for note, (family, protocol) in ALLOWED_SOCKETS.items()
    ),
    Probe("clone", (CLONE_IMPOSSIBLE | signal.SIGCHLD,), EINVAL),
    Probe("personality", (0xFFFF_FFFF,), 0),
    Probe("memfd_create", (NO_POINTER, BAD_FLAGS), EINVAL),
    Probe("pidfd_open", (0, 0), EINVAL),
    Probe("inotify_init1", (BAD_FLAGS,), EINVAL),
]

# Makes each call in a child of its own, so that none can spoil the next, and prints the errnos, minus the signal for a
# child that was killed. Each child leaves its session first, and with it any terminal.
PROBER = """
import ctypes, json, os, sys
syscall = ctypes.CDLL(None, use_errno=True).syscall
syscall.restype = ctypes.c_long
answers = []
for number, arguments in json.load(sys.stdin):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        result = syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
        os.write(writing, str(ctypes.get_errno() if result == -1 else 0).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    answers.append(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(os.read(reading, 8)))
    os.close(reading)
print(json.dumps(answers))
"""

CELL = ["bwrap", "--unshare-all", "--unshare-user", "--ro-bind", "/", "/"]
CELL_WITH_CAPABILITIES = [*CELL, "--uid", "0", "--gid", "0", "--cap-add", "ALL"]


def dyed(code: bytes) -> bytes:
    """The same program with every errno it gives painted over."""
    painted = bytearray(code)
    for at in range(0, len(code), 8):
        operation, _, _, operand = struct.unpack_from("<HBBI", code, at)
        if operation == 0x06 and operand >> 16 == 0x0005:
            struct.pack_into("<I", painted, at + 4, 0x0005_0000 | DYE)
    return bytes(painted)


def run(command: Sequence[str], code: bytes | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; one that begins with bwrap runs under the program given."""
    with contextlib.ExitStack() as cleanup:
        descriptors: list[int] = []
        if code is not None:
            descriptors.append(os.memfd_create("program"))
            cleanup.callback(os.close, descriptors[0])
            os.write(descriptors[0], code)
            os.lseek(descriptors[0], 0, os.SEEK_SET)
            command = [command[0], "--seccomp", str(descriptors[0]), *command[1:]]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, pass_fds=descriptors, check=False,
            start_new_session=True,  # one of the programs changes its whole process group, which is not to be the tests' own
        )  # fmt: skip


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", textwrap.dedent(code)]


def number_of(syscall: str) -> int:
    for rule in DENIED_BY_NUMBER[MACHINE]:
        if rule.label == syscall:
            return rule.first
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, syscall)
    assert number >= 0, f"{MACHINE} has no {syscall}"
    return number


def ask(calls: list[tuple[int, tuple[int, ...]]], cell: Sequence[str] = (), code: bytes | None = None) -> list[int]:
    finished = run([*cell, *python(PROBER)], code, json.dumps(calls))
    assert finished.returncode == 0, finished.stderr
    answers: list[int] = json.loads(finished.stdout)
    return answers


@functools.cache
def answers(setting: str) -> dict[str, int]:
    """What every probe answers in one setting, by the probe's name. All of a setting's probes share one cell."""
    probes = [*PROBES, *ALLOWED]
    if setting == "host":
        probes = [probe for probe in PROBES if probe.control is Control.HOST]
    cell, code = {
        "filtered": (CELL, program()),
        "dyed": (CELL, dyed(program())),
        "cell": (CELL_WITH_CAPABILITIES, None),
        "host": ((), None),
    }[setting]
    calls = [(number_of(probe.syscall), probe.arguments) for probe in probes]
    return dict(zip((probe.name for probe in probes), ask(calls, cell, code), strict=True))


def named(answer: int) -> str:
    return errorcode.get(answer, str(answer))


def controllable(probe: Probe) -> bool:
    return probe.control is Control.CELL or (probe.control is Control.HOST and runner_holds(probe.capability))


def runner_holds(capability: int) -> bool:
    """Whether this process holds a capability in the first user namespace, where it counts for the host."""
    identity = Path("/proc/self/uid_map").read_text().split()
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return identity == ["0", "0", "4294967295"] and bool(int(effective, 16) >> capability & 1)


def each(probes: list[Probe]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("probe", probes, ids=lambda probe: probe.name)


def test_every_denied_call_has_a_probe() -> None:
    """Whoever adds a rule to the plan adds a probe here."""
    planned = {rule.syscall for rule in DENIED} - ABSENT[MACHINE] | {"open_tree_attr"}
    assert {probe.syscall for probe in PROBES} == planned


@each(PROBES)
def test_the_filter_denies(probe: Probe) -> None:
    """Under the shipped program the call answers the errno the plan promises."""
    assert named(answers("filtered")[probe.name]) == named(probe.errno)


@each(PROBES)
def test_the_denial_is_the_filters_own(probe: Probe) -> None:
    """With its errnos painted over, the program answers the paint: it was not the kernel that said no."""
    assert answers("dyed")[probe.name] == DYE


@each([probe for probe in PROBES if controllable(probe)])
def test_without_the_filter_the_kernel_answers_otherwise(probe: Probe) -> None:
    """The same call, made where its maker holds what the kernel asks for, does not get the filter's errno."""
    assert named(answers(probe.control.value)[probe.name]) != named(probe.errno)


@each(ALLOWED)
def test_the_filter_lets_through(probe: Probe) -> None:
    """The call gets the kernel's answer under the shipped program."""
    assert named(answers("filtered")[probe.name]) == named(probe.errno)


def test_the_kernel_drops_the_high_half_of_an_ioctl_command() -> None:
    """Why high halves are probed: without the filter, a command with one works as if it had none."""
    window_size = 0x5413
    primary, secondary = pty.openpty()
    try:
        ioctl = ctypes.CDLL(None).syscall
        command = ctypes.c_ulong(HIGH | window_size)
        size = ctypes.create_string_buffer(8)
        assert ioctl(ctypes.c_ulong(number_of("ioctl")), ctypes.c_ulong(secondary), command, size) == 0
    finally:
        os.close(primary)
        os.close(secondary)


SIGSYS_IN_BWRAP = 128 + signal.SIGSYS

# exit(0) in the 32-bit instructions and numbers of either machine: the ELF machine, then the code.
EXIT_IN_32_BITS = {
    "x86_64": (3, "31db 31c0 40 cd80"),  # xor ebx, ebx; xor eax, eax; inc eax; int 0x80
    "aarch64": (40, "0000a0e3 0170a0e3 000000ef"),  # mov r0, #0; mov r7, #1; svc #0
}


def executable_in_32_bits(machine: str) -> bytes:
    """The smallest ELF file that runs the code: one header, one segment that is the whole file."""
    elf_machine, code = EXIT_IN_32_BITS[machine]
    text = bytes.fromhex(code)
    base, headers, arm_eabi_5 = 0x10000, 52 + 32, 0x0500_0000
    size = headers + len(text)
    identity = b"\x7fELF\x01\x01\x01" + bytes(9)
    flags = arm_eabi_5 if machine == "aarch64" else 0
    header = struct.pack("<HHIIIIIHHHHHH", 2, elf_machine, 1, base + headers, 52, 0, flags, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x10000)
    return identity + header + segment + text


def test_a_32_bit_program_is_killed(tmp_path: Path) -> None:
    """A program of the machine's 32-bit ABI dies at its first call, where the kernel would run it at all."""
    path = tmp_path / "exits"
    path.write_bytes(executable_in_32_bits(MACHINE))
    path.chmod(0o755)
    unfiltered = run([*CELL, str(path)])
    cannot_run = "Exec format error" in unfiltered.stderr
    assert cannot_run or unfiltered.returncode == 0, unfiltered.stderr
    filtered = run([*CELL, str(path)], program())
    assert filtered.returncode == (unfiltered.returncode if cannot_run else SIGSYS_IN_BWRAP)


only_x86 = pytest.mark.skipif(MACHINE != "x86_64", reason="only x86_64 lets one process mix ABIs")

GETPID_BY_INT_80 = """
    import ctypes, mmap, os
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, 20; int 0x80; ret
    getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    os._exit(0 if getpid() == os.getpid() else 1)
"""


@only_x86
def test_int_80_in_a_64_bit_program_is_killed() -> None:
    """The i386 gate, open to 64-bit code as well, kills the process, where the kernel has the gate."""
    no_gate = 128 + signal.SIGSEGV
    unfiltered = run([*CELL, *python(GETPID_BY_INT_80)]).returncode
    assert unfiltered in (0, no_gate)
    assert run([*CELL, *python(GETPID_BY_INT_80)], program()).returncode == (
        SIGSYS_IN_BWRAP if unfiltered == 0 else unfiltered
    )


@only_x86
@pytest.mark.parametrize("name", ["getpid", "mount", "clone3"])
def test_an_x32_call_is_killed(name: str) -> None:
    """A number with the x32 bit kills, of an allowed call and of a denied one; the kernel alone would answer it."""
    call = (0x4000_0000 | number_of(name), (NO_POINTER, 0, NO_POINTER))
    assert ask([call], CELL)[0] >= 0
    assert ask([call], CELL, program()) == [-signal.SIGSYS]


@only_x86
def test_x32_numbers_without_their_bit_are_refused() -> None:
    """Numbers 512 to 547 answer the filter's ENOSYS, which kernels before 5.4 did not."""
    calls: list[tuple[int, tuple[int, ...]]] = [(number, ()) for number in range(512, 548)]
    assert set(ask(calls, CELL, program())) == {ENOSYS}
    assert set(ask(calls, CELL, dyed(program()))) == {DYE}


# Programs that must not notice the filter: they have fresh devices, and a place to write that hides no path.
WORKSHOP = [*CELL, "--dev", "/dev", "--setenv", "TMPDIR", "/dev/shm"]

LEGITIMATE = {
    "fork": """
        import os
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    """,
    "threads": """
        import threading
        done = []
        threads = [threading.Thread(target=done.append, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == list(range(8))
    """,
    "subprocess": """
        import subprocess
        assert subprocess.run("echo one | cat; exit 3", shell=True, capture_output=True).stdout == b"one\\n"
    """,
    "posix-spawn": """
        import os
        child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {})
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    """,
    "multiprocessing": """
        import multiprocessing
        if __name__ == "__main__":
            with multiprocessing.Pool(2) as pool:
                assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
    """,
    "asyncio": """
        import asyncio
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            assert await process.communicate(b"through") == (b"through", None)
        asyncio.run(main())
    """,
    "unix-socketpair": """
        import socket
        one, other = socket.socketpair(socket.AF_UNIX)
        one.sendall(b"hello")
        assert other.recv(5) == b"hello"
    """,
    "tcp-on-loopback": """
        import socket
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname(), timeout=10)
            accepted, _ = server.accept()
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"
    """,
    "listing-interfaces": """
        import ctypes, socket
        assert "lo" in [name for _, name in socket.if_nameindex()]
        libc = ctypes.CDLL(None)
        first = ctypes.c_void_p()
        assert libc.getifaddrs(ctypes.byref(first)) == 0 and first.value
        libc.freeifaddrs(first)
    """,
    "netlink-route-dump": """
        import socket, struct
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
            get_link, request_dump = 18, 0x301
            route.send(struct.pack("=IHHIIBBHiII", 32, get_link, request_dump, 1, 0, 0, 0, 0, 0, 0, 0))
            assert b"lo\\0" in route.recv(1 << 16)
    """,
    "terminal-size": """
        import fcntl, os, pty, struct, termios
        primary, secondary = pty.openpty()
        fcntl.ioctl(primary, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        assert struct.unpack("4H", fcntl.ioctl(secondary, termios.TIOCGWINSZ, bytes(8)))[:2] == (24, 80)
    """,
    "memfd": """
        import os
        descriptor = os.memfd_create("scratch")
        assert os.write(descriptor, b"kept") == 4 and os.pread(descriptor, 4, 0) == b"kept"
    """,
    "pidfd": """
        import os, select
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert select.select([os.pidfd_open(child)], [], [], 10)[0]
    """,
    "limits-of-oneself-and-a-child": """
        import os, resource, signal
        for pid in (0, os.getpid()):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (99, 99))
        resource.setrlimit(resource.RLIMIT_NOFILE, (98, 98))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (98, 98)
        child = os.fork()
        if child == 0:
            signal.pause()
        resource.prlimit(child, resource.RLIMIT_NOFILE, (50, 50))
        os.kill(child, 9)
    """,
    "priorities-of-oneself-and-a-child": """
        import os, signal
        child = os.fork()
        if child == 0:
            signal.pause()
        for pid in (0, os.getpid(), child):
            os.setpriority(os.PRIO_PROCESS, pid, 17)
            os.sched_setaffinity(pid, os.sched_getaffinity(pid))
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
            os.sched_setparam(pid, os.sched_param(0))
        os.setpriority(os.PRIO_PGRP, 0, 18)
        assert os.nice(1) == 19
        os.kill(child, 9)
    """,
    "priority-commands": """
        import subprocess
        for command in (
            "nice -n 3 true", "renice -n 19 -p $$", "taskset 1 true", "taskset -p 1 $$", "chrt --batch 0 true",
            "chrt --idle -p 0 $$", "ionice -c 3 true", "ionice -c 3 -p $$", "prlimit --nofile=99 true",
            "prlimit --pid $$ --nofile=98", "ulimit -n 97", "timeout 9 true", "setarch -R true",
        ):
            subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)
    """,
    "inotify": """
        import ctypes, os
        libc = ctypes.CDLL(None)
        descriptor = libc.inotify_init1(0)
        created = 0x100
        assert libc.inotify_add_watch(descriptor, os.environ["TMPDIR"].encode(), created) > 0
        open(os.environ["TMPDIR"] + "/seen", "w").close()
        assert b"seen" in os.read(descriptor, 4096)
    """,
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_ordinary_programs_do_not_notice_the_filter(name: str) -> None:
    """What builds and tests do all day works under the shipped program."""
    finished = run([*WORKSHOP, *python(LEGITIMATE[name])], program())
    assert finished.returncode == 0, finished.stderr
