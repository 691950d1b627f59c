"""Repositories on the host: bare mirrors that no sandbox can write.

Lives here: every git process of the host, all through GitPython, without filters, hooks, fsmonitor and optional locks. Host
git never reads anything an agent can write. It may not know workspaces or sandboxes.
"""

import difflib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread
from git.cmd import Git

from .clones import Change, uncommitted
from .errors import Misconfigured, NoSuchRef, NoSuchRepository
from .together import together

FETCH_SECONDS = 1800.0
QUICK_SECONDS = 60.0
_UNREADABLE = "this server may not read it"
_OBJECT_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:[^:].*")

# No repository content and no setting of the operator's may make these calls run a program or ask a question.
_CONFIG = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.pager": "cat",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "fetch.recurseSubmodules": "no",
    "submodule.recurse": "false",
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "protocol.ssh.allow": "always",
    "protocol.file.allow": "always",
}
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
}


@dataclass(frozen=True)
class Source:
    """Where a repository is fetched from. `shown` carries no credentials and no host path, and may be printed."""

    url: str
    shown: str
    local: Path | None


@dataclass(frozen=True)
class Checkout:
    """A commit to work on, in a mirror to take it from."""

    source: Source
    mirror: Path
    commit: str
    branch: str | None


def parse_source(repo: str) -> Source:
    """A path or URL as a Source. Raises NoSuchRepository with what is wrong, before anything is run."""
    if repo.startswith("-") or "\0" in repo or "::" in repo or not repo.strip():
        raise NoSuchRepository(repo, "that is not a path or URL")
    if _SCP_LIKE.fullmatch(repo):
        return Source(repo, repo, None)
    if "://" in repo:
        parts = urlsplit(repo)
        if parts.scheme == "file":
            return _local(repo, Path(parts.path))
        if parts.scheme not in ("https", "ssh"):
            raise NoSuchRepository(repo, f"{parts.scheme} URLs are not fetched")
        if not parts.hostname or parts.hostname.startswith("-"):
            raise NoSuchRepository(repo, "the URL names no host")
        user = f"{parts.username}@" if parts.scheme == "ssh" and parts.username else ""
        port = f":{parts.port}" if parts.port else ""
        return Source(repo, urlunsplit((parts.scheme, f"{user}{parts.hostname}{port}", parts.path, "", "")), None)
    return _local(repo, Path(repo).expanduser().absolute())


def _local(repo: str, path: Path) -> Source:
    try:
        if not path.exists():
            raise NoSuchRepository(repo, "there is no such path on this machine")
        for candidate in (path, *path.parents):
            if (candidate / ".git").exists() or ((candidate / "HEAD").is_file() and (candidate / "objects").is_dir()):
                return Source(str(candidate), candidate.name, candidate)
    except PermissionError as error:
        raise NoSuchRepository(repo, _UNREADABLE) from error
    raise NoSuchRepository(repo, "it is not inside a git repository")


