"""What a patch makes of a set of files: computed whole before anything is written.

Lives here: pure functions from a patch and what the files hold to the steps that change them, or every reason why not.
It may not read or write a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import PatchRefused
from .patch_search import TooMuchWork, Work
from .patch_values import Add, Change, Delete, Hunk, Patch, Update
from .patches import Applied, apply_hunks
from .text import printable

MAX_NOTES = 50
_TOO_MUCH = (
    "looking for its hunks takes too long, because too many places look alike. Split the patch, or give each hunk a line "
    "that stands nowhere else."
)


@dataclass(frozen=True)
class Content:
    """A file as it is, or shall be. `mode`: permission bits; None for those of any new file."""

    body: bytes
    mode: int | None
    digest: str | None = None

    @property
    def binary(self) -> bool:
        return b"\0" in self.body[:8192]


@dataclass(frozen=True)
class Absent:
    """No file is there; `hint` says so to whom expects one."""

    hint: str = ""


State = Content | Absent


@dataclass(frozen=True)
class Step:
    """One file from what it was to what it shall be."""

    path: str
    before: State
    after: State


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    summary: tuple[str, ...]
    notes: tuple[str, ...]


def sources(patch: Patch) -> Sequence[str]:
    """The files that must be there for the patch, each once."""
    return tuple(dict.fromkeys(change.path for change in patch.changes if not isinstance(change, Add)))


def targets(patch: Patch) -> Sequence[str]:
    """The files it makes, each once."""
    made = (c.path if isinstance(c, Add) else c.move_to if isinstance(c, Update) else None for c in patch.changes)
    return tuple(dict.fromkeys(path for path in made if path is not None))


def plan(patch: Patch, files: Mapping[str, State]) -> Plan:
    """The steps from `files`, which holds all sources and targets. Raises PatchRefused with every reason."""
    draft = _Draft(files, dict(files))
    for change in patch.changes:
        try:
            draft.take(change)
        except TooMuchWork:
            draft.refuse(change, _TOO_MUCH)
            break
    if draft.problems:
        raise PatchRefused(draft.problems)
    steps = [Step(path, files[path], state) for path, state in draft.now.items() if _differ(files[path], state)]
    steps.sort(key=lambda step: isinstance(step.after, Absent))  # what is taken away goes last
    notes = draft.notes[:MAX_NOTES]
    if len(draft.notes) > MAX_NOTES:
        notes.append(f"({len(draft.notes) - MAX_NOTES} more hunks were not exactly where the patch says)")
    return Plan(tuple(steps), tuple(draft.summary), tuple(notes))


def _differ(before: State, after: State) -> bool:
    if isinstance(before, Absent) or isinstance(after, Absent):
        return type(before) is not type(after)
    return (before.body, before.mode) != (after.body, after.mode)


@dataclass
class _Draft:
    """The files while the changes of a patch are made one after the other."""

    original: Mapping[str, State]
    now: dict[str, State]
    work: Work = field(default_factory=Work)
    problems: list[str] = field(default_factory=list[str])
    summary: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def refuse(self, change: Change, why: str) -> None:
        self.problems.append(f"{printable(change.path)} (line {change.line} of the patch): {why}")

    def take(self, change: Change) -> None:
        if isinstance(change, Add):
            self._add(change)
            return
        copied = isinstance(change, Update) and change.copied  # git copies what a file was, and lists it in any order
        present = (self.original if copied else self.now)[change.path]
        if isinstance(present, Absent):
            if isinstance(change, Update) and change.move_to is None and _makes_a_file(change.hunks):
                text = "".join(f"{line}\n" for line in change.hunks[0].new)
                self._add(Add(change.line, change.path, text, bool(change.executable)))
            else:
                self.refuse(change, present.hint or "an earlier part of the patch took it away.")
        elif isinstance(change, Delete):
            self._delete(change, present)
        else:
            self._update(change, present)

    def _add(self, change: Add) -> None:
        body, there = _encode(change.content), self.now[change.path]
        if isinstance(there, Content):
            if there.body != body:
                self.refuse(change, "it exists already with other content; update it, or delete it first.")
            else:
                self.notes.append(f"{printable(change.path)} was there already, exactly like that")
            return
        self.now[change.path] = Content(body, 0o755 if change.executable else None)
        self.summary.append(f"A {printable(change.path)} (+{_count_lines(change.content)})")

    def _delete(self, change: Delete, present: Content) -> None:
        if change.hunks:
            applied = self._apply(change, change.hunks, present)
            if applied is None:
                return
            if applied.text:
                self.refuse(change, "the patch deletes it, but it holds more lines than the patch shows.")
                return
        self.now[change.path] = Absent()
        lines = present.body.count(b"\n") + (not present.body.endswith(b"\n") and present.body != b"")
        self.summary.append(f"D {printable(change.path)} (-{lines})")

    def _update(self, change: Update, present: Content) -> None:
        applied = self._apply(change, change.hunks, present) if change.hunks else Applied("", 0, 0, ())
        if applied is None:
            return
        body = _encode(applied.text) if change.hunks else present.body
        made, path = Content(body, _mode(present.mode, change.executable)), change.path
        to, letter = change.move_to or path, "M"
        if to != path:
            if isinstance(self.now[to], Content):
                self.refuse(change, f"{printable(to)} exists already; delete it first, or choose another name.")
                return
            if not change.copied:
                self.now[path] = Absent()
            letter = "C" if change.copied else "R"
        self.now[to] = made
        shown = printable(path) if to == path else f"{printable(path)} -> {printable(to)}"
        parts = [f"+{applied.added} -{applied.removed}"] if change.hunks else []
        if made.mode != present.mode and change.executable is not None:
            parts.append("executable" if change.executable else "not executable")
        self.summary.append(f"{letter} {shown}" + (f" ({', '.join(parts)})" if parts else ""))

    def _apply(self, change: Delete | Update, hunks: Sequence[Hunk], present: Content) -> Applied | None:
        if present.binary:
            self.refuse(change, "it is a binary file; change it with a program in bash.")
            return None
        text = present.body.decode("utf-8", errors="surrogateescape")
        applied = apply_hunks(text, hunks, self.work)
        if isinstance(applied, Applied):
            self.notes += [f"{printable(change.path)}: {note}" for note in applied.notes]
            return applied
        for misfit in applied:
            name = f"{printable(change.path)}, hunk {misfit.number} (line {misfit.line} of the patch)"
            self.problems.append(f"{name}: {misfit.why}")
        return None


def _makes_a_file(hunks: Sequence[Hunk]) -> bool:
    """Whether the one hunk says that there was nothing: "@@ -0,0 +1,n @@", as diff -N writes it."""
    return len(hunks) == 1 and hunks[0].start == 0 and not hunks[0].old


def _mode(mode: int | None, executable: bool | None) -> int | None:
    if executable is None or (mode is None and not executable):
        return mode
    base = 0o644 if mode is None else mode
    return base | (base & 0o444) >> 2 if executable else base & ~0o111


def _count_lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and text != "")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")
