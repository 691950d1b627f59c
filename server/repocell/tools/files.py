"""Reading, writing, editing and listing files of a workspace.

Lives here: the four tools' arguments, handlers and wording. It may not open files: workspaces do that inside the cell.
"""

import posixpath
from bisect import bisect_right
from itertools import accumulate
from typing import Annotated

from anyio import to_thread
from pydantic import Field

from ..errors import EditRefused, FileChanged, FileTooLarge, WrongKind
from ..models import DirectoryEntry, FileWindow, KiB, MiB, WorkspacePath
from .base import MAX_TEXT, Call, Image, InWorkspace, Reply, Services, Tool, workspace_of
from .edits import Edit, Refused, replace
from .kinds import image_type, is_utf16, kind_of
from .text import cut_middle, printable, size_of

MAX_LINE = 2_000
MAX_READ = 256 * KiB
MAX_EDITED = 16 * MiB
MAX_IMAGE = 5 * MiB
MAX_ENTRIES = 1_000
MAX_UTF16 = 4 * MiB
QUICK_EDIT = 64 * KiB
SKIPPED = (".git", "node_modules", "__pycache__", ".venv")
FilePath = Annotated[WorkspacePath, Field(description="Path relative to the workspace, or absolute below /workspace.")]


class ReadFile(InWorkspace):
    path: FilePath
    offset: int = Field(default=1, ge=1, description="First line, counted from 1.")
    limit: int = Field(default=2000, ge=1, le=10_000, description="Number of lines.")


