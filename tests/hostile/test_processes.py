"""What runs in a cell ends when it should, and reaches no process, terminal or privilege outside it.

Every attack is made outside too, on processes of the test's own, where it works; who lives and who does not is read from the
host.
"""

import base64
import errno
import os
import pty
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness import SANDBOX_UID, Connect, ask
from hostile.observe import (
    alive,
    asleep,
    below,
    guests_of,
    in_cells,
    is_bubblewrap,
    kill_all,
    marked,
    outside,
    python,
    running,
    server_of,
    settled,
    until,
)
from hostile.stage import Stage, words
from repocell.guest import agent

pytestmark = pytest.mark.anyio

# -- what will not end by itself

STUBBORN = {
    "plain": "sleep {mark}",
    "deaf": "trap '' TERM INT HUP QUIT; while :; do sleep {mark} & wait; done",
    "ignoring": python("import signal, time\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n except (OSError, "
                       "ValueError): pass\ntime.sleep(float('{mark}'))"),
    "daemon": "(setsid bash -c 'setsid sleep {mark} </dev/null >/dev/null 2>&1 &' &); sleep {mark}",
    "daemon-without-a-trace": "(setsid env -i bash -c 'trap \"\" TERM; exec >&- 2>&- <&-; setsid env -i sleep {mark} &' &);"
                              "sleep {mark}",
    "daemon-of-another-job": "(setsid env REPOCELL_JOB=job_{mark} sleep {mark} >/dev/null 2>&1 &); sleep {mark}",
    "daemon-of-no-job": "(setsid env REPOCELL_JOB= sleep {mark} >/dev/null 2>&1 &); sleep {mark}",
    "no-descriptors": "exec >&- 2>&- <&-; sleep {mark}",
    "holding-the-output": "(setsid sleep {mark} &); exec sleep {mark}",
    "stopped": "sleep {mark} & sleep 0.1; kill -STOP $!; sleep {mark}",
    "stopping-itself": "sleep {mark} & sleep 0.1; kill -STOP $$",
    "respawning": "f() { sleep {mark} & wait; f & }; trap '' TERM; f & f & wait; sleep {mark}",
    "renamed": python("import ctypes, os, sys\nctypes.CDLL(None).prctl(15, b'(sd-pam) S 1', 0, 0, 0)\nos.fork() or os.setsid()\n"
                      "os.execvp('sleep', [') R 1 1 1', '{mark}'])"),
    "waiting-in-a-thread": python("import os, threading, time\nthreading.Thread(target=time.sleep, args=({mark},)).start()\n"
                                  "os.fork() or os.setsid()\ntime.sleep({mark})"),
}  # fmt: skip


@pytest.mark.parametrize("program", STUBBORN.values(), ids=list(STUBBORN))
async def test_cancelling_leaves_no_process(stage: Stage, mark: str, program: str) -> None:
    """When the client cancels a call, everything the command started is gone, however it hid."""
    calls = anyio.CancelScope()

    async def call() -> None:
        with calls:
            await stage.attack(program.replace("{mark}", mark))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settled(lambda: asleep(mark))
        calls.cancel()
    await until("nothing of it is left", lambda: not marked(mark), 5)
    await stage.healthy()


@pytest.mark.parametrize("program", ["deaf", "daemon-without-a-trace"])
async def test_a_timeout_leaves_no_process(stage: Stage, mark: str, program: str) -> None:
    """When its time is up, everything a command started is gone and the result says why."""
    said = await stage.attack(STUBBORN[program].replace("{mark}", mark), timeout_s=0.7)
    assert "stopped after its timeout of 0.7 s" in said
    await until("nothing of it is left", lambda: not marked(mark), 5)


@pytest.mark.parametrize("program", ["deaf", "daemon-without-a-trace", "holding-the-output"])
async def test_stopping_a_job_leaves_no_process(stage: Stage, mark: str, program: str) -> None:
    """bash_stop ends everything a job started."""
    said = await stage.attack(STUBBORN[program].replace("{mark}", mark), background=True)
    await settled(lambda: asleep(mark))
    await stage.call("bash_stop", job=said.split("bash_output job=")[1].split()[0])
    await until("nothing of it is left", lambda: not marked(mark), 5)


