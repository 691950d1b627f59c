"""The guest's file verbs in a real sandbox: what they refuse, what they leave behind, and names and windows of all kinds.

The folder of the cell is looked at from the host.
"""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from contract.cells import ROOT, bounded, exists, open_wire, ran_well, refusal, run
from harness import OpenCell
from repocell.guest.agent import CREDIT, DATA, DONE, EOF, FAIL, MAX_BODY
from repocell.guest.link import GuestRefused, Link
from repocell.models import Limits, MiB
from repocell.runtimes.bubblewrap import Bubblewrap

pytestmark = pytest.mark.anyio


@pytest.fixture(name="open_cell")
def _open_bounded_cell(open_cell: OpenCell) -> OpenCell:
    return bounded(open_cell)


Request = Callable[[Link], Awaitable[object]]


def names_in(folder: Path) -> list[str]:
    """Everything in a cell's workspace, as the host sees it."""
    root = folder / "workspace"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# -- refusals

MAKE = """
mkdir -p full/sub closed empty; touch full/file file; chmod 0 closed; mkfifo fifo; ln -s loop2 loop1; ln -s loop1 loop2
ln -s /etc out; ln -s /etc/passwd passwd; ln -s nowhere dangling; mkdir shut; touch shut/inside; chmod 555 shut
mkdir -p tree/shut; touch tree/shut/inside; chmod 555 tree/shut
"""
LONG = "x" * 5000

