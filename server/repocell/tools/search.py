"""Finding text and files: ripgrep, run inside the cell.

Lives here: arguments to ripgrep's command line (a pattern is never an option), and ripgrep's answer to a bounded,
ordered result. It may not search on the host.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from ..errors import SearchFailed, WrongKind
from ..models import TOOLS_DIR, MiB
from ..workspaces.workspace import Collected, Workspace
from .base import MAX_TEXT, Call, InWorkspace, Reply, Services, Tool, workspace_of
from .files import FilePath
from .text import printable

RG = f"{TOOLS_DIR}/rg"
MAX_COLLECTED = 16 * MiB
MAX_LINE = 500
MAX_STARS = 3  # matching takes time in the length of a path to the power of this
_COMMON = ("--no-config", "--color=never", "--hidden", "--glob=!.git", "--no-messages")


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
            "--line-number",
            "--with-filename",
            "--null",
            "--no-heading",
            "--max-columns=4096",
            "--max-columns-preview",
        ],
    }[args.output_mode]
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
    return [*argv, f"--regexp={args.pattern}", "--", f"./{args.path}" if args.path else "./"]


async def grep(services: Services, call: Call[Grep]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    if args.path:
        await _refuse_special(ws, args.path)
    found = await ws.collect(grep_argv(args), max_bytes=MAX_COLLECTED)
    _check(found)
    if args.output_mode == "content":
        lines, count = _content_lines(found.out)
        what = "lines"
    else:
        lines = sorted(_path_lines(found.out, args.output_mode == "count"), key=lambda line: line.split(":")[0])
        count, what = len(lines), "files"
    if not lines:
        return Reply("No matches." + (" Ignored files are not searched." if not args.glob else ""))
    return Reply(_page(lines, args.head_limit, args.offset, count, what, found.cut))


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
        said = found.err.decode(errors="replace").removeprefix("rg: ").strip()
        raise SearchFailed(said[:500] or "ripgrep ended unexpectedly.")


def _path_lines(out: bytes, counted: bool) -> Sequence[str]:
    if not counted:
        return [_name(path) for path in out.split(b"\0") if path]
    rows = [row.partition(b"\0") for row in out.split(b"\n") if row]
    return [f"{_name(path)}:{count.decode()}" for path, _, count in rows]


def _content_lines(out: bytes) -> tuple[Sequence[str], int]:
    """Lines `path:number:text` (`-` instead of `:` for context), files in order, and how many lines match."""
    groups: dict[str, list[str]] = {}
    matches = 0
    name = ""
    for row in out.split(b"\n"):
        path, found, rest = row.partition(b"\0")
        if not found:
            if row == b"--" and name:
                groups[name].append("--")
            continue
        name = _name(path)
        head = re.match(rb"(\d+)([:-])", rest)
        if head is None:
            continue
        matches += head[2] == b":"
        text = rest[head.end() :].decode("utf-8", errors="replace").rstrip("\r")
        mark = head[2].decode()
        groups.setdefault(name, []).append(f"{name}{mark}{head[1].decode()}{mark}{_clip(text)}")
    return [line for key in sorted(groups) for line in groups[key]], matches


def _clip(text: str) -> str:
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}... ({len(text):,} characters)"


def _name(path: bytes) -> str:
    return printable(path.decode("utf-8", errors="surrogateescape").removeprefix("./"))


def _page(lines: Sequence[str], limit: int, offset: int, count: int, what: str, cut: bool) -> str:
    """A window of the lines, within MAX_TEXT, and a last line with the total and how to go on."""
    shown: list[str] = []
    room = MAX_TEXT - 200
    for line in lines[offset : offset + limit]:
        room -= len(line) + 1
        if room < 0:
            break
        shown.append(line)
    end = offset + len(shown)
    total = f"{'more than ' if cut else ''}{count:,} {'matching ' if what == 'lines' else ''}{what}"
    if not shown:
        return f"({total}; offset {offset:,} is behind the last one)"
    more = f"; go on with offset={end}, or narrow with path, glob or type" if end < len(lines) or cut else ""
    return "\n".join([*shown, f"({total}{more})"])


class Glob(InWorkspace):
    pattern: str = Field(
        description="Like '**/*.py', 'src/**/test_*.ts' or '*.{yml,yaml}'; without a slash it matches at any depth."
    )
    path: FilePath = Field(default="", description="Directory to search in.")
    head_limit: int = Field(default=250, ge=1, le=5000)
    offset: int = Field(default=0, ge=0)


async def glob(services: Services, call: Call[Glob]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    if args.path:
        await ws.stat(args.path)
    argv = (RG, *_COMMON, "--files", "--null", "--", f"./{args.path}" if args.path else "./")
    found = await ws.collect(argv, max_bytes=MAX_COLLECTED)
    _check(found)
    matches = glob_matcher(args.pattern)
    base = f"{args.path}/" if args.path else ""
    names = [name for path in found.out.split(b"\0") if path and matches((name := _name(path)).removeprefix(base))]
    if not names:
        return Reply("No files match. Ignored files are not listed; list_dir shows everything.")
    return Reply(_page(sorted(names), args.head_limit, args.offset, len(names), "files", found.cut))


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """A predicate on paths relative to where the search began. Supports *, **, ?, [..] and {a,b}.

    Raises SearchFailed for a class that is none, like [z-a].
    """
    anchored = re.sub(r"\*{3,}", "**", re.sub(r"(\*\*/)+", "**/", pattern.removeprefix("./")))
    if len(re.findall(r"\*+", anchored)) > MAX_STARS or anchored.count("{") > MAX_STARS:
        raise SearchFailed(f"the pattern has more than {MAX_STARS} stars or choices; use fewer.")
    if "/" not in anchored.strip("/"):
        anchored = f"**/{anchored}"
    try:
        regex = re.compile(_glob_regex(anchored.lstrip("/")))
    except re.error as error:
        raise SearchFailed(f"{pattern!r} is not a pattern: {error}.") from None
    return lambda path: regex.fullmatch(path) is not None


def _glob_regex(pattern: str) -> str:
    out: list[str] = []
    at, depth = 0, 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            out.append("(?:.*/)?")
            at += 3
            continue
        if pattern.startswith("**", at):
            out.append(".*")
            at += 2
            continue
        closing = pattern.find("]", at + 2) if char == "[" else -1
        if closing > 0:
            inner = pattern[at + 1 : closing]
            negated = inner[0] in "!^"
            body = "".join(each if each == "-" else re.escape(each) for each in inner[negated:])
            out.append(f"[{'^' if negated else ''}{body}]")
            at = closing + 1
            continue
        if char == "{" and "}" in pattern[at:]:
            depth += 1
            out.append("(?:")
        elif char == "}" and depth:
            depth -= 1
            out.append(")")
        elif char == "," and depth:
            out.append("|")
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)))
        at += 1
    return "".join(out) + ")" * depth


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