@pytest.mark.parametrize("program", [name for name in STUBBORN if name not in ("plain", "stopping-itself", "stopped")])
def test_outside_asking_is_not_enough(mark: str, program: str) -> None:
    """The control of the tests above: these programs outlive a SIGTERM to their whole process group."""
    argv = ["bash", "--noprofile", "--norc", "-c", STUBBORN[program].replace("{mark}", mark)]
    with subprocess.Popen(
        argv, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not asleep(mark):
            time.sleep(0.01)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.1)
        left = marked(mark)
        for _ in range(100):
            kill_all(marked(mark))
    assert left or program == "no-descriptors"


async def test_closing_a_workspace_ends_what_runs_there(stage: Stage, mark: str) -> None:
    """workspace_close ends background jobs and daemons of the workspace, and of no other."""
    opened = (await ask(stage.client, "workspace_open")).split()[1]
    for workspace in (opened, stage.bystander):
        await ask(
            stage.client, "bash", command=f"setsid sleep {mark} & sleep {mark}", workspace=workspace, background=True
        )
    await until("both run", lambda: len(asleep(mark)) == 4)
    await ask(stage.client, "workspace_close", workspace=opened, discard=True)
    await until("one is over", lambda: len(asleep(mark)) == 2)


# -- others are left alone


async def test_ending_one_job_leaves_the_others(stage: Stage, mark: str) -> None:
    """A timeout of one command ends neither another job of the same cell nor the daemon it started."""
    keeps = f"(setsid sleep {mark} >/dev/null 2>&1 &); sleep {mark}"
    said = await stage.attack(keeps, background=True)
    await until("the job and its daemon run", lambda: len(asleep(mark)) == 2)
    await stage.attack("trap '' TERM; sleep 99", timeout_s=0.3)
    assert len(asleep(mark)) == 2
    await stage.call("bash_stop", job=said.split("bash_output job=")[1].split()[0])


async def test_a_search_that_is_cut_leaves_other_calls_alone(stage: Stage) -> None:
    """A grep that found too much is stopped without ending a comparison that runs in the same cell."""
    await stage.attack(
        "git config filter.slow.clean 'sleep 2; cat'; echo 'slow.txt filter=slow' > .gitattributes; echo 1 > slow.txt;"
        "git add -N slow.txt; mkdir big; for n in $(seq 8); do yes 'a line of some length' | head -c 4000000 > big/$n; done;"
        "echo big > .git/info/exclude"
    )
    said: dict[str, str] = {}

    async def compare() -> None:
        said["compare"] = await stage.call("git_diff")

    async def search() -> None:
        await until("git waits for its filter", lambda: [s for s in in_cells(stage.server) if s.command == "sleep 2 "])
        said["search"] = await stage.call("grep", pattern="a", output_mode="content", path="big", glob="*")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(compare)
        tasks.start_soon(search)
    await stage.attack(
        "git config --unset filter.slow.clean; rm -r big slow.txt .gitattributes; git reset -q; : > .git/info/exclude"
    )
    assert "more than" in said["search"]
    assert "slow.txt" in said["compare"]


@pytest.mark.parametrize(
    "command",
    ["kill -9 -1", "kill -STOP -1", "trap '' TERM; kill -TERM -1; echo still here", "pkill -9 .", "kill -SEGV -- -$$"],
)
async def test_killing_everything_ends_only_the_own_cell(stage: Stage, mark: str, command: str) -> None:
    """A command that kills all it may kill ends other commands of its cell, not the guest, the server or other cells."""
    await ask(stage.client, "bash", command=f"sleep {mark}", workspace=stage.bystander, background=True)
    guests = sorted(guests_of(stage.server))
    await stage.attack(command, timeout_s=2)
    assert sorted(guests_of(stage.server)) == guests
    assert marked(mark)
    await stage.healthy()


