"""The guest in a real sandbox: every verb, every way a command can end, and what commands cannot do to it."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from harness import OpenCell
from repocell.guest.link import Exited, GuestRefused, Link
from repocell.models import Limits, MiB

pytestmark = pytest.mark.anyio
ROOT = "/workspace"
BASH = ("bash", "--noprofile", "--norc", "-c")


async def run(link: Link, command: str, *, job: str = "job_t", **options: object) -> tuple[bytes, bytes, Exited]:
    """Runs a command to the end of its output: (stdout, stderr, last exit)."""
    out, err = bytearray(), bytearray()
    spawned = link.spawn([*BASH, command], cwd=ROOT, environment={"REPOCELL_JOB": job}, **options)  # pyright: ignore[reportArgumentType]
    async with spawned as process:
        while True:
            event = await process.receive()
            if isinstance(event, Exited):
                if not event.running:
                    return bytes(out), bytes(err), event
            else:
                (out if event.source == "out" else err).extend(event.body)


async def refusal(link: Link, verb: str, *args: object, **options: object) -> str:
    """The code with which the guest refuses a request."""
    with pytest.raises(GuestRefused) as caught:
        await getattr(link, verb)(*args, root=ROOT, **options)
    return caught.value.code


# -- commands


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 255])
async def test_exit_codes_are_the_kernels(open_cell: OpenCell, code: int) -> None:
    """What waitpid says is what is reported, whatever was printed."""
    async with open_cell() as link:
        _, _, exited = await run(link, f"printf '\\x07\\x00exit 0'; exit {code}")
        assert (exited.status.exit, exited.status.signal) == (code, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE])
async def test_death_by_signal_is_told(open_cell: OpenCell, number: signal.Signals) -> None:
    """A command a signal ended has that signal and no exit code; usage is told too."""
    async with open_cell() as link:
        _, _, exited = await run(link, f"kill -{number.value} $$")
        assert (exited.status.exit, exited.status.signal) == (None, number.value)
        assert exited.status.max_rss_kb > 0


async def test_streams_are_kept_apart_and_environment_and_directory_are_as_asked(open_cell: OpenCell) -> None:
    """stdout, stderr, variables and cwd are what the request said; stdin is empty; nothing is inherited."""
    async with open_cell() as link:
        out, err, _ = await run(link, "pwd; echo $REPOCELL_JOB; echo oops >&2; cat; ls /proc/self/fd")
        assert out.startswith(b"/workspace\njob_t\n")
        assert err == b"oops\n"
        assert out.split()[2:] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(("argv", "cwd", "code"), [
    (("/nope",), ROOT, "not_found"), (("true",), "/nope", "no_directory"), (("/etc/passwd",), ROOT, "denied"),
])  # fmt: skip
async def test_what_cannot_start_is_refused(open_cell: OpenCell, argv: tuple[str, ...], cwd: str, code: str) -> None:
    """A missing program, a missing directory and a file that is no program each have their code; the guest lives on."""
    async with open_cell() as link:
        with pytest.raises(GuestRefused) as caught:
            async with link.spawn(argv, cwd=cwd) as process:
                await process.receive()
        assert caught.value.code == code
        assert (await run(link, "true"))[2].status.ok


async def test_three_hundred_megabytes_arrive_whole_in_little_memory(open_cell: OpenCell) -> None:
    """Every byte comes, in order, and the guest's memory does not grow with the flood."""
    async with open_cell() as link:
        size, digest = 0, hashlib.sha256()
        async with link.spawn([*BASH, "head -c 300M /dev/zero"], cwd=ROOT) as process:
            while not isinstance(event := await process.receive(), Exited):
                size += len(event.body)
                digest.update(event.body)
        assert size == 300 * MiB
        out, _, _ = await run(link, "head -c 300M /dev/zero | sha256sum; grep VmHWM /proc/1/status")
        assert out.split()[0].decode() == digest.hexdigest()
        assert int(out.split()[-2]) < 40_000


async def test_a_flood_that_nobody_reads_does_not_delay_others(open_cell: OpenCell) -> None:
    """While one command prints without end into a full window, requests and other commands are answered."""
    async with open_cell() as link, link.spawn([*BASH, "yes"], cwd=ROOT) as flood:
        assert not isinstance(await flood.receive(), Exited)
        with anyio.fail_after(5):
            for _ in range(20):
                assert (await run(link, "echo hi"))[0] == b"hi\n"
                await link.write("f", b"x", root=ROOT)


