"""Reading a patch: which form it has, what is wrapped around it, and the begin/end form.

Lives here: the one way from text to a Patch. The begin/end form is the one Codex models write; its grammar is published
with openai/codex (apply-patch). Tolerated is what models get wrong without leaving doubt about what they mean.
"""

import re
from collections.abc import Sequence

from .patch_unified import opens_file, parse_unified
from .patch_values import RANGES, Add, Change, Delete, Hunk, Patch, Problems, Update, hunk_of

_MARKER = re.compile(r"\*\*\* (Begin Patch|End Patch|End of File|(?:Add File|Delete File|Update File|Move to): *(.*))")
_ENVELOPE = re.compile(r"\s*\*\*\* (Begin Patch\s*$|(Add|Delete|Update) File: )")
_HEREDOC = re.compile(r"[^<]*<<-?\s*(['\"]?)(\w+)\1[^<]*$")
_ELLIPSIS = re.compile(r"@@[\s.]*(?:@@)?\s*$")
_FORMS = (
    'No change was found. Write a unified diff ("--- a/path", "+++ b/path", "@@ -1,3 +1,4 @@", then lines that begin with '
    '\' \', \'-\' or \'+\'), or "*** Begin Patch", "*** Update File: path", "@@", such lines, and "*** End Patch".'
)


def parse(text: str) -> Patch:
    """The patch. Raises PatchUnreadable, which names every problem with its line."""
    lines = _unwrapped(text)
    problems = Problems()
    changes: list[Change] = []
    if any(line.startswith("***************") for line in lines) and not any(map(_ENVELOPE.match, lines)):
        problems.add(1, "It is a context diff; make a unified one (diff -u).")
    elif _is_envelope(lines):
        changes = _Envelope(lines, problems).changes()
    else:
        changes = parse_unified(lines, problems)
    if not changes and not problems.found:
        problems.add(1, _FORMS)
    problems.check()
    return Patch(tuple(changes))


def _is_envelope(lines: Sequence[str]) -> bool:
    """The form is that of the first line that can only be of one."""
    for at, line in enumerate(lines):
        if _ENVELOPE.match(line):
            return True
        if line.startswith("diff --git ") or opens_file(lines, at):
            return False
    return False


def _unwrapped(text: str) -> list[str]:
    """The lines, without carriage returns when all have one; fences and a heredoc around them are made empty lines."""
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    if lines and all(line.endswith("\r") for line in lines[:-1]) and "\r" in lines[0]:
        lines = [line.removesuffix("\r") for line in lines]
    first, last = 0, len(lines) - 1
    while True:
        while first <= last and not lines[first].strip():
            first += 1
        while first < last and not lines[last].strip():
            last -= 1
        closing = _closing(lines[first]) if first < last else None
        if closing is None:
            break
        lines[first] = ""
        if lines[last].strip().rstrip("'\"") == closing:
            lines[last] = ""
    if first <= last and lines[last].strip() == "*** End Patch":
        lines[last] = "*** End Patch"
    return lines


def _closing(line: str) -> str | None:
    """What ends the wrapper that this line opens, if it does."""
    if line.lstrip().startswith("```"):
        return "```"
    found = _HEREDOC.match(line) if line[:1] not in ("+", "-", " ", "@") else None
    return found[2] if found else None


