"""Running commands: bash, and the jobs it hands back when a command takes longer than a call should.

Lives here: the tools' arguments, handlers and the wording of results. It may not start processes: workspaces do.
"""

import anyio
from pydantic import Field

from ..errors import CallerMistake
from ..models import KiB, WorkspacePath
from ..workspaces.jobs import Job
from ..workspaces.workspace import MAX_COMMAND, Workspace
from .base import MAX_TEXT, Call, InWorkspace, Reply, Services, Tool, workspace_of
from .text import as_text, cut_middle, printable, signal_name, size_of

PROGRESS_SECONDS = 1.0
TYPING_SECONDS, ANSWER_SECONDS, QUIET_SECONDS = 5.0, 2.0, 0.15
_EXDEV = "Invalid cross-device link"
_EXDEV_HELP = (
    "(In a cell a directory that came with the checkout cannot be renamed in one step, as git mv and rename(2) try to. "
    "Use 'mv OLD NEW && git add -A', which copies.)"
)
READ_AT_ONCE = 128 * KiB


class Bash(InWorkspace):
    command: str = Field(
        min_length=1, max_length=MAX_COMMAND, description="Shell text, run by bash in a fresh process."
    )
    cwd: WorkspacePath | None = Field(
        default=None, description="Directory to run in; default: the session's, or the root."
    )
    timeout_s: float = Field(default=120, gt=0, le=86_400, description="Seconds after which the command is stopped.")
    wait_s: float = Field(default=45, ge=0, le=600, description="Seconds to wait before handing back a running job.")
    background: bool = Field(default=False, description="Hand back a job at once.")
    session: str | None = Field(
        default=None,
        pattern=r"^[\w.-]{1,40}$",
        description="Name; commands of a session share directory and exported variables.",
    )
    tty: bool = Field(default=False, description="Run on a terminal, which bash_input can type on.")


