"""Every exception repocell raises on purpose, grouped by who must act.

Lives here: the groups and their members. Constructors take facts and build the sentence: what happened, why, what to do
next. It may not know MCP (gate.py turns the groups into wire outcomes), host paths, or anything above it.
"""

import re
from collections.abc import Sequence
from typing import cast


class RepocellError(Exception):
    """Anything repocell raises on purpose; the text may be shown to a model or a person as it is."""


class CallerMistake(RepocellError):
    """A better-chosen call would have succeeded; the model should read this and try again."""


class Denied(RepocellError):
    """Policy or a person said no; the same call will not succeed later by itself."""


class Exhausted(RepocellError):
    """A limit or deadline was reached; the text names the limit."""


class SandboxLost(RepocellError):
    """The sandbox, or the program inside it, is gone or cannot be trusted; files are safe, running commands are not."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The cell's sandbox was lost ({reason}). Files in the workspace are safe; commands that were running are "
            "gone. The next call starts a new sandbox on the same files."
        )
        self.reason = reason


class Misconfigured(RepocellError):
    """The operator must act: nothing the model does can help."""


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception inside a group of one, however deeply nested; the group itself when there are several."""
    first = group.exceptions[0]
    if len(group.exceptions) > 1:
        return group
    return (
        sole_error(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first
    )


def suggest(candidates: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(repr(c) for c in candidates[:3])}?" if candidates else ""


def _listed(problems: Sequence[str]) -> str:
    """One problem a line, as many as can be read; each is cut, as it may name what is as long as a patch."""
    shown, room = list[str](), 20_000
    for problem in problems[:20]:
        text = problem if len(problem) <= 3_000 else f"{problem[:3_000]}..."
        room -= len(text)
        if room < 0:
            break
        shown.append(text)
    more = len(problems) - len(shown)
    return "\n".join([*shown, f"({more:,} more)"] if more else shown)


# -- the caller's mistakes


class InvalidArguments(CallerMistake):
    def __init__(self, tool: str, problems: Sequence[str]) -> None:
        super().__init__(f"{tool} was not run: " + "; ".join(problems) + ".")


class NoSuchWorkspace(CallerMistake):
    """Absent, closed, expired and somebody else's look exactly alike."""

    def __init__(self, workspace: str) -> None:
        super().__init__(
            f"There is no workspace {workspace!r}. Workspaces live until workspace_close or until they expire; "
            "workspace_list shows yours, workspace_open makes one."
        )


class WhichWorkspace(CallerMistake):
    def __init__(self, workspaces: Sequence[str]) -> None:
        if workspaces:
            text = f"{len(workspaces)} workspaces are open; say which with workspace=: {', '.join(workspaces)}."
        else:
            text = "No workspace is open. Call workspace_open first."
        super().__init__(text)


class NoSuchResource(CallerMistake):
    def __init__(self, uri: str, templates: Sequence[str]) -> None:
        super().__init__(f"There is no resource {uri!r}. Addresses look like {' or '.join(templates)}.")


class NoSuchJob(CallerMistake):
    def __init__(self, job: str) -> None:
        super().__init__(
            f"There is no job {job[:100]!r} in this workspace: it is another's, or it ended and many others have since. "
            "workspace_status lists the jobs there are."
        )


class NoSuchRepository(CallerMistake):
    def __init__(self, repo: str, why: str) -> None:
        self.why = why
        shown = re.sub(r"://[^/@]*@", "://***@", repo)
        super().__init__(
            f"Cannot open {shown!r}: {why}. Give a path to a git repository on this machine, or an https:// or ssh URL."
        )


class DefaultRepositoryUnusable(Misconfigured):
    def __init__(self, why: str) -> None:
        super().__init__(
            f"The repository this server was started with cannot be opened: {why}. The operator must correct 'serve --repo'; "
            "meanwhile repo= can name another one."
        )


class NoSuchRef(CallerMistake):
    def __init__(self, ref: str, candidates: Sequence[str]) -> None:
        super().__init__(
            f"The repository has no branch, tag or commit {ref!r}.{suggest(candidates)} Leave ref out for the default branch."
        )


class BadPath(CallerMistake):
    """A path that cannot name anything in the workspace."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"{path!r} is not a usable path: {why}. File tools take paths inside the workspace, like 'src/a.py'."
        )


class NoSuchPath(CallerMistake):
    def __init__(self, path: str, candidates: Sequence[str] = ()) -> None:
        more = suggest(candidates) or " list_dir and glob show what there is."
        super().__init__(f"There is no {path!r} in the workspace.{more}")


class WrongKind(CallerMistake):
    def __init__(self, path: str, is_a: str, use: str) -> None:
        super().__init__(f"{path!r} is {is_a}. {use}")


class FileOperationFailed(CallerMistake):
    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path!r}: {why}.")


class FileTooLarge(CallerMistake):
    def __init__(self, path: str, size: int, limit: int, use: str) -> None:
        super().__init__(f"{path!r} has {size:,} bytes, more than the {limit:,} this tool takes. {use}")


class FileChanged(CallerMistake):
    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path!r} was not written: {why}. Read it again with read_file, then repeat the change.")


class EditRefused(CallerMistake):
    """An edit that does not name exactly one place; `detail` shows where the caller may have meant."""

    def __init__(self, path: str, why: str, detail: str) -> None:
        super().__init__(f"{path!r} was not changed: {why}\n{detail}")


class SessionBusy(CallerMistake):
    def __init__(self, session: str, job: str) -> None:
        super().__init__(
            f"Session {session!r} is busy with {job}. Wait for it (bash_output wait_s), end it (bash_stop), or use another."
        )


class PatchUnreadable(CallerMistake):
    """A patch that says nothing clear; `problems` are lines of it, counted from 1, and what is wrong there."""

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        listed = _listed([f"line {line}: {what}" for line, what in problems])
        super().__init__(f"The patch could not be read, so nothing was changed:\n{listed}")


class PatchRefused(CallerMistake):
    """A patch that does not fit the files; `problems` are whole sentences, one for each place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(f"The patch does not fit, so nothing was changed:\n{_listed(problems)}")


class PatchUndone(CallerMistake):
    """A patch that failed while it was written; `left` names the files that could not be put back."""

    def __init__(self, why: str, left: Sequence[str]) -> None:
        if left:
            state = f"These files could not be put back and differ from what they were:\n{_listed(left)}\ngit_diff shows how."
        else:
            state = "Every file was put back, so nothing was changed."
        super().__init__(f"The patch failed while it was written: {why}\n{state}")


class CommandNotStarted(CallerMistake):
    def __init__(self, why: str) -> None:
        super().__init__(f"The command was not started: {why}.")


class SearchFailed(CallerMistake):
    def __init__(self, why: str) -> None:
        super().__init__(f"The search could not run: {why}")


class GitFailed(CallerMistake):
    def __init__(self, what: str, said: str) -> None:
        super().__init__(f"git could not {what}: {said}")


class TooMuchUncommitted(CallerMistake):
    def __init__(self, files: int, size: int, max_files: int, max_size: int) -> None:
        super().__init__(
            f"The uncommitted work is {files:,} files and {size:,} bytes; at most {max_files:,} files and {max_size:,} bytes "
            "are taken along. Commit it to a branch and open that, or open without include_uncommitted."
        )


class NoSuchCheckpoint(CallerMistake):
    def __init__(self, checkpoint: str, known: Sequence[str]) -> None:
        there = f" There are: {', '.join(known)}." if known else " workspace_checkpoint makes one."
        super().__init__(f"This workspace has no checkpoint {checkpoint!r}.{there}")


# -- limits


class WorkspaceBusy(Exhausted):
    """Another server process works on it; two live overlays on one upper directory would corrupt it."""

    def __init__(self, workspace: str) -> None:
        super().__init__(
            f"{workspace} is in use by another repocell server on this machine. It is free again when that one has been idle "
            "for a while or ends; workspace_fork is not possible meanwhile, workspace_open makes a new workspace."
        )


class Stopped(Denied):
    def __init__(self, what: str) -> None:
        super().__init__(
            f"Not run: a person stopped {what}. Its files are kept. Only they can let it go on ('repocell stop --release')."
        )


class WorkspaceDamaged(CallerMistake):
    def __init__(self, workspace: str, what: str) -> None:
        super().__init__(
            f"{workspace} cannot be used: {what}. Other workspaces are not affected. Go back to an earlier checkpoint with "
            "workspace_restore, or close it with discard=true and open a new one."
        )


class TooManyProcesses(Exhausted):
    def __init__(self) -> None:
        super().__init__(
            "The command was not started: the cell is at its limit of processes or memory. Stop what runs there "
            "(workspace_status lists jobs, bash_stop ends one), then try again."
        )


class NoSpace(Exhausted):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path!r} was not written: the disk or the cell's disk limit is full. Remove build output, then try again."
        )


