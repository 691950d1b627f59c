"""The guest's commands in a real sandbox: how they end, what of them arrives, what is killed with them, and what they cannot do.

Attacks are made outside too, on processes of the test's own, where they work.
"""

import hashlib
import shlex
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest

from contract.cells import BASH, ROOT, Wire, bounded, exists, open_wire, ran_well, refusal, run
from harness import OpenCell
from repocell.guest.agent import CREDIT, DATA, DONE, FAIL, NOTE, encode
from repocell.guest.link import Exited, GuestRefused, Link, Output, Process
from repocell.models import Limits, MiB
from repocell.runtimes.bubblewrap import Bubblewrap

pytestmark = pytest.mark.anyio


@pytest.fixture(name="open_cell")
def _open_bounded_cell(open_cell: OpenCell) -> OpenCell:
    return bounded(open_cell)


PROMPTLY = 20.0


def python(program: str) -> str:
    """Shell text that runs a Python program."""
    return f"/usr/bin/python3 -c {shlex.quote(textwrap.dedent(program))}"


async def first_exit(process: Process) -> Exited:
    """The first that is told of a command's end, its output passed over."""
    while not isinstance(event := await process.receive(), Exited):
        pass
    return event


async def running(link: Link) -> list[str]:
    """What runs in a cell besides the guest and who looks."""
    said = (await run(link, "ps -eo args= --sort=start_time")).out.decode()
    return [line for line in said.splitlines() if "/usr/bin/python3 -I" not in line and "ps -eo" not in line]


# -- ends


async def test_all_exit_codes_arrive(open_cell: OpenCell) -> None:
    """Each of the 256 codes a command can exit with is the one that is told."""
    async with open_cell() as link:
        seen = [(await run(link, f"exit {code}")).status for code in range(256)]
    assert [(status.exit, status.signal) for status in seen] == [(code, None) for code in range(256)]