async def read_file(services: Services, call: Call[ReadFile]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    window = await ws.read(args.path, max_bytes=MAX_READ, start_line=args.offset, line_count=args.limit)
    if window.binary:
        head = window if args.offset == 1 else await ws.read(args.path, max_bytes=16)
        return await _binary(services, call, head)
    if window.size == 0:
        return Reply(f"{args.path} is empty.")
    if not window.body:
        total = f"{window.lines:,}" if window.lines is not None else "fewer"
        return Reply(f"{args.path} has {total} lines; offset {args.offset:,} is behind its end.", failed=True)
    return Reply(number_lines(window, args.offset))


def number_lines(window: FileWindow, first: int) -> str:
    """Numbered lines, long ones cut, and a last line that says where to go on; within MAX_TEXT."""
    lines = window.body.decode("utf-8", errors="replace").removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    if b"\r" in window.body:
        lines = [line.removesuffix("\r") for line in lines]
    out = [
        str(number).rjust(6) + "\t" + (line if len(line) <= MAX_LINE else _cut(line))
        for number, line in enumerate(lines, first)
    ]
    ends = list(accumulate(len(text) + 1 for text in out))
    del out[bisect_right(ends, MAX_TEXT - 200) :]
    last = first + len(out) - 1
    total = f"{window.lines:,}" if window.lines is not None else f"a file of {size_of(window.size)}"
    if window.lines is None or last < window.lines:
        out.append(f"(lines {first:,}-{last:,} of {total}; go on with offset={last + 1})")
    return "\n".join(out)


def _cut(line: str) -> str:
    return f"{line[:MAX_LINE]}... ({len(line):,} characters)"


async def _binary(services: Services, call: Call[ReadFile], window: FileWindow) -> Reply:
    path, head = call.args.path, window.body[:16]
    kind = image_type(head)
    if kind is None and is_utf16(head) and window.size <= MAX_UTF16:
        return await _utf16(services, call)
    if kind is None:
        what = kind_of(head)
        return Reply(
            f"{path} is binary: {size_of(window.size)}, {f'{what}, ' if what else ''}begins with {head.hex(' ')}. Use bash "
            "(file, xxd, strings) to look into it."
        )
    if window.size > MAX_IMAGE:
        raise FileTooLarge(path, window.size, MAX_IMAGE, "Make it smaller with a tool in bash first.")
    whole = await workspace_of(services, call).read(path, max_bytes=MAX_IMAGE)
    return Reply(f"{path}: {kind}, {size_of(whole.size)}", image=Image(whole.body, kind))


async def _utf16(services: Services, call: Call[ReadFile]) -> Reply:
    """UTF-16 text as it reads, with line numbers, and a word that edit_file does not take it."""
    args = call.args
    whole = await workspace_of(services, call).read(args.path, max_bytes=MAX_UTF16)
    lines = whole.body.decode("utf-16", errors="replace").split("\n")
    count = len(lines) - (lines[-1] == "")
    wanted = lines[args.offset - 1 : min(count, args.offset - 1 + args.limit)]
    if not wanted:
        return Reply(f"{args.path} has {count:,} lines; offset {args.offset:,} is behind its end.", failed=True)
    body = "\n".join([*wanted, ""]).encode("utf-8", errors="replace")
    text = number_lines(whole.model_copy(update={"body": body, "lines": count}), args.offset)
    return Reply(f"{text}\n(decoded from UTF-16; edit_file does not take it, iconv in bash converts it)")


class WriteFile(InWorkspace):
    path: FilePath
    content: str = Field(description="The whole new content.")


async def write_file(services: Services, call: Call[WriteFile]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    _need_name(args.path)
    async with ws.writing:
        seen = ws.seen.get(args.path)
        try:
            written = await ws.write(args.path, _encode(args.content), expect=seen or "absent")
        except FileChanged:
            why = "it changed since it was read" if seen else "it exists already and was not read in this workspace"
            raise FileChanged(args.path, why) from None
    lines = args.content.count("\n") + (not args.content.endswith("\n") and args.content != "")
    verb = "Created" if written.created else "Overwrote"
    return Reply(f"{verb} {args.path} ({lines:,} lines, {size_of(len(_encode(args.content)))}).")


class EditFile(InWorkspace):
    path: FilePath
    old_string: str = Field(description="Text to replace; must match one place exactly, indentation included.")
    new_string: str = Field(description="What to put there.")
    replace_all: bool = Field(default=False, description="Replace every place instead of exactly one.")


async def edit_file(services: Services, call: Call[EditFile]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    _need_name(args.path)
    async with ws.writing:
        before = await ws.read(args.path, max_bytes=MAX_EDITED)
        if before.cut or before.digest is None:
            raise FileTooLarge(args.path, before.size, MAX_EDITED, "Change it with a program in bash (sed, python3).")
        if before.binary:
            raise WrongKind(args.path, "a binary file", "Change it with a program in bash.")
        edit, body = await _edited(before.body, args)
        if not isinstance(edit, Edit):
            raise EditRefused(args.path, edit.why, edit.detail)
        await ws.write(args.path, body, expect=before.digest)
    note = f" ({edit.note})" if edit.note else ""
    places = f"{edit.count} places" if edit.count > 1 else "1 place"
    diff = edit.diff.encode("utf-8", errors="replace").decode()
    return Reply(f"Changed {places} in {args.path}{note}.\n{diff}")


async def _edited(body: bytes, args: EditFile) -> tuple[Edit | Refused, bytes]:
    """The edit and the new content; beside the event loop when it takes longer than a thread's start."""

    def work() -> tuple[Edit | Refused, bytes]:
        edit = replace(_decode(body), args.old_string, args.new_string, everywhere=args.replace_all)
        return edit, _encode(edit.text) if isinstance(edit, Edit) else b""

    quick = len(body) + len(args.old_string) + len(args.new_string) <= QUICK_EDIT
    return work() if quick else await to_thread.run_sync(work)


def _need_name(path: str) -> None:
    if not path:
        raise WrongKind(path or ".", "the workspace itself", "Name a file in it.")


def _decode(body: bytes) -> str:
    return body.decode("utf-8", errors="surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


class ListDir(InWorkspace):
    path: FilePath = ""
    depth: int = Field(default=2, ge=1, le=10, description="How many levels to show.")


async def list_dir(services: Services, call: Call[ListDir]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    listing = await ws.list(args.path, depth=args.depth, limit=MAX_ENTRIES, skip=SKIPPED)
    shown = [_entry_line(entry) for entry in sorted(listing.entries, key=lambda entry: entry.path.split("/"))]
    if listing.more:
        shown.append(f"(cut at {MAX_ENTRIES:,} entries; give a path, a smaller depth, or use glob)")
    text = "\n".join([f"{args.path or '.'}/", *shown]) if shown else f"{args.path or '.'}/ is empty."
    return Reply(cut_middle(text, MAX_TEXT, "give a path or a smaller depth to see less at a time"))


def _entry_line(entry: DirectoryEntry) -> str:
    indent = "  " * (entry.path.count("/") + 1)
    name = printable(posixpath.basename(entry.path))
    if entry.kind == "directory":
        skipped = posixpath.basename(entry.path) in SKIPPED
        return f"{indent}{name}/" + (" (not shown)" if skipped else "")
    if entry.kind == "symlink":
        return f"{indent}{name} -> {printable(entry.target or '')}"
    return f"{indent}{name}" + (f" ({size_of(entry.size)})" if entry.kind == "file" else " (special)")


TOOLS = (
    Tool(
        name="read_file", title="Read a file", toolset="core", effect="read", arguments=ReadFile, handler=read_file,
        idempotent=True,
        description="Reads a text file of the workspace with line numbers, 2000 lines from offset on by default. Long lines "
        "are cut at 2000 characters and a result at 30,000; the last line then says which offset goes on. PNG, JPEG, GIF and "
        "WebP come back as images, other binary files as a description. Read a file before write_file overwrites it.",
    ),
    Tool(
        name="write_file", title="Write a file", toolset="core", effect="write", arguments=WriteFile, handler=write_file,
        destructive=True, idempotent=True,
        description="Makes a file with this content, or replaces one that was read before and has not changed since; "
        "otherwise it refuses and says why. Parent directories are made. Atomic, keeps the file's mode. To change part of a "
        "file use edit_file.",
    ),
    Tool(
        name="edit_file", title="Edit a file", toolset="core", effect="write", arguments=EditFile, handler=edit_file,
        destructive=True,
        description="Replaces old_string by new_string in a text file. old_string must name exactly one place (or set "
        "replace_all): give enough lines around the change. Trailing spaces and indentation are tolerated when nothing "
        "matches exactly, also typographic quotes and dashes, and the result says so. When it matches nothing or several places, "
        "the nearest text or the candidates are shown and nothing changes. Atomic; keeps line endings and mode. Answers with a "
        "short diff.",
    ),
    Tool(
        name="list_dir", title="List a directory", toolset="core", effect="read", arguments=ListDir, handler=list_dir,
        idempotent=True,
        description="Shows the files and directories below a path of the workspace as a tree, with sizes and link targets, "
        "two levels deep by default, at most 1000 entries. Contents of .git, node_modules, __pycache__ and .venv are not "
        "shown. To find files by name use glob, to find text use grep.",
    ),
)  # fmt: skip