class ServerStopping(Exhausted):
    def __init__(self) -> None:
        super().__init__(
            "The server is shutting down; the workspace is kept. Open it again with workspace_open workspace=."
        )


# -- the operator's


class RuntimeUnusable(Misconfigured):
    """No sandbox can be made here; never a reason to run without one."""

    def __init__(self, runtime: str, cause: str, remedy: str) -> None:
        super().__init__(
            f"The {runtime} runtime cannot be used here: {cause}. {remedy} 'repocell doctor' shows the details."
        )
        self.cause, self.remedy = cause, remedy


class InvalidSettings(Misconfigured):
    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("The settings are not usable:\n" + "\n".join(f"  {p}" for p in problems))


class AuditUnavailable(Misconfigured):
    def __init__(self, why: str) -> None:
        super().__init__(
            f"The audit record cannot be written ({why}), so nothing is run. The operator must make room or fix it."
        )


class StateUnusable(Misconfigured):
    def __init__(self, tool: str, why: str) -> None:
        super().__init__(
            f"{tool} failed: the server cannot use its state directory ({why}). The operator must look after its disk; the "
            "server's log has the details. workspace_list shows which workspaces are still there."
        )


class OurBug(RepocellError):
    """The last resort: what nobody foresaw. The log has the traceback."""

    def __init__(self, tool: str) -> None:
        super().__init__(f"{tool} failed inside the server. This is a bug in repocell; its log has the details.")


class OutcomeUnrecorded(Misconfigured):
    """Not "nothing is run": the call did run, and only the record of what came of it is missing."""

    def __init__(self, tool: str, outcome: str) -> None:
        super().__init__(
            f"{tool} was run ({outcome}), but its result is withheld: the audit record cannot take its outcome, the disk is "
            "full. Look at the workspace before doing it again. Nothing more is run until the operator makes room."
        )
