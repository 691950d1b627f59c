"""What one cell uses up is bounded, ends with an honest word, and is not felt by the server or the next cell.

Limits are set small through the settings file. Every attack is made outside too, where nothing stops it; meanwhile the
workspace that stands by must go on answering.
"""

import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from harness import Connect, OpenCell, ask, child_environment
from hostile.observe import LOST, SOON, bytes_below, in_cells, log_sizes, outside, peak_memory, python, server_of, until
from hostile.stage import Stage, open_stage, words
from repocell.guest.link import Exited, Link
from repocell.models import Limits, MiB
from repocell.runtimes.bubblewrap import Bubblewrap

pytestmark = pytest.mark.anyio

MEMORY, DISK, TEMPORARY, OUTPUT = 256 * MiB, 64 * MiB, 32 * MiB, 4 * MiB
PIDS, FILES = 64, 256
ANSWER_SECONDS = 6.0
BOUND = 40_100  # characters of any result: the gate cuts at 40,000 and says so


@pytest.fixture(scope="module")
def settings() -> str:
    return (
        f"limits = {{memory = {MEMORY}, disk = {DISK}, temporary = {TEMPORARY}, output = {OUTPUT}, pids = {PIDS}, "
        f"open_files = {FILES}}}\n"
    )


@pytest.fixture(scope="module")
async def roomy(ground: Path) -> AsyncGenerator[Stage]:
    """A second server, with the limits there are by default: what is large there is large for the tools."""
    folder = ground / "roomy"
    folder.mkdir()
    async with open_stage(folder, "") as opened:
        yield opened


async def beside(stage: Stage, attack: Awaitable[str], seconds: float = 30.0) -> str:
    """Waits for an attack while the workspace that stands by is asked again and again, and must answer each time."""
    said: list[str] = []

    async def run() -> None:
        said.append(await attack)

    with anyio.fail_after(seconds):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            while not said:
                with anyio.fail_after(ANSWER_SECONDS):
                    await ask(stage.client, "bash", command="echo well", workspace=stage.bystander)
                await anyio.sleep(0.1)
    return said[0]


# -- processes

