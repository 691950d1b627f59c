"""One workspace: its verbs, its write lock, its jobs, and the sandbox it has while it is in use.

Lives here: turning paths and facts into requests to the guest, and the guest's refusals into the caller's mistakes. It
may not know tools, policy or how a sandbox is made: the pool gives it a cell when it asks for one.
"""

import difflib
import functools
import posixpath
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from ..errors import (
    BadPath,
    CallerMistake,
    FileChanged,
    FileOperationFailed,
    NoSpace,
    NoSuchJob,
    NoSuchPath,
    RepocellError,
    SessionBusy,
    WorkspaceDamaged,
    WrongKind,
)
from ..guest.link import Exited, GuestRefused, Link
from ..models import (
    WORKSPACE_DIR,
    ExitStatus,
    FileFacts,
    FileWindow,
    Limits,
    Listing,
    WorkspaceRecord,
    Written,
    new_id,
)
from ..runtimes.breaches import Breaches, nothing_told
from .jobs import Job, JobLog, StopReason
from .sessions import MAX_SESSIONS, Session, read_session

SHELL = ("bash", "--noprofile", "--norc", "-c")
TERMINAL = (24, 120)  # rows and columns
MAX_COMMAND = 100_000  # characters; the kernel takes 128 KiB for one argument (MAX_ARG_STRLEN)
COLLECT_SECONDS = 120.0
KEPT_JOBS = 32  # ended ones whose output can still be read


@dataclass(frozen=True)
class Cell:
    """A live sandbox: the link into it, the tasks that live as long as it does, and what was stopped in it for a limit."""

    link: Link
    tasks: TaskGroup
    breaches: Callable[[], Breaches | None] = nothing_told


@dataclass(frozen=True)
class Collected:
    """What a helper command printed, bounded; `cut` when it printed more."""

    out: bytes
    err: bytes
    status: ExitStatus
    cut: bool