REFUSALS: dict[str, tuple[Request, str]] = {
    "read nothing": (lambda link: link.read("none", root=ROOT, max_bytes=9), "not_found"),
    "read a directory": (lambda link: link.read("full", root=ROOT, max_bytes=9), "is_a_directory"),
    "read the root": (lambda link: link.read("", root=ROOT, max_bytes=9), "is_a_directory"),
    "read a FIFO": (lambda link: link.read("fifo", root=ROOT, max_bytes=9), "special"),
    "read a device": (lambda link: link.read("zero", root="/dev", max_bytes=9), "special"),
    "read below a file": (lambda link: link.read("file/a", root=ROOT, max_bytes=9), "not_a_directory"),
    "read in a closed directory": (lambda link: link.read("closed/a", root=ROOT, max_bytes=9), "denied"),
    "read a loop": (lambda link: link.read("loop1", root=ROOT, max_bytes=9), "loop"),
    "read a dangling link": (lambda link: link.read("dangling", root=ROOT, max_bytes=9), "not_found"),
    "read outside": (lambda link: link.read("out/passwd", root=ROOT, max_bytes=9), "outside"),
    "read above": (lambda link: link.read("../etc/passwd", root=ROOT, max_bytes=9), "outside"),
    "read the guest's own memory": (lambda link: link.read("/proc/self/environ", root=ROOT, max_bytes=9), "outside"),
    "read a neighbour by its prefix": (lambda link: link.read("/workspaces/a", root=ROOT, max_bytes=9), "outside"),
    "read a long name": (lambda link: link.read(LONG, root=ROOT, max_bytes=9), "name_too_long"),
    "read a NUL": (lambda link: link.read("a\0b", root=ROOT, max_bytes=9), "invalid"),
    "read half a character": (lambda link: link.read("a\ud800", root=ROOT, max_bytes=9), "invalid"),
    "write a directory": (lambda link: link.write("full", b"", root=ROOT), "is_a_directory"),
    "write the root": (lambda link: link.write("", b"", root=ROOT), "is_a_directory"),
    "write a FIFO": (lambda link: link.write("fifo", b"", root=ROOT), "special"),
    "write a device": (lambda link: link.write("null", b"", root="/dev"), "special"),
    "write below a file": (lambda link: link.write("file/a", b"", root=ROOT), "not_a_directory"),
    "write in a closed directory": (lambda link: link.write("closed/a", b"", root=ROOT), "denied"),
    "write in a directory that is read only": (lambda link: link.write("shut/a", b"", root=ROOT), "denied"),
    "write outside": (lambda link: link.write("passwd", b"", root=ROOT), "outside"),
    "write a loop": (lambda link: link.write("loop1", b"", root=ROOT), "loop"),
    "write a long name": (lambda link: link.write(LONG, b"", root=ROOT), "name_too_long"),
    "write a NUL": (lambda link: link.write("a\0b", b"", root=ROOT), "invalid"),
    "write the system": (lambda link: link.write("usr/new", b"", root="/"), "denied"),
    "stat nothing": (lambda link: link.stat("none", root=ROOT), "not_found"),
    "stat outside": (lambda link: link.stat("out/passwd", root=ROOT), "outside"),
    "stat a NUL": (lambda link: link.stat("a\0b", root=ROOT), "invalid"),
    "list nothing": (lambda link: link.list("none", root=ROOT, depth=1, limit=9), "not_found"),
    "list a file": (lambda link: link.list("file", root=ROOT, depth=1, limit=9), "not_a_directory"),
    "list a closed directory": (lambda link: link.list("closed", root=ROOT, depth=1, limit=9), "denied"),
    "list outside": (lambda link: link.list("out", root=ROOT, depth=1, limit=9), "outside"),
    "remove nothing": (lambda link: link.remove("none", root=ROOT), "not_found"),
    "remove the root": (lambda link: link.remove("", root=ROOT, recursive=True), "invalid"),
    "remove what is full": (lambda link: link.remove("full", root=ROOT), "not_empty"),
    "remove outside": (lambda link: link.remove("out/passwd", root=ROOT), "outside"),
    "remove from what is read only": (lambda link: link.remove("shut/inside", root=ROOT), "denied"),
    "remove a tree that is read only": (lambda link: link.remove("tree", root=ROOT, recursive=True), "denied"),
    "move nothing": (lambda link: link.move("none", "a", root=ROOT), "not_found"),
    "move the root": (lambda link: link.move("", "a", root=ROOT), "invalid"),
    "move into itself": (lambda link: link.move("full", "full/sub/full", root=ROOT), "invalid"),
    "move onto something": (lambda link: link.move("file", "full", root=ROOT), "exists"),
    "move onto itself": (lambda link: link.move("file", "file", root=ROOT), "exists"),
    "move onto a dangling link": (lambda link: link.move("file", "dangling", root=ROOT), "exists"),
    "move below a file": (lambda link: link.move("full", "file/full", root=ROOT), "not_a_directory"),
    "move outside": (lambda link: link.move("file", "out/file", root=ROOT), "outside"),
    "move from outside": (lambda link: link.move("out/passwd", "a", root=ROOT), "outside"),
    "move from what is read only": (lambda link: link.move("shut/inside", "a", root=ROOT), "denied"),
}  # fmt: skip


async def test_every_refusal_has_its_code_and_changes_nothing(open_cell: OpenCell, folder: Path) -> None:
    """What cannot be done is refused by what is wrong with it, at once; the files and the guest stay as they are."""
    async with open_cell() as link:
        await ran_well(link, MAKE)
        before = names_in(folder)
        with anyio.fail_after(20):
            found = {name: await refusal(request(link)) for name, (request, _) in REFUSALS.items()}
        assert found == {name: code for name, (_, code) in REFUSALS.items()}
        assert names_in(folder) == before
        assert await ran_well(link, "echo alive; chmod -R 755 closed shut tree") == "alive"


async def test_a_fifos_writer_is_not_woken(open_cell: OpenCell, folder: Path) -> None:
    """Reading and writing a FIFO is refused without opening it, so a process that waits at its other end goes on waiting."""
    async with open_cell() as link:
        await ran_well(
            link, "mkfifo fifo; (echo waiting > started; echo through > fifo; echo opened > opened) >&- 2>&- &"
        )
        await exists(folder / "workspace" / "started")
        assert await refusal(link.read("fifo", root=ROOT, max_bytes=9)) == "special"
        assert await refusal(link.write("fifo", b"x", root=ROOT)) == "special"
        assert (await link.stat("fifo", root=ROOT)).kind == "special"
        assert await ran_well(link, "cat fifo") == "through"


