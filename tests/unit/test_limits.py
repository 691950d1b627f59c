"""What a cell uses: pure sums and decisions, and looking at trees and processes of the test's own."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.models import MiB
from repocell.runtimes.breaches import Breaches
from repocell.runtimes.cgroups import read_kills
from repocell.runtimes.measure import Shared, held, largest, mapped_deleted, proportional, resident, total, tree_usage
from repocell.runtimes.segments import Segment, orphans, parse_table
from repocell.runtimes.watchdog import DISK_SLACK, DiskState

SIZES = st.dictionaries(st.integers(1, 50), st.integers(0, 1 << 40), max_size=8)
SHARED = st.lists(
    st.builds(Shared, st.integers(0, 1 << 40), st.sets(st.integers(1, 60), max_size=4)), max_size=6
)  # some holders are gone


# -- sums


@given(SIZES, SHARED)
def test_shared_memory_counts_once(private: dict[int, int], shared: list[Shared]) -> None:
    """The sum is the same whoever holds what is shared, and however many do."""
    alone = [Shared(one.size) for one in shared]
    assert total(private, shared) == total(private, alone) == sum(private.values()) + sum(one.size for one in shared)


@given(SIZES, SHARED)
def test_the_largest_process_is_one_that_is_there(private: dict[int, int], shared: list[Shared]) -> None:
    """It has and holds as much as any other; without processes there is none."""
    found = largest(private, shared)
    if found is None:
        assert not private
        return
    weights = {pid: size + sum(one.size for one in shared if pid in one.holders) for pid, size in private.items()}
    assert weights[found] == max(weights.values())


# -- the disk's limit


@given(st.integers(1, 1 << 40), st.lists(st.integers(0, 1 << 40), max_size=20))
def test_a_cell_below_its_disk_limit_always_may_go_on(limit: int, looks: list[int]) -> None:
    """What is allowed is never less than the limit, and never rises while nothing is stopped."""
    state = DiskState(0, limit * 2)
    for used in looks:
        after = state.after(used, limit)
        assert after.allowed >= limit
        assert after.allowed <= max(limit, state.allowed)
        state = after


def test_a_cell_over_its_disk_limit_may_shrink_but_not_grow() -> None:
    """After a stop, deleting is allowed at every step, and writing again more than a little is not."""
    state = DiskState(900 * MiB, 900 * MiB + DISK_SLACK)
    for used in (900 * MiB, 700 * MiB, 300 * MiB):
        assert used <= state.allowed
        state = state.after(used, 100 * MiB)
    assert state.allowed == 300 * MiB + DISK_SLACK
    assert state.after(50 * MiB, 100 * MiB).allowed == 100 * MiB


# -- tables of the kernel's

TABLE = """\
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime \
                  rss                  swap
         0          0   600              20971520  1511  1512      1     0     0     0     0 1795192513          0 1795192513 \
             20971520                  4096
         0          7  1600               1048576  1600  1600      0     0     0     0     0 1795192513          0 1795192513 \
                    0                     0
"""


def test_the_table_of_segments_is_read_by_its_columns() -> None:
    """Size is what is in memory or swap, not what was asked for; an empty table has none."""
    assert parse_table(TABLE) == (Segment(0, 1511, 1, 20971520 + 4096), Segment(7, 1600, 0, 0))
    assert parse_table("") == ()


def test_an_orphan_is_attached_nowhere_and_its_maker_is_gone() -> None:
    """A segment that somebody has attached, or whose maker lives, is left alone."""
    attached, made, orphan = Segment(1, 10, 1, 5), Segment(2, 11, 0, 5), Segment(3, 10, 0, 5)
    assert orphans((attached, made, orphan), frozenset({11})) == (orphan,)


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
        ("oom_kill_disable 0\nunder_oom 0\n", 0),
        ("", 0),
    ],
    ids=["v2", "v1", "v1-old", "nothing"],
)
def test_kills_are_read_from_either_hierarchy(text: str, kills: int) -> None:
    """memory.events and memory.oom_control name the number alike; names that only begin like it do not count."""
    assert read_kills(text) == kills


def test_only_what_happened_since_is_told() -> None:
    """A stop before a command began is not that command's."""
    assert Breaches(memory=2, disk=1).since(Breaches(memory=2)) == ("disk",)
    assert Breaches(memory=2).since(Breaches(memory=2)) == ()


