"""The file tools: read_file, write_file, edit_file, list_dir, through a real client."""

import base64
import struct
import zlib

import pytest
from mcp import Client
from mcp_types import ImageContent

from harness import Connect, ask, refuse

pytestmark = pytest.mark.anyio


async def put(client: Client, path: str, content: str) -> None:
    await ask(client, "write_file", path=path, content=content)


async def test_reading_numbers_lines_and_says_how_to_go_on(connect: Connect, era: str) -> None:
    """A window shows its own line numbers, and its last line names the offset that continues."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        await put(client, "long.txt", "".join(f"line {n}\n" for n in range(1, 101)))
        text = await ask(client, "read_file", path="long.txt", offset=11, limit=2)
        assert text == "    11\tline 11\n    12\tline 12\n(lines 11-12 of 100; go on with offset=13)"
        assert "(lines" not in await ask(client, "read_file", path="long.txt")


async def test_absolute_paths_below_the_workspace_work(connect: Connect) -> None:
    """/workspace/x and x are the same file."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert await ask(client, "read_file", path="/workspace/calc.py") == await ask(
            client, "read_file", path="./calc.py"
        )


@pytest.mark.parametrize("tool", ["read_file", "write_file", "edit_file", "list_dir"])
@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "/workspace/../etc/passwd", "a\0b"])
async def test_paths_outside_the_workspace_are_refused(connect: Connect, tool: str, path: str) -> None:
    """No file tool takes a path that leaves the workspace, and the answer says what it takes."""
    extra = {"write_file": {"content": "x"}, "edit_file": {"old_string": "a", "new_string": "b"}}.get(tool, {})
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "not a usable path" in await refuse(client, tool, path=path, **extra)


async def test_a_link_out_of_the_workspace_is_not_followed(connect: Connect) -> None:
    """A symbolic link to elsewhere in the cell is refused by file tools; one inside the workspace is followed."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="ln -s /etc/passwd out; ln -s calc.py in")
        assert "leads it out" in await refuse(client, "read_file", path="out")
        assert "return a - b" in await ask(client, "read_file", path="in")


async def test_long_lines_and_results_are_cut_and_say_so(connect: Connect) -> None:
    """A line of 5,000 characters is clipped; a result never exceeds 30,000."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await put(client, "wide.txt", "x" * 5000 + "\n" + "y" * 1000 + "\n" + ("z" * 1900 + "\n") * 40)
        text = await ask(client, "read_file", path="wide.txt")
        assert "x" * 2000 + "... (5,000 characters)" in text
        assert len(text) <= 30_000
        assert "go on with offset=" in text


async def test_empty_missing_and_directory(connect: Connect) -> None:
    """An empty file, an absent one (with the nearest name), a directory and an offset too far each get their own answer."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="touch empty")
        assert await ask(client, "read_file", path="empty") == "empty is empty."
        assert "Did you mean 'calc.py'" in await refuse(client, "read_file", path="cacl.py")
        assert "list_dir shows" in await refuse(client, "read_file", path="tests")
        assert "has 6 lines" in await refuse(client, "read_file", path="calc.py", offset=100)


def tiny_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


async def test_images_come_as_images_and_binaries_as_words(connect: Connect) -> None:
    """A PNG is returned as image content, other binary data as a description and never as text."""
    encoded = base64.b64encode(tiny_png()).decode()
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=f"echo {encoded} | base64 -d > p.png; head -c 5000 /dev/zero > z.bin")
        result = await client.call_tool("read_file", {"path": "p.png"})
        image = result.content[1]
        assert isinstance(image, ImageContent)
        assert base64.b64decode(image.data) == tiny_png()
        assert "z.bin is binary: 4.9 KiB" in await ask(client, "read_file", path="z.bin")
        assert "binary file" in await refuse(client, "edit_file", path="z.bin", old_string="a", new_string="b")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("printf 'RIFF1234WAVE\\0'", "RIFF media"),
        ("printf 'SQLite format 3\\0'", "a SQLite database"),
        ("cat /bin/true", "an ELF program"),
        ("printf 'a\\0' | gzip", "gzip data"),
        ("printf 'zero\\0'", "5 bytes, begins with"),
    ],
)
async def test_binary_files_are_described_by_what_they_are(connect: Connect, made: str, says: str) -> None:
    """Well-known formats are named; sound in a container that images come in too is no image."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=f"{made} > odd")
        assert says in await ask(client, "read_file", path="odd")


async def test_utf16_is_decoded(connect: Connect) -> None:
    """Text in UTF-16 with a byte order mark is shown as text, in windows, and says that it was decoded."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(
            client, "bash", command="printf 'one\\r\\ntw\u00f6\\r\\nthree\\r\\n' | iconv -f utf-8 -t utf-16 > wide"
        )
        text = await ask(client, "read_file", path="wide", offset=2, limit=1)
        assert text.startswith("     2\ttw\u00f6\n(lines 2-2 of 3; go on with offset=3)\n(decoded from UTF-16")
        assert "has 3 lines" in await refuse(client, "read_file", path="wide", offset=9)


async def test_a_two_gigabyte_file_is_windowed_promptly(connect: Connect) -> None:
    """A file far larger than memory limits is read in a window; editing it is refused with what to do instead."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="seq 1 5000 > big.txt; truncate -s 2G big.txt")
        text = await ask(client, "read_file", path="big.txt", limit=3)
        assert text.splitlines()[0].endswith("\t1")
        assert "2.0 GiB" in text
        assert "sed, python3" in await refuse(client, "edit_file", path="big.txt", old_string="1", new_string="2")