class Repositories:
    """The mirrors below one folder. Several server processes may share it: each mirror is locked while it changes."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._locks: dict[Path, anyio.Lock] = {}

    async def checkout(self, repo: str, ref: str | None) -> Checkout:
        """Brings what `ref` (default: the source's HEAD) names into a mirror. Fetches only what is not there yet."""
        source = parse_source(repo)
        mirror = self._folder / hashlib.sha256(source.url.encode()).hexdigest()[:32]
        try:
            commit, branch = await self._mirrored(source, mirror, repo, ref)
        except GitError as error:
            raise NoSuchRepository(repo, error.why) from error
        return Checkout(source, mirror, commit, branch)

    async def uncommitted(self, repo: str) -> Sequence[Change]:
        """What is uncommitted in a local clone; nothing for a URL. Takes time in the number of its files."""
        try:
            return await uncommitted(self._git, parse_source(repo).local)
        except GitError as error:
            raise NoSuchRepository(repo, error.why) from error
        except PermissionError as error:
            raise NoSuchRepository(repo, _UNREADABLE) from error

    async def _mirrored(self, source: Source, mirror: Path, repo: str, ref: str | None) -> tuple[str, str | None]:
        """The commit a ref names, in the mirror, and the branch it is on."""
        async with self._locked(mirror):
            if not (mirror / "HEAD").exists():
                await self._git("init", "--quiet", "--bare", str(mirror), seconds=QUICK_SECONDS)
            if ref is not None and _OBJECT_ID.fullmatch(ref) and await self._has(mirror, ref):
                return ref, None
            advertised, head = await self._refresh(source, mirror, repo)
            return await self._resolve(mirror, ref, advertised, head)

    @asynccontextmanager
    async def _locked(self, mirror: Path) -> AsyncGenerator[None]:
        async with self._locks.setdefault(mirror, anyio.Lock()):
            mirror.parent.mkdir(parents=True, exist_ok=True)
            with Path(f"{mirror}.lock").open("w") as file:
                await anyio.to_thread.run_sync(fcntl.flock, file, fcntl.LOCK_EX, abandon_on_cancel=True)
                yield

    async def _refresh(self, source: Source, mirror: Path, repo: str) -> tuple[dict[str, str], str | None]:
        """Fetches when the source advertises anything the mirror lacks; returns its refs, and the branch HEAD names."""
        git_dir = ("--git-dir", str(mirror))
        try:
            listing, known = await together(
                lambda: self._git("ls-remote", "--symref", "--", source.url, seconds=QUICK_SECONDS),
                lambda: self._git(*git_dir, "show-ref", "--dereference", ok=(0, 1), seconds=QUICK_SECONDS),
            )
        except GitError as error:
            raise NoSuchRepository(repo, error.why) from error
        head: str | None = None
        refs: dict[str, str] = {}
        for line in listing.splitlines():
            left, _, name = line.partition("\t")
            if left.startswith("ref: refs/heads/") and name == "HEAD":
                head = left.removeprefix("ref: refs/heads/")
            elif name == "HEAD" or name.startswith(("refs/heads/", "refs/tags/", "refs/remotes/")):
                refs[name] = left
        if not refs:
            raise NoSuchRepository(repo, "it has no commits yet")
        if not set(refs.values()) <= {line.split(" ")[0] for line in known.splitlines()}:
            specs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/repocell/head"]
            if source.local is not None:
                specs.append("+refs/remotes/*:refs/remotes/*")
            try:
                await self._git(
                    "--git-dir", str(mirror), "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force",
                    "--prune", "--", source.url, *specs, seconds=FETCH_SECONDS,
                )  # fmt: skip
            except GitError as error:
                raise NoSuchRepository(repo, error.why) from error
        return refs, head

    async def _resolve(
        self, mirror: Path, ref: str | None, refs: Mapping[str, str], head: str | None
    ) -> tuple[str, str | None]:
        if ref is None:
            found, branch = refs.get("HEAD"), head
            if found is not None:
                return found, branch
        else:
            names = (f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/remotes/{ref}", f"refs/remotes/origin/{ref}", ref)
            name = next((name for name in names if name in refs), None)
            found = refs[name] if name else (ref if _OBJECT_ID.fullmatch(ref) else None)
            branch = ref if name == f"refs/heads/{ref}" else None
            if branch is not None and found is not None:
                return found, branch  # a branch names a commit, always
            if found is None and re.fullmatch(r"[0-9a-f]{7,63}", ref):
                found = ref
        if found is not None:
            with suppress(GitError):
                spec = f"{found}^{{commit}}"
                args = ("--git-dir", str(mirror), "rev-parse", "--verify", "--quiet", "--end-of-options", spec)
                return (await self._git(*args, seconds=QUICK_SECONDS)).strip(), branch
        shown = [name.split("/", 2)[2] for name in refs if name.count("/") >= 2]
        raise NoSuchRef(ref or "HEAD", difflib.get_close_matches(ref or "", shown, n=3, cutoff=0.5))

    async def _has(self, mirror: Path, commit: str) -> bool:
        try:
            await self._git("--git-dir", str(mirror), "cat-file", "-e", f"{commit}^{{commit}}", seconds=QUICK_SECONDS)
        except GitError:
            return False
        return True

    # -- processes

    async def _git(
        self, *args: str, seconds: float, ok: Sequence[int] = (0,), config: Mapping[str, str] | None = None
    ) -> str:
        """Runs git and returns what it printed. Raises GitError. Cancelled or late, its whole process group is killed."""
        settings = {**_CONFIG, **(config or {})}
        environment = {**self._environment, **_ENVIRONMENT, "GIT_CONFIG_COUNT": str(len(settings))}
        for index, (key, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
        if shutil.which("git") is None:
            raise Misconfigured("git is not installed on this machine. Install it: 'sudo apt install git'.")
        started = Git(str(self._folder.parent)).execute(
            ["git", *args],
            as_process=True,
            env=environment,
            istream=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o022,  # cells read the mirrors under a uid of their own
        )
        process = cast("subprocess.Popen[bytes]", started.proc)  # pyright: ignore[reportUnknownMemberType]
        try:
            with anyio.fail_after(seconds):
                out, err = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
        except TimeoutError:
            raise GitError(f"git took longer than {seconds:g} s") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(process.wait)
        if process.returncode not in ok:
            raise GitError(explain(err.decode(errors="replace")))
        return os.fsdecode(out)


class GitError(Exception):
    """One git call failed; `why` is fit to be shown."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


_HOST_PATHS = re.compile(r"'?(?:https?://\S*|/[^\s':]+)'?")  # what git names may hold a credential, or tell of the host
_SYMPTOMS = (
    ("dubious ownership", "it belongs to another user (add it to git's safe.directory, or run repocell as its owner)"),
    ("could not read username", "it asks for credentials that this server does not have"),
    ("authentication failed", "the credentials were refused"),
    ("permission denied (publickey", "the ssh key was refused"),
    ("could not resolve host", "its host name cannot be resolved"),
    ("not allowed", "its transport is not allowed"),
    ("not found", "there is no such repository, or it is private"),
    ("does not appear to be a git repository", "it is not a git repository"),
    ("no space left", "the server's disk is full"),
)


def explain(said: str) -> str:
    """What git's error output means for somebody who wanted a repository; its own last line where nothing better is known."""
    lowered = said.lower()
    for symptom, meaning in _SYMPTOMS:
        if symptom in lowered:
            return meaning
    lines = [line.removeprefix("fatal: ") for line in said.strip().splitlines()]
    return _HOST_PATHS.sub("...", lines[-1])[:200] if lines else "git gave no reason"
