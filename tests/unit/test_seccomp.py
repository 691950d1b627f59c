"""The shipped seccomp programs are the plan, compiled: same bytes when rebuilt, and the same answers for both machines.

Lives here: a small interpreter for the programs, so that the machine we are not on is checked as well, and expectations
written down apart from the plan. It may not load a program into a kernel: tests/contract/test_seccomp.py does.
"""

import platform
import struct
from collections.abc import Callable
from errno import EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pyseccomp  # pyright: ignore[reportMissingTypeStubs]: it has types, and no marker that says so
import pytest

from repocell.runtimes.seccomp import UnsupportedMachine, program
from repocell.runtimes.seccomp.plan import ABSENT, DENIED, DENIED_BY_NUMBER, MACHINES, Rule

ALLOW = 0x7FFF_0000
KILL_PROCESS = 0x8000_0000
ERRNO = 0x0005_0000

AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
AUDIT_ARCH_I386 = 0x4000_0003
AUDIT_ARCH_ARM = 0x4000_0028
FOREIGN_ARCHITECTURES = [
    ("x86_64", AUDIT_ARCH_I386),
    ("x86_64", AUDIT_ARCH["aarch64"]),
    ("aarch64", AUDIT_ARCH_ARM),
    ("aarch64", AUDIT_ARCH["x86_64"]),
]
X32_BIT = 0x4000_0000
HIGHEST_NUMBER = 1024  # well above every call of either machine

# What a high half may hold without changing what the kernel does: it reads these arguments as 32-bit integers.
HIGH_HALVES = [0, 1 << 32, 0xFFFF_FFFF << 32]

# Mount, cgroup, uts, ipc, user, pid, net.
NAMESPACE_FLAGS = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
THREAD_FLAGS = 0x003D_0F00

MUST_STAY = [
    *("personality", "set_mempolicy", "memfd_create", "pidfd_open", "name_to_handle_at"),
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    *("inotify_init1", "inotify_add_watch", "inotify_rm_watch"),
    *("execve", "exit_group", "openat", "read", "write", "mmap", "futex", "seccomp", "prctl"),
]

by_machine = pytest.mark.parametrize("machine", MACHINES)


@cache
def decode(code: bytes) -> list[tuple[int, int, int, int]]:
    """A program's instructions: operation, jump when true, jump when false, operand."""
    return list(struct.iter_unpack("<HBBI", code))


shipped = cache(program)