async def test_stdin_is_relayed_and_ends(open_cell: OpenCell) -> None:
    """Five megabytes go in and come out; closing stdin is seen; a command that stops reading does not block the rest."""
    data = bytes(range(256)) * 20_000
    async with open_cell() as link:
        got = bytearray()
        async with link.spawn(["cat"], cwd=ROOT, stdin=True) as process, anyio.create_task_group() as tasks:

            async def feed() -> None:
                await process.write(data)
                process.close_stdin()

            tasks.start_soon(feed)
            while not isinstance(event := await process.receive(), Exited):
                got += event.body
        assert bytes(got) == data
        async with link.spawn(["true"], cwd=ROOT, stdin=True) as process:
            await process.write(b"never read")
            while not isinstance(await process.receive(), Exited):
                pass


async def test_a_terminal_is_one(open_cell: OpenCell) -> None:
    """A pty has the size asked for, can be resized, echoes, and hands signals typed on it to the command."""
    async with open_cell() as link:
        out, _, _ = await run(link, "tty; stty size; test -t 0 && test -t 1 && echo yes", pty=(24, 80))
        assert b"/dev/pts/" in out
        assert b"24 80" in out
        assert b"yes" in out
        async with link.spawn(
            [*BASH, "trap 'exit 3' INT; echo up; sleep 60 & wait"], cwd=ROOT, pty=(24, 80)
        ) as process:
            await process.receive()
            await process.resize(50, 100)
            await process.write(b"\x03")
            with anyio.fail_after(10):
                while not isinstance(event := await process.receive(), Exited):
                    pass
            assert event.status.exit == 3


async def test_output_of_children_follows_the_exit(open_cell: OpenCell) -> None:
    """The exit comes when the shell ends, names who runs on, and their output still arrives before the final end."""
    async with (
        open_cell() as link,
        link.spawn(
            [*BASH, "(sleep 0.4; echo late) & echo early"], cwd=ROOT, environment={"REPOCELL_JOB": "job_x"}
        ) as process,
    ):
        seen: list[object] = []
        while True:
            event = await process.receive()
            seen.append(event.body if not isinstance(event, Exited) else event.running)
            if isinstance(event, Exited) and not event.running:
                break
        assert seen == [b"early\n", True, b"late\n", False]


async def test_orphans_do_not_pile_up(open_cell: OpenCell) -> None:
    """A thousand orphaned processes leave no zombie."""
    async with open_cell() as link:
        await run(link, "for i in $(seq 1000); do (true &) ; done; wait")
        with anyio.fail_after(10):
            while b"Z" in (await run(link, "ps -eo stat"))[0]:
                pass


ESCAPES = {
    "a child": "sleep 600 &",
    "a new session": "setsid sleep 600 &",
    "a daemon": "(setsid sh -c 'sleep 600 & exec sleep 600' >/dev/null 2>&1 &)",
    "a daemon without its environment": "(env -i setsid sleep 600 >/dev/null 2>&1 &)",
    "deaf to signals": "(trap '' TERM INT HUP; sleep 600) &",
    "stopped": "sleep 600 & kill -STOP $!",
}


@pytest.mark.parametrize("how", list(ESCAPES))
async def test_killing_a_command_leaves_nothing_of_it(open_cell: OpenCell, how: str) -> None:
    """Wherever a command's children went, killing it ends them; a neighbour's processes live."""
    async with open_cell() as link, link.spawn(["sleep", "700"], cwd=ROOT, environment={"REPOCELL_JOB": "job_n"}):
        async with link.spawn(
            [*BASH, f"{ESCAPES[how]} echo up; sleep 600"], cwd=ROOT, environment={"REPOCELL_JOB": "job_k"}
        ) as process:
            await process.receive()
        left = (await run(link, "ps -eo args"))[0]
        assert b"sleep 600" not in left
        assert b"sleep 700" in left


async def test_a_fork_bomb_cannot_outrun_the_kill(open_cell: OpenCell) -> None:
    """Killed within seconds, and the cell is usable at once."""
    async with open_cell(Limits(pids=200)) as link:
        async with link.spawn([*BASH, "b() { b | b & }; b; echo up; sleep 600"], cwd=ROOT) as process:
            with anyio.fail_after(20):
                await process.receive()
        with anyio.fail_after(20):
            out, _, exited = await run(link, "ps -e --no-headers | wc -l")
        assert exited.status.ok
        assert int(out) <= 5


# -- what commands cannot do to the guest