async def test_all_deadly_signals_arrive(open_cell: OpenCell) -> None:
    """Each signal that ends a process is told as that signal, and no exit code with it."""
    deadly = sorted(
        set(signal.Signals)
        - {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
        - {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    )
    async with open_cell() as link:
        for number in deadly:
            async with link.spawn(["/usr/bin/env", "kill", f"-{number}", "0"], cwd=ROOT) as process:
                status = (await first_exit(process)).status
            assert (status.exit, status.signal) == (None, number)


REFUSED: dict[str, tuple[list[str], str, str]] = {
    "a program there is not": (["no-such-program"], ROOT, "not_found"),
    "no name": ([""], ROOT, "invalid"),
    "nothing": ([], ROOT, "invalid"),
    "a directory": (["/usr"], ROOT, "denied"),
    "a file that is no program": (["/usr/lib/os-release"], ROOT, "denied"),
    "a text that is executable": (["./text"], ROOT, "not_executable"),
    "too many bytes": (["true", "x" * 200_000], ROOT, "too_large"),
    "a NUL": (["true", "a\0b"], ROOT, "invalid"),
    "half a character": (["true", "\ud800"], ROOT, "invalid"),
    "a directory there is not": (["true"], "/none", "no_directory"),
    "a directory that is a file": (["true"], "/etc/passwd", "no_directory"),
    "a directory that is closed": (["true"], "/workspace/closed", "no_directory"),
    "a directory with a NUL": (["true"], "/a\0b", "no_directory"),
}


async def test_what_cannot_be_started_is_refused(open_cell: OpenCell) -> None:
    """A command that cannot start has a code that says why, and neither costs the guest anything."""
    async with open_cell() as link:
        await ran_well(link, "mkdir -m 0 closed; echo text > text; chmod 755 text")
        for name, (argv, cwd, code) in REFUSED.items():
            async with link.spawn(argv, cwd=cwd) as process:
                assert (name, await refusal(process.receive())) == (name, code)
        assert await refusal_of_environment(link, {"a=b": "c"}) == "invalid"
        assert await refusal_of_environment(link, {"a": "\0"}) == "invalid"
        assert await ran_well(link, "pwd; chmod 755 closed") == ROOT


async def refusal_of_environment(link: Link, environment: dict[str, str]) -> str:
    async with link.spawn(["true"], cwd=ROOT, environment=environment) as process:
        return await refusal(process.receive())


async def test_closed_output_is_no_end(open_cell: OpenCell) -> None:
    """A command that closes its output runs on unseen, and its exit is told when it exits."""
    async with (
        open_cell() as link,
        link.spawn([*BASH, "echo shut; exec >&- 2>&-; read; exit 5"], cwd=ROOT, stdin=True) as process,
    ):
        assert await process.receive() == Output(source="out", body=b"shut\n")
        assert "read; exit 5" in " ".join(await running(link))
        await process.write(b"\n")
        assert (await first_exit(process)).status.exit == 5


async def test_an_exit_is_told_though_a_child_prints_without_end(open_cell: OpenCell) -> None:
    """What the command wrote itself comes before its exit, on both streams, and its child's flood holds up neither."""
    async with open_cell() as link:
        command = "yes & echo mine >&2; exit 3"
        async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": "job_x"}) as process:
            said = b""
            with anyio.fail_after(PROMPTLY):
                while not isinstance(event := await process.receive(), Exited):
                    said += event.body if event.source == "err" else b""
            assert (said, event.status.exit, event.running) == (b"mine\n", 3, True)
            assert len(event.status.left) == 1
            assert isinstance(await process.receive(), Output)
        assert "yes" not in await running(link)


async def test_a_silent_child_does_not_hold_up_the_exit(open_cell: OpenCell) -> None:
    """A child that keeps the output open and prints nothing is named with the exit, and its end is the final one."""
    async with open_cell() as link:
        command = "sleep 600 & exit 4"
        async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": "job_x"}) as process:
            with anyio.fail_after(PROMPTLY):
                event = await first_exit(process)
            assert (event.status.exit, event.running, len(event.status.left)) == (4, True, 1)
            await process.kill()
            last = await first_exit(process)
            assert (last.status.exit, last.running, last.status.left) == (4, False, ())


async def test_a_child_without_output_is_left_and_named(open_cell: OpenCell) -> None:
    """A child that holds none of the output does not delay the end; the end names it, and it lives on."""
    async with open_cell() as link:
        done = await run(link, "(exec -a forgotten sleep 600 >/dev/null 2>&1 <&- &); exit 0", job="job_left")
        assert len(done.status.left) == 1
        assert await running(link) == ["forgotten 600"]


# -- output


async def test_both_outputs_arrive_whole(open_cell: OpenCell) -> None:
    """Ten megabytes on each of stdout and stderr at once arrive complete, in order, each on its own."""
    program = """
        import hashlib, os, threading
        def write(fd, seed):
            for n in range(640):
                os.write(fd, hashlib.sha256(b"%d %d" % (seed, n)).digest() * 512)
        threads = [threading.Thread(target=write, args=(fd, fd)) for fd in (1, 2)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
    """
    async with open_cell() as link:
        done = await run(link, python(program))
    for fd, body in ((1, done.out), (2, done.err)):
        assert len(body) == 10 * MiB
        assert body == b"".join(hashlib.sha256(b"%d %d" % (fd, n)).digest() * 512 for n in range(640))


async def test_a_flood_takes_no_memory_here(open_cell: OpenCell) -> None:
    """Three hundred megabytes pass through the host's end in a few, whatever the command's pace."""
    async with open_cell() as link, link.spawn(["head", "-c", "300M", "/dev/zero"], cwd=ROOT) as process:
        tracemalloc.start()
        try:
            size = 0
            while not isinstance(event := await process.receive(), Exited):
                size += len(event.body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (size, event.status.ok) == (300 * MiB, True)
    assert peak < 8 * MiB


async def test_an_unread_command_waits(open_cell: OpenCell, folder: Path) -> None:
    """Output nobody takes stops its writer, as a full pipe does; taken, it goes on to its end and nothing is missing."""
    command = "head -c 50M /dev/zero; touch written"
    async with open_cell() as link, link.spawn([*BASH, command], cwd=ROOT) as process:
        for _ in range(20):
            await ran_well(link, "true")
        assert not (folder / "workspace" / "written").exists()
        size = 0
        while not isinstance(event := await process.receive(), Exited):
            size += len(event.body)
        assert size == 50 * MiB
        assert (folder / "workspace" / "written").exists()


async def test_crumbs_arrive_whole(open_cell: OpenCell) -> None:
    """A hundred thousand writes of one byte arrive in order, in time, although each may be a frame of its own."""
    program = "import os\nfor n in range(100000): os.write(1, b'%d' % (n % 10))"
    async with open_cell() as link:
        with anyio.fail_after(PROMPTLY):
            assert (await run(link, python(program))).out == b"0123456789" * 10_000


async def test_a_congested_guest_forgets_nobody(runtime: Bubblewrap, folder: Path) -> None:
    """An exit that happens while the host reads nothing is told when it reads again, though the command's child is silent."""
    async with open_wire(runtime, folder) as wire:
        for _ in range(3):
            await wire.open("spawn", argv=["yes"], cwd=ROOT)
        quiet = await wire.open("spawn", argv=[*BASH, "sleep 600 & echo > ended; exit 6"], cwd=ROOT)
        later = await wire.open("spawn", argv=[*BASH, "until [ -e ended ]; do :; done; exit 7"], cwd=ROOT)
        await exists(folder / "workspace" / "ended")
        told: dict[int, int] = {}
        while len(told) < 2:
            frame = await wire.any_of({quiet, later}, NOTE, DONE)
            told[frame.stream] = frame.meta["status"]
        assert told == {quiet: 6 << 8, later: 7 << 8}


async def test_a_command_nobody_asks_for_any_more_is_dropped(runtime: Bubblewrap, folder: Path) -> None:
    """The host's DONE ends a command that floods, is told once, and everything for it is given up."""
    async with open_wire(runtime, folder) as wire:
        flood = await wire.open("spawn", argv=["yes"], cwd=ROOT)
        await wire.hear(flood, DATA)
        await wire.say(DONE, flood)
        assert (await wire.hear(flood, FAIL)).meta == {"error": "cancelled"}
        await wire.say(DONE, flood)
        await wire.say(CREDIT, flood, {"bytes": 5})
        look = await wire.open("spawn", argv=[*BASH, "until ! pgrep -x yes; do :; done"], cwd=ROOT)
        assert (await wire.hear(look, DONE)).meta["status"] == 0


async def test_an_unknown_question_is_refused(runtime: Bubblewrap, folder: Path) -> None:
    """Verbs and arguments there are not are refused as invalid, and the guest goes on."""
    async with open_wire(runtime, folder) as wire:
        assert (await wire.ask("format"))["error"] == "invalid"
        assert (await wire.ask("stat", path="a"))["error"] == "invalid"
        assert (await wire.ask("stat", path=7, root=ROOT))["error"] == "invalid"
        assert (await wire.ask("stat", path="a", root=ROOT, more=1))["error"] == "invalid"
        assert (await wire.ask("spawn", argv="true", cwd=ROOT, pty="wide"))["error"] == "invalid"
        assert (await wire.ask("resize", target=99, rows=1, columns=1))["error"] == "not_found"
        assert (await wire.ask("stat", path="", root=ROOT))["kind"] == "directory"


# -- input and terminals


async def test_input_nobody_reads_is_dropped(open_cell: OpenCell) -> None:
    """Megabytes for a command that has closed its stdin, or never had one, are taken and lost, and nobody waits."""
    async with open_cell() as link:
        for stdin in (True, False):
            command = [*BASH, "exec <&-; echo shut; sleep 600"]
            async with link.spawn(command, cwd=ROOT, stdin=stdin) as process:
                await process.receive()
                with anyio.fail_after(PROMPTLY):
                    await process.write(bytes(5 * MiB))


async def test_input_waits_for_a_slow_reader(open_cell: OpenCell) -> None:
    """A command that reads late gets everything, and the end; meanwhile others are answered."""
    async with open_cell() as link:
        command = [*BASH, "until [ -e go ]; do sleep 0.01; done; exec sha256sum"]
        async with link.spawn(command, cwd=ROOT, stdin=True) as process, anyio.create_task_group() as tasks:
            body = bytes(range(256)) * 12_000

            async def write() -> None:
                await process.write(body)
                process.close_stdin()

            tasks.start_soon(write)
            await ran_well(link, "touch go")
            event = await process.receive()
            assert isinstance(event, Output) and event.body.split()[0].decode() == hashlib.sha256(body).hexdigest()
            assert (await first_exit(process)).status.ok


async def test_the_end_of_input_on_a_terminal_is_typed(open_cell: OpenCell) -> None:
    """A command that reads from its terminal sees the end when input is closed."""
    async with open_cell() as link, link.spawn(["cat"], cwd=ROOT, pty=(24, 80)) as process:
        await process.write(b"typed\n")
        process.close_stdin()
        said = b""
        with anyio.fail_after(PROMPTLY):
            while not isinstance(event := await process.receive(), Exited):
                said += event.body
    assert (said, event.status.ok) == (b"typed\r\ntyped\r\n", True)


async def test_a_terminal_loses_nothing(open_cell: OpenCell) -> None:
    """Megabytes through a terminal arrive in order, with its line ends, up to the last byte before the exit."""
    async with open_cell() as link:
        done = await run(link, "stty -echo; seq 200000; exit 9", pty=(24, 80))
    assert done.status.exit == 9
    assert done.out == b"".join(b"%d\r\n" % n for n in range(1, 200_001))


async def test_a_command_without_a_terminal_has_no_size(open_cell: OpenCell) -> None:
    """Resizing what has no terminal is refused, and nothing happens to the command."""
    async with open_cell() as link, link.spawn([*BASH, "echo up; read"], cwd=ROOT, stdin=True) as process:
        await process.receive()
        assert await refusal(process.resize(10, 10)) == "failed"
        process.close_stdin()
        assert (await first_exit(process)).status.exit == 1


# -- kills


async def test_killing_a_helper_leaves_other_helpers(open_cell: OpenCell) -> None:
    """Commands without a job's mark are told apart: the end of one is not the end of another."""
    async with open_cell() as link, link.spawn(["sleep", "500"], cwd=ROOT) as other:
        async with link.spawn(["sleep", "600"], cwd=ROOT):
            pass
        assert await running(link) == ["sleep 500"]
        await other.signal(signal.SIGTERM)
        assert (await first_exit(other)).status.signal == signal.SIGTERM


async def test_a_kill_spares_what_was_there_before(open_cell: OpenCell) -> None:
    """A daemon of unknown origin that is older than a command cannot be its child, and survives it; a younger one does not."""
    daemon = "(env -i setsid sleep {} >/dev/null 2>&1 <&- &)"
    async with open_cell() as link:
        await ran_well(link, daemon.format(500) + "; sleep 0.05")
        async with link.spawn([*BASH, daemon.format(600) + "; echo up; sleep 600"], cwd=ROOT) as process:
            await process.receive()
        assert await running(link) == ["sleep 500"]


async def test_a_process_whose_first_thread_has_ended_is_seen(open_cell: OpenCell) -> None:
    """What /proc calls a zombie may have threads that run: it is killed like all others."""
    program = """
        import ctypes, os, threading, time
        os.fork() and os._exit(0)
        os.setsid()
        threading.Thread(target=time.sleep, args=(600,)).start()
        os.write(1, b"up")
        ctypes.CDLL(None).pthread_exit(None)
    """
    async with open_cell() as link:
        async with link.spawn([*BASH, f"env -i {python(program)}; sleep 600"], cwd=ROOT) as process:
            await process.receive()
            zombie = "ps -eo stat=,args= | grep -q '^Z[^ ]*s[^ ]*l.*python3'"
            await ran_well(link, f"until {zombie}; do :; done")
        assert await ran_well(link, "ps -eLo args= | grep -c '[t]hreading' || true") == "0"


async def test_a_signal_reaches_the_whole_command(open_cell: OpenCell) -> None:
    """SIGTERM goes to what a command started too, also in a session of its own; a neighbour does not hear it."""
    async with open_cell() as link, link.spawn(["sleep", "500"], cwd=ROOT):
        command = "setsid sleep 600 & sleep 600 & echo up; wait"
        async with link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": "job_s"}) as process:
            await process.receive()
            await process.signal(signal.SIGTERM)
            assert (await first_exit(process)).status.signal == signal.SIGTERM
        assert await running(link) == ["sleep 500"]


async def test_an_ended_command_can_be_signalled_in_vain(open_cell: OpenCell) -> None:
    """Signals, kills and new sizes for a command that is over do nothing, and are no error."""
    async with open_cell() as link, link.spawn(["true"], cwd=ROOT) as process:
        await first_exit(process)
        await process.signal(signal.SIGTERM)
        await process.kill()
        await process.resize(1, 1)
        await process.write(b"too late")
        process.close_stdin()


# -- a cell at its limits


async def test_a_cell_full_of_processes_says_so(open_cell: OpenCell) -> None:
    """At its limit of processes a cell refuses commands as "too_many_processes", kills what runs, and then works again."""
    async with open_cell(Limits(pids=32)) as link:
        async with link.spawn([*BASH, "for i in {1..100}; do sleep 600 & done; wait"], cwd=ROOT) as process:
            with anyio.fail_after(PROMPTLY):
                await process.receive()  # what bash says when it can fork no more
                code = ""
                while not code:
                    try:
                        await run(link, "true")
                    except GuestRefused as refused:
                        code = refused.code
            assert code == "too_many_processes"
            assert (await link.write("file", b"x", root=ROOT)).created
        assert await running(link) == []


async def test_a_guest_without_descriptors_says_so(open_cell: OpenCell) -> None:
    """At its limit of open files the guest refuses what needs more, still kills, and then works again."""
    async with open_cell(Limits(open_files=64)) as link:
        started: list[Process] = []
        code = ""
        while not code:
            process = link.spawn([*BASH, "echo up; sleep 600"], cwd=ROOT)
            try:
                await process.receive()
                started.append(process)
            except GuestRefused as refused:
                code = refused.code
        assert (code, len(started) > 8) == ("too_many_files", True)
        assert await refusal(link.read("file", root=ROOT, max_bytes=9)) == "too_many_files"
        assert await refusal(link.list("", root=ROOT, depth=1, limit=9)) == "too_many_files"
        for process in started:
            await process.kill()
            assert (await first_exit(process)).status.signal == signal.SIGKILL
        assert await running(link) == []


async def test_killed_commands_leave_no_descriptors(open_cell: OpenCell) -> None:
    """A hundred floods that are killed unread, and as many that cannot start, leave the guest room for more."""
    async with open_cell(Limits(open_files=64)) as link:
        for _ in range(100):
            async with link.spawn(["yes"], cwd=ROOT, stdin=True) as process:
                await process.receive()
            async with link.spawn(["no-such-program"], cwd=ROOT, pty=(1, 1)) as process:
                assert await refusal(process.receive()) == "not_found"
        assert await ran_well(link, "echo well") == "well"


# -- what commands cannot do to the guest


def frames_for(streams: range) -> bytes:
    """What a guest would send to say that everything ended well."""
    ended: dict[str, Any] = {"status": 0, "user": 0.0, "system": 0.0, "max_rss_kb": 1, "left": []}
    said = [encode(DATA, number, None, b"forged") + encode(DONE, number, ended) for number in streams]
    return b"".join(said)


async def test_printed_frames_are_output(open_cell: OpenCell) -> None:
    """Our own frames, printed to both outputs, arrive as the bytes they are, and the exit code is the command's."""
    frames = frames_for(range(200))
    async with open_cell() as link:
        await link.write("frames", frames, root=ROOT)
        done = await run(link, "cat frames; cat frames >&2; exit 7")
    assert (done.out, done.err, done.status.exit) == (frames, frames, 7)


async def test_frames_cannot_be_put_on_the_channel(open_cell: OpenCell) -> None:
    """No descriptor, terminal or socket a command can reach leads to the host. The control: an own process's do."""
    attack = """
        for it in /proc/1/fd/* /proc/1/fd /proc/1/root /dev/console /dev/tty /dev/pts/[0-9]*; do
          cat frames > $it && echo "wrote $it"
        done 2>/dev/null
        for it in /proc/$$/fd/1; do true > $it && echo "could write $it"; done
        grep -c . /proc/net/unix
        ls /proc/self/fd | wc -l
        exit 8
    """
    async with open_cell() as link:
        await link.write("frames", frames_for(range(200)), root=ROOT)
        done = await run(link, attack)
        assert done.status.exit == 8
        wrote, sockets, descriptors = done.out.decode().split("\n")[:3]
        assert "could write" in wrote
        assert (sockets, descriptors) == ("1", "4")  # the table's heading; 0, 1, 2 and the directory itself
        assert await ran_well(link, "echo next") == "next"


async def test_a_storm_of_signals_does_not_disturb_the_guest(open_cell: OpenCell) -> None:
    """SIGCHLD is the one signal the guest takes note of: forged by the thousand, it costs nothing but a look."""
    storm = "import os, signal\nfor n in range(20000): os.kill(1, signal.SIGCHLD)"
    async with open_cell() as link, link.spawn(["cat"], cwd=ROOT, stdin=True) as process:
        assert (await run(link, python(storm))).status.ok
        await process.write(b"still here")
        assert await process.receive() == Output(source="out", body=b"still here")


PTRACE = {
    "seize": "libc.ptrace(0x4206, pid, None, None) == 0",
    "attach": "libc.ptrace(16, pid, None, None) == 0",
    "read memory": "libc.process_vm_readv(pid, ctypes.byref(there), 1, ctypes.byref(there), 1, 0) >= 0",
}


@pytest.mark.parametrize("way", PTRACE)
async def test_the_guest_cannot_be_taken_over(open_cell: OpenCell, way: str) -> None:
    """No call that looks into a process or changes one reaches the guest. The control: outside, on one's own child, it does."""
    program = f"""
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(8)
        class Part(ctypes.Structure):
            _fields_ = [("start", ctypes.c_void_p), ("size", ctypes.c_size_t)]
        there = Part(ctypes.addressof(buffer), 8)
        pid = int(sys.argv[1])
        if pid == 0:
            pid = os.fork()
            if pid == 0:
                import time
                time.sleep(600)
        try:
            print("done" if {PTRACE[way]} else "refused")
        except OSError:
            print("refused")
        if sys.argv[1] == "0":
            os.kill(pid, 9)
    """
    control = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), "0"], capture_output=True, timeout=60, check=True
    )
    assert control.stdout == b"done\n"
    async with open_cell() as link:
        assert await ran_well(link, f"{python(program)} 1") == "refused"


