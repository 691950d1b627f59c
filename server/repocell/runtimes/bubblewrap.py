"""The bubblewrap runtime: a sandbox out of Linux namespaces, without root and without a daemon.

Lives here: starting and destroying one sandbox, and finding out what it really isolates. Always unprivileged: a server
that is root drops to a uid of its own first. It may not know the guest's protocol, and it never runs anything unconfined.
"""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteStream, UNIXSocketStream

from ..errors import RuntimeUnusable, SandboxLost, sole_error
from ..models import WORKSPACE_DIR, Enforcement, Limits, OverlayTree, PlainTree, ProbeReport, Problem, SandboxSpec
from . import cgroups, rootfs, seccomp, watchdog
from .breaches import TellingStream
from .diagnosis import GUEST_PYTHON, cannot_become, diagnose, preflight
from .segments import segments_of
from .trial import TRIAL_PROGRAM, read_trial

_log = logging.getLogger(__name__)
START_SECONDS = 20.0
END_SECONDS = 10.0
NAMESPACES = ("--unshare-all", "--unshare-user", "--disable-userns", "--new-session", "--die-with-parent", "--as-pid-1")


@dataclass(frozen=True)
class Identity:
    """The host uid and gid a sandbox runs under; `drop` when the server has to change to it first."""

    uid: int
    gid: int
    drop: bool

    @classmethod
    def for_server(cls, sandbox_uid: int) -> "Identity":
        if os.geteuid() == 0:
            return cls(sandbox_uid, sandbox_uid, drop=True)
        return cls(os.geteuid(), os.getegid(), drop=False)


@dataclass(frozen=True)
class Running:
    """A started sandbox: bubblewrap's own process, the PID 1 inside as the host sees it, and our end of the stream."""

    process: subprocess.Popen[bytes]
    init: int
    init_descriptor: int
    channel: socket.socket
    errors: int


