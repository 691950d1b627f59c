"""Finding text and files: ripgrep, run inside the cell.

Lives here: arguments to ripgrep's command line (a pattern is never an option), and pages of its answer. It may not search
on the host.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

from anyio import to_thread
from pydantic import Field

from ..errors import SearchFailed, WrongKind, suggest
from ..globs import glob_matcher
from ..models import TOOLS_DIR, WORKSPACE_DIR, MiB
from ..workspaces.workspace import Collected, Workspace
from .base import MAX_TEXT, Call, InWorkspace, Reply, Services, Tool, workspace_of
from .files import FilePath
from .ripgrep import MAX_COLUMNS, Shown, complaint, content, file_counts, file_names, name_of, near_types, whole

RG = f"{TOOLS_DIR}/rg"
MAX_COLLECTED = 16 * MiB
MAX_HINTS = 5
MATCHING_SECONDS = 10.0
_COMMON = ("--no-config", "--color=never", "--hidden", "--no-messages")
_NEVER = "--glob=!.git"  # the last glob that matches decides, so this one comes after the caller's


class Grep(InWorkspace):
    pattern: str = Field(description="Regular expression (Rust syntax).")
    path: FilePath = Field(default="", description="File or directory to search.")
    glob: str | None = Field(default=None, description="Only files matching, like '*.py' or '!test_*'.")
    type: str | None = Field(default=None, description="Only files of a ripgrep type, like py, js, rust.")
    output_mode: Literal["files_with_matches", "content", "count"] = "files_with_matches"
    before: int = Field(default=0, ge=0, le=50, description="Lines before each match (content mode).")
    after: int = Field(default=0, ge=0, le=50, description="Lines after.")
    context: int = Field(default=0, ge=0, le=50, description="Lines on both sides.")
    ignore_case: bool = False
    multiline: bool = Field(default=False, description="Let patterns span lines, and . match newlines.")
    head_limit: int = Field(default=250, ge=1, le=5000, description="Most lines or files to return.")
    offset: int = Field(default=0, ge=0, description="Lines or files to skip, to go on.")


def grep_argv(args: Grep) -> Sequence[str]:
    mode = {
        "files_with_matches": ["--files-with-matches", "--null"],
        "count": ["--count-matches", "--with-filename", "--null"],
        "content": [
            "--line-number", "--column", "--with-filename", "--null", "--no-heading", f"--max-columns={MAX_COLUMNS}",
            "--max-columns-preview",
        ],
    }[args.output_mode]  # fmt: skip
    argv = [RG, *_COMMON, *mode]
    if args.output_mode == "content":
        argv += [
            f"--before-context={max(args.before, args.context)}",
            f"--after-context={max(args.after, args.context)}",
        ]
    if args.ignore_case:
        argv.append("--ignore-case")
    if args.multiline:
        argv += ["--multiline", "--multiline-dotall"]
    if args.glob:
        argv.append(f"--glob={args.glob}")
    if args.type:
        argv.append(f"--type={args.type}")
    return [*argv, _NEVER, f"--regexp={args.pattern}", "--", f"./{args.path}" if args.path else "./"]


async def grep(services: Services, call: Call[Grep]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    if args.path:
        await _refuse_special(ws, args.path)
    found = await _collected(ws, grep_argv(args))
    if args.type and "unrecognized file type" in found.err.decode(errors="replace"):
        listed = await ws.collect([RG, "--no-config", "--type-list"], max_bytes=MiB)
        near = near_types(args.type, listed.out.decode(errors="replace"))
        raise SearchFailed(f"there is no file type {args.type!r}.{suggest(near)} glob='*.ext' works for any ending.")
    _check(found)
    shown = await to_thread.run_sync(_shown, args, found)
    if not shown.entries:
        return Reply(_no_matches(args))
    return Reply(_page(shown, args.head_limit, args.offset, cut=found.cut))


async def _collected(ws: Workspace, argv: Sequence[str]) -> Collected:
    """ripgrep's answer. One that is cut is asked for again in order, which is slower, so that pages fit each other."""
    found = await ws.collect(argv, max_bytes=MAX_COLLECTED)
    return await ws.collect([argv[0], "--sort=path", *argv[1:]], max_bytes=MAX_COLLECTED) if found.cut else found


def _shown(args: Grep, found: Collected) -> Shown:
    if args.output_mode == "content":
        return content(found.out, cut=found.cut, context=max(args.before, args.after, args.context) > 0)
    if args.output_mode == "count":
        return file_counts(found.out, cut=found.cut)
    names = file_names(found.out, cut=found.cut)
    return Shown(names, f"{len(names):,} files")


def _no_matches(args: Grep) -> str:
    left_out = "Binary" if args.glob else "Ignored and binary"  # what a glob names is searched, ignored or not
    return f"No matches. {left_out} files are not searched, unless path names one."


async def _refuse_special(ws: Workspace, path: str) -> None:
    """A FIFO or device named outright would be read, and never end; ripgrep skips those it meets by itself."""
    if (await ws.stat(path)).kind in ("special", "symlink"):
        try:
            await ws.read(path, max_bytes=0, line_count=0)
        except WrongKind:
            if not (await ws.stat(f"{path}/.")).kind == "directory":
                raise