class _Envelope:
    """One reading of the begin/end form: a cursor over its lines."""

    def __init__(self, lines: Sequence[str], problems: Problems) -> None:
        self._lines, self._problems, self._at = lines, problems, 0

    def changes(self) -> list[Change]:
        found: list[Change] = []
        inside = not any(line.strip() == "*** Begin Patch" for line in self._lines)
        while self._at < len(self._lines):
            number, line = self._at + 1, self._lines[self._at].strip()
            marker = _MARKER.fullmatch(line)
            self._at += 1
            if marker is None:
                if inside and line and not line.startswith("*** Environment ID:"):
                    self._stray(number, line)
                continue
            kind = marker[1].partition(":")[0]
            if kind in ("Begin Patch", "End Patch"):
                inside = kind == "Begin Patch"
            elif kind == "Add File":
                found.append(self._add(number, marker[2]))
            elif kind == "Delete File":
                found.append(Delete(number, self._problems.path(number, marker[2])))
            elif kind == "Update File":
                found.append(self._update(number, marker[2]))
            elif kind == "Move to":
                self._problems.add(number, '"*** Move to:" stands directly after "*** Update File:".')
        return found

    def _stray(self, number: int, line: str) -> None:
        """A line that belongs to no file; the lines after it that look alike are not told again."""
        expected = '"*** Add File: path", "*** Update File: path", "*** Delete File: path" or "*** End Patch"'
        self._problems.add(number, f"{line[:60]!r} stands where one of {expected} is expected.")
        while self._at < len(self._lines) and not self._lines[self._at].startswith("*** "):
            self._at += 1

    def _marks(self, at: int) -> bool:
        """Whether a marker of the form stands here; "***" with anything else after it may be a line of a file."""
        return self._lines[at].startswith("*** ") and _MARKER.fullmatch(self._lines[at].rstrip()) is not None

    def _add(self, number: int, name: str) -> Add:
        first, content = self._at, list[str]()
        while self._at < len(self._lines) and not self._marks(self._at):
            line = self._lines[self._at]
            if line and not line.startswith("+") and line.strip():
                self._problems.add(self._at + 1, f"A line of a new file begins with '+'; this one is {line[:60]!r}.")
            content.append(line[1:])
            self._at += 1
        end = self._at
        while end > first and not self._lines[end - 1].strip():
            end -= 1
        del content[end - first :]
        text = "".join(f"{line}\n" for line in content)
        return Add(number, self._problems.path(number, name), text)

    def _update(self, number: int, name: str) -> Update:
        path, to = self._problems.path(number, name), None
        moved = _MARKER.fullmatch(self._lines[self._at].strip()) if self._at < len(self._lines) else None
        if moved and moved[1].startswith("Move to:"):
            self._at += 1
            to = self._problems.path(self._at, moved[2])
        if self._at < len(self._lines) and opens_file(self._lines, self._at):
            self._at += 2
        hunks: list[Hunk] = []
        while self._skip_empty() and not self._marks(self._at):
            before = self._at
            hunk = self._hunk()
            hunks += [hunk] if hunk else []
            if self._at == before:
                self._at += 1
        if not hunks and to is None:
            self._problems.add(number, f"Nothing changes in {path!r}: no hunk follows, or only context.")
        return Update(number, path, tuple(hunks), to)

    def _skip_empty(self) -> bool:
        """Goes to the next line that is not empty; False when there is none."""
        while self._at < len(self._lines) and not self._lines[self._at].strip():
            self._at += 1
        return self._at < len(self._lines)

    def _hunk(self) -> Hunk | None:
        line, start, anchors = self._at + 1, None, list[str]()
        while self._at < len(self._lines) and self._lines[self._at].lstrip().startswith("@@"):
            text = self._lines[self._at].strip()
            ranges = RANGES.match(text)
            if ranges:
                start = int(ranges[1])
            elif not _ELLIPSIS.match(text):
                anchors.append(text.removeprefix("@@").removeprefix(" ").removesuffix("@@").rstrip())
            self._at += 1
        first = self._at
        while self._at < len(self._lines) and not self._marks(self._at) and not self._lines[self._at].startswith("@@"):
            text = self._lines[self._at]
            if text and text[0] not in " +-\\\r":
                said = f"A line of a hunk begins with ' ', '+' or '-'; this one is {text[:60]!r}."
                self._problems.add(self._at + 1, said)
            self._at += 1
        end = self._at
        while end > first and not self._lines[end - 1]:
            end -= 1
        at_end = self._at < len(self._lines) and self._lines[self._at].rstrip() == "*** End of File"
        if at_end:
            self._at += 1
        return hunk_of(
            self._lines, first, end, self._problems, line=line, start=start, anchors=tuple(anchors), at_end=at_end
        )