async def test_writing_refuses_what_was_not_read_or_has_changed(connect: Connect) -> None:
    """An existing file is replaced only when its present content was read; the content is untouched otherwise."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "was not read" in await refuse(client, "write_file", path="calc.py", content="x")
        await ask(client, "read_file", path="calc.py")
        await ask(client, "bash", command="echo '# by somebody else' >> calc.py")
        assert "changed since it was read" in await refuse(client, "write_file", path="calc.py", content="x")
        assert "by somebody else" in await ask(client, "read_file", path="calc.py")
        assert "Overwrote calc.py" in await ask(client, "write_file", path="calc.py", content="x\n")


async def test_writing_makes_directories_and_keeps_modes(connect: Connect) -> None:
    """Parents are made; an executable stays executable; no temporary file is left."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "Created a/b/c.sh" in await ask(client, "write_file", path="a/b/c.sh", content="echo 1\n")
        await ask(client, "bash", command="chmod 755 a/b/c.sh")
        await ask(client, "write_file", path="a/b/c.sh", content="echo 2\n")
        assert await ask(client, "bash", command="stat -c %a a/b/c.sh; ls -A a/b") == "755\nc.sh\n[exit 0, 0.0 s]"


async def test_an_edit_answers_with_a_short_diff(connect: Connect, era: str) -> None:
    """The changed lines are shown with context, and only they changed."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        text = await ask(client, "edit_file", path="calc.py", old_string="a - b", new_string="a + b")
        assert "-    return a - b\n+    return a + b" in text
        assert "+    return a + b" in await ask(client, "git_diff")


async def test_an_edit_that_matches_nothing_shows_the_nearest_text(connect: Connect) -> None:
    """No match: nothing is written, and the most similar lines are shown as a diff."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await refuse(
            client, "edit_file", path="calc.py", old_string="def add(a, c):\n    return a - b", new_string="x"
        )
        assert "was not found" in text
        assert "-def add(a, c):\n+def add(a, b):" in text
        assert "Nothing differs" in await ask(client, "git_diff")


async def test_an_edit_that_matches_twice_lists_the_lines(connect: Connect) -> None:
    """Two matches: nothing is written, the lines are named; replace_all changes both."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "lines 2, 6" in await refuse(
            client, "edit_file", path="calc.py", old_string="return", new_string="yield"
        )
        changed = await ask(
            client, "edit_file", path="calc.py", old_string="return", new_string="yield", replace_all=True
        )
        assert "2 places" in changed


async def test_line_endings_marks_and_bytes_survive_an_edit(connect: Connect) -> None:
    """CRLF, a byte order mark and bytes that are not UTF-8 are as they were, around the change."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=r"printf '\xef\xbb\xbfone\r\ntwo \xff\r\nthree\r\n' > odd.txt")
        await ask(client, "edit_file", path="odd.txt", old_string="three\n", new_string="drei\nvier\n")
        shown = await ask(client, "bash", command="od -An -tx1 odd.txt | tr -d ' \\n'")
        assert shown.startswith("efbbbf6f6e650d0a74776f20ff0d0a647265690d0a766965720d0a")


async def test_listing_shows_a_tree_with_sizes_and_links(connect: Connect) -> None:
    """Directories, sizes and link targets are shown to the depth asked for; .git is named but not entered."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="ln -s calc.py link; mkdir -p deep/er; touch deep/er/f; mkfifo pipe")
        text = await ask(client, "list_dir", depth=1)
        assert ".git/ (not shown)" in text
        assert "link -> calc.py" in text
        assert "pipe (special)" in text
        assert "er/" not in text
        assert "      f (0 bytes)" in await ask(client, "list_dir", depth=3)
        assert "list_dir and glob" in await refuse(client, "list_dir", path="zzzzz")
        assert "not a directory" in await refuse(client, "list_dir", path="calc.py")


@pytest.mark.parametrize("name", ["with space", "-rf", "quote'\"", "new\\nline", "ünïcode", "semi;colon", "*", "$(id)"])
async def test_odd_names_are_only_names(connect: Connect, name: str) -> None:
    """A file's name is never an option, a pattern or a command, whichever tool gets it."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await put(client, name, "needle\n")
        assert "needle" in await ask(client, "read_file", path=name)
        assert "needle" in await ask(client, "grep", pattern="needle", path=name, output_mode="content")
        assert "+needle" in await ask(client, "git_diff", path=name)
        assert name in await ask(client, "list_dir")


async def test_a_name_that_is_not_utf8_is_shown_escaped(connect: Connect) -> None:
    """Undecodable names do not break listings and searches."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command=r"printf needle > $'bad\xff'")
        assert r"bad\xff" in await ask(client, "list_dir")
        assert r"bad\xff" in await ask(client, "grep", pattern="needle")
        assert r"bad\xff" in await ask(client, "glob", pattern="bad*")


async def test_a_file_that_was_removed_can_be_written_again(connect: Connect) -> None:
    """What bash removed since it was read or written is made anew; what others put there meanwhile is not replaced."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "write_file", path="new.txt", content="one\n")
        await ask(client, "bash", command="rm new.txt")
        assert "Created new.txt" in await ask(client, "write_file", path="new.txt", content="two\n")
        await ask(client, "bash", command="rm new.txt; echo other > new.txt")
        assert "changed since it was read" in await refuse(client, "write_file", path="new.txt", content="three\n")
        assert "other" in await ask(client, "read_file", path="new.txt")