def interpret(code: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would do with this call: the word the program returns for it."""
    arguments = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number & 0xFFFF_FFFF, architecture, 0, *arguments)
    instructions = decode(code)
    accumulator = at = 0
    while True:
        operation, then, otherwise, operand = instructions[at]
        at += 1
        match operation:
            case 0x20:  # load a word of the call
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:  # and
                accumulator &= operand
            case 0x05:  # jump
                at += operand
            case 0x15:  # jump if equal
                at += then if accumulator == operand else otherwise
            case 0x25:  # jump if greater
                at += then if accumulator > operand else otherwise
            case 0x35:  # jump if greater or equal
                at += then if accumulator >= operand else otherwise
            case 0x06:  # return
                return operand
            case _:
                raise AssertionError(f"instruction {operation:#x} is not one this interpreter knows")


def answer(machine: str, syscall: str | int, *arguments: int) -> int:
    number = syscall if isinstance(syscall, int) else number_of(machine, syscall)
    return interpret(shipped(machine), AUDIT_ARCH[machine], number, arguments)


def number_of(machine: str, syscall: str) -> int:
    number = pyseccomp.resolve_syscall(AUDIT_ARCH[machine], syscall)
    assert number >= 0, f"{machine} has no {syscall}"
    return number


def names_on(machine: str) -> set[str]:
    return {rule.syscall for rule in DENIED} - ABSENT[machine]


def load_script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "build-seccomp"
    spec = spec_from_file_location("build_seccomp", path, loader=SourceFileLoader("build_seccomp", str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
build: Callable[..., bytes] = script.build
PlanError: type[Exception] = script.PlanError


@by_machine
def test_rebuilding_gives_the_shipped_bytes(machine: str) -> None:
    """The program in the package is what the plan compiles to today."""
    assert build(machine) == program(machine)


@by_machine
def test_building_twice_gives_the_same_bytes(machine: str) -> None:
    """Nothing but the plan decides the bytes."""
    assert build(machine) == build(machine)


def test_the_default_is_the_program_of_this_machine() -> None:
    """Without an argument the loader answers for the processor it runs on."""
    assert program() == program(platform.machine())


@pytest.mark.parametrize("machine", ["riscv64", "", "../seccomp/x86_64"])
def test_an_unknown_machine_is_refused_by_name(machine: str) -> None:
    """A machine without a program is an error that says which machines have one."""
    with pytest.raises(UnsupportedMachine) as raised:
        program(machine)
    assert (raised.value.machine, raised.value.known) == (machine, MACHINES)
    assert all(known in str(raised.value) for known in MACHINES)
    assert isinstance(raised.value, LookupError)


def test_no_rule_is_listed_twice() -> None:
    """The plan says everything once."""
    assert sorted(map(repr, set(DENIED))) == sorted(map(repr, DENIED))


def apart(one: Rule, other: Rule) -> bool:
    """Whether no call matches both: some argument of one contradicts an argument of the other."""
    return any(
        mine.index == theirs.index and mine.equals & theirs.mask != theirs.equals & mine.mask
        for mine in one.where
        for theirs in other.where
    )


@pytest.mark.parametrize("syscall", sorted({rule.syscall for rule in DENIED}))
def test_rules_for_one_call_do_not_contradict_each_other(syscall: str) -> None:
    """A call denied outright has no further rule, and no call is promised two errnos."""
    rules = [rule for rule in DENIED if rule.syscall == syscall]
    assert len(rules) == 1 or all(rule.where for rule in rules)
    assert not [pair for pair in combinations(rules, 2) if pair[0].errno != pair[1].errno and not apart(*pair)]


@by_machine
def test_numbers_and_names_do_not_overlap(machine: str) -> None:
    """No call is denied by number and by name, nor by two ranges of numbers."""
    numbers = [number_of(machine, name) for name in names_on(machine)]
    for rule in DENIED_BY_NUMBER[machine]:
        numbers += range(rule.first, rule.last + 1)
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("machine", "syscall"),
    [
        ("x86_64", "a_call_nobody_knows"),  # unknown to libseccomp
        ("x86_64", "stime"),  # known, but only other machines have it
        ("aarch64", "chmod"),
    ],
)
def test_a_rule_that_cannot_be_compiled_stops_the_build(machine: str, syscall: str) -> None:
    """No rule is passed over in silence."""
    with pytest.raises(PlanError, match=syscall):
        build(machine, (Rule(syscall),))


def test_a_call_declared_absent_but_present_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of absent calls cannot hide a rule."""
    monkeypatch.setitem(ABSENT, "x86_64", frozenset({"mount"}))
    with pytest.raises(PlanError, match="mount"):
        build("x86_64", (Rule("mount"),))


def describe(value: object) -> str:
    if not isinstance(value, Rule):
        return str(value)
    where = ",".join(f"{each.index}:{each.mask:x}:{each.equals:x}" for each in value.where)
    return f"{value.syscall}-{where or 'always'}"


@pytest.mark.parametrize(
    ("machine", "rule"),
    [(machine, rule) for machine in MACHINES for rule in DENIED if rule.syscall not in ABSENT[machine]],
    ids=describe,
)
def test_every_rule_is_in_the_program(machine: str, rule: Rule) -> None:
    """A call that matches a rule gets the rule's errno, whatever the high halves of its arguments hold."""
    for high in HIGH_HALVES:
        arguments = [high] * 6
        for each in rule.where:
            arguments[each.index] |= each.equals
        assert answer(machine, rule.syscall, *arguments) == ERRNO | rule.errno


@by_machine
def test_every_numbered_rule_is_in_the_program(machine: str) -> None:
    """Calls denied by number get their errno, at both ends of their range and nowhere beyond."""
    for rule in DENIED_BY_NUMBER[machine]:
        assert {answer(machine, number) for number in range(rule.first, rule.last + 1)} == {ERRNO | rule.errno}
        assert {answer(machine, rule.first - 1), answer(machine, rule.last + 1)} == {ALLOW}


@by_machine
def test_everything_the_plan_does_not_name_is_allowed(machine: str) -> None:
    """The default is to allow."""
    denied = {number_of(machine, name) for name in names_on(machine)}
    for rule in DENIED_BY_NUMBER[machine]:
        denied.update(range(rule.first, rule.last + 1))
    assert {answer(machine, number) for number in range(HIGHEST_NUMBER) if number not in denied} == {ALLOW}


@by_machine
@pytest.mark.parametrize("syscall", MUST_STAY)
def test_calls_that_tools_need_are_allowed(machine: str, syscall: str) -> None:
    """These stay allowed even if somebody extends the plan."""
    assert answer(machine, syscall) == ALLOW


@pytest.mark.parametrize(("machine", "architecture"), FOREIGN_ARCHITECTURES)
def test_every_call_of_a_foreign_architecture_kills(machine: str, architecture: int) -> None:
    """Another architecture's numbers reach nothing, the numbers of the denied calls included."""
    code = shipped(machine)
    answers = {interpret(code, architecture, number) for number in range(HIGHEST_NUMBER)}
    assert answers == {KILL_PROCESS}


def test_every_x32_call_kills() -> None:
    """x32 shares its architecture with x86_64 and is told apart by one bit of the number."""
    answers = {answer("x86_64", X32_BIT | number) for number in range(HIGHEST_NUMBER)}
    assert answers == {KILL_PROCESS}


@by_machine
def test_clone_is_denied_for_exactly_the_namespace_flags(machine: str) -> None:
    """Every set of up to two namespace flags is denied beside threads' flags, and every other bit is allowed."""
    for flags in (*combinations(NAMESPACE_FLAGS, 1), *combinations(NAMESPACE_FLAGS, 2)):
        assert answer(machine, "clone", sum(flags) | THREAD_FLAGS) == ERRNO | EPERM
    others = [1 << bit for bit in range(64) if 1 << bit not in NAMESPACE_FLAGS]
    assert {answer(machine, "clone", flag) for flag in (0, THREAD_FLAGS, sum(others), *others)} == {ALLOW}


@by_machine
def test_clone_looks_at_its_first_argument_only(machine: str) -> None:
    """Addresses in the other arguments, whose order differs between machines, are never taken for flags."""
    anything = 0xFFFF_FFFF_FFFF_FFFF
    assert answer(machine, "clone", 0, anything, anything, anything, anything) == ALLOW


@by_machine
def test_clone3_pretends_not_to_exist(machine: str) -> None:
    """ENOSYS, and no other errno, sends libc back to clone."""
    assert answer(machine, "clone3") == ERRNO | ENOSYS


# Of each call, the first arguments that change the guest, which is process 1 and process group 1.
SPOILING = {
    ("prlimit64", ()),
    ("sched_setaffinity", ()),
    ("sched_setattr", ()),
    ("sched_setparam", ()),
    ("sched_setscheduler", ()),
    ("setpriority", (0,)),
    ("setpriority", (1,)),
    ("ioprio_set", (1,)),
    ("ioprio_set", (2,)),
}
ANYBODY = [0, 1, 2, 3, 4096, 1 << 22, 0x7FFF_FFFF, 0x8000_0001, 0xFFFF_FFFE, 0xFFFF_FFFF]


@by_machine
@pytest.mark.parametrize("high", HIGH_HALVES)
@pytest.mark.parametrize(("syscall", "which"), sorted(SPOILING))
def test_the_guest_and_nobody_else_is_out_of_reach(
    machine: str, syscall: str, which: tuple[int, ...], high: int
) -> None:
    """Number 1 is denied, and 0 (oneself) and every other is not, also with the high halves set."""
    which = tuple(high | each for each in which)
    denied = {who for who in ANYBODY if answer(machine, syscall, *which, high | who) == ERRNO | EPERM}
    allowed = {who for who in ANYBODY if answer(machine, syscall, *which, high | who) == ALLOW}
    assert (denied, allowed) == ({1}, {*ANYBODY} - {1})


@by_machine
@pytest.mark.parametrize("high", HIGH_HALVES)
@pytest.mark.parametrize(("syscall", "user"), [("setpriority", 2), ("ioprio_set", 3)])
def test_nobody_speaks_for_a_whole_user(machine: str, syscall: str, user: int, high: int) -> None:
    """All processes of a user, the guest among them, cannot be meant at once; what the kernel does not know passes."""
    assert {answer(machine, syscall, high | user, high | who) for who in ANYBODY} == {ERRNO | EPERM}
    assert {answer(machine, syscall, high | which, 1) for which in (4, 5, 0xFFFF_FFFF)} == {ALLOW}


@by_machine
@pytest.mark.parametrize("syscall", ["getpriority", "ioprio_get", "sched_getaffinity", "sched_getscheduler", "kill"])
def test_looking_at_the_guest_is_allowed(machine: str, syscall: str) -> None:
    """What only reads, and what the kernel keeps from PID 1 by itself, is left to the kernel."""
    assert answer(machine, syscall, 1, 1) == ALLOW


@by_machine
@pytest.mark.parametrize("high", HIGH_HALVES)
def test_ioctl_is_denied_for_exactly_three_commands(machine: str, high: int) -> None:
    """Of the commands around them only TIOCSTI, TIOCLINUX and TIOCSETD are denied, also with the high half set."""
    denied = {
        command for command in range(0x5400, 0x5500) if answer(machine, "ioctl", 0, high | command) == ERRNO | EPERM
    }
    assert denied == {0x5412, 0x541C, 0x5423}


@by_machine
@pytest.mark.parametrize("high", HIGH_HALVES)
@pytest.mark.parametrize("syscall", ["socket", "socketpair"])
def test_sockets_are_of_four_families_and_one_netlink_protocol(machine: str, syscall: str, high: int) -> None:
    """Unix, IPv4 and IPv6 with any protocol and routing netlink are allowed; every other pair is not."""
    values = [
        *range(70),
        115,
        132,
        262,
        *(1 << bit for bit in range(32)),
        0x8000_0001,
        0x1_0001,
        0xFFFF_FFF0,
        0xFFFF_FFFF,
    ]
    rare = {33, 115, 132, 256} if syscall == "socket" else set[int]()
    for family in values:
        for protocol in values:
            allowed = family in (1, 2, 10) or (family, protocol) == (16, 0)
            expected = ALLOW if allowed else ERRNO | EAFNOSUPPORT
            if family in (2, 10) and protocol in rare:
                expected = ERRNO | EPROTONOSUPPORT
            assert answer(machine, syscall, high | family, 1, high | protocol) == expected, (family, protocol)


@by_machine
@pytest.mark.parametrize("high", HIGH_HALVES)
@pytest.mark.parametrize("family", [2, 10])
def test_internet_sockets_are_of_the_common_types(machine: str, family: int, high: int) -> None:
    """Streams, datagrams and raw sockets of any flags are allowed, the types of SCTP and DCCP are not."""
    for flags in (0, 0o4000, 0o2000000, 0o2004000, 0x10):
        denied = {
            kind
            for kind in range(16)
            if answer(machine, "socket", high | family, high | flags | kind, 0) == ERRNO | EPROTONOSUPPORT
        }
        assert denied == {5, 6}
    assert {answer(machine, "socket", 1, kind, 0) for kind in range(16)} == {ALLOW}