# -- looking

HOLD = "import mmap, os, sys, threading, time\n"


@contextmanager
def program(code: str, folder: Path) -> Generator[int]:
    """A program of the test's own, once it has printed a line."""
    command = [sys.executable, "-I", "-S", "-c", HOLD + code]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL  # pytest's own stderr is a deleted file
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=null) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


SAY = "print('ready', flush=True)\ntime.sleep(60)"
WRITE = "f = open('x', 'w+b'); f.write(bytes(4 << 20)); f.flush()\n"


def test_deleted_files_that_are_open_are_seen(tmp_path: Path) -> None:
    """Once each, however often they are open; files with a name are not among them."""
    code = f"{WRITE}os.unlink('x'); again = [os.dup(f.fileno()) for n in range(9)]; kept = open('kept', 'w'); {SAY}"
    with program(code, tmp_path) as pid:
        found = held([pid], frozenset({tmp_path.stat().st_dev}))
        assert [(one.size >= 4 * MiB, one.holders) for one in found.values()] == [(True, {pid})]
        assert held([pid], frozenset()) == {}


def test_deleted_files_that_are_only_mapped_are_seen(tmp_path: Path) -> None:
    """A mapping keeps the file's room without any descriptor."""
    code = f"{WRITE}m = os.open('x', 0); import mmap\nmapped = mmap.mmap(m, 4 << 20, access=mmap.ACCESS_READ)\n"
    # Python's mmap keeps a copy of the descriptor, so all of them are closed behind its back.
    code += f"os.unlink('x'); os.closerange(3, 64); {SAY}"
    with program(code, tmp_path) as pid:
        devices = frozenset({tmp_path.stat().st_dev})
        assert held([pid], devices) == {}
        if os.geteuid() == 0:
            assert [one.size >= 4 * MiB for one in mapped_deleted([pid], devices).values()] == [True]


def test_memory_is_seen_behind_a_first_thread_that_ended(tmp_path: Path) -> None:
    """A process whose first thread is gone shows no memory of its own; its other threads do."""
    code = (
        "import ctypes\nheld = b'x' * (32 << 20)\n"
        "def rest():\n time.sleep(0.2)\n print('ready', flush=True)\n time.sleep(60)\n"
        "threading.Thread(target=rest).start()\nctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)"
    )
    with program(code, tmp_path) as pid:
        assert resident(pid) > 32 * MiB
        assert proportional(pid) > 32 * MiB


def test_memory_that_forks_share_counts_once(tmp_path: Path) -> None:
    """Copies on write are not counted before they are written."""
    code = "held = b'x' * (32 << 20)\nfor n in range(3):\n if os.fork() == 0: time.sleep(60)\n"
    with program(f"{code}{SAY}", tmp_path) as pid:
        children = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        try:
            family = [pid, *children]
            assert sum(map(resident, family)) > 4 * 32 * MiB
            assert 32 * MiB < sum(map(proportional, family)) < 64 * MiB
        finally:
            for child in children:
                os.kill(child, 9)


def test_a_tree_is_measured_without_following_links(tmp_path: Path) -> None:
    """Files below count, what links lead to does not, and what vanished or was never there is nothing."""
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_bytes(bytes(2 * MiB))
    (tmp_path / "far").write_bytes(bytes(8 * MiB))
    (tmp_path / "tree" / "link").symlink_to("../far")
    (tmp_path / "tree" / "loop").symlink_to("..", target_is_directory=True)
    seen = tree_usage(str(tmp_path / "tree"))
    assert 2 * MiB <= seen.size < 3 * MiB
    assert not seen.unseen
    assert not tree_usage(str(tmp_path / "absent")).unseen


def test_a_tree_too_deep_for_a_path_is_known_to_be_seen_in_part(tmp_path: Path) -> None:
    """Where the names grow longer than a path may be, the size is not passed off as the whole."""
    dig = "import os\nfor n in range(25):\n os.mkdir('d' * 200)\n os.chdir('d' * 200)"
    subprocess.run([sys.executable, "-c", dig], cwd=tmp_path, check=True)
    try:
        assert tree_usage(str(tmp_path)).unseen
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / ("d" * 200))], check=True)