class Bubblewrap:
    """See Runtime. `identity` owns the cells' files: whoever makes a tree for a cell gives it to that uid."""

    name = "bubblewrap"

    def __init__(self, identity: Identity, scratch: Path | None = None, executable: str | None = None) -> None:
        """`scratch`: a directory on the file system where state is kept, for trials; where there is none, a temporary one."""
        self.identity, self._scratch = identity, scratch
        self._executable = executable or shutil.which("bwrap") or "bwrap"
        self._host = rootfs.HostLayout.look()
        self._hierarchy = cgroups.find()

    # -- one sandbox

    @asynccontextmanager
    async def open(self, spec: SandboxSpec) -> AsyncGenerator[ByteStream]:
        group = self._make_group(spec.limits)
        try:
            running = await self._start(spec, group)
            try:
                stream = await UNIXSocketStream.from_socket(running.channel)
                try:
                    async with anyio.create_task_group() as tasks:
                        tally = watchdog.Tally()
                        tasks.start_soon(self._watch_memory, running.init, spec.limits, tally, group)
                        tasks.start_soon(
                            watchdog.watch_disk, running.init, spec.limits, tally, self._measure, *spec.tree.written
                        )
                        yield TellingStream(stream, lambda: tally.seen(group.kills() if group is not None else 0))
                        tasks.cancel_scope.cancel()
                except BaseExceptionGroup as caught:
                    raise self._explain(sole_error(caught), running) from None
                finally:
                    with anyio.CancelScope(shield=True):
                        await stream.aclose()
            finally:
                with anyio.CancelScope(shield=True):
                    await _destroy(running)
        finally:
            if group is not None:
                group.remove()

    async def _watch_memory(
        self, init: int, limits: Limits, tally: watchdog.Tally, group: cgroups.CellGroup | None
    ) -> None:
        with segments_of(init) as segments:
            if group is None:
                await watchdog.watch_memory(init, limits, tally, segments)
            else:
                await watchdog.watch_segments(init, group.kills, segments)

    async def _measure(self, trees: Sequence[str]) -> int | None:
        """Bytes below trees that cannot be seen in full from here; None when they cannot be told.

        Whoever makes a user namespace may look into whatever their own user closed, and du walks by descriptor, however
        deep. Runs as the cells' own user, so it reaches no more than they do.
        """
        outer = ["--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--die-with-parent"]
        command = [self._executable, *outer, "--dev-bind", "/", "/", "--"]
        command += ["/usr/bin/du", "--summarize", "--total", "--block-size=1", "--one-file-system", "--", *trees]
        identity = self.identity
        try:
            done = await anyio.run_process(
                command, check=False, env={"LC_ALL": "C"}, cwd="/", user=identity.uid if identity.drop else None,
                group=identity.gid if identity.drop else None, extra_groups=[] if identity.drop else None,
            )  # fmt: skip
        except OSError as error:
            _log.warning("a cell's files could not be measured: %s", error.strerror)
            return None
        words = done.stdout.split()[-2:]
        return int(words[0]) if words[1:] == [b"total"] and b"cannot read" not in done.stderr else None

    def _make_group(self, limits: Limits) -> cgroups.CellGroup | None:
        if self._hierarchy is None:
            return None
        try:
            return self._hierarchy.make(cgroups.group_name(os.urandom(8).hex()), limits)
        except OSError as error:
            raise RuntimeUnusable(
                self.name, f"limits that worked at start can no longer be set ({error.strerror})", "Restart the server."
            ) from error

    async def _start(self, spec: SandboxSpec, group: cgroups.CellGroup | None) -> Running:
        ours, theirs = socket.socketpair()
        info, info_end = os.pipe()
        hold_end, hold = os.pipe()
        errors, errors_end = os.pipe()
        with ExitStack() as kept, ExitStack() as passed:
            for ours_only in (info, hold):
                kept.callback(os.close, ours_only)
            for descriptor in (info_end, hold_end, errors_end):
                passed.callback(os.close, descriptor)
            passed.callback(theirs.close)
            written = [(name, passed.enter_context(_file(text))) for name, text in rootfs.ETC_WRITTEN.items()]
            program = passed.enter_context(_file(seccomp.program()))
            argv = rootfs.around(self._executable, spec.tree, self._host)
            argv += [self._executable, *NAMESPACES, "--cap-drop", "ALL", "--hostname", rootfs.HOSTNAME]
            argv += ["--uid", str(rootfs.CELL_UID), "--gid", str(rootfs.CELL_UID), "--clearenv"]
            for key, value in spec.environment.items():
                argv += ["--setenv", key, value]
            argv += rootfs.operations(spec, self._host, written)
            argv += ["--seccomp", str(program), "--info-fd", str(info_end), "--block-fd", str(hold_end)]
            argv += ["--chdir", WORKSPACE_DIR, "--", *spec.argv]
            passing = [info_end, hold_end, program, *(descriptor for _, descriptor in written)]
            process = self._spawn(argv, theirs, errors_end, passing)
            passed.close()
            try:
                init = await _init_pid(info)
                descriptor = os.pidfd_open(init)
            except (OSError, ValueError, TimeoutError) as error:
                process.kill()
                process.wait()
                ours.close()
                problem = diagnose(_drain(errors))
                os.close(errors)
                raise RuntimeUnusable(self.name, problem.cause, problem.remedy) from error
            running = Running(process, init, descriptor, ours, errors)
            try:
                if group is not None:
                    group.adopt(init)
                os.write(hold, b"\0")
            except OSError as error:
                problem = diagnose(_last_words(running))
                with anyio.CancelScope(shield=True):
                    await _destroy(running)
                raise RuntimeUnusable(self.name, problem.cause, problem.remedy) from error
            return running

    def _spawn(
        self, argv: Sequence[str], channel: socket.socket, errors: int, passing: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Starts bubblewrap on this thread: the kernel ties --die-with-parent to the thread that forks."""
        identity = self.identity
        try:
            return subprocess.Popen(
                argv, stdin=channel.fileno(), stdout=channel.fileno(), stderr=errors, pass_fds=passing, env={}, cwd="/",
                start_new_session=True, user=identity.uid if identity.drop else None,
                group=identity.gid if identity.drop else None, extra_groups=[] if identity.drop else None,
            )  # fmt: skip
        except OSError as error:
            problem = preflight(self._executable) or diagnose(str(error))
            raise RuntimeUnusable(self.name, problem.cause, problem.remedy) from error

    def _explain(self, error: BaseException, running: Running) -> BaseException:
        """A sandbox that never came up is the operator's problem, and bubblewrap's own words say which."""
        if isinstance(error, SandboxLost):
            if said := _last_words(running):
                _log.warning("the last words of a sandbox: %s", said[-2000:])
            if said.startswith("bwrap:"):
                problem = diagnose(said)
                return RuntimeUnusable(self.name, problem.cause, problem.remedy)
        return error

    # -- what it is worth here

    def check(self) -> None:
        identity = self.identity
        problem = preflight(self._executable)
        if problem is None and identity.drop:
            problem = cannot_become(identity.uid, identity.gid)
        if problem is not None:
            raise RuntimeUnusable(self.name, problem.cause, problem.remedy)

    async def probe(self) -> ProbeReport:
        report = ProbeReport(runtime=self.name, version="", usable=False)
        try:
            self.check()
            version = await anyio.run_process([self._executable, "--version"], check=False)
            report = report.model_copy(update={"version": version.stdout.decode(errors="replace").strip()})
            (overlay, note), isolation = await self._trials()
        except RuntimeUnusable as unusable:
            found = Problem(cause=unusable.cause, remedy=unusable.remedy)
            return report.model_copy(update={"problems": (found,)})
        except OSError as error:
            cause = f"a trial's files could not be made or given to the cells' user ({error.strerror})"
            found = Problem(
                cause=cause, remedy="Run repocell outside any other sandbox, with room for its state directory."
            )
            return report.model_copy(update={"problems": (found,)})
        missing = [name for name, holds in isolation.items() if not holds]
        problems = tuple(
            Problem(cause=f"a trial sandbox did not keep its promise: {name}", remedy="Report this as a security bug.")
            for name in missing
        )
        found = {"usable": not missing, "isolation": isolation, "limits": self.enforcement(), "problems": problems}
        return report.model_copy(update={**found, "overlay": overlay, "notes": note})

    async def _trials(self) -> tuple[tuple[bool, tuple[str, ...]], dict[str, bool]]:
        """Whether overlays work and what is isolated, tried side by side: every start of a server waits for both."""
        overlay: tuple[bool, tuple[str, ...]] = (False, ())
        said = ""

        async def try_plain() -> None:
            nonlocal said
            said = await self._try(_plain_tree)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(try_plain)
                overlay = await self._try_overlay()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # where both failed, either tells the cause
        return overlay, read_trial(said)

    async def _try_overlay(self) -> tuple[bool, tuple[str, ...]]:
        """Whether layers can be stacked where the state is kept; if not, why workspaces are copied instead."""
        try:
            kept = read_trial(await self._try(_overlay_tree))
        except RuntimeUnusable as unusable:
            return False, (f"Workspaces are copies, not overlays: {unusable.cause}.",)
        works = all(kept.values())
        return works, () if works else ("Workspaces are copies, not overlays: a trial overlay did not take writes.",)

    async def _try(self, make_tree: Callable[[Path], PlainTree | OverlayTree]) -> str:
        """Runs the trial program in a sandbox on a tree of its own, and returns what it printed.

        Raises RuntimeUnusable when it printed nothing: no cell would live there either.
        """
        place = self._scratch if self._scratch is not None and self._scratch.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="trial-", dir=place, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            folder.chmod(0o711)
            tree = make_tree(folder)
            for path in folder.rglob("*"):
                if self.identity.drop:
                    os.chown(path, self.identity.uid, self.identity.gid)
            argv = (GUEST_PYTHON, "-I", "-S", "-c", TRIAL_PROGRAM)
            said = b""
            try:
                with anyio.move_on_after(START_SECONDS):
                    async with self.open(SandboxSpec(argv=argv, tree=tree)) as stream:
                        with suppress(anyio.EndOfStream):
                            while True:
                                said += await stream.receive()
                        if not said:
                            raise SandboxLost("the trial printed nothing")
            except SandboxLost as lost:
                problem = diagnose("")
                raise RuntimeUnusable(self.name, problem.cause, problem.remedy) from lost
            return said.decode(errors="replace")

    def enforcement(self) -> dict[str, Enforcement]:
        """How each limit is kept on this machine."""
        if self._hierarchy is None:
            summed: dict[str, Enforcement] = {"memory": "watchdog", "processes": "rlimit", "cpu": "not enforced"}
        else:
            version = self._hierarchy.version
            has_cpu = "cpu" in self._hierarchy.parents
            summed = {"memory": version, "processes": version, "cpu": version if has_cpu else "not enforced"}
        return {
            **summed, "memory per process": "rlimit", "disk": "watchdog", "file size": "rlimit", "open files": "rlimit",
            "temporary files": "tmpfs size",
        }  # fmt: skip

    async def sweep(self) -> None:
        if self._hierarchy is not None:
            self._hierarchy.sweep()


# ----------------------------------------------------------------------------------------------------------------------


def _given(layer: Path) -> None:
    """What a trial finds: the two directories of every layer, and something to delete."""
    (layer / "home").mkdir()
    (layer / "workspace" / "given").mkdir(parents=True)
    (layer / "workspace" / "given" / "below").write_text("given", encoding="ascii")


def _plain_tree(folder: Path) -> PlainTree:
    _given(folder)
    return PlainTree(workspace=str(folder / "workspace"), home=str(folder / "home"))


def _overlay_tree(folder: Path) -> OverlayTree:
    for name in ("lower", "upper", "work", "mount"):
        (folder / name).mkdir()
    _given(folder / "lower")
    return OverlayTree(folder=str(folder), lowers=("lower",), upper="upper", work="work", mount=str(folder / "mount"))


@contextmanager
def _file(content: str | bytes) -> Generator[int]:
    """A descriptor of an unnamed file in memory, positioned at its start."""
    descriptor = os.memfd_create("repocell")
    try:
        os.write(descriptor, content.encode() if isinstance(content, str) else content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


async def _init_pid(info: int) -> int:
    """PID 1 of the new sandbox as the host numbers it. Raises ValueError when bubblewrap ended without saying."""
    said = b""
    with anyio.fail_after(START_SECONDS):
        while b"}" not in said:
            await anyio.wait_readable(info)
            part = os.read(info, 4096)
            if not part:
                raise ValueError("no sandbox")
            said += part
    return int(json.loads(said)["child-pid"])


async def _destroy(running: Running) -> None:
    """Kills PID 1; the kernel then kills all others in its namespace before PID 1 counts as ended. Bounded in time."""
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(running.init_descriptor, signal.SIGKILL)
        with anyio.move_on_after(END_SECONDS):
            await anyio.wait_readable(running.init_descriptor)
        running.process.kill()
        running.process.wait()
    finally:
        os.close(running.init_descriptor)
        os.close(running.errors)


def _last_words(running: Running) -> str:
    """What a sandbox that is ending printed; waits a second for it to have ended."""
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(timeout=1)
    return _drain(running.errors)


def _drain(descriptor: int) -> str:
    """What is in a pipe now, at most 64 KiB."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 1 << 16).decode(errors="replace")
    except BlockingIOError:
        return ""