# A runner's own disposition is inherited, and shells ignore an interrupt for what they start in the background.
TO_ONESELF = """
import os, signal, sys
number = int(sys.argv[1])
number == signal.SIGKILL or signal.signal(number, signal.SIG_DFL)
os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize("number", [int(n) for n in signal.valid_signals() if n not in (signal.SIGCHLD,)])
async def test_no_signal_reaches_the_guest(stage: Stage, number: int) -> None:
    """PID 1 of a cell takes no signal from inside, where a program without handlers takes most of them outside."""
    guests = sorted(guests_of(stage.server))
    said = await stage.attack(f"kill -{number} 1; echo sent")
    assert "sent" in said
    assert sorted(guests_of(stage.server)) == guests
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGUSR1):
        assert outside(f"exec {python(TO_ONESELF, number)}").returncode == -number


# -- the guest's memory and descriptors, and its frames

# Each prints "reached" when the process {pid} lets itself be looked into or changed.
PROBES = {
    "memory": "open('/proc/{pid}/mem', 'r+b', buffering=0)",
    "environment": "open('/proc/{pid}/environ').read()",
    "maps": "open('/proc/{pid}/maps').read()[5]",
    "descriptors": "os.listdir('/proc/{pid}/fd')",
    "standard-input": "os.open('/proc/{pid}/fd/0', os.O_WRONLY)",
    "working-directory": "os.readlink('/proc/{pid}/cwd')",
    "program": "os.readlink('/proc/{pid}/exe')",
    "namespaces": "os.readlink('/proc/{pid}/ns/net')",
    "waiting-in": "open('/proc/{pid}/syscall').read()",
    "limits": "resource.prlimit({pid}, resource.RLIMIT_NOFILE, (9, 9))",
    "memory-score": "open('/proc/{pid}/oom_score_adj', 'w').write('1000')",
    "priority": "os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
    "priority-of-its-group": "os.setpriority(os.PRIO_PGRP, {pid}, 19)",
    "processors": "os.sched_setaffinity({pid}, {{min(os.sched_getaffinity(0))}}) or 1",
    "scheduling": "os.sched_setscheduler({pid}, os.SCHED_IDLE, os.sched_param(0))",
    "scheduling-parameters": "os.sched_setparam({pid}, os.sched_param(0))",
    "attach": "1 / (libc.ptrace(16, {pid}, 0, 0) == 0)",
    "seize": "1 / (libc.ptrace(0x4206, {pid}, 0, 0) == 0)",
    "read-memory": "1 / (libc.syscall(310, {pid}, 0, 0, 0, 0, 0) == 0)",
    "take-a-descriptor": "1 / (libc.syscall(438, os.pidfd_open({pid}), 0, 0) >= 0)",
}
PROBE = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
try:
    {attempt}
    print("reached")
except (OSError, ZeroDivisionError) as error:
    print("denied", error)
"""


@pytest.mark.parametrize("name", list(PROBES))
async def test_the_guest_cannot_be_looked_into(stage: Stage, name: str) -> None:
    """What a user may do to their own processes outside, a command may not do to the guest of its cell."""
    with running("sleep", "9") as other:
        assert outside(python(PROBE.format(attempt=PROBES[name].format(pid=other.pid)))).stdout == "reached\n"
    workspace = (await ask(stage.client, "workspace_open")).split()[1]  # one that is reached is of no use afterwards
    attempt = python(PROBE.format(attempt=PROBES[name].format(pid=1)))
    said = await ask(stage.client, "bash", command=attempt, workspace=workspace)
    after = words(await stage.client.call_tool("bash", {"command": "echo well", "workspace": workspace}))
    await ask(stage.client, "workspace_close", workspace=workspace, discard=True)
    assert said.startswith("denied"), said
    assert after.startswith("well")


HABITS = "nice; ionice; ulimit -n; taskset -p $$ | cut -d: -f2; chrt -p $$ | cut -d: -f2"
# How the guest is named, and how a command names itself.
CHANGES = {
    "renice": ("renice -n 19 -p 1", "renice -n 19 -p $$"),
    "renice-group": ("renice -n 19 -g 1", "renice -n 19 -g $$"),
    "renice-user": ("renice -n 19 -u agent", "renice -n 19 -p $$"),
    "ionice": ("ionice -c 3 -p 1", "ionice -c 3 -p $$"),
    "ionice-group": ("ionice -c 3 -P 1", "ionice -c 3 -P $$"),
    "ionice-user": ("ionice -c 3 -u 1000", "ionice -c 3 -p $$"),
    "taskset": ("taskset -p 1 1", "taskset -p 1 $$"),
    "chrt": ("chrt --idle -p 0 1", "chrt --idle -p 0 $$"),
    "prlimit": ("prlimit --pid 1 --nofile=99", "prlimit --pid $$ --nofile=99"),
}


@pytest.mark.parametrize(("spoil", "change"), CHANGES.values(), ids=list(CHANGES))
async def test_what_commands_inherit_stays_as_it_is(fresh: Stage, spoil: str, change: str) -> None:
    """A command changes its own limits and priorities, and not the guest's, which all later commands would inherit."""
    if spoil.startswith("taskset") and not {0} < os.sched_getaffinity(0):
        pytest.skip("with one processor there is nothing to choose")
    before = await fresh.attack(HABITS)
    own = await fresh.attack(f"{change} > /dev/null && {{ {HABITS}; }}")
    assert "[exit 0" in own
    assert own.rpartition("[")[0] != before.rpartition("[")[0]
    assert "Operation not permitted" in await fresh.attack(spoil)
    assert (await fresh.attack(HABITS)).rpartition("[")[0] == before.rpartition("[")[0]


