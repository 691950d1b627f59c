"""Applying a patch to the files of a workspace: all of it, or nothing.

Lives here: the tool, reading what it touches, writing what was planned, and putting everything back when that fails. What
a patch means is patch_formats.py's, what it makes of the files patch_plan.py's concern.
"""

import hashlib
import posixpath
from collections.abc import Mapping, Sequence

import anyio
import anyio.to_thread
from pydantic import Field

from ..errors import (
    CallerMistake,
    FileChanged,
    FileTooLarge,
    NoSuchPath,
    PatchRefused,
    PatchUndone,
    RepocellError,
    WrongKind,
)
from ..models import MiB
from ..workspaces.workspace import Workspace
from .base import MAX_TEXT, Call, InWorkspace, Reply, Services, Tool, workspace_of
from .files import MAX_EDITED
from .patch_formats import parse
from .patch_plan import Absent, Content, Plan, State, Step, plan, sources, targets
from .patch_values import Delete, Patch, Update
from .text import cut_middle, printable

MAX_PATCH = 1 * MiB
MAX_FILES = 200
MAX_READ_ALL = 64 * MiB
ROLLBACK_SECONDS = 60.0


class ApplyPatch(InWorkspace):
    patch: str = Field(max_length=MAX_PATCH, description="The patch, in either form.")


async def apply_patch(services: Services, call: Call[ApplyPatch]) -> Reply:
    """Nothing is written before everything was computed; parsing and searching run beside the event loop."""
    ws = workspace_of(services, call)
    patch = await anyio.to_thread.run_sync(parse, call.args.patch)
    async with ws.writing:
        seen = dict(ws.seen)
        try:
            files = await _read_all(ws, patch)
            planned = await anyio.to_thread.run_sync(plan, patch, files)
            await _write_all(ws, planned.steps)
        except BaseException:
            _forget(ws, [*sources(patch), *targets(patch)], seen)
            raise
    return Reply(_render(planned))


def _forget(ws: Workspace, paths: Sequence[str], seen: Mapping[str, str]) -> None:
    """A patch that was not applied has shown the caller no file: what write_file may replace is what it was."""
    for path in paths:
        if path in seen:
            ws.seen[path] = seen[path]
        else:
            ws.seen.pop(path, None)


def _render(planned: Plan) -> str:
    if not planned.steps:
        said = "Nothing had to be changed: the files are already as the patch makes them."
    else:
        said = f"Applied to {len(planned.steps)} file{'s' if len(planned.steps) > 1 else ''}:"
    text = "\n".join([said, *planned.summary, *planned.notes])
    return cut_middle(text, MAX_TEXT, "git_diff stat=true lists what changed")


# -- reading


async def _read_all(ws: Workspace, patch: Patch) -> dict[str, State]:
    """What all files are that the patch names. Raises PatchRefused with everything that stands in the way."""
    needed, made = sources(patch), targets(patch)
    paths = dict.fromkeys([*needed, *made])
    if len(paths) > MAX_FILES:
        raise PatchRefused([f"It names {len(paths):,} files; at most {MAX_FILES} are taken. Split it."])
    gone = {
        c.path for c in patch.changes if isinstance(c, Delete) or (isinstance(c, Update) and c.move_to and not c.copied)
    }
    files: dict[str, State] = {}
    problems: list[str] = []
    left = MAX_READ_ALL
    for path in paths:
        try:
            files[path] = await _read(ws, path, there=path in needed, goes=path in gone)
        except CallerMistake as error:
            problems.append(str(error))
            continue
        found = files[path]
        left -= len(found.body) if isinstance(found, Content) else 0
        if left < 0:
            raise PatchRefused([f"The files it names have more than {MAX_READ_ALL // MiB} MiB in all. Split it."])
    if problems:
        raise PatchRefused(problems)
    return files


async def _read(ws: Workspace, path: str, *, there: bool, goes: bool) -> State:
    facts = await ws.look(path)
    if facts is None and not there:
        return Absent()
    if facts is not None and facts.kind == "symlink" and goes:
        raise WrongKind(path, "a symbolic link", "Name the file it leads to, or use bash (rm, mv) on the link.")
    try:
        window = await ws.read(path, max_bytes=MAX_EDITED)
    except NoSuchPath as error:
        if facts is not None:
            raise WrongKind(path, "a symbolic link that leads nowhere", "Remove it with bash first.") from None
        return Absent(str(error))
    if window.cut or window.digest is None:
        raise FileTooLarge(path, window.size, MAX_EDITED, "Change it with a program in bash.")
    return Content(window.body, window.mode, window.digest)