@pytest.mark.parametrize("number", ["KILL", "TERM", "INT", "STOP", "HUP", "SEGV", "QUIT", "USR1"])
async def test_no_signal_from_inside_reaches_the_guest(open_cell: OpenCell, number: str) -> None:
    """kill 1 changes nothing. The control: the same signal ends a process of one's own."""
    async with open_cell() as link:
        out, _, _ = await run(link, f"sleep 600 & kill -{number} $! && kill -9 $!; kill -{number} 1; echo sent")
        assert out == b"sent\n"
        assert (await run(link, "echo alive"))[0] == b"alive\n"


@pytest.mark.parametrize("name", ["mem", "environ", "maps", "fd", "cwd", "root", "io", "auxv", "stack"])
async def test_the_guest_cannot_be_looked_into(open_cell: OpenCell, name: str) -> None:
    """/proc/1 is closed. The control: the same entry of a command of one's own is open."""
    look = f"p=/proc/$1/{name}; if [ -d $p ] || [ -L $p ]; then ls $p/ >/dev/null; else head -c 1 $p >/dev/null; fi"
    async with open_cell() as link:
        _, err, exited = await run(link, f"look() {{ {look}; }}; look 1")
        assert not exited.status.ok, name
        assert b"denied" in err or b"not permitted" in err
        if name not in ("mem", "stack", "auxv"):
            assert (await run(link, f"look() {{ {look}; }}; sleep 5 & look $!; s=$?; kill $!; exit $s"))[2].status.ok


async def test_the_guest_cannot_be_traced(open_cell: OpenCell) -> None:
    """PTRACE_SEIZE on PID 1 is refused. The control: outside the cell it works on a process of one's own."""
    program = (
        "import ctypes,os,sys,time\npid=int(sys.argv[1]) or os.fork()\nif pid==0: time.sleep(5); os._exit(0)\n"
        "r=ctypes.CDLL(None,use_errno=True).ptrace(0x4206,pid,None,None)\nprint('traced' if r==0 else 'refused')\n"
        "sys.argv[1]=='0' and os.kill(pid,9)"
    )
    outside = subprocess.run([sys.executable, "-c", program, "0"], capture_output=True, timeout=20, check=False)
    assert outside.stdout == b"traced\n"
    async with open_cell() as link:
        out, _, _ = await run(
            link,
            f"/usr/bin/python3 -c {program!r} 1"
            if "'" not in program
            else f'cat > p.py <<"E"\n{program}\nE\npython3 p.py 1',
        )
        assert out == b"refused\n"


async def test_commands_die_of_memory_before_the_guest(open_cell: OpenCell) -> None:
    """Every command has the highest OOM score; the guest does not."""
    async with open_cell() as link:
        out, _, _ = await run(link, "cat /proc/self/oom_score_adj; cat /proc/1/oom_score_adj")
        mine, guests = map(int, out.split())
        assert mine == 1000
        assert guests < 1000


# -- files


async def test_reading_windows_of_lines(open_cell: OpenCell) -> None:
    """Any window is what slicing the lines gives; counts and digest are of the whole."""
    lines = [b"line %d\r\n" % n if n % 3 else b"\n" for n in range(1, 5001)] + [b"no newline"]
    body = b"".join(lines)
    async with open_cell() as link:
        await link.write("f", body, root=ROOT)
        for start, count in ((1, 1), (1, 10_000), (17, 3), (5000, 5), (5001, 1), (5002, 1), (4000, 0)):
            window = await link.read("f", root=ROOT, max_bytes=1 << 20, start_line=start, line_count=count)
            assert window.body == b"".join(lines[start - 1 : start - 1 + count])
            assert (window.lines, window.size) == (5001, len(body))
            assert window.digest == hashlib.sha256(body).hexdigest()
        cut = await link.read("f", root=ROOT, max_bytes=100)
        assert (cut.body, cut.cut) == (body[:100], True)
        assert (await link.read("f", root=ROOT, max_bytes=50, offset=7)).body == body[7:57]


async def test_writes_compare_and_swap(open_cell: OpenCell, folder: Path) -> None:
    """A write with the wrong expectation changes nothing and leaves no temporary file; with the right one it keeps the mode."""
    async with open_cell() as link:
        made = await link.write("d/f", b"one", root=ROOT, expect="absent")
        assert made.created
        assert await refusal(link, "write", "d/f", b"two", expect="absent") == "conflict"
        assert await refusal(link, "write", "d/f", b"two", expect="0" * 64) == "conflict"
        assert await refusal(link, "write", "d/g", b"two", expect="0" * 64) == "conflict"
        await run(link, "chmod 754 d/f")
        written = await link.write("d/f", b"two", root=ROOT, expect=made.digest)
        assert (written.created, written.mode) == (False, 0o754)
        assert (folder / "workspace" / "d" / "f").read_bytes() == b"two"
        assert [path.name for path in (folder / "workspace" / "d").iterdir()] == ["f"]