def forged(stream: int) -> bytes:
    """What a guest would send to say that a command ended well."""
    ended: dict[str, Any] = {"exit": 0, "signal": None, "user": 0.0, "system": 0.0, "max_rss_kb": 1, "left": []}
    data = agent.encode(agent.DATA, stream, None, b"forged output\n")
    return data + agent.encode(agent.DONE, stream, ended)


@pytest.mark.parametrize("where", ["1", "2", "every descriptor"])
async def test_forged_frames_are_output(stage: Stage, where: str) -> None:
    """A command that prints our own frames, to any descriptor it can open, changes neither its exit code nor others'."""
    frames = base64.b64encode(b"".join(forged(stream) for stream in range(400))).decode()
    targets = "/proc/self/fd/* /proc/1/fd/*" if where == "every descriptor" else f"/proc/self/fd/{where}"
    write = f"echo {frames} | base64 -d > frames; for it in {targets}; do cat frames > $it; done 2>/dev/null; exit 7"
    said = await stage.attack(write)
    assert "[exit 7" in said
    assert await ask(stage.client, "bash", command="echo next", workspace=stage.cell) == "next\n[exit 0, 0.0 s]"


# -- processes of the host


async def test_host_processes_are_not_seen(stage: Stage, mark: str) -> None:
    """A cell lists its own few processes, and none of the host's, which everybody outside sees."""
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    with running("sleep", mark):
        assert f"sleep {mark}" in outside(look).stdout
        said = await stage.attack(look)
        assert mark not in said
        assert "cat /proc/1/cmdline" in said


@pytest.mark.parametrize("way", ["kill -9 {pid}", "kill -9 -{pid}", python("import os; os.kill({pid}, 9)")])
async def test_host_processes_cannot_be_signalled(stage: Stage, mark: str, way: str) -> None:
    """A number that names a process on the host, the server among them, names none in a cell."""
    with running("sleep", mark) as other:
        for pid in (other.pid, stage.server):
            said = await stage.attack(way.format(pid=pid))
            assert "No such process" in said
        assert other.poll() is None
        assert alive(stage.server)
        outside(way.format(pid=other.pid))
        assert other.wait(5) == -signal.SIGKILL


# -- limits and privileges


@pytest.mark.parametrize("limit", ["n", "u", "d", "f", "c"])
async def test_a_limit_can_be_lowered_and_not_raised(stage: Stage, limit: str) -> None:
    """The hard limits of files, processes, data, file size and core dumps go down only."""
    said = await stage.attack(f"ulimit -H{limit} unlimited; ulimit -S{limit} unlimited; ulimit -H{limit}")
    assert "cannot modify limit" in said
    assert "unlimited" not in said.splitlines()[-2]
    assert "exit 0" in await stage.attack(f"ulimit -S{limit} 0")