# -- writes


async def test_an_old_files_mode_is_kept_and_a_new_one_has_the_usual(open_cell: OpenCell, folder: Path) -> None:
    """Without a mode a script stays executable and a new file is 0644; with one, that is what it gets."""
    workspace = folder / "workspace"
    async with open_cell() as link:
        await ran_well(link, "echo old > script; chmod 751 script; umask 077")
        assert (await link.write("script", b"new\n", root=ROOT)).mode == 0o751
        assert (await link.write("new", b"", root=ROOT)).mode == 0o644
        assert (await link.write("asked", b"", root=ROOT, mode=0o600)).mode == 0o600
        assert (await link.write("script", b"", root=ROOT, mode=0o644)).created is False
    modes = {name: (workspace / name).stat().st_mode & 0o7777 for name in ("script", "new", "asked")}
    assert modes == {"script": 0o644, "new": 0o644, "asked": 0o600}


async def test_a_write_through_a_link_keeps_the_link(open_cell: OpenCell, folder: Path) -> None:
    """A link inside the root is followed, also one to nothing: its target is written, and it stays a link."""
    async with open_cell() as link:
        await ran_well(link, "mkdir d; echo old > d/real; ln -s d/real good; ln -s d/new dangling; ln -s d dir")
        assert (await link.write("good", b"1", root=ROOT)).created is False
        assert (await link.write("dangling", b"2", root=ROOT, expect="absent")).created is True
        assert (await link.write("dir/third", b"3", root=ROOT)).created is True
    workspace = folder / "workspace"
    assert [(workspace / "d" / name).read_bytes() for name in ("real", "new", "third")] == [b"1", b"2", b"3"]
    assert all((workspace / name).is_symlink() for name in ("good", "dangling", "dir"))


async def test_what_appears_meanwhile_is_not_overwritten(runtime: Bubblewrap, folder: Path) -> None:
    """A file that came to be while its content was on the way is a conflict for who expected none, told by its digest."""
    async with open_wire(runtime, folder) as wire:
        stream = await wire.open("write", path="new", root=ROOT, expect="absent")
        await wire.say(DATA, stream, None, b"mine")
        await wire.hear(stream, CREDIT)
        made = await wire.open("spawn", argv=["bash", "-c", "printf theirs > new"], cwd=ROOT)
        await wire.hear(made, DONE)
        await wire.say(EOF, stream)
        told = (await wire.hear(stream, FAIL)).meta
    assert told == {"error": "conflict", "found": hashlib.sha256(b"theirs").hexdigest()}
    assert (folder / "workspace" / "new").read_bytes() == b"theirs"
    assert names_in(folder) == ["new"]


@pytest.mark.parametrize("way", ["cancelled", "lost"])
async def test_a_write_that_ends_halfway_leaves_nothing(runtime: Bubblewrap, folder: Path, way: str) -> None:
    """When the host gives up, or is gone, the old file stands as it was and no other beside it."""
    async with open_wire(runtime, folder) as wire:
        made = await wire.open("spawn", argv=["bash", "-c", "printf old > file"], cwd=ROOT)
        await wire.hear(made, DONE)
        stream = await wire.open("write", path="file", root=ROOT)
        for _ in range(8):
            await wire.say(DATA, stream, None, bytes(MAX_BODY))
            await wire.hear(stream, CREDIT)
        if way == "cancelled":
            await wire.say(DONE, stream)
            assert (await wire.hear(stream, FAIL)).meta == {"error": "cancelled"}
            assert names_in(folder) == ["file"]
    assert names_in(folder) == ["file"]
    assert (folder / "workspace" / "file").read_bytes() == b"old"