# -- writing


async def _write_all(ws: Workspace, steps: Sequence[Step]) -> None:
    """Takes every step, or puts everything back, also when it is cancelled. Raises PatchUndone when steps were taken back."""
    folders = await _missing_folders(ws, steps)
    begun: list[Step] = []
    try:
        for step in steps:
            begun.append(step)
            await _take(ws, step)
    except BaseException as error:
        left = await _put_back(ws, begun, folders)
        if isinstance(error, RepocellError):
            raise PatchUndone(str(error), left) from None
        raise


async def _missing_folders(ws: Workspace, steps: Sequence[Step]) -> Sequence[str]:
    """The directories that writing will make, the deepest first."""
    missing: dict[str, bool] = {"": False}
    for step in steps:
        folder = posixpath.dirname(step.path)
        while folder not in missing:
            missing[folder] = isinstance(step.after, Content) and await ws.look(folder) is None
            folder = posixpath.dirname(folder)
    return sorted((folder for folder, lacks in missing.items() if lacks), key=lambda path: -path.count("/"))


async def _take(ws: Workspace, step: Step) -> None:
    """Writes or removes one file if it is what it was when it was read.

    Between the last look and a removal lies a round trip in which a job of the same cell may replace the file; what it wrote
    is lost then. The guest could only make that time shorter: unlink(2) takes no condition. The tools' own writes wait.
    """
    before, after = step.before, step.after
    if isinstance(after, Content):
        expect = "absent" if isinstance(before, Absent) else before.digest
        await ws.write(step.path, after.body, expect=expect, mode=after.mode)
    else:
        if await _digest(ws, step.path) != _digest_of(before):
            raise FileChanged(step.path, "it changed meanwhile")
        await ws.remove(step.path)
        ws.seen.pop(step.path, None)


async def _put_back(ws: Workspace, begun: Sequence[Step], folders: Sequence[str]) -> Sequence[str]:
    """Undoes the steps, the last first; returns the files that are not what they were.

    The last step failed: it may have been taken all the same, or what stands in its place is somebody else's.
    """
    left = dict.fromkeys(step.path for step in begun)
    with anyio.move_on_after(ROLLBACK_SECONDS, shield=True):
        for step in reversed(begun):
            try:
                if await _restore(ws, step) or step is begun[-1]:
                    left.pop(step.path, None)
            except RepocellError:
                if step is begun[-1] and not await _is_made(ws, step):
                    left.pop(step.path, None)
        for folder in folders:
            try:
                await ws.remove(folder)
            except RepocellError:
                continue  # it was not made, or something else is in it by now
    return [printable(path) for path in left]


async def _restore(ws: Workspace, step: Step) -> bool:
    """Puts one file back if it is what the step made of it; returns whether it is what it was."""
    before, after, path = step.before, step.after, step.path
    now = await _digest(ws, path)
    if now != _digest_of(after):
        return now == _digest_of(before)
    if isinstance(before, Content):
        await ws.write(path, before.body, expect=now or "absent", mode=before.mode)
    else:
        await ws.remove(path)
    return True


async def _is_made(ws: Workspace, step: Step) -> bool:
    """Whether a file is what a step makes of it; also when that cannot be found out."""
    try:
        return await _digest(ws, step.path) == _digest_of(step.after) != _digest_of(step.before)
    except RepocellError:
        return True


async def _digest(ws: Workspace, path: str) -> str | None:
    """Of what the path leads to; None where nothing is."""
    if await ws.look(path) is None:
        return None
    return (await ws.read(path, max_bytes=0)).digest


def _digest_of(state: State) -> str | None:
    return hashlib.sha256(state.body).hexdigest() if isinstance(state, Content) else None


TOOLS = (
    Tool(
        name="apply_patch", title="Apply a patch", toolset="patch", effect="write", arguments=ApplyPatch,
        handler=apply_patch, destructive=True,
        description='Applies a patch to many files at once, all of it or nothing: a unified diff (git\'s renames, copies and '
        'modes included), or the form "*** Begin Patch", "*** Update File: path" (or Add File, Delete File, Move to), "@@", '
        'lines that begin with " ", "-" or "+", "*** End Patch". Lines found elsewhere, or not quite alike, are tolerated '
        "and told; two equally good places are refused. Not for binary patches. At most 200 files and 1 MiB of patch. For "
        "one small change use edit_file.",
    ),
)  # fmt: skip