def _check(found: Collected) -> None:
    """ripgrep ends with 0 for matches, 1 for none, 2 for an error; a cut result was stopped by us."""
    if not found.cut and found.status.exit not in (0, 1) and not (found.status.exit == 2 and found.out):
        said = found.err.decode(errors="replace").strip()
        raise SearchFailed(complaint(said) if said else "ripgrep ended unexpectedly.")


def _page(shown: Shown, limit: int, offset: int, *, cut: bool) -> str:
    """A window of the entries, within MAX_TEXT, and a last line with the total and how to go on."""
    out: list[str] = []
    room = MAX_TEXT - 200
    for entry in shown.entries[offset : offset + limit]:
        text = entry if out else entry.removeprefix("--\n")
        room -= len(text) + 1
        if room < 0:
            break
        out.append(text)
    end = offset + len(out)
    total = f"{'more than ' if cut else ''}{shown.total}"
    if not out:
        return f"({total}; offset {offset:,} is behind the last one)"
    more = f"; go on with offset={end}, or narrow with path, glob or type" if end < len(shown.entries) or cut else ""
    return "\n".join([*out, f"({total}{more})"])


class Glob(InWorkspace):
    pattern: str = Field(
        description="Like '**/*.py', 'src/**/test_*.ts' or '*.{yml,yaml}'; without a slash it matches at any depth."
    )
    path: FilePath = Field(default="", description="Directory to search in.")
    head_limit: int = Field(default=250, ge=1, le=5000)
    offset: int = Field(default=0, ge=0)


async def glob(services: Services, call: Call[Glob]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    if args.path and (await ws.stat(args.path)).kind == "file":
        raise WrongKind(args.path, "a file", "glob takes the directory to search in as path.")
    found = await _listed(ws, args)
    _check(found)
    matches = _matcher(args)
    names = await to_thread.run_sync(_matching, found, args.path, matches)
    if not names:
        return Reply(await _nothing(ws, args, found, matches))
    return Reply(_page(Shown(names, f"{len(names):,} files"), args.head_limit, args.offset, cut=found.cut))


async def _listed(ws: Workspace, args: Glob, *options: str) -> Collected:
    argv = [RG, *_COMMON, *options, _NEVER, "--files", "--null", "--", f"./{args.path}" if args.path else "./"]
    return await _collected(ws, argv)


def _matcher(args: Glob) -> Callable[[str], bool]:
    """The pattern as a predicate on paths below `path`; it may also be absolute in the cell."""
    pattern = args.pattern
    base = f"{WORKSPACE_DIR}/{args.path}".rstrip("/") + "/"
    if pattern.startswith(base):
        pattern = f"/{pattern.removeprefix(base)}"
    try:
        return glob_matcher(pattern)
    except ValueError as error:
        raise SearchFailed(f"{error}.") from None


def _matching(found: Collected, below: str, matches: Callable[[str], bool]) -> Sequence[str]:
    """Paths that match, in order, as they are shown. Raises SearchFailed when that takes too long."""
    base = len(f"./{below}/") if below else len("./")
    until = time.monotonic() + MATCHING_SECONDS
    names: list[str] = []
    for number, path in enumerate(whole(found.out, b"\0", cut=found.cut)):
        if number % 1000 == 999 and time.monotonic() > until:
            raise SearchFailed("the pattern takes too long for so many files; use fewer stars, or give a path.")
        if matches(path[base:].decode("utf-8", errors="surrogateescape")):
            names.append(name_of(path))
    return sorted(names)


async def _nothing(ws: Workspace, args: Glob, found: Collected, matches: Callable[[str], bool]) -> str:
    """That no file matches, and whether a directory or an ignored file would."""
    words = ["No files match."]
    folders = await to_thread.run_sync(_folders, found, args.path, args.pattern)
    if folders:
        names = ", ".join(folders[:MAX_HINTS])
        words.append(f"Directories are not listed, and {names} would match: add /** to see the files in it.")
    ignored = await to_thread.run_sync(_matching, await _listed(ws, args, "--no-ignore"), args.path, matches)
    if ignored:
        words.append(f"{len(ignored):,} ignored files would: {', '.join(ignored[:MAX_HINTS])}.")
    elif not folders:
        words.append("list_dir shows what there is.")
    return " ".join(words)


def _folders(found: Collected, below: str, pattern: str) -> Sequence[str]:
    """Directories with files in them that the pattern would match."""
    paths: set[bytes] = set()
    for path in whole(found.out, b"\0", cut=found.cut):
        while (path := path.rpartition(b"/")[0]) not in (b"", b".") and path not in paths:
            paths.add(path)
    at = Collected(b"\0".join([*paths, b""]), b"", found.status, False)
    args = Glob(pattern=pattern.rstrip("/"), path=below)
    return _matching(at, below, _matcher(args))


TOOLS = (
    Tool(
        name="grep", title="Search text", toolset="core", effect="read", arguments=Grep, handler=grep, idempotent=True,
        description="Searches file contents with ripgrep; hidden files are included, ignored ones are not. output_mode "
        "files_with_matches (default) lists files, content shows path:line:text with before/after/context, count counts. "
        "Results are sorted by path; the last line has the total and the offset to go on with.",
    ),
    Tool(
        name="glob", title="Find files", toolset="core", effect="read", arguments=Glob, handler=glob, idempotent=True,
        description="Finds files by name pattern, sorted by path. Ignored files are left out, hidden ones are not, and .git is "
        "never entered. The last "
        "line has the total and the offset to go on with. To find text in files use grep.",
    ),
)  # fmt: skip