async def test_links_are_followed_inside_and_refused_outside(open_cell: OpenCell) -> None:
    """A link below the root leads to its target; one that leaves it, absolute or relative, is refused by every verb."""
    async with open_cell() as link:
        await run(
            link, "echo in > real; ln -s real good; ln -s /etc/passwd bad; ln -s ../etc evil; ln -s nowhere dangling"
        )
        assert (await link.read("good", root=ROOT, max_bytes=10)).body == b"in\n"
        await link.write("good", b"new\n", root=ROOT)
        await link.write("dangling", b"made\n", root=ROOT)
        assert (await run(link, "cat real nowhere; readlink good"))[0] == b"new\nmade\nreal\n"
        for path in ("bad", "evil/passwd"):
            assert await refusal(link, "read", path, max_bytes=10) == "outside"
            assert await refusal(link, "write", path, b"x") == "outside"
        assert await refusal(link, "list", "evil", depth=1, limit=10) == "outside"
        assert await refusal(link, "move", "real", "evil/x") == "outside"
        assert await refusal(link, "remove", "evil/passwd") == "outside"
        assert (await link.stat("bad", root=ROOT)).target == "/etc/passwd"


@pytest.mark.parametrize(
    ("make", "verb", "code"),
    [
        ("mkdir x", "read", "is_a_directory"), ("mkfifo x", "read", "special"), ("ln -s x x", "read", "loop"),
        ("true", "read", "not_found"), ("mkdir x", "write", "is_a_directory"), ("mkfifo x", "write", "special"),
        ("mkdir -m 0 d; ln -s d/x x", "read", "denied"), ("echo > d; ln -s d/x x", "read", "not_a_directory"),
    ],
)  # fmt: skip
async def test_what_is_no_plain_file_is_refused_promptly(open_cell: OpenCell, make: str, verb: str, code: str) -> None:
    """Directories, FIFOs, loops and closed directories have their code; nothing hangs."""
    async with open_cell() as link:
        await run(link, make)
        with anyio.fail_after(5):
            found = await (refusal(link, verb, "x", max_bytes=10) if verb == "read" else refusal(link, verb, "x", b"y"))
        assert found in {code, "not_found"} if code == "loop" else found == code


async def test_lists_moves_and_removals(open_cell: OpenCell) -> None:
    """Listing sorts and bounds, moving makes parents and never overwrites, removing needs a word for whole trees."""
    async with open_cell() as link:
        await run(link, "mkdir -p b/c; touch b/c/2 b/1 a; ln -s a l")
        entries, more = await link.list("", root=ROOT, depth=3, limit=100)
        assert ([entry.path for entry in entries], more) == (["a", "b", "b/1", "b/c", "b/c/2", "l"], False)
        _, more = await link.list("", root=ROOT, depth=3, limit=2)
        assert more
        await link.move("b", "x/y/b", root=ROOT)
        assert await refusal(link, "move", "a", "x") == "exists"
        assert await refusal(link, "move", "nope", "z") == "not_found"
        assert await refusal(link, "remove", "x") == "not_empty"
        await link.remove("x", root=ROOT, recursive=True)
        await link.remove("a", root=ROOT)
        assert [entry.path for entry in (await link.list("", root=ROOT, depth=3, limit=9))[0]] == ["l"]


async def test_strange_names_are_only_names(open_cell: OpenCell) -> None:
    """Bytes that are no UTF-8, newlines and leading dashes work; NULs and names too long are refused."""
    async with open_cell() as link:
        for name in ("bad\udcff", "new\nline", "-rf", " "):
            await link.write(name, b"x", root=ROOT)
            assert (await link.read(name, root=ROOT, max_bytes=5)).body == b"x"
        assert await refusal(link, "read", "x" * 5000, max_bytes=5) == "name_too_long"
        assert await refusal(link, "read", "a\0b", max_bytes=5) == "invalid"


async def test_a_huge_sparse_file_is_read_promptly_without_a_digest(open_cell: OpenCell) -> None:
    """Two gigabytes cost no more than the window asked for."""
    async with open_cell() as link:
        await run(link, "seq 100000 > big; truncate -s 2G big")
        with anyio.fail_after(10):
            window = await link.read("big", root=ROOT, max_bytes=1000, start_line=10, line_count=2)
        assert (window.body, window.digest, window.lines) == (b"10\n11\n", None, None)
