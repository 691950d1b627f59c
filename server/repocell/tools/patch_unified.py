"""Reading unified diffs, with or without what git writes around them.

Lives here: from lines to changes, and from what cannot be read to problems. Rules: POSIX diff -u, "Generating patch text
with -p" in git-diff(1), and what git-apply(1) and patch(1) tolerate; counts that are wrong are common in patches that
were written by hand or by a model, so lines are believed more than counts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .patch_values import RANGES, Add, Change, Delete, Hunk, Problems, Update, hunk_of

_PREFIXES = ("a/", "b/", "c/", "i/", "o/", "w/")  # the last four: diff.mnemonicPrefix of git-config(1)
_EXTENDED = re.compile(
    r"(old mode|new mode|new file mode|deleted file mode|rename from|rename to|copy from|copy to"
    r"|(?:dis)?similarity index|index) (.*)"
)
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPED = re.compile(r"\\([0-7]{1,3}|.)|([^\\]+)", re.DOTALL)
_BINARY = "It is a binary patch, which apply_patch cannot read. Make the file with a program in bash."


@dataclass
class _Header:
    """What stands before a file's hunks. A name is None for /dev/null, '' while it is not known."""

    line: int
    old: str | None = ""
    new: str | None = ""
    extended: dict[str, str] | None = None

    def says(self, name: str) -> str | None:
        return (self.extended or {}).get(name)


def opens_file(lines: Sequence[str], at: int) -> bool:
    """Whether a pair of "---" and "+++" lines begins here."""
    return lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ ")


def parse_unified(lines: Sequence[str], problems: Problems) -> list[Change]:
    """The changes; text between them is passed over."""
    changes: list[Change] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("diff --git ") or opens_file(lines, at):
            header, at = _header(lines, at, problems)
            hunks, at = _hunks(lines, at, problems)
            change = _change(header, hunks, problems)
            changes += [change] if change else []
        else:
            if line.startswith(("diff --cc ", "diff --combined ")):
                problems.add(at + 1, "It is a merge's combined diff; give one against a single commit.")
            elif RANGES.match(line):
                problems.add(at + 1, 'This hunk has no file: "--- a/path" and "+++ b/path" must stand before it.')
            elif line == "GIT binary patch" or (line.startswith("Binary files ") and line.endswith(" differ")):
                problems.add(at + 1, _BINARY)
            at += 1
    return changes


def _header(lines: Sequence[str], at: int, problems: Problems) -> tuple[_Header, int]:
    header = _Header(at + 1)
    if lines[at].startswith("diff --git "):
        header.old, header.new = _git_names(lines[at].removeprefix("diff --git ").rstrip("\r"))
        header.extended = {}
        at += 1
        while at < len(lines) and (found := _EXTENDED.fullmatch(lines[at].rstrip("\r"))):
            header.extended[found[1]] = found[2]
            at += 1
        if at < len(lines) and (lines[at].startswith(("GIT binary patch", "Binary files "))):
            problems.add(at + 1, _BINARY)
            header.line = 0
    if at < len(lines) and opens_file(lines, at):
        header.old, header.new = _without_prefixes(_name(lines[at][4:]), _name(lines[at + 1][4:]))
        at += 2
    return header, at