async def bash(services: Services, call: Call[Bash]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    job = await ws.start(args.command, cwd=args.cwd, timeout=args.timeout_s, terminal=args.tty, session=args.session)
    with job.log.held():
        if args.background:
            with anyio.move_on_after(0.05):  # long enough to report a command that cannot even start
                await job.exited.wait()
        else:
            try:
                await follow(job, args.wait_s, call)
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await job.stop("cancelled")
                raise
        if job.error is not None:
            raise job.error
        return report(ws, job, 0)


async def follow(job: Job, seconds: float, call: Call[InWorkspace]) -> None:
    """Waits for a job's command to exit, at most so long, and tells the caller each second how far it is."""
    with anyio.move_on_after(seconds):
        while not job.exited.is_set():
            with anyio.move_on_after(PROGRESS_SECONDS):
                await job.exited.wait()
            if not job.exited.is_set():
                tail = as_text(job.log.read(max(0, job.log.size - 300), 300)[1]).strip().rpartition("\n")[2]
                await call.progress(
                    job.seconds, None, f"{job.seconds:.0f} s, {size_of(job.log.size)} printed: {tail[-120:]}"
                )


def report(ws: Workspace, job: Job, offset: int) -> Reply:
    """The output from an offset on, cut in the middle, and one line that says how it stands or ended."""
    start, data, skipped = _window(job, offset)
    text = as_text(data)
    if skipped:
        text = f"[... {skipped:,} bytes left out; bash_output job={job.id} offset={start - skipped} reads on]\n{text}"
    shown = cut_middle(
        text, MAX_TEXT, f"bash_output job={job.id} offset=N reads the rest, N in bytes of {job.log.size:,}"
    )
    job.read_to = job.log.size
    if job.status is not None and not job.status.ok and _EXDEV in text:
        shown += f"\n{_EXDEV_HELP}"
    separator = "" if not shown or shown.endswith("\n") else "\n"
    return Reply(f"{shown}{separator}[{outcome(ws, job)}]", failed=job.stopped is not None)


def _window(job: Job, offset: int) -> tuple[int, bytes, int]:
    """What to show of a log from an offset on: all of it, or its head and tail when it is long."""
    size = job.log.size - offset
    if size <= READ_AT_ONCE:
        start, data = job.log.read(offset, size)
        return start, data, start - offset
    half = READ_AT_ONCE // 2
    head = job.log.read(offset, half)[1]
    tail_at = job.log.size - half
    gap = tail_at - offset - len(head)
    note = f"\n[... {gap:,} bytes left out; bash_output job={job.id} offset={offset + len(head)} reads on]\n"
    return offset, head + note.encode() + job.log.read(tail_at, half)[1], 0


def outcome(ws: Workspace, job: Job) -> str:
    """How a job stands, in one line, with what to do next where something is to be done."""
    took = f"{job.seconds:.1f} s"
    if job.error is not None:
        return f"lost after {took}: {job.error}{_over(ws, job)}"
    if job.stopped == "timeout":
        return f"stopped after its timeout of {job.timeout:g} s; a larger timeout_s, or background=true, lets it run longer"
    if job.stopped == "output limit":
        limit = size_of(ws.limits.output)
        return f"stopped after {took} for printing more than {limit}; filter it (head, grep), or redirect it to a file"
    if job.stopped == "no room":
        return (
            f"stopped after {took}: the server's disk is full and cannot keep more output; the operator must make room"
        )
    if job.stopped is not None:
        return f"{job.stopped} after {took}"
    if job.status is None:
        return f"still running after {took} as {job.id}; bash_output job={job.id} waits for more, bash_stop job={job.id} ends it"
    left = ", ".join(f"{pid} {printable(name)}" for pid, name in job.status.left)
    if job.status.signal is not None:
        text = f"killed by {signal_name(job.status.signal)} after {took}{_over(ws, job)}"
    else:
        text = f"exit {job.status.exit}, {took}{_over(ws, job)}"
    if job.session is not None and job.left_at is not None:
        text += f"; session {job.session} is in {_short(job.left_at)}"
    elif job.session is not None:
        text += f"; session {job.session} is as it was before, since this shell did not tell where it ended"
    if left and job.running:
        text += f"; left running: {left}; its output goes on in {job.id}, bash_stop job={job.id} ends it"
    elif left:
        text += f"; left running without output: {left}; kill ends it"
    return text


def _short(name: str) -> str:
    """A name to be shown in a line; a command may choose one as long as it likes."""
    shown = printable(name)
    return shown if len(shown) <= 300 else f"{shown[:300]}..."


def _over(ws: Workspace, job: Job) -> str:
    """Which limits of the cell ended processes while a job ran, and what to do about it; a guess where nobody can tell."""
    memory, disk = f"memory limit of {size_of(ws.limits.memory)}", f"disk limit of {size_of(ws.limits.disk)}"
    if job.breached is None:
        by_kill = job.status is not None and job.status.signal == 9
        return f"; nobody asked for that, so most likely the cell's {memory} or {disk}" if by_kill else ""
    said = {
        "memory": f"; the cell was over its {memory}, so what took most was ended; use less at once, then try again",
        "disk": f"; the cell was over its {disk}, so everything running in it was killed; remove files it made, then try again",
    }
    return "".join(said[name] for name in job.breached)


class BashOutput(InWorkspace):
    job: str = Field(description="Job id, as bash gave it.")
    wait_s: float = Field(default=0, ge=0, le=600, description="Seconds to wait for the command to end.")
    offset: int | None = Field(
        default=None, ge=0, description="Byte to read from; default: where the last call stopped."
    )


async def bash_output(services: Services, call: Call[BashOutput]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    job = ws.job(args.job)
    with job.log.held():
        if args.wait_s and job.running:
            await follow(job, args.wait_s, call)
        return report(ws, job, job.read_to) if args.offset is None else _from_offset(job, args.offset)


def _from_offset(job: Job, offset: int) -> Reply:
    """One page of a log. Raises CallerMistake for an offset it does not have yet."""
    if offset > job.log.size:
        raise CallerMistake(f"{job.id} has printed {job.log.size:,} bytes so far; offset {offset:,} is behind that.")
    start, data = job.log.read(offset, MAX_TEXT)
    rest = job.log.size - start - len(data)
    more = f"; {rest:,} bytes follow, go on with offset={start + len(data)}" if rest else ""
    return Reply(f"{as_text(data)}\n[bytes {start:,} to {start + len(data):,} of {job.log.size:,}{more}]")


class BashInput(InWorkspace):
    job: str = Field(description="Job id; it must have been started with tty=true.")
    text: str = Field(default="", max_length=MAX_COMMAND, description="What to type; end a line with a newline.")
    eof: bool = Field(default=False, description="Then press Ctrl-D.")


async def bash_input(services: Services, call: Call[BashInput]) -> Reply:
    ws, args = workspace_of(services, call), call.args
    job = ws.job(args.job)
    if job.exited.is_set():
        raise CallerMistake(f"{job.id} reads nothing any more: {outcome(ws, job)}.")
    if not job.terminal:
        raise CallerMistake(
            f"The standard input of {job.id} is empty. Start the command again with tty=true to type on it."
        )
    seen = job.log.size
    with job.log.held():
        with anyio.move_on_after(TYPING_SECONDS) as typing:
            await job.type(args.text.encode(), eof=args.eof)
        if not typing.cancelled_caught:
            await settle(job, seen)
        if job.unread:
            raise CallerMistake(
                f"{job.id} does not read what is typed: {job.unread:,} bytes of it wait. bash_stop ends it."
            )
        return report(ws, job, job.read_to)


async def settle(job: Job, seen: int) -> None:
    """Waits for what a command answers: for output beyond `seen` bytes, and then until it has been quiet for a moment."""
    latest = anyio.current_time() + ANSWER_SECONDS
    with anyio.CancelScope() as quiet:
        while not job.exited.is_set():
            wait = QUIET_SECONDS if job.log.size > seen else ANSWER_SECONDS
            quiet.deadline = min(latest, anyio.current_time() + wait)
            await job.changed()


class BashStop(InWorkspace):
    job: str = Field(description="Job id, as bash gave it.")


async def bash_stop(services: Services, call: Call[BashStop]) -> Reply:
    ws = workspace_of(services, call)
    job = ws.job(call.args.job)
    was_running = job.running
    with job.log.held():
        await job.stop("stopped")
        with anyio.move_on_after(5):
            await job.done.wait()
        return Reply(
            report(ws, job, job.read_to).text if was_running else f"{job.id} had ended before: {outcome(ws, job)}"
        )


TOOLS = (
    Tool(
        name="bash", title="Run a command", toolset="core", effect="execute", arguments=Bash, handler=bash, destructive=True,
        description="Runs a command in the workspace's cell: a sandbox with this checkout at /workspace, the system's "
        "programs read-only and no network. Each call is a new shell; only files carry over, and with session= also the "
        "directory and exported variables. Waits wait_s, then hands back a job id and the command goes on. The last line says "
        "exit code and time. Standard input is empty. Output is cut in the middle at 30,000 characters. Prefer read_file, grep "
        "and edit_file for files.",
    ),
    Tool(
        name="bash_output", title="Read a job's output", toolset="core", effect="read", arguments=BashOutput,
        handler=bash_output,
        description="Returns what a job has printed since the last look, or from a byte offset on, and whether it still "
        "runs. With wait_s it waits that long for the end. Jobs come from bash and are listed by workspace_status.",
    ),
    Tool(
        name="bash_input", title="Type on a job's terminal", toolset="jobs", effect="execute", arguments=BashInput,
        handler=bash_input, destructive=True,
        description="Types text on the terminal of a running job that bash started with tty=true (a prompt, a debugger, a "
        "REPL), then waits up to two seconds for an answer and returns the output not read yet. Control characters work as "
        "on a keyboard: \\u0003 interrupts. eof=true presses Ctrl-D at the end. bash_output waits longer.",
    ),
    Tool(
        name="bash_stop", title="Stop a job", toolset="core", effect="execute", arguments=BashStop, handler=bash_stop,
        destructive=True, idempotent=True,
        description="Ends a job of this workspace and every process it started, also those that left its session: SIGTERM "
        "first, SIGKILL two seconds later. Returns the output not read yet. Files it wrote stay as they are.",
    ),
)  # fmt: skip