# -- every Python


def interpreters() -> list[str]:
    """Pythons the guest could meet in a sandbox on this machine."""
    found = [path for path in Path("/usr/bin").glob("python3.*") if path.name.removeprefix("python3.").isdigit()]
    return sorted(str(path) for path in found if int(path.name.removeprefix("python3.")) >= 9)


@pytest.mark.parametrize("interpreter", interpreters())
async def test_the_guest_runs_on_every_python(runtime: Bubblewrap, folder: Path, interpreter: str) -> None:
    """On each system Python from 3.9 on the guest greets, runs, writes, reads, lists, moves, removes and kills."""
    async with open_wire(runtime, folder, interpreter) as wire:
        await exercise(wire)


async def exercise(wire: Wire) -> None:
    """Every verb once."""
    spawned = await wire.open("spawn", argv=["cat"], cwd=ROOT, stdin=True, env={"A": "b"})
    await wire.say(DATA, spawned, None, b"through")
    assert (await wire.hear(spawned, DATA)).body == b"through"
    assert await wire.ask("signal", target=spawned, signal=0) == {}
    assert await wire.ask("kill", target=spawned) == {}
    assert (await wire.hear(spawned, DONE)).meta["status"] == signal.SIGKILL
    written = await wire.open("write", path="d/file", root=ROOT, expect="absent")
    await wire.say(DATA, written, None, b"text\n")
    await wire.say(4, written)
    assert (await wire.hear(written, DONE)).meta == {"created": True, "mode": 0o644}
    read = await wire.open("read", path="d/file", root=ROOT)
    assert (await wire.hear(read, NOTE)).meta == {"size": 5, "mode": 0o644}
    assert (await wire.hear(read, DATA)).body == b"text\n"
    await wire.hear(read, DONE)
    terminal = await wire.open("spawn", argv=[*BASH, "stty size"], cwd=ROOT, pty=[5, 70])
    assert (await wire.hear(terminal, DATA)).body == b"5 70\r\n"
    (entry,) = (await wire.ask("list", path="d", root=ROOT, limit=5))["entries"]
    assert (entry["path"], entry["kind"]) == ("file", "file")
    assert await wire.ask("move", path="d/file", to="e/file", root=ROOT) == {}
    assert (await wire.ask("stat", path="e/file", root=ROOT))["size"] == 5
    assert (await wire.ask("remove", path="e", root=ROOT, recursive=True))["status"] == 0
    assert await wire.ask("remove", path="d", root=ROOT) == {}
