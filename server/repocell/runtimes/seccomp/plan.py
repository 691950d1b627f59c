"""What a cell's programs may not ask the kernel for, as data: everything the plan does not name is allowed.

Lives here: the rules, and beside each group the attack it stops. It may not know BPF, libseccomp, files or processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT

MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Argument:
    """Holds when `argument & mask == equals`. Masks stay in the low 32 bits, as the kernel ignores the others there."""

    index: int
    mask: int
    equals: int


@dataclass(frozen=True, slots=True)
class Rule:
    """The system call answers `errno` without being made, always or only where every listed argument matches."""

    syscall: str
    errno: int = EPERM
    where: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberedRule:
    """The same for system calls `first` to `last`, of which libseccomp 2.5.4, the oldest we build with, has no name."""

    label: str
    first: int
    last: int
    errno: int = EPERM


LOW_HALF = 0xFFFF_FFFF

# The namespace flags of clone(2). CLONE_NEWTIME is not among them: its bit is part of clone's exit signal, so it can be
# asked for through clone3 and unshare only.
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
NAMESPACE_FLAGS = (
    CLONE_NEWNS,
    CLONE_NEWCGROUP,
    CLONE_NEWUTS,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    CLONE_NEWPID,
    CLONE_NEWNET,
)

TIOCSTI = 0x5412
TIOCLINUX = 0x541C
TIOCSETD = 0x5423

GUEST = 1  # the PID of the guest in its cell
# What the first argument of setpriority and ioprio_set says of the second.
PRIO_PROCESS, PRIO_PGRP, PRIO_USER = 0, 1, 2
IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER = 1, 2, 3

AF_UNIX = 1
AF_INET = 2
AF_INET6 = 10
AF_NETLINK = 16
SOCKET_FAMILIES = frozenset({AF_UNIX, AF_INET, AF_INET6, AF_NETLINK})
NETLINK_ROUTE = 0
# Of IPv4 and IPv6: SOCK_SEQPACKET stands for SCTP and SOCK_DCCP for DCCP, also where no protocol is named.
SOCK_TYPE_MASK = 0xF  # above it are flags
SOCK_SEQPACKET, SOCK_DCCP = 5, 6
IPPROTO_DCCP, IPPROTO_L2TP, IPPROTO_SCTP, IPPROTO_SMC = 33, 115, 132, 256


def _each(*syscalls: str) -> tuple[Rule, ...]:
    return tuple(Rule(syscall) for syscall in syscalls)


def _low_half_not_among(allowed: frozenset[int], index: int) -> Iterator[Argument]:
    """Arguments of which at least one holds exactly when the low half is none of the allowed values, all below 32.

    Spelled out in masked equalities because libseccomp can say "not equal" of whole 64-bit arguments only, and once per
    argument; a caller would pass either by way of the high half, which the kernel drops.
    """
    for value in range(32):
        if value not in allowed:
            yield Argument(index, LOW_HALF, value)
    for bit in range(5, 32):
        yield Argument(index, 1 << bit, 1 << bit)


# A mount can cover a masked path, uncover what a mount hides, or make a read-only tree writable; chroot and pivot_root
# break confinement by path. The file-descriptor family (fsopen and on) does the same as mount without naming it.
# statmount and listmount only read, and stay.
_MOUNTS = _each(
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "mount_setattr",
)

# A new user namespace hands its maker every capability, and with them kernel code that otherwise only root can reach:
# where most local root exploits begin. setns enters a namespace somebody else left open.
# unshare goes altogether: kernels keep giving it flags that make namespaces under other names, and a list would age.
# On both machines clone takes its flags first, as a long of which the kernel reads the low half only.
# clone3 passes flags in memory, where no filter can look: ENOSYS makes every libc fall back to clone.
_NAMESPACES = (
    *_each("setns", "unshare"),
    *(Rule("clone", where=(Argument(0, flag, flag),)) for flag in NAMESPACE_FLAGS),
    Rule("clone3", ENOSYS),
)

# Reading, writing or steering another process: taking over the guest agent, or stealing its files and secrets.
_OTHER_PROCESSES = _each(
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "kcmp",
    "pidfd_getfd",
)

# Limits, niceness, scheduling class and processors of the guest: its uid is the cell's, so the kernel lets commands
# worsen them, for good, and all later commands inherit them. An open-file limit of 9 ends the use of the cell.
# The guest is PID 1 and alone in process group 1; whoever means a user means it too. Other processes stay open to
# change, as to kill: a filter cannot tell one's own number or child from a sibling, and programs name both that way
# (prlimit --pid $$, renice, taskset -p, make's children). The kernel reads numbers as ints, so low halves count.
_THE_GUEST = (
    *(
        Rule(syscall, where=(Argument(0, LOW_HALF, GUEST),))
        for syscall in ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
    ),
    *(
        Rule(syscall, where=(Argument(0, LOW_HALF, which), Argument(1, LOW_HALF, GUEST)))
        for syscall, kinds in (
            ("setpriority", (PRIO_PROCESS, PRIO_PGRP)),
            ("ioprio_set", (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP)),
        )
        for which in kinds
    ),
    Rule("setpriority", where=(Argument(0, LOW_HALF, PRIO_USER),)),
    Rule("ioprio_set", where=(Argument(0, LOW_HALF, IOPRIO_WHO_USER),)),
)

# Keyrings belong to the user, not to a namespace: a cell could read the keys of the person who started it.
_KEYRINGS = _each("add_key", "request_key", "keyctl")

# Large kernel interfaces with a long record of privilege escalation that builds and tests do not need.
# io_uring also makes system calls that no filter sees; userfaultfd stalls the kernel mid-copy, the lever of many races.
_ATTACK_SURFACE = _each(
    "bpf",
    "perf_event_open",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "fanotify_init",
)

# Asynchronous I/O counts against one limit of the whole machine (fs.aio-max-nr, often 65536): one cell could keep every
# database of its host from starting. ENOSYS is the answer of kernels built without it, on which those that use it (InnoDB,
# nginx) turn to threads.
_SHARED_BY_THE_MACHINE = (Rule("io_setup", ENOSYS),)

# A handle names a file by inode, past every mount and masked path. Making handles (name_to_handle_at) is harmless.
_FILE_HANDLES = _each("open_by_handle_at")

# Changing the machine that the cell shares with everybody: its kernel, swap, quotas, accounting, log, clock and ports.
# The kernel refuses nearly all of it to a cell without capabilities; this is the second lock.
# stime would belong here, but neither machine has it.
_THE_HOST = _each(
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    "acct",
    "syslog",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "iopl",
    "ioperm",
    "vhangup",
)

# Calls long out of use, kept by some kernels: code nobody looks at any more.
_RELICS = _each("lookup_dcookie", "nfsservctl", "uselib", "ustat")

# TIOCSTI and TIOCLINUX push keystrokes into the terminal, which the shell outside reads as typed by the person
# (CVE-2017-5226). TIOCSETD puts a line discipline on a terminal of one's own: it loads little-tested modules made for
# modems, and some gave root (n_hdlc CVE-2017-2636, n_gsm CVE-2023-6546).
# The kernel cuts the command down to 32 bits, so 0x1_0000_5412 is TIOCSTI too (CVE-2019-10063).
_TERMINALS = tuple(Rule("ioctl", where=(Argument(1, LOW_HALF, command),)) for command in (TIOCSTI, TIOCLINUX, TIOCSETD))

# Rare families (packet, vsock, alg, bluetooth, tipc, can, xdp, and whatever comes next) load and reach little-tested
# modules, and vsock talks to the hypervisor past every network namespace. Netlink stays for its routing protocol, which
# listing the interfaces needs; its others configure the firewall, audit and IPsec. The kernel takes family and protocol
# as ints, so only low halves count.
_SOCKETS = tuple(
    Rule(syscall, EAFNOSUPPORT, where)
    for syscall in ("socket", "socketpair")
    for where in (
        *((family,) for family in _low_half_not_among(SOCKET_FAMILIES, index=0)),
        *(
            (Argument(0, LOW_HALF, AF_NETLINK), protocol)
            for protocol in _low_half_not_among(frozenset({NETLINK_ROUTE}), index=2)
        ),
    )
)

# Of the internet's own families these protocols too are modules that any user's socket() loads (DCCP CVE-2017-6074, L2TP
# CVE-2016-10200, SCTP CVE-2021-23133; SMC is young), and that builds and tests do without: TCP, its multipath, UDP and
# ICMP stay. The errno is what a kernel without the module answers for the protocol, so programs expect it.
_RARE_PROTOCOLS = tuple(
    Rule("socket", EPROTONOSUPPORT, (Argument(0, LOW_HALF, family), rare))
    for family in (AF_INET, AF_INET6)
    for rare in (
        *(Argument(1, SOCK_TYPE_MASK, kind) for kind in (SOCK_SEQPACKET, SOCK_DCCP)),
        *(Argument(2, LOW_HALF, protocol) for protocol in (IPPROTO_DCCP, IPPROTO_L2TP, IPPROTO_SCTP, IPPROTO_SMC)),
    )
)

DENIED: tuple[Rule, ...] = (
    *_MOUNTS,
    *_NAMESPACES,
    *_OTHER_PROCESSES,
    *_THE_GUEST,
    *_KEYRINGS,
    *_ATTACK_SURFACE,
    *_SHARED_BY_THE_MACHINE,
    *_FILE_HANDLES,
    *_THE_HOST,
    *_RELICS,
    *_TERMINALS,
    *_SOCKETS,
    *_RARE_PROTOCOLS,
)

# open_tree_attr is open_tree and mount_setattr in one call (Linux 6.15).
_OPEN_TREE_ATTR = NumberedRule("open_tree_attr", 467, 467)

# Before 5.4, x86_64 kernels with x32 let 64-bit programs reach x32's own entries (ptrace, io_submit, ...) without the
# x32 bit, under numbers no rule by name covers. Later kernels answer ENOSYS by themselves.
_X32_WITHOUT_ITS_BIT = NumberedRule("x32 without its bit", 512, 547, ENOSYS)

DENIED_BY_NUMBER: dict[str, tuple[NumberedRule, ...]] = {
    "x86_64": (_OPEN_TREE_ATTR, _X32_WITHOUT_ITS_BIT),
    "aarch64": (_OPEN_TREE_ATTR,),
}

# What a machine never had. Whoever compiles the plan checks this both ways, so that no rule is lost by silence.
ABSENT: dict[str, frozenset[str]] = {
    "x86_64": frozenset(),
    "aarch64": frozenset({"iopl", "ioperm", "uselib", "ustat"}),
}
