"""What a patch says, whatever form it was written in: files added, deleted and updated, and the hunks of each.

Lives here: the frozen values both parsers make, and the list of problems they fill. It may not know a file's content.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import BadPath, PatchUnreadable
from ..models import normalise_path

MAX_PATH = 4096  # bytes, PATH_MAX of Linux
RANGES = re.compile(r"@@ +-(\d+)(?:,(\d+))? +\+(\d+)(?:,(\d+))?(?: @@|$)")
_OTHER_MODES = {"120000": "a symbolic link", "160000": "a submodule"}


@dataclass(frozen=True)
class Hunk:
    """One change. `line`: where it stands in the patch. `start`: the old line its header names, None when it names none.

    `body`: each line's sign (space, minus or plus) and text. `anchors`: the "@@" lines that say what comes before.
    `old_open`, `new_open`: the last line of that side has no newline. `fuzzy`: context at its edges may be dropped.
    """

    line: int
    body: tuple[tuple[str, str], ...]
    start: int | None = None
    anchors: tuple[str, ...] = ()
    at_end: bool = False
    old_open: bool = False
    new_open: bool = False
    fuzzy: bool = False
    miscounted: bool = False

    @cached_property
    def old(self) -> tuple[str, ...]:
        return tuple(text for sign, text in self.body if sign != "+")

    @cached_property
    def new(self) -> tuple[str, ...]:
        return tuple(text for sign, text in self.body if sign != "-")

    @cached_property
    def added(self) -> int:
        return sum(sign == "+" for sign, _ in self.body)

    @cached_property
    def removed(self) -> int:
        return sum(sign == "-" for sign, _ in self.body)


@dataclass(frozen=True)
class Add:
    line: int
    path: str
    content: str
    executable: bool = False


@dataclass(frozen=True)
class Delete:
    """`hunks` say what the file must hold, when the patch says it."""

    line: int
    path: str
    hunks: tuple[Hunk, ...] = ()


@dataclass(frozen=True)
class Update:
    """`move_to`: the file's new name; with `copied` the old one stays. `executable`: None leaves the mode as it is."""

    line: int
    path: str
    hunks: tuple[Hunk, ...]
    move_to: str | None = None
    copied: bool = False
    executable: bool | None = None


Change = Add | Delete | Update


@dataclass(frozen=True)
class Patch:
    changes: tuple[Change, ...]


@dataclass
class Problems:
    """What is wrong with a patch, collected so that all of it can be said at once."""

    found: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def add(self, line: int, what: str) -> None:
        self.found.append((line, what))

    def path(self, line: int, name: str) -> str:
        """The normalised path, or a problem and ''."""
        if len(name) > MAX_PATH:
            self.add(line, f"A name of {len(name):,} characters is longer than any path may be.")
            return ""
        try:
            path = normalise_path(name)
        except BadPath as error:
            self.add(line, str(error))
            return ""
        if not path:
            self.add(line, "No file is named." if not name else f"{name!r} is the workspace itself, not a file in it.")
        return path

    def mode(self, line: int, mode: str) -> bool | None:
        """Whether a mode of git's is an executable file's; None, and a problem, for what is no file."""
        if mode in _OTHER_MODES:
            self.add(line, f"It is about {_OTHER_MODES[mode]}; apply_patch changes files only, bash can do the rest.")
            return None
        return mode == "100755"

    def check(self) -> None:
        """Raises PatchUnreadable when there are any."""
        if self.found:
            raise PatchUnreadable(sorted(set(self.found)))


def hunk_of(
    lines: Sequence[str],
    first: int,
    end: int,
    problems: Problems,
    *,
    line: int,
    start: int | None = None,
    anchors: tuple[str, ...] = (),
    at_end: bool = False,
    fuzzy: bool = False,
    miscounted: bool = False,
) -> Hunk | None:
    """The hunk whose body is lines[first:end]; None, and a problem, when it is empty; None alone when it changes nothing.

    A line that is empty stands for an empty line of context, because its single space is easily lost.
    """
    body: list[tuple[str, str]] = []
    old_open = new_open = False
    for text in lines[first:end]:
        if text.startswith("\\"):
            sign = body[-1][0] if body else ""
            old_open, new_open = old_open or sign in (" ", "-"), new_open or sign in (" ", "+")
        else:
            signed = text if text[:1] in (" ", "-", "+") else f" {text}"
            body.append((signed[0], signed[1:]))
    if not body:
        problems.add(line, "This hunk has no lines.")
    if all(sign == " " for sign, _ in body):
        return None
    return Hunk(line, tuple(body), start, anchors, at_end, old_open, new_open, fuzzy, miscounted)