def _git_names(text: str) -> tuple[str, str]:
    """The names on a "diff --git" line: quoted ones, or the two halves; only used where nothing else tells them."""
    quoted = _QUOTED.match(text)
    if quoted:
        first, rest = quoted[0], text[quoted.end() + 1 :]
    elif text.endswith('"') and ' "' in text:
        first, rest = text[: text.index(' "')], text[text.index(' "') + 1 :]
    else:
        first, rest = text[: len(text) // 2], text[len(text) // 2 + 1 :]
    old, new = _without_prefixes(_unquote(first), _unquote(rest))
    return old or "", new or ""


def _name(text: str) -> str | None:
    """A name after "---" or "+++": quoted, or up to the tab before its time."""
    text = text.rstrip("\r")
    name = _unquote(text) if text.startswith('"') else text.partition("\t")[0].rstrip()
    return None if name == "/dev/null" else name


def _unquote(text: str) -> str:
    """A name as git quotes it: C escapes, bytes in octal. See core.quotePath in git-config(1)."""
    quoted = _QUOTED.match(text)
    if not quoted:
        return text
    raw = bytearray()
    for escape, plain in _ESCAPED.findall(quoted[0][1:-1]):
        if plain:
            raw += plain.encode("utf-8", errors="surrogateescape")
        elif escape[0] in "01234567":
            raw.append(int(escape, 8) & 0xFF)
        else:
            raw += bytes([_ESCAPES[escape]]) if escape in _ESCAPES else escape.encode("utf-8")
    return raw.decode("utf-8", errors="surrogateescape")


def _without_prefixes(old: str | None, new: str | None) -> tuple[str | None, str | None]:
    """The names without a/ and b/ where both sides have such a prefix, or one has and the other is nothing."""
    given = [name for name in (old, new) if name is not None]
    alike = len(given) < 2 or given[0][:2] != given[1][:2]
    if alike and all(name.startswith(_PREFIXES) for name in given):
        return (old and old[2:], new and new[2:])
    if old is not None and new is not None and old in (f"a/{new}", f"b/{new}"):
        return new, new
    return old, new


def _hunks(lines: Sequence[str], at: int, problems: Problems) -> tuple[tuple[Hunk, ...], int]:
    hunks: list[Hunk] = []
    while True:
        after = at
        while after < len(lines) and not lines[after].strip():
            after += 1
        if after == len(lines) or not lines[after].startswith("@@"):
            return tuple(hunks), at
        if lines[after].startswith("@@@"):
            problems.add(after + 1, "It is a merge's combined diff; give one against a single commit.")
            return tuple(hunks), after + 1
        hunk, at = _hunk(lines, after, problems)
        hunks += [hunk] if hunk else []


def _hunk(lines: Sequence[str], at: int, problems: Problems) -> tuple[Hunk | None, int]:
    found = RANGES.match(lines[at])
    end = _end_by_counts(lines, at + 1, int(found[2] or 1), int(found[4] or 1)) if found else None
    miscounted = found is not None and end is None
    if end is None:
        end = _end_by_signs(lines, at + 1, problems)
    start = int(found[1]) if found else None
    hunk = hunk_of(
        lines, at + 1, end, problems, line=at + 1, start=start, fuzzy=start is not None, miscounted=miscounted
    )
    return hunk, end


def _end_by_counts(lines: Sequence[str], at: int, old: int, new: int) -> int | None:
    """Where the hunk ends if its header counts right; None when it cannot be so, or when more of it follows."""
    while old > 0 or new > 0:
        sign = lines[at][:1] if at < len(lines) else "?"
        if sign not in ("", " ", "+", "-", "\\", "\r"):
            return None
        old -= sign not in ("+", "\\")
        new -= sign not in ("-", "\\")
        at += 1
    if at < len(lines) and lines[at].startswith("\\"):
        at += 1
    more = at < len(lines) and lines[at].startswith((" ", "+", "-")) and not _ends_hunk(lines, at)
    return None if old < 0 or new < 0 or more else at


def _end_by_signs(lines: Sequence[str], at: int, problems: Problems) -> int:
    """Where the hunk ends if only its lines are looked at; empty lines at its end do not belong to it."""
    first = at
    while at < len(lines) and (not lines[at] or lines[at][0] in " +-\\\r") and not _ends_hunk(lines, at):
        at += 1
    if at < len(lines) and not _ends_hunk(lines, at):
        problems.add(at + 1, f"A line of a hunk begins with ' ', '+' or '-'; this one is {lines[at][:60]!r}.")
        at += 1
        return at if at - 1 == first else at - 1
    while at > first and not lines[at - 1].strip("\r"):
        at -= 1
    return at


def _ends_hunk(lines: Sequence[str], at: int) -> bool:
    """Whether something else than a line of a hunk stands here; "-- " comes before a mail's signature."""
    line = lines[at]
    return (
        line.startswith(("@@", "diff ", "Index: ", "*** ", "```", "GIT binary patch"))
        or line.rstrip("\r") in ("-- ", "--")
        or opens_file(lines, at)
    )


def _change(header: _Header, hunks: tuple[Hunk, ...], problems: Problems) -> Change | None:
    line, old, new = header.line, header.old, header.new
    if not line:
        return None
    added, deleted = header.says("new file mode"), header.says("deleted file mode")
    mode = header.says("new mode") or added
    executable = problems.mode(line, mode) if mode else None
    if deleted:
        problems.mode(line, deleted)
    for way in ("rename", "copy"):
        source, target = header.says(f"{way} from"), header.says(f"{way} to")
        if source is not None and target is not None:
            path, to = problems.path(line, _unquote(source)), problems.path(line, _unquote(target))
            return Update(line, path, hunks, to, copied=way == "copy", executable=executable)
    if added or old is None:
        return _added(line, problems.path(line, new or ""), hunks, bool(executable), problems)
    if deleted or new is None:
        return Delete(line, problems.path(line, old), hunks)
    path = problems.path(line, new)
    if not hunks and executable is None:
        problems.add(line, f"Nothing changes in {path!r}: no hunk follows, or only context.")
    return Update(line, path, hunks, executable=executable)


def _added(line: int, path: str, hunks: tuple[Hunk, ...], executable: bool, problems: Problems) -> Add:
    for hunk in hunks:
        if hunk.old:
            problems.add(hunk.line, "A new file has only lines that begin with '+'.")
    lines = [text for hunk in hunks for text in hunk.new]
    content = "\n".join(lines) + ("\n" if lines and not hunks[-1].new_open else "")
    return Add(line, path, content, executable)