async def test_a_full_disk_leaves_nothing(open_cell: OpenCell) -> None:
    """A write that no longer fits is refused with "no_space"; the old content stands, and nothing else is in the way."""
    async with open_cell(Limits(temporary=1 * MiB)) as link:
        await link.write("file", b"old", root="/tmp")
        assert await refusal(link.write("file", bytes(2 * MiB), root="/tmp")) == "no_space"
        assert await ran_well(link, "cat /tmp/file; ls -A /tmp") == "oldfile"


async def test_a_file_above_the_limit_leaves_nothing(open_cell: OpenCell, folder: Path) -> None:
    """A write beyond the size a file may have is refused with "no_space", and the guest outlives the signal it is sent."""
    async with open_cell(Limits(disk=16 * MiB)) as link:
        assert await refusal(link.write("file", bytes(17 * MiB), root=ROOT)) == "no_space"
        assert names_in(folder) == []
        assert (await link.write("file", bytes(15 * MiB), root=ROOT)).created


@pytest.mark.parametrize("size", [0, 1, MAX_BODY, MAX_BODY + 1, 3 * MiB])
async def test_what_is_written_is_read(open_cell: OpenCell, size: int) -> None:
    """Content of any size comes back byte for byte, with the digest the write told."""
    body = bytes(range(251)) * (size // 251 + 1)
    async with open_cell() as link:
        written = await link.write("file", body[:size], root=ROOT, expect="absent")
        window = await link.read("file", root=ROOT, max_bytes=4 * MiB)
        assert (window.body, window.digest, window.cut) == (body[:size], written.digest, False)
        assert (await link.stat("file", root=ROOT, digest=True)).digest == written.digest
        assert (await link.write("file", b"", root=ROOT, expect=written.digest)).created is False


# -- reads

TEXTS = {
    "empty": b"",
    "one newline": b"\n",
    "no newline": b"one",
    "a last line without one": b"one\ntwo",
    "CRLF": b"one\r\ntwo\r\n",
    "empty lines": b"\n\n\n",
    "a NUL": b"one\0\ntwo\n",
    "lines longer than a block": b"a" * 200_000 + b"\n" + b"b" * 300_000 + b"\nc\n",
}


@pytest.mark.parametrize("name", TEXTS)
async def test_lines_are_counted_and_cut_as_they_stand(open_cell: OpenCell, name: str) -> None:
    """Windows of lines are what splitting the file at its newlines gives, and the facts are those of the whole file."""
    text = TEXTS[name]
    lines = text.splitlines(keepends=True) if b"\r" not in text else [b"one\r\n", b"two\r\n"]
    async with open_cell() as link:
        await link.write("file", text, root=ROOT)
        for start in range(1, len(lines) + 2):
            for count in (1, 2):
                window = await link.read("file", root=ROOT, max_bytes=MiB, start_line=start, line_count=count)
                assert window.body == b"".join(lines[start - 1 : start - 1 + count])
                assert (window.lines, window.size, window.cut) == (len(lines), len(text), False)
                assert window.digest == hashlib.sha256(text).hexdigest()
                assert window.binary == (b"\0" in text)


async def test_a_window_is_cut_at_its_limit(open_cell: OpenCell) -> None:
    """No more than max_bytes come, "cut" tells whether there was more, and the facts are still those of the whole."""
    async with open_cell() as link:
        await link.write("file", b"one\ntwo\n", root=ROOT)
        for limit, cut in ((0, True), (1, True), (7, True), (8, False), (9, False)):
            window = await link.read("file", root=ROOT, max_bytes=limit)
            assert (window.body, window.cut, window.lines) == (b"one\ntwo\n"[:limit], cut, 2)
        window = await link.read("file", root=ROOT, max_bytes=5, start_line=2)
        assert (window.body, window.cut) == (b"two\n", False)


async def test_bytes_from_an_offset_on(open_cell: OpenCell) -> None:
    """A range of bytes begins where it was asked to, ends at its limit or the file's end, and has no digest."""
    async with open_cell() as link:
        await link.write("file", bytes(range(100)), root=ROOT)
        for offset, limit in ((1, 5), (99, 5), (100, 5), (1000, 5), (50, 500)):
            window = await link.read("file", root=ROOT, max_bytes=limit, offset=offset)
            assert window.body == bytes(range(100))[offset : offset + limit]
            assert (window.size, window.digest, window.lines) == (100, None, None)


async def test_a_file_that_grows_without_end_is_read_to_where_it_ended(open_cell: OpenCell) -> None:
    """A read ends although a command goes on to append: what is sent is what there was when the file was opened."""
    async with open_cell() as link, link.spawn(["bash", "-c", "yes > file & yes"], cwd=ROOT) as writing:
        await writing.receive()
        while (await link.list("", root=ROOT, depth=1, limit=9))[0] == []:
            pass
        with anyio.fail_after(20):
            window = await link.read("file", root=ROOT, max_bytes=1000)
        assert len(window.body) <= window.size


# -- names and lists


async def test_names_that_are_no_text_are_names(open_cell: OpenCell) -> None:
    """A name in another encoding can be listed, read, written, moved and removed by what a list calls it."""
    async with open_cell() as link:
        await ran_well(link, "printf x > $'caf\\xe9'; ln -s $'caf\\xe9' link; mkdir $'d\\xff'; touch $'d\\xff/\\xfe'")
        entries, _ = await link.list("", root=ROOT, depth=2, limit=9)
        assert [entry.path for entry in entries] == ["caf\udce9", "d\udcff", "d\udcff/\udcfe", "link"]
        assert entries[3].target == "caf\udce9"
        assert (await link.read("caf\udce9", root=ROOT, max_bytes=9)).body == b"x"
        await link.write("caf\udce9", b"y", root=ROOT)
        await link.move("caf\udce9", "caf\udce8", root=ROOT)
        assert await ran_well(link, "cat $'caf\\xe8'") == "y"
        await link.remove("d\udcff", root=ROOT, recursive=True)
        await link.remove("caf\udce8", root=ROOT)
        assert await ran_well(link, "ls -A") == "link"


async def test_options_are_not_read_out_of_names(open_cell: OpenCell) -> None:
    """Names that look like options of rm and mv are names for them too."""
    async with open_cell() as link:
        await ran_well(link, "mkdir -p ./-rf/sub ./--help keep")
        await link.move("-rf", "-t", root=ROOT)
        await link.remove("-t", root=ROOT, recursive=True)
        await link.remove("--help", root=ROOT, recursive=True)
        assert await ran_well(link, "ls -A") == "keep"


async def test_a_list_ends_at_its_limit(open_cell: OpenCell) -> None:
    """Of five hundred names the first ten come, and word that there are more; of exactly ten all, and no such word."""
    async with open_cell() as link:
        await ran_well(link, "mkdir many few; cd many; touch {0001..0500}; cd ../few; touch {0..9}")
        entries, more = await link.list("many", root=ROOT, depth=1, limit=10)
        assert ([entry.path for entry in entries], more) == ([f"{n:04}" for n in range(1, 11)], True)
        entries, more = await link.list("few", root=ROOT, depth=1, limit=10)
        assert (len(entries), more) == (10, False)


async def test_a_list_too_large_for_a_frame_is_cut(open_cell: OpenCell) -> None:
    """Names that take more room than one answer has are left out, with word that there are more; nothing breaks."""
    make = "import os\nfor n in range(2000): os.mkdir(b'%04d' % n + b'\\xff' * 246)"
    async with open_cell() as link:
        await ran_well(link, f'mkdir d; cd d; /usr/bin/python3 -c "{make}"')
        entries, more = await link.list("d", root=ROOT, depth=1, limit=2000)
        assert more
        assert [entry.path[:4] for entry in entries] == [f"{n:04}" for n in range(len(entries))]
        assert len(entries) > 400


async def test_a_list_goes_as_deep_as_asked_and_not_where_it_shall_not(open_cell: OpenCell) -> None:
    """Each directory comes before what is in it; skipped, closed and linked ones are named and not looked into."""
    async with open_cell() as link:
        await ran_well(link, "mkdir -p a/b/c .git/x shut; touch a/b/c/f .git/x/y shut/f; ln -s a link; chmod 0 shut")
        entries, more = await link.list("", root=ROOT, depth=3, limit=99, skip=(".git",))
        kinds = {entry.path: entry.kind for entry in entries}
        assert list(kinds) == [".git", "a", "a/b", "a/b/c", "link", "shut"]
        assert (kinds["link"], kinds["shut"], more) == ("symlink", "directory", False)
        entries, _ = await link.list("a/b", root=ROOT, depth=1, limit=99)
        assert [entry.path for entry in entries] == ["c"]
        await ran_well(link, "chmod 700 shut")


# -- moves and removals


async def test_a_link_is_moved_and_removed_itself(open_cell: OpenCell) -> None:
    """Verbs that change names take a link for what it is; what it leads to stays."""
    async with open_cell() as link:
        await ran_well(link, "mkdir d; touch d/f; ln -s d link; ln -s /etc out")
        await link.move("link", "moved", root=ROOT)
        assert (await link.stat("moved", root=ROOT)).target == "d"
        await link.remove("moved", root=ROOT, recursive=True)
        await link.remove("out", root=ROOT, recursive=True)
        assert await ran_well(link, "ls -A . d; ls -d /etc") == ".:\nd\n\nd:\nf\n/etc"


async def test_what_cannot_be_renamed_is_copied(open_cell: OpenCell, folder: Path) -> None:
    """A move to another file system takes content, modes, links and times along and leaves nothing at the old place."""
    async with open_cell() as link:
        await ran_well(
            link, "mkdir -p t/sub; echo x > t/sub/f; chmod 751 t/sub/f; ln -s sub/f t/link; touch -d @1 t/sub/f"
        )
        await ran_well(link, "echo y > file")
        await link.move("workspace/t", "home/agent/deep/t", root="/")
        await link.move("workspace/file", "home/agent/deep/file", root="/")
    moved = folder / "home" / "deep" / "t"
    assert names_in(folder) == []
    assert (moved / "sub" / "f").read_bytes() == b"x\n"
    facts = (moved / "sub" / "f").stat()
    assert (facts.st_mode & 0o777, facts.st_mtime, (moved / "link").is_symlink()) == (0o751, 1.0, True)
    assert (folder / "home" / "deep" / "file").read_bytes() == b"y\n"


async def test_a_deep_tree_is_removed(open_cell: OpenCell, folder: Path) -> None:
    """Depth beyond what any path can name is no obstacle."""
    async with open_cell() as link:
        make = "import os\nfor n in range(1500): os.mkdir('dddddd'); os.chdir('dddddd')"
        await ran_well(link, f'mkdir deep; cd deep; /usr/bin/python3 -c "{make}"')
        await link.remove("deep", root=ROOT, recursive=True)
    assert names_in(folder) == []


async def test_a_cancelled_removal_stops(open_cell: OpenCell) -> None:
    """Whoever no longer waits for a tree to be removed leaves a guest that works, and no program at work for nobody."""
    async with open_cell() as link:
        await ran_well(
            link,
            "mkdir t; cd t; for i in {1..300}; do mkdir $i; done; echo */ | xargs -n 1 sh -c 'cd $0; touch {1..9}'",
        )
        with anyio.move_on_after(0.001):
            await link.remove("t", root=ROOT, recursive=True)
        with anyio.fail_after(10):
            while "rm" in (await run(link, "ps -eo comm")).out.decode().split():
                pass
        with suppress(GuestRefused):  # it may have got to the end
            await link.remove("t", root=ROOT, recursive=True)
        assert await ran_well(link, "ls -A") == ""