async def test_limits_are_those_the_status_claims(stage: Stage) -> None:
    """The host reads from a command's process the limits workspace_status names."""
    status = await stage.call("workspace_status")
    job = await stage.attack("sleep 20", background=True)
    await until("it runs", lambda: [seen for seen in in_cells(stage.server) if seen.command == "sleep 20 "])
    pid = next(seen.pid for seen in in_cells(stage.server) if seen.command == "sleep 20 ")
    rows = {line[:26].strip(): line[26:].split()[1] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    await stage.call("bash_stop", job=job.split("bash_output job=")[1].split()[0])
    assert f"open files {rows['Max open files']} " in status
    assert rows["Max processes"] in status
    assert (rows["Max file size"], rows["Max data size"]) == (str(10 << 30), str(4 << 30))
    assert rows["Max core file size"] == "0"


WATCHERS = """
import ctypes, sys, time
taken, libc = 0, ctypes.CDLL(None)
while taken < 9999 and libc.inotify_init1(0) >= 0:
    taken += 1
print(taken, flush=True)
time.sleep(float(sys.argv[1]))
"""


async def test_one_cell_does_not_take_all_watchers_of_files(stage: Stage) -> None:
    """While a cell holds as many inotify instances as it gets, which users share, another cell and its user get some."""
    if "overlay" not in await stage.attack("stat --file-system --format %T /workspace"):
        pytest.skip("only the namespace that mounts an overlay has limits of its own")
    said = await stage.attack(f"touch taken; {python(WATCHERS, 30)} > taken", background=True)
    await until("it has all it gets", lambda: stage.on_host("taken").exists() and stage.on_host("taken").read_text())
    same_user = f"setpriv --reuid {SANDBOX_UID} --regid {SANDBOX_UID} --clear-groups " if os.geteuid() == 0 else ""
    assert int(outside(same_user + python(WATCHERS, 0)).stdout) > 0
    assert int((await ask(stage.client, "bash", command=python(WATCHERS, 0), workspace=stage.bystander)).split()[0]) > 0
    await stage.call("bash_stop", job=said.split("bash_output job=")[1].split()[0])
    whole = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    assert 0 < int(stage.on_host("taken").read_text()) <= whole // 2


@pytest.mark.parametrize(
    "command",
    ["unshare --user true", "unshare --map-root-user --net true", "unshare --pid --fork --user true",
     "bwrap --unshare-user --ro-bind / / true",
     python("import ctypes; libc = ctypes.CDLL(None, use_errno=True); exit(libc.unshare(0x10000000) and ctypes.get_errno())")],
    ids=["user", "network", "process", "bwrap", "call"],
)  # fmt: skip
async def test_no_namespace_can_be_made(stage: Stage, command: str) -> None:
    """Nested namespaces, which anybody can make outside, cannot be made in a cell."""
    assert outside(command).returncode == 0
    assert "[exit 0" not in await stage.attack(command)
    await stage.healthy()


async def test_a_command_has_no_privilege(stage: Stage) -> None:
    """Every capability set is empty, no_new_privs is set, and the user is not root."""
    said = await stage.attack("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id -u; id -G")
    found = said.split()
    assert [found[found.index(f"Cap{name}:") + 1] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == ["0" * 16] * 5
    assert found[found.index("NoNewPrivs:") + 1] == "1"
    assert found[found.index("Seccomp:") + 1] == "2"
    assert "1000\n1000\n[exit 0" in said


@pytest.mark.parametrize(
    "command", ["su -c id", "su root -c id", "sudo -n id", "newgrp root", "mount /mnt", "pkexec id"]
)
async def test_set_uid_programs_give_nothing(stage: Stage, command: str) -> None:
    """The system's set-uid programs, run in a cell, make nobody root."""
    said = await stage.attack(f"{command} < /dev/null", timeout_s=10)
    assert "uid=0" not in said
    assert "[exit 0" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program that is set-uid root")
async def test_a_set_uid_root_program_gives_nothing(connect: Connect, folder: Path) -> None:
    """A set-uid root program shown in a cell, which makes others root outside, leaves the uid as it is."""
    program = folder / "tools" / "bin" / "whoami-really"
    program.parent.mkdir(parents=True)
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    assert program.stat().st_mode & stat.S_ISUID
    as_cell = f"setpriv --reuid {SANDBOX_UID} --regid {SANDBOX_UID} --clear-groups {program} -u"
    assert outside(as_cell).stdout == "0\n"
    async with connect("legacy", "--toolchain", str(folder / "tools")) as client:
        await ask(client, "workspace_open")
        assert await ask(client, "bash", command=f"{program} -u") == "1000\n[exit 0, 0.0 s]"


# One call of each family the seccomp table denies; the whole table has its own tests. number, arguments, expected errno.
CALLS = {
    "keyctl": (250, (0, -3, 1, 0, 0), errno.EPERM),
    "add_key": (248, (0, 0, 0, 0, -3), errno.EPERM),
    "io_uring_setup": (425, (0, 0), errno.EPERM),
    "userfaultfd": (323, (-1,), errno.EPERM),
    "io_setup": (206, (1, 0), errno.ENOSYS),
    "perf_event_open": (298, (0, 0, -1, -1, 0), errno.EPERM),
    "mount": (165, (0, 0, 0, 0, 0), errno.EPERM),
    "clone3": (435, (0, 0), errno.ENOSYS),
}
CALL = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
number, *arguments = map(int, sys.argv[1:])
print(ctypes.get_errno() if libc.syscall(number, *map(ctypes.c_long, arguments)) == -1 else 0)
"""


@pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the numbers are those of x86_64; the table's tests cover others"
)
@pytest.mark.parametrize(("number", "arguments", "expected"), CALLS.values(), ids=list(CALLS))
async def test_the_filter_is_on_in_a_real_cell(
    stage: Stage, number: int, arguments: tuple[int, ...], expected: int
) -> None:
    """Commands of a real cell run under the filter: calls the kernel answers otherwise outside are refused."""
    call = python(CALL, number, *arguments)
    assert (await stage.attack(call)).split()[0] == str(expected)
    if number not in (425, 323, 298, 165) or os.geteuid() == 0:  # hosts may forbid these to ordinary users themselves
        assert outside(call).stdout.strip() != str(expected)


# -- terminals

TYPE = "import fcntl, os\nfor byte in b'touch typed\\n': fcntl.ioctl(0, 0x5412, bytes([byte]))\nprint('typed')"


async def test_nothing_can_be_typed_into_a_terminal(stage: Stage) -> None:
    """On a terminal of its own a command cannot put words into the terminal's input."""
    said = await stage.attack(python(TYPE), tty=True)
    assert "Operation not permitted" in said
    assert "typed\n[" not in said
    await stage.healthy()
    assert not stage.on_host("typed").exists()


DISCIPLINE = """
import fcntl, os, struct, termios
primary, secondary = os.openpty()
print("has", *struct.unpack("i", fcntl.ioctl(secondary, 0x5424, bytes(4))))
try:
    fcntl.ioctl(secondary, 0x5423, struct.pack("i", 0))
    print("set")
except OSError as error:
    print("denied", error)
"""


async def test_no_line_discipline_is_put_on_a_terminal(stage: Stage) -> None:
    """The kernel's drivers for modems cannot be loaded onto a cell's terminal, though the present one can be asked for."""
    assert outside(python(DISCIPLINE)).stdout == "has 0\nset\n"
    assert (await stage.attack(python(DISCIPLINE))).startswith("has 0\ndenied [Errno 1]")
    assert (await stage.attack("stty -a; stty raw; stty sane; reset -Q", tty=True)).startswith("speed 38400 baud")


def test_outside_words_can_be_typed_into_a_terminal() -> None:
    """The control of the test above: without the filter the kernel types what it is told, where it was not told not to."""
    if Path("/proc/sys/dev/tty/legacy_tiocsti").exists() and os.geteuid() != 0:
        legacy = Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip()
        if legacy != "1":
            pytest.skip("this kernel forbids it to everybody without CAP_SYS_ADMIN")
    argv = ["/usr/bin/python3", "-I", "-c", TYPE]
    pid, master = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    said = b""
    try:
        while b"typed\r\n" not in said.replace(b"touch typed\r\n", b""):
            said += os.read(master, 999)
    except OSError:
        pass
    assert os.waitpid(pid, 0)[1] == 0, said
    os.close(master)


async def test_a_terminal_is_the_cells_own(stage: Stage) -> None:
    """With tty=true a command has a terminal of the cell, and without it none at all."""
    assert "/dev/pts/" in await stage.attack("tty", tty=True)
    said = await stage.attack("tty; echo x > /dev/tty; ls /dev/pts")
    assert "not a tty" in said
    assert "No such device or address" in said


async def test_hanging_up_ends_what_ignores_it(stage: Stage, mark: str) -> None:
    """What a command leaves on its terminal, deaf to the hang-up, is gone when the job is stopped."""
    said = await stage.attack(f"trap '' HUP TERM; nohup sleep {mark} & exec sleep {mark}", tty=True, background=True)
    await until("it runs", lambda: marked(mark))
    await stage.call("bash_stop", job=said.split("bash_output job=")[1].split()[0])
    await until("nothing of it is left", lambda: not marked(mark), 5)


# -- the whole


async def test_an_idle_server_has_only_its_guests(connect: Connect, folder: Path) -> None:
    """After many commands a server's descendants are bubblewrap and one guest per cell, and no zombie keeps a number."""
    async with connect() as client:
        await ask(client, "workspace_open")
        server = server_of(folder)
        for command in ("true", "(sleep 0.1 &) ; true", "yes | head -1", "cat /nonexistent"):
            await client.call_tool("bash", {"command": command})
        await ask(client, "grep", pattern="add")
        await ask(client, "git_diff")
        await until("all commands are over", lambda: not in_cells(server))
        assert len(guests_of(server)) == 1
        assert len([seen for seen in below(server) if not is_bubblewrap(seen)]) == 1
        said = await ask(client, "bash", command="cat /proc/[0-9]*/stat | grep -c ' Z '; true")
        assert said.startswith("0\n")