FORKS = {
    "bash": "b() { b | b & }; b; sleep 30",
    "python": python("import os\nwhile True:\n try: os.fork()\n except OSError: pass"),
    "threads": python("import threading, time\nwhile True:\n try: threading.Thread(target=time.sleep, args=(30,)).start()\n"
                      " except RuntimeError: time.sleep(0.01)"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", FORKS.values(), ids=list(FORKS))
async def test_a_fork_bomb_ends_with_its_command(stage: Stage, bomb: str) -> None:
    """Forking without end stops at the limit, then at the timeout, and leaves no process."""
    most, said = 0, ""

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, len(in_cells(stage.server)))
            await anyio.sleep(0.1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        said = await beside(stage, stage.attack(bomb, timeout_s=1))
        tasks.cancel_scope.cancel()
    assert "stopped after its timeout of 1 s" in said
    assert most <= PIDS + 2  # the one that stands by runs a command of its own
    await until("nothing of it is left", lambda: not in_cells(stage.server), 5)
    await stage.healthy()


def test_outside_more_processes_can_be_made() -> None:
    """The control of the test above: as many processes as a cell may have, and more, run at once on the host."""
    assert (
        outside(f"for n in $(seq {PIDS * 2}); do sleep 5 & done; jobs -p | wc -l; kill $(jobs -p)").stdout
        == f"{PIDS * 2}\n"
    )


async def test_tools_answer_in_a_cell_full_of_processes(stage: Stage) -> None:
    """At the limit of processes each tool gives its result or says that there is no room, and none waits for it."""
    job = await stage.attack(f"for n in $(seq {PIDS * 2}); do sleep 60 & done 2>/dev/null; wait", background=True)
    await until("the cell is full", lambda: len(in_cells(stage.server)) >= PIDS - 4)
    calls = {
        "bash": {"command": "echo well"}, "grep": {"pattern": "add"}, "glob": {"pattern": "*"}, "git_diff": {},
        "list_dir": {}, "read_file": {"path": "calc.py"}, "workspace_status": {},
    }  # fmt: skip
    said: dict[str, str] = {}
    for tool, arguments in calls.items():
        with anyio.move_on_after(8):
            said[tool] = await stage.call(tool, **arguments)
    await stage.call("bash_stop", job=job.split("bash_output job=")[1].split()[0])
    assert set(said) == set(calls)
    assert "return a - b" in said["read_file"]
    assert not [text for text in said.values() if LOST in text or "bug in repocell" in text]
    await stage.healthy()


async def test_more_jobs_than_processes_are_refused_one_by_one(stage: Stage) -> None:
    """Background jobs beyond the limit of processes are refused with the reason; the others run, and stop."""
    jobs = [await stage.attack("sleep 60", background=True) for _ in range(PIDS + 8)]
    started = [said.split("bash_output job=")[1].split()[0] for said in jobs if "bash_output job=" in said]
    refused = [said for said in jobs if "limit of processes" in said]
    async with anyio.create_task_group() as tasks:
        for job in started:
            tasks.start_soon(lambda job=job: stage.call("bash_stop", job=job))
    assert len(started) > PIDS // 2
    assert refused
    await until("all have ended", lambda: not in_cells(stage.server))


# -- memory

# Each takes 400 MiB, holds them for a while, and prints "survived" when it could.
HOLD = "import ctypes, mmap, os, sys, time\nsize = 400 << 20\n"
# Goes on in a second thread after the first has ended with exit(2), which shows the process as dead.
SECOND_THREAD = (
    "import ctypes, os, threading, time\nthreading.Thread(target=lambda: exec({rest!r}, globals())).start()\n"
    "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"
)
HIDE = "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"  # PR_SET_DUMPABLE: its folder in /proc now belongs to root
MEMORY_BOMBS = {
    "at-once": python(HOLD + "held = b'x' * size\ntime.sleep(1)\nprint('survived')"),
    "many": python(HOLD + "for n in range(4):\n if os.fork() == 0:\n  held = b'x' * (size // 4)\n  time.sleep(1.5)\n"
                   "  os._exit(0)\nprint('survived' if all(os.wait()[1] == 0 for n in range(4)) else 'no')"),
    "shared": python(HOLD + "held = mmap.mmap(-1, size)\nfor n in range(400): held.write(b'x' * (1 << 20))\n"
                     "time.sleep(1)\nprint('survived')"),
    "memory-file": python(HOLD + "held = [os.memfd_create('x') for n in range(10)]\nfor n in range(400):"
                          " os.write(held[n % 10], b'x' * (1 << 20))\ntime.sleep(1)\nprint('survived')"),
    "segment": python(HOLD + "libc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
                      "held = libc.shmget(0, ctypes.c_size_t(size), 0o1600)\nat = libc.shmat(held, None, 0)\n"
                      "libc.shmctl(held, 0, None)\nctypes.memset(at, 1, size)\ntime.sleep(1)\nprint('survived')"),
    "unmapped-segments": python(HOLD + "libc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nmade = []\n"
                                "libc.shmdt.argtypes = [ctypes.c_void_p]\n"
                                "for n in range(20):\n made.append(libc.shmget(0, ctypes.c_size_t(size // 20), 0o1600))\n"
                                " at = libc.shmat(made[-1], None, 0)\n ctypes.memset(at, 1, size // 20)\n libc.shmdt(at)\n"
                                "time.sleep(1)\nfor one in made: libc.shmctl(one, 0, None)\nprint('survived')"),
    "first-thread-gone": python(SECOND_THREAD.format(rest="time.sleep(0.2)\nheld = b'x' * (400 << 20)\ntime.sleep(1)\n"
                                                     "print('survived', flush=True)\nos._exit(0)")),
    "hidden-memory-file": python(HOLD + HIDE + "held = [os.memfd_create('x') for n in range(10)]\nfor n in range(400):"
                                 " os.write(held[n % 10], b'x' * (1 << 20))\ntime.sleep(1)\nprint('survived')"),
}  # fmt: skip
# Memory that control groups see and nobody else.
UNSEEN_BOMBS = {
    "memory-file-on-its-way": python(HOLD + "import socket\nout, held = socket.socketpair()\nfor n in range(100):\n"
                                     " one = os.memfd_create('x')\n os.write(one, b'x' * (4 << 20))\n"
                                     " socket.send_fds(out, [b'.'], [one])\n os.close(one)\n"
                                     "time.sleep(1)\nprint('survived')"),
}  # fmt: skip
WATCHED_BOMBS = {**MEMORY_BOMBS, **UNSEEN_BOMBS}


@pytest.mark.parametrize("bomb", MEMORY_BOMBS.values(), ids=list(MEMORY_BOMBS))
async def test_a_cell_takes_no_more_memory_than_its_limit(fresh: Stage, bomb: str) -> None:
    """What holds more than the limit, in one process or many, is ended, and its memory is free again within seconds."""
    assert outside(bomb).stdout == "survived\n"
    said = await beside(fresh, fresh.attack(bomb, timeout_s=20))
    assert "survived" not in said
    with anyio.fail_after(SOON):  # what nobody has mapped outlives its maker by a moment
        while "kept" not in await fresh.attack(python("held = b'x' * (120 << 20); print('kept')")):
            pass
    await fresh.healthy()


@pytest.mark.parametrize("bomb", WATCHED_BOMBS.values(), ids=list(WATCHED_BOMBS))
async def test_without_control_groups_memory_is_watched(
    runtime: Bubblewrap, open_cell: OpenCell, monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    """Where there are no control groups the watchdog ends what holds more than the limit, however it holds it."""
    monkeypatch.setattr(runtime, "_hierarchy", None)
    assert runtime.enforcement()["memory"] == "watchdog"
    async with open_cell(Limits(memory=MEMORY)) as link:
        assert "survived" not in await run(link, bomb)
        assert await run(link, "echo well") == "well\n"


# Each stays within the limit, but would not if what is shared were counted more than once.
FAIR_MEMORY = {
    "alone": python("held = b'x' * (120 << 20); print('kept')"),
    "parts": python(HOLD + "for n in range(3):\n if os.fork() == 0:\n  held = b'x' * (40 << 20)\n  time.sleep(0.5)\n"
                    "  os._exit(0)\nprint('kept' if all(os.wait()[1] == 0 for n in range(3)) else 'no')"),
    "forks": python(HOLD + "held = b'x' * (100 << 20)\nfor n in range(4):\n if os.fork() == 0:\n  time.sleep(1)\n  os._exit(0)\n"
                    "print('kept' if all(os.wait()[1] == 0 for n in range(4)) else 'no')"),
    "memory-file": python(HOLD + "one = os.memfd_create('x')\nos.ftruncate(one, 100 << 20)\nheld = mmap.mmap(one, 100 << 20)\n"
                          "for n in range(100): held.write(b'x' * (1 << 20))\nfor n in range(4):\n if os.fork() == 0:\n"
                          "  sum(held[::4096])\n  time.sleep(1)\n  os._exit(0)\n"
                          "print('kept' if all(os.wait()[1] == 0 for n in range(4)) else 'no')"),
    "segment": python(HOLD + "libc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
                      "held = libc.shmget(0, ctypes.c_size_t(100 << 20), 0o1600)\nat = libc.shmat(held, None, 0)\n"
                      "libc.shmctl(held, 0, None)\nctypes.memset(at, 1, 100 << 20)\nfor n in range(2):\n if os.fork() == 0:\n"
                      "  ctypes.memset(at, 2, 100 << 20)\n  time.sleep(1)\n  os._exit(0)\n"
                      "print('kept' if all(os.wait()[1] == 0 for n in range(2)) else 'no')"),
}  # fmt: skip


@pytest.mark.parametrize("grouped", [True, False], ids=["as-found", "watched"])
@pytest.mark.parametrize("program", FAIR_MEMORY.values(), ids=list(FAIR_MEMORY))
async def test_a_program_within_the_memory_limit_is_left_alone(
    runtime: Bubblewrap, open_cell: OpenCell, monkeypatch: pytest.MonkeyPatch, program: str, grouped: bool
) -> None:
    """What several processes share counts once, with control groups and without."""
    if not grouped:
        monkeypatch.setattr(runtime, "_hierarchy", None)
    async with open_cell(Limits(memory=MEMORY)) as link:
        assert await run(link, program) == "kept\n"


async def test_being_stopped_for_memory_is_said(fresh: Stage) -> None:
    """The result of a command stopped for its memory names that limit and no other, also when its shell goes on."""
    for command in (MEMORY_BOMBS["shared"], f"{MEMORY_BOMBS['shared']}; exit 3"):
        said = await fresh.attack(command, timeout_s=20)
        assert "the cell was over its memory limit of 256.0 MiB" in said
        assert "disk" not in said


async def test_being_killed_for_no_limit_is_not_called_one(fresh: Stage) -> None:
    """A command that kills itself hears of no limit, nor does one after another was stopped for memory."""
    assert "memory limit" in await fresh.attack(MEMORY_BOMBS["shared"], timeout_s=20)
    said = await fresh.attack("kill -9 $$")
    assert "killed by SIGKILL" in said
    assert "limit" not in said


async def run(link: Link, command: str) -> str:
    """Runs shell text through a bare link and returns what it printed."""
    said = b""
    with anyio.fail_after(30):
        async with link.spawn(["bash", "-c", command], cwd="/workspace") as process:
            while not isinstance(event := await process.receive(), Exited):
                said += event.body
    return said.decode(errors="replace")


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
async def test_temporary_directories_are_bounded(fresh: Stage, place: str, folder: Path) -> None:
    """Directories in memory take what the settings give them, say when they are full, and are usable again after."""
    fill = (
        "for n in $(seq 10); do head -c 10M /dev/zero > {0}/fill-$n || break; done; du -sm {0} | cut -f1; rm {0}/fill-*"
    )
    assert int(outside(fill.format(folder)).stdout.split()[-1]) >= 100
    said = await beside(fresh, fresh.attack(fill.format(place)))
    assert "No space left on device" in said
    assert int(said.splitlines()[-2]) <= TEMPORARY // MiB
    assert "[exit 0" in await fresh.attack(f"head -c 10M /dev/zero > {place}/twin && rm {place}/twin")
    await fresh.healthy()


# -- disk

# Each writes 160 MiB, waits until somebody had time to look, and prints "survived" when it could.
DISK_PROGRAMS = {
    "one-file": "with open('fill', 'wb') as f: f.write(block * 20)",
    "many-files": "os.mkdir('fill')\nfor n in range(20): open(f'fill/{n}', 'wb').write(block)",
    "home": "os.makedirs(os.path.expanduser('~/fill'))\nos.chdir(os.path.expanduser('~/fill'))\n"
            "for n in range(20): open(str(n), 'wb').write(block)",
    "deleted-files": "for n in range(4):\n held.append(os.open('fill', os.O_RDWR | os.O_CREAT))\n os.unlink('fill')\n"
                     " os.write(held[-1], block * 5)",
    "deep": "for n in range(25):\n os.mkdir('d' * 200)\n os.chdir('d' * 200)\n"
            "for n in range(20): open(str(n), 'wb').write(block)",
    "allocated": "for n in range(4): os.posix_fallocate(os.open(f'fill-{n}', os.O_RDWR | os.O_CREAT), 0, 40 << 20)",
    "closed-directory": "os.mkdir('fill')\nos.chdir('fill')\nheld += [open(str(n), 'wb') for n in range(20)]\nos.chmod('.', 0)\n"
                        "for one in held:\n one.write(block)\n one.flush()",
    "deleted-hidden": "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nfor n in range(4):\n"
                      " held.append(os.open('fill', os.O_RDWR | os.O_CREAT))\n os.unlink('fill')\n os.write(held[-1], block * 5)",
    "deleted-mapped": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\nfor n in range(4):\n"
                      " one = os.open('fill', os.O_RDWR | os.O_CREAT)\n os.unlink('fill')\n os.write(one, block * 5)\n"
                      " libc.mmap(None, ctypes.c_size_t(40 << 20), 1, 1, one, ctypes.c_long(0))\n os.close(one)",
    "deleted-on-its-way": "import socket\nout, kept = socket.socketpair()\nfor n in range(4):\n"
                          " one = os.open('fill', os.O_RDWR | os.O_CREAT)\n os.unlink('fill')\n os.write(one, block * 5)\n"
                          " socket.send_fds(out, [b'.'], [one])\n os.close(one)",
}  # fmt: skip
BEFORE, AFTER = "import os, time\nblock, held = b'x' * (8 << 20), []\n", "\ntime.sleep(6)\nprint('survived')"
DISK_BOMBS = {name: python(BEFORE + program + AFTER) for name, program in DISK_PROGRAMS.items()}
EMPTY = "chmod -R u+rwX . ~/fill 2>/dev/null; rm -rf fill* ~/fill dddd*; echo emptied"


@pytest.mark.parametrize("bomb", DISK_BOMBS.values(), ids=list(DISK_BOMBS))
async def test_a_cell_that_fills_its_disk_is_stopped(fresh: Stage, bomb: str) -> None:
    """Whoever writes more than the limit, wherever and however, is stopped within seconds; deleting makes room again."""
    said = await beside(fresh, fresh.attack(bomb, timeout_s=25))
    emptied = await fresh.attack(EMPTY)
    assert "survived" not in said
    assert "emptied" in emptied
    assert bytes_below(fresh.state) < 4 * DISK
    await fresh.healthy()


@pytest.mark.parametrize("bomb", DISK_BOMBS.values(), ids=list(DISK_BOMBS))
def test_outside_a_disk_takes_more(bomb: str, big_folder: Path) -> None:
    """The control of the test above: the same programs write what they want on the host."""
    (big_folder / "outside").mkdir()
    written = bomb.replace("time.sleep(6)", "").replace("~", str(big_folder))
    assert outside(written, cwd=big_folder / "outside").stdout == "survived\n"


async def test_being_stopped_for_the_disk_is_said(fresh: Stage) -> None:
    """The result of a command stopped for writing too much names the disk, not the memory."""
    said = await fresh.attack(DISK_BOMBS["many-files"], timeout_s=25)
    await fresh.attack(EMPTY)
    assert "the cell was over its disk limit of 64.0 MiB" in said
    assert "remove files it made" in said
    assert "memory limit" not in said


async def test_a_cell_over_its_disk_limit_can_be_cleaned_up(fresh: Stage) -> None:
    """After a stop, looking around and deleting are left alone however long they take; writing on is stopped again."""
    assert "disk limit" in await fresh.attack(DISK_BOMBS["many-files"], timeout_s=25)
    assert "[exit 0" in await fresh.attack("ls fill; sleep 3; git status --short; rm fill/1; sleep 3; ls fill")
    assert "disk limit" in await fresh.attack(DISK_BOMBS["many-files"].replace("fill", "more"), timeout_s=25)
    assert "[exit 0" in await fresh.attack("for one in fill/* more/*; do rm $one; sleep 0.1; done; rmdir fill more")
    assert "[exit 0" in await fresh.attack("head -c 40M /dev/zero > fair; sleep 3; rm fair")


# Each writes far more than the limit over time, and is within it at every moment.
FAIR_DISK = {
    "build": "for n in $(seq 12); do mkdir -p out/$n; head -c 20M /dev/zero > out/$n/object; rm -r out; sleep 0.2; done",
    "temporary-files": python("import tempfile, time\nfor n in range(12):\n with tempfile.TemporaryFile(dir='.') as file:\n"
                              "  file.write(bytes(20 << 20))\n  file.flush()\n  time.sleep(0.2)"),
    "many-small": "for n in $(seq 5); do mkdir out; seq 2000 | sed s,^,out/, | xargs -n 500 touch; rm -r out; done; sleep 1",
    "closed-directory": "mkdir out; head -c 20M /dev/zero > out/file; chmod 000 out; sleep 3; chmod 700 out; rm -r out",
    "from-the-checkout": "exec 5< calc.py; rm calc.py; sleep 3; git checkout calc.py",
}  # fmt: skip


@pytest.mark.parametrize("program", FAIR_DISK.values(), ids=list(FAIR_DISK))
async def test_a_program_within_the_disk_limit_is_left_alone(fresh: Stage, program: str) -> None:
    """Writing and deleting a lot, files without a name, and directories closed to their owner are no offence."""
    assert "[exit 0" in await fresh.attack(program, timeout_s=40)


# -- output

PRINTERS = {
    "lines": "yes",
    "ten-gigabytes": "head -c 10G /dev/zero",
    "both": "yes & yes >&2",
    "lines-terminal": "yes",
    "escapes-terminal": "yes $'\\e]0;title'",
}


@pytest.mark.parametrize("name", PRINTERS)
async def test_endless_output_is_cut_and_stopped(stage: Stage, name: str) -> None:
    """A command that prints more than the limit is stopped, its result is short and says so, and the server stays small."""
    before = peak_memory(stage.server)
    said = await beside(stage, stage.attack(PRINTERS[name], tty=name.endswith("terminal"), timeout_s=20))
    assert "for printing more than 4.0 MiB" in said
    assert len(said) < BOUND
    assert peak_memory(stage.server) - before < 100 * MiB
    assert max(log_sizes(stage.server)) <= 16 * MiB
    await until("nothing of it is left", lambda: not in_cells(stage.server))


def test_outside_output_does_not_end() -> None:
    """The control of the test above: outside, half a second of printing is more than the limit."""
    assert int(outside("timeout 0.5 yes | wc -c").stdout) > OUTPUT


# -- large and odd files

BIG_CALLS = {
    "read_file": {"path": "big/file"},
    "read_file-far": {"path": "big/file", "offset": 100_000_000},
    "read_file-dark": {"path": "big/dark", "offset": 100_000_000},
    "grep": {"path": "big/file", "pattern": "line", "output_mode": "content"},
    "grep-count": {"path": "big", "pattern": "line", "output_mode": "count"},
    "grep-multiline": {"path": "big", "pattern": "line.*nowhere", "multiline": True},
    "edit_file": {"path": "big/file", "old_string": "line", "new_string": "row"},
    "write_file": {"path": "big/file", "content": "small"},
    "list_dir": {"path": "big"},
    "glob": {"pattern": "big/*"},
}


@pytest.fixture(scope="module")
async def big(roomy: Stage) -> Stage:
    """A file of two gigabytes with text at its start and end, and one of nothing but zeros; both take no room on the disk."""
    make = (
        "mkdir big && cd big && yes 'a line of text' | head -c 1M > file && truncate -s 2G file && truncate -s 2G dark;"
        "echo 'a last line' >> file"
    )
    await roomy.attack(make)
    assert roomy.on_host("big/file").stat().st_size > 1 << 31
    return roomy


@pytest.mark.parametrize("name", BIG_CALLS)
async def test_a_file_of_two_gigabytes_is_no_trouble(big: Stage, name: str) -> None:
    """Every tool answers for a huge file within seconds and within bounds, while commands of the same cell still run."""
    before = peak_memory(big.server)
    call = big.call(name.partition("-")[0], **BIG_CALLS[name])

    async def same_cell() -> None:
        await anyio.sleep(0.1)
        with anyio.fail_after(3):
            assert "well" in await big.attack("echo well")

    said = ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(same_cell)
        said = await beside(big, call, 20)
    assert 0 < len(said) < BOUND
    assert LOST not in said
    assert peak_memory(big.server) - before < 100 * MiB


LINE_CALLS = {
    "bash": {"command": "cat wide.js"},
    "read_file": {"path": "wide.js"},
    "grep": {"path": "wide.js", "pattern": "end", "output_mode": "content"},
    "edit_file-miss": {"path": "wide.js", "old_string": "var a=0;" * 50 + "nowhere", "new_string": "x"},
    "git_diff": {},
}


@pytest.fixture
async def wide(folder: Path) -> AsyncGenerator[Stage]:
    """A server of its own, because it may not answer any more, and a file of one line of a megabyte."""
    async with open_stage(folder, "") as opened:
        await opened.attack("for n in $(seq 131072); do printf 'var a=0;'; done > wide.js; echo end >> wide.js")
        yield opened


@pytest.mark.parametrize("name", LINE_CALLS)
async def test_a_line_of_a_megabyte_is_no_trouble(wide: Stage, name: str) -> None:
    """Every tool answers for a huge single line within seconds, and others are answered meanwhile."""
    assert outside("git diff --no-index --stat /dev/null wide.js", cwd=wide.on_host("")).returncode == 1
    said = await beside(wide, wide.call(name.partition("-")[0], **LINE_CALLS[name]), 12)
    assert 0 < len(said) < BOUND
    assert LOST not in said


PATTERNS = {
    "few-stars": "*a*a*a*b",
    "stars": "*a*a*a*a*a*a*a*a*b",
    "choices": "{a,aa,a*}" * 12 + "b",
    "long": "*a" * 2000 + "b",
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
async def test_a_pattern_takes_no_more_time_than_it_has_length(connect: Connect, folder: Path, pattern: str) -> None:
    """A pattern that can match in countless ways finds nothing, or is refused, at once, and others are answered meanwhile."""
    async with connect() as client:
        first, second = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        stage = Stage(client, folder, folder, server_of(folder), first, second, folder, "")
        await stage.attack(f"mkdir many; cd many; for n in $(seq 100); do touch {'a' * 240}$n; done")
        said = await beside(stage, stage.call("glob", pattern=pattern), 8)
        assert "No files match" in said or "use fewer" in said


EDITS = {
    "same-lines-miss": ("a\n" * 400_000, "a\n" * 20_000 + "b", "x"),
    "few-lines-often": ("0\n1\n2\n" * 2_000, "0\n1\n2\n" * 2_000, "2\n1\n0\n" * 2_000),
    "anchor-often": (("foo = 1\n" + "bar\n" * 50) * 300, "foo = 1\n" + "baz\n" * 2_000, "x"),
    "long-similar-lines": ("".join("ab" * 300 + f"{n}\n" for n in range(3_000)), "ab" * 290 + "zzz", "x"),
}


@pytest.mark.parametrize("name", EDITS)
async def test_an_edit_takes_seconds_at_most(connect: Connect, folder: Path, name: str) -> None:
    """However alike the lines of a file and of an edit are, others are answered while the edit is made or refused."""
    text, old, new = EDITS[name]
    async with connect() as client:
        first, second = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        stage = Stage(client, folder, folder, server_of(folder), first, second, folder, "")
        await stage.call("write_file", path="alike.txt", content=text)
        said = await beside(stage, stage.call("edit_file", path="alike.txt", old_string=old, new_string=new), 12)
    assert "alike.txt" in said


async def test_a_directory_of_twenty_thousand_files_is_no_trouble(stage: Stage) -> None:
    """Listing, finding and searching a crowded directory are quick, and cut with how to go on."""
    await stage.attack("mkdir crowd && cd crowd && seq 20000 | xargs -n 2000 touch")
    calls = {
        "list_dir": {"path": "crowd"}, "glob": {"pattern": "crowd/*"}, "grep": {"pattern": "x", "path": "crowd"},
        "workspace_status": {},
    }  # fmt: skip
    for tool, arguments in calls.items():
        said = await beside(stage, stage.call(tool, **arguments), 15)
        assert len(said) < BOUND
        assert LOST not in said
        assert tool not in ("list_dir", "glob") or "1,000 entries" in said or "20,000 files" in said
    await stage.attack("rm -r crowd")


DIG = python(
    "import os\nfor n in range({depth}):\n os.mkdir('ddddd')\n os.chdir('ddddd')\nopen('bottom', 'w').write('x')"
)


async def test_a_deep_tree_is_no_trouble(stage: Stage) -> None:
    """Every tool answers over three thousand directories in each other."""
    await stage.attack(DIG.format(depth=3000))
    for tool, arguments in (
        ("list_dir", {"depth": 10}), ("glob", {"pattern": "**/bottom"}), ("grep", {"pattern": "add"}), ("git_diff", {}),
        ("workspace_status", {}),
    ):  # fmt: skip
        said = await beside(stage, stage.call(tool, **arguments), 15)
        assert LOST not in said
        assert "bug in repocell" not in said
    await stage.attack("rm -rf ddddd")


async def test_a_workspace_with_a_deep_tree_can_be_closed(connect: Connect, big_folder: Path) -> None:
    """Closing deletes directories nested deeper than any path is long, and leaves none."""
    async with connect() as client:
        workspace = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "bash", command=DIG.format(depth=3000))
        await ask(client, "workspace_close", discard=True)
        assert not list(big_folder.glob(f"state/workspaces/{workspace}"))
        assert not list(big_folder.glob("state/layers/u*"))


async def test_a_server_starts_over_a_deep_tree(connect: Connect, big_folder: Path) -> None:
    """A tree left by a workspace that could not be deleted does not keep the next server from starting."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=DIG.format(depth=3000))
        await client.call_tool("workspace_close", {"discard": True})
    with anyio.fail_after(30):
        async with connect() as client:
            await ask(client, "workspace_open")
            assert await ask(client, "bash", command="echo well") == "well\n[exit 0, 0.0 s]"


# -- descriptors, time, crowds


async def test_open_files_are_bounded(stage: Stage) -> None:
    """A program that opens files without end gets to the limit and no further; the next one has all of its own."""
    opened = (
        "import os\nheld = []\ntry:\n while len(held) < 900: held.append(os.open('/dev/null', 0))\n"
        "except OSError as error: print(error)\nprint(len(held))"
    )
    assert outside(f"ulimit -Sn 1000; {python(opened)}").stdout == "900\n"
    said = await stage.attack(python(opened))
    assert "Too many open files" in said
    assert FILES - 16 < int(said.splitlines()[1]) < FILES
    await stage.healthy()


async def test_refused_reads_cost_the_guest_no_descriptor(stage: Stage) -> None:
    """Asking for what cannot be read, more often than the cell may open files, uses nothing up."""
    await stage.attack("mkdir -p folder; mkfifo pipe; touch closed; chmod 000 closed")
    for path in ("folder", "pipe", "closed", "absent"):
        for _ in range(FILES // 3):
            await stage.call("read_file", path=path)
    await stage.attack("rm -rf folder pipe closed")
    await stage.healthy()


async def test_a_server_outlives_more_commands_than_it_may_open_files(folder: Path, repo: Path) -> None:
    """A server that may open 100 files runs 120 commands, one after the other."""
    async with few_files(folder, repo) as client:
        await ask(client, "workspace_open")
        for number in range(120):
            assert str(number) in await ask(client, "bash", command=f"echo {number}")


@asynccontextmanager
async def few_files(folder: Path, repo: Path) -> AsyncGenerator[Client]:
    """A client of a server that was started with few descriptors."""
    args = ["--nofile=100", sys.executable, "-m", "repocell.cli", "serve", "--state-dir", str(folder / "state")]
    environment = child_environment(folder)
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        started = StdioServerParameters(command="prlimit", args=[*args, "--repo", str(repo)], env=environment)
        async with Client(stdio_client(started, errlog=log), mode="legacy") as client:
            yield client


async def test_spinning_processes_leave_others_their_share(stage: Stage) -> None:
    """While eight processes of one cell spin, another cell, the server and the same cell answer, and they end in time."""
    spin = "for n in $(seq 8); do while :; do :; done & done; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["bash", "-c", "while :; do :; done"], timeout=0.5, check=False)
    said = await beside(stage, stage.attack(spin, timeout_s=1))
    assert "stopped after its timeout" in said
    await until("nothing of it is left", lambda: not in_cells(stage.server))


@pytest.mark.parametrize(
    "command", ["sleep infinity", "cat", "read line < /dev/zero", "mkfifo p; cat p", "wait; tail -f /dev/null"]
)
async def test_waiting_forever_ends_in_time(stage: Stage, command: str) -> None:
    """A command that waits for what never comes ends by itself or at its timeout, which its result names."""
    with anyio.fail_after(6):
        said = await stage.attack(f"rm -f p; {command}", timeout_s=0.5)
    assert "stopped after its timeout of 0.5 s" in said or "[exit " in said


@pytest.mark.parametrize("workspaces", [1, 2])
async def test_sixty_four_calls_at_once_get_their_own_answers(roomy: Stage, workspaces: int) -> None:
    """Many calls at the same time, in one workspace or two, each get the answer that is theirs."""
    said: dict[int, str] = {}

    async def call(number: int) -> None:
        workspace = (roomy.cell, roomy.bystander)[number % workspaces]
        result = await roomy.client.call_tool(
            "bash", {"command": f"echo {number}; seq {number} | tail -1; exit {number}", "workspace": workspace}
        )
        said[number] = words(result)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(1, 65):
                tasks.start_soon(call, number)
    assert all(text.startswith(f"{number}\n{number}\n[exit {number},") for number, text in said.items())
    assert len(said) == 64


async def test_many_workspaces_can_be_opened_at_once(roomy: Stage) -> None:
    """Eight workspaces opened at the same time are eight, each with a cell of its own that works, and all close."""
    opened: list[str] = []

    async def open_one() -> None:
        workspace = (await ask(roomy.client, "workspace_open")).split()[1]
        assert "well" in await ask(roomy.client, "bash", command="echo well", workspace=workspace)
        opened.append(workspace)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(open_one)
    assert len(set(opened)) == 8
    for workspace in opened:
        await ask(roomy.client, "workspace_close", workspace=workspace)