class Workspace:
    """See the module. Reads may run side by side; `writing` orders what changes files."""

    def __init__(
        self, record: WorkspaceRecord, folder: Path, limits: Limits, enter: Callable[["Workspace"], Awaitable[Cell]]
    ) -> None:
        self.record = record
        self.folder = folder
        self.limits = limits
        self.writing = anyio.Lock()
        self.jobs: dict[str, Job] = {}
        self.seen: dict[str, str] = {}  # path -> digest at the last read or write through the tools
        self.sessions: dict[str, Session] = {}  # by name, the one used longest ago first
        self.last_used = record.used
        self._enter = enter

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def running(self) -> Sequence[Job]:
        return [job for job in self.jobs.values() if job.running]

    async def _link(self) -> Link:
        return (await self._enter(self)).link

    # -- files

    async def read(
        self, path: str, *, max_bytes: int, start_line: int = 1, line_count: int = 1 << 62, offset: int = 0
    ) -> FileWindow:
        try:
            window = await (await self._link()).read(
                path,
                root=WORKSPACE_DIR,
                max_bytes=max_bytes,
                start_line=start_line,
                line_count=line_count,
                offset=offset,
            )
        except GuestRefused as refused:
            raise await self._explain(path, refused) from None
        if window.digest is not None:
            self.seen[path] = window.digest
        return window

    async def write(self, path: str, body: bytes, *, expect: str | None = None, mode: int | None = None) -> Written:
        """Replaces a file atomically. Raises FileChanged when it is not what `expect` says; nothing is written then."""
        try:
            written = await (await self._link()).write(path, body, root=WORKSPACE_DIR, expect=expect, mode=mode)
        except GuestRefused as refused:
            raise await self._explain(path, refused) from None
        if written.digest is not None:
            self.seen[path] = written.digest
        return written

    async def stat(self, path: str, *, digest: bool = False) -> FileFacts:
        try:
            return await (await self._link()).stat(path, root=WORKSPACE_DIR, digest=digest)
        except GuestRefused as refused:
            raise await self._explain(path, refused) from None

    async def look(self, path: str, *, digest: bool = False) -> FileFacts | None:
        """What a path names, links not followed, or None where nothing is."""
        try:
            return await (await self._link()).stat(path, root=WORKSPACE_DIR, digest=digest)
        except GuestRefused as refused:
            if refused.code == "not_found":
                return None
            raise await self._explain(path, refused) from None

    async def list(self, path: str, *, depth: int, limit: int, skip: Sequence[str] = ()) -> Listing:
        try:
            entries, more = await (await self._link()).list(
                path, root=WORKSPACE_DIR, depth=depth, limit=limit, skip=skip
            )
        except GuestRefused as refused:
            raise await self._explain(path, refused) from None
        return Listing(entries=tuple(entries), more=more)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        try:
            await (await self._link()).remove(path, root=WORKSPACE_DIR, recursive=recursive)
        except GuestRefused as refused:
            raise await self._explain(path, refused) from None

    async def _explain(self, path: str, refused: GuestRefused) -> RepocellError:
        """The guest's refusal as words for whoever named the path."""
        code = refused.code
        if code == "not_found":
            return NoSuchPath(path, await self._similar(path))
        if code == "outside":
            return BadPath(path, "a symbolic link leads it out of the workspace; bash can look there")
        if code == "conflict":
            return FileChanged(path, "it is gone" if refused.facts.get("found") == "absent" else "it changed meanwhile")
        if code == "no_space":
            return NoSpace(path)
        kinds = {
            "is_a_directory": ("a directory", "list_dir shows what is in it."),
            "not_a_directory": ("not a directory", "One part of the path is a file; list_dir shows what there is."),
            "special": ("not a regular file (a device, pipe or socket)", "Use bash if you know what you are doing."),
        }
        if code in kinds:
            return WrongKind(path, *kinds[code])
        why = {
            "denied": "the file's permissions do not allow it; bash can change them with chmod",
            "loop": "its symbolic links go in a circle",
            "name_too_long": "the name is longer than the file system allows",
            "exists": "it exists already",
            "not_empty": "the directory is not empty",
            "invalid": str(refused.facts.get("why", "it is not valid")),
        }.get(code, f"the cell answered {refused.facts.get('errno', code)}")
        return FileOperationFailed(path, why)

    async def _similar(self, path: str) -> Sequence[str]:
        """Paths that exist and look like the one that does not: in its directory, or of its name anywhere near."""
        link, parent, name = await self._link(), posixpath.dirname(path), posixpath.basename(path)
        try:
            entries, _ = await link.list(parent, root=WORKSPACE_DIR, depth=1, limit=1000)
        except GuestRefused:
            parent, (entries, _) = "", await link.list("", root=WORKSPACE_DIR, depth=4, limit=2000, skip=(".git",))
        by_name = {posixpath.basename(entry.path): posixpath.join(parent, entry.path) for entry in entries}
        return [by_name[close] for close in difflib.get_close_matches(name, list(by_name), n=3, cutoff=0.6)]

    # -- commands

    async def start(
        self, command: str, *, cwd: str | None, timeout: float, terminal: bool = False, session: str | None = None
    ) -> Job:
        """Starts a shell command as a job that lives until it ends, is stopped, or the cell goes.

        Without `cwd` it runs where its session is, or at the root. Raises SessionBusy: a session runs one at a time.
        """
        cell = await self._enter(self)
        busy = [
            job.id for job in self.running if session is not None and job.session == session and not job.exited.is_set()
        ]  # looked for here, behind the last await: until the job is listed nobody else gets in between
        if busy:
            raise SessionBusy(session or "", busy[0])
        job_id = new_id("job")
        try:
            log = JobLog(self.folder)
        except FileNotFoundError:
            raise WorkspaceDamaged(self.id, "its directory was removed behind the server's back") from None
        job = Job(
            job_id,
            command,
            log,
            timeout=timeout,
            output_limit=self.limits.output,
            session=session,
            breaches=cell.breaches,
        )
        job.terminal = terminal
        self.jobs[job_id] = job
        self._forget_old_jobs()
        state, argv = Session(), [*SHELL, command]
        if session is not None:
            state = self.sessions.get(session, state)
            argv, job.on_exit = [*SHELL, *state.around(command, job_id)], functools.partial(self._keep_session, job)
        where = state.cwd if cwd is None else posixpath.join(WORKSPACE_DIR, cwd)
        cell.tasks.start_soon(
            job.run,
            lambda: cell.link.spawn(
                argv, cwd=where, environment={"REPOCELL_JOB": job_id}, pty=TERMINAL if terminal else None,
                aside=session is not None,
            ),
        )  # fmt: skip
        return job

    def _keep_session(self, job: Job, status: ExitStatus) -> None:
        """Takes over where a session's command ended; one that does not tell leaves the session as it was."""
        name, left = job.session or "", read_session(status.aside)
        if left is not None:
            job.left_at = left.place
            self.sessions.pop(name, None)
            self.sessions[name] = left
            for oldest in [*self.sessions][:-MAX_SESSIONS]:
                del self.sessions[oldest]

    def _forget_old_jobs(self) -> None:
        """Of the ended ones; those that ended longest ago go first, as a long one has only just been waited for."""
        ended = sorted((job for job in self.jobs.values() if not job.running), key=lambda job: job.ended or 0)
        for job in ended[: max(0, len(ended) - KEPT_JOBS)]:
            job.log.close()
            del self.jobs[job.id]

    def job(self, job_id: str) -> Job:
        try:
            return self.jobs[job_id]
        except KeyError:
            raise NoSuchJob(job_id) from None

    async def stop_all(self, reason: StopReason) -> Sequence[Job]:
        """Stops every running job at once; returns those that were running."""
        running = self.running
        async with anyio.create_task_group() as tasks:
            for job in running:
                tasks.start_soon(job.stop, reason)
        return running

    async def collect(
        self, argv: Sequence[str], *, max_bytes: int, cwd: str = "", environment: dict[str, str] | None = None
    ) -> Collected:
        """Runs a helper program of our own choice to its end and returns what it printed, at most `max_bytes`."""
        link = await self._link()
        out, err, cut = bytearray(), bytearray(), False
        where = posixpath.join(WORKSPACE_DIR, cwd)
        try:
            with anyio.fail_after(COLLECT_SECONDS):
                async with link.spawn(argv, cwd=where, environment=environment) as process:
                    while True:
                        event = await process.receive()
                        if isinstance(event, Exited):
                            return Collected(bytes(out), bytes(err), event.status, cut)
                        kept = out if event.source == "out" else err
                        room = max_bytes - len(kept)
                        cut = cut or len(event.body) > room
                        kept += event.body[:room]
                        if cut:
                            status = ExitStatus(exit=None, signal=9, user=0, system=0, max_rss_kb=0)
                            return Collected(bytes(out), bytes(err), status, cut)
        except GuestRefused as refused:
            raise FileOperationFailed(cwd or ".", f"the cell could not run {argv[0]} ({refused.code})") from None
        except TimeoutError:
            raise CallerMistake(f"{argv[0]} did not finish within {COLLECT_SECONDS:g} s; narrow the request.") from None
