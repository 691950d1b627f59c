"""Frozen values: ids, paths, limits, facts and results, parsed once and trusted after.

Lives here: what several modules pass to each other. It may not do I/O, and it may not know anything above it.
"""

import posixpath
import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .errors import BadPath

WORKSPACE_DIR = "/workspace"
HOME_DIR = "/home/agent"
MIRROR_DIR = "/mirror"
TOOLS_DIR = "/opt/repocell/bin"

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


class Frozen(BaseModel):
    """The base of every value: immutable, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def new_id(prefix: Literal["ws", "job", "ap", "cp"]) -> str:
    """A typed, unguessable handle with 128 random bits."""
    return f"{prefix}_{secrets.token_hex(16)}"


class Principal(Frozen):
    """Who is calling. Over stdio the OS user that started the server; over HTTP whom a verified token names."""

    name: str
    kind: Literal["local", "token"] = "local"


class Limits(Frozen):
    """What one cell may use. Sizes are bytes."""

    cpus: float = Field(default=2.0, gt=0)
    memory: int = Field(default=4 * GiB, ge=64 * MiB)
    pids: int = Field(default=512, ge=16)
    disk: int = Field(default=10 * GiB, ge=16 * MiB)
    open_files: int = Field(default=4096, ge=64)
    temporary: int = Field(default=1 * GiB, ge=1 * MiB)
    output: int = Field(default=256 * MiB, ge=1 * MiB)


class PlainTree(Frozen):
    """A cell's writable directories as they lie on the host: the checkout, and the home directory."""

    workspace: str
    home: str

    @property
    def written(self) -> tuple[str, ...]:
        """The directories on the host that grow when the cell writes."""
        return (self.workspace, self.home)


class OverlayTree(Frozen):
    """A cell's writable directories as an overlay. Layers are names below `folder`, the newest of `lowers` first.

    Each layer holds `workspace` and `home`. `work` is the kernel's own scratch directory on the same file system, and
    `mount` an empty directory where the overlay appears, in the sandbox's own mount namespace and nowhere else.
    """

    folder: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    mount: str

    @property
    def workspace(self) -> str:
        return f"{self.mount}/workspace"

    @property
    def home(self) -> str:
        return f"{self.mount}/home"

    @property
    def written(self) -> tuple[str, ...]:
        """The directories on the host that grow when the cell writes."""
        return (f"{self.folder}/{self.upper}",)


class ReadOnlyBind(Frozen):
    """A host file or directory that shows inside a cell, never writable."""

    source: str
    target: str


class SandboxSpec(Frozen):
    """Everything a runtime needs to make one sandbox. There is no network option: there is no network to give."""

    argv: tuple[str, ...]
    tree: PlainTree | OverlayTree
    binds: tuple[ReadOnlyBind, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    limits: Limits = Limits()


Enforcement = Literal["cgroup v2", "cgroup v1", "rlimit", "tmpfs size", "watchdog", "not enforced"]


class Problem(Frozen):
    """Why something does not work here, and the one line that changes that."""

    cause: str
    remedy: str


class ProbeReport(Frozen):
    """What a runtime really isolates and limits on this machine, found out by trying."""

    runtime: str
    version: str
    usable: bool
    isolation: dict[str, bool] = Field(default_factory=dict)
    limits: dict[str, Enforcement] = Field(default_factory=dict)
    overlay: bool = False
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def normalise_path(path: str) -> str:
    """A path relative to the workspace root ('' for the root itself), from one relative to it or absolute in the cell.

    Lexical only: what links make of it is decided inside the sandbox. Raises BadPath when it points outside.
    """
    if "\0" in path:
        raise BadPath(path, "it contains a NUL byte")
    full = posixpath.normpath(posixpath.join(WORKSPACE_DIR, path))
    if full != WORKSPACE_DIR and not full.startswith(WORKSPACE_DIR + "/"):
        raise BadPath(
            path, f"it lies outside the workspace ({WORKSPACE_DIR}); commands in bash may read the rest of the cell"
        )
    return full[len(WORKSPACE_DIR) + 1 :]


def _argument_path(path: str) -> str:
    try:
        return normalise_path(path)
    except BadPath as error:
        raise ValueError(str(error)) from error


WorkspacePath = Annotated[str, AfterValidator(_argument_path)]
"""A normalised path below the workspace root; '' is the root."""


class ExitStatus(Frozen):
    """How a command ended: `exit` is its code, or None when `signal` ended it. Times in seconds.

    `left` are processes it left running; `aside` is what it wrote on its private descriptor, where it was given one.
    """

    exit: int | None
    signal: int | None
    user: float
    system: float
    max_rss_kb: int
    left: tuple[tuple[int, str], ...] = ()
    aside: bytes = b""

    @property
    def ok(self) -> bool:
        return self.exit == 0


class FileFacts(Frozen):
    kind: Literal["file", "directory", "symlink", "special"]
    size: int
    mode: int
    target: str | None = None
    digest: str | None = None


class DirectoryEntry(FileFacts):
    path: str


class Listing(Frozen):
    """What stands below a directory, depth first; `more` when it was cut."""

    entries: tuple[DirectoryEntry, ...]
    more: bool


class FileWindow(Frozen):
    """A part of a file: whole lines from `first_line` on, or bytes. `lines` counts the whole file; None when too large."""

    body: bytes
    size: int
    mode: int
    binary: bool
    cut: bool
    sent: int
    newlines_sent: int
    lines: int | None
    digest: str | None


class Written(Frozen):
    digest: str | None
    created: bool
    mode: int


class Checkpoint(Frozen):
    """A state of a workspace that can be returned to: the layers it stood on. Times are seconds since the epoch."""

    id: str
    name: str
    created: float
    lowers: tuple[str, ...]


class WorkspaceRecord(Frozen):
    """What must survive the server about one workspace. `lowers` are read-only layers, the newest first.

    `branched`: its repository is on `branch` (done when its first sandbox starts). `settled`: somebody was told of it; one
    that never was is swept away.
    """

    id: str
    principal: Principal
    repo: str
    mirror: str
    commit: str
    base: str | None
    branch: str
    task: str | None
    created: float
    used: float
    upper: str
    lowers: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    parent: str | None = None
    branched: bool = False
    settled: bool = False

    @property
    def layers(self) -> frozenset[str]:
        """Every layer that must stay for this workspace."""
        kept = (layer for checkpoint in self.checkpoints for layer in checkpoint.lowers)
        return frozenset((self.upper, *self.lowers, *kept))


class LayerRecord(Frozen):
    """A checkout layer: the files of one commit, made once. `seal` tells whether somebody changed it since."""

    id: str
    mirror: str
    commit: str
    created: float
    size: int
    seal: str


class Stop(Frozen):
    """A person's word that something may not run: a workspace, a principal, or everything."""

    scope: Literal["workspace", "principal", "everything"]
    name: str
    since: float

    def covers(self, record: WorkspaceRecord) -> bool:
        return self.scope == "everything" or self.name == (
            record.id if self.scope == "workspace" else record.principal.name
        )


class AuditHead(Frozen):
    """Where an audit chain stands: how many records, in how many segments, and the hash of the newest one.

    `closed`: its server ended in order, so nothing comes after.
    """

    chain: str
    records: int = Field(ge=0)
    segment: int = Field(ge=1)
    head: str = Field(pattern="^[0-9a-f]{64}$")
    closed: bool = False
