"""What a workspace costs: opening, forking, returning, waking, against the physical floor and against copying.

The floor is what no implementation on this machine can beat: mount one overlay, start bubblewrap and the guest, run `true`.
Everything of ours is measured through a real MCP client over stdio, gate and audit on.
"""

import os
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from mcp import Client

from harness import SANDBOX_UID, ask, connect_to_server, git, make_repo
from repocell.guest.link import Exited, boot_argv, open_link
from repocell.models import OverlayTree, SandboxSpec
from repocell.runtimes.bubblewrap import Bubblewrap, Identity
from repocell.runtimes.diagnosis import GUEST_PYTHON
from repocell.workspaces.pool import cell_environment

from .measure import Timing, interleaved, table

SIZES = (100, 7_000, 50_000)


def make_tree(path: Path, files: int) -> Path:
    """A repository of so many small files, a hundred to a directory."""
    content = {f"d{n // 100}/f{n}.txt": f"file {n}\n" * 20 for n in range(files)}
    return make_repo(path, dict(content))


class Floor:
    """Mount, bubblewrap, guest, `true`: with nothing of ours around it but the runtime."""

    def __init__(self, folder: Path, repo: Path) -> None:
        self._runtime = Bubblewrap(Identity.for_server(SANDBOX_UID))
        self._folder = folder / f"floor-{repo.name}"
        for name in ("lower/home", "mount"):
            (self._folder / name).mkdir(parents=True)
        subprocess.run(["cp", "-a", str(repo), str(self._folder / "lower" / "workspace")], check=True)
        self._count = 0
        self._own("lower", "lower/home")
        if self._runtime.identity.drop:
            subprocess.run(["chown", "-R", str(SANDBOX_UID), str(self._folder / "lower")], check=True)

    def _own(self, *names: str) -> None:
        for name in names:
            if self._runtime.identity.drop:
                os.chown(self._folder / name, SANDBOX_UID, SANDBOX_UID)

    async def run(self) -> float:
        self._count += 1
        upper = f"u{self._count}"
        for name in (upper, f"{upper}.work"):
            (self._folder / name).mkdir()
        self._own(upper, f"{upper}.work")
        started = time.perf_counter()
        tree = OverlayTree(
            folder=str(self._folder),
            lowers=("lower",),
            upper=upper,
            work=f"{upper}.work",
            mount=str(self._folder / "mount"),
        )
        spec = SandboxSpec(argv=boot_argv(GUEST_PYTHON), tree=tree, environment=cell_environment(()))
        async with self._runtime.open(spec) as stream, open_link(stream, spec.limits, spec.environment) as link:
            async with link.spawn(["bash", "--noprofile", "--norc", "-c", "true"], cwd="/workspace") as process:
                while not isinstance(await process.receive(), Exited):
                    pass
            return time.perf_counter() - started


class Ours:
    """The same through the product: each verb, and then the first command."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._base = ""
        self._point = ""

    async def prepare(self) -> None:
        self._base = (await ask(self._client, "workspace_open")).split()[1]
        await ask(self._client, "bash", workspace=self._base, command="git status")
        self._point = (await ask(self._client, "workspace_checkpoint", workspace=self._base)).split()[4]

    async def _first_command(self, ws: str, started: float) -> float:
        await ask(self._client, "bash", workspace=ws, command="true")
        took = time.perf_counter() - started
        if ws != self._base:
            await ask(self._client, "workspace_close", workspace=ws, discard=True)
        return took

    async def open(self) -> float:
        started = time.perf_counter()
        return await self._first_command((await ask(self._client, "workspace_open")).split()[1], started)

    async def fork(self) -> float:
        started = time.perf_counter()
        text = await ask(self._client, "workspace_fork", workspace=self._base)
        return await self._first_command(text.split(" into ")[1].split(":")[0], started)

    async def restore(self) -> float:
        started = time.perf_counter()
        await ask(self._client, "workspace_restore", workspace=self._base, checkpoint=self._point)
        return await self._first_command(self._base, started)

    async def resume(self) -> float:
        await ask(self._client, "workspace_checkpoint", workspace=self._base)  # suspends it
        return await self._first_command(self._base, time.perf_counter())

    async def status(self) -> float:
        ws = (await ask(self._client, "workspace_open")).split()[1]
        started = time.perf_counter()
        await ask(self._client, "bash", workspace=ws, command="git status --short")
        took = time.perf_counter() - started
        await ask(self._client, "workspace_close", workspace=ws, discard=True)
        return took

    async def second_status(self) -> float:
        await ask(self._client, "bash", workspace=self._base, command="git status --short")
        started = time.perf_counter()
        await ask(self._client, "bash", workspace=self._base, command="git status --short")
        return time.perf_counter() - started


class Copies:
    """What people do without layers."""

    def __init__(self, folder: Path, repo: Path) -> None:
        self._repo, self._target = repo, folder / f"copy-{repo.name}"

    async def worktree(self) -> float:
        started = time.perf_counter()
        git(self._repo, "worktree", "add", "--quiet", "--detach", str(self._target))
        took = time.perf_counter() - started
        git(self._repo, "worktree", "remove", "--force", str(self._target))
        return took

    async def cp(self) -> float:
        started = time.perf_counter()
        subprocess.run(["cp", "-a", str(self._repo), str(self._target)], check=True)
        took = time.perf_counter() - started
        shutil.rmtree(self._target)
        return took


async def docker_run() -> float:
    started = time.perf_counter()
    subprocess.run(["docker", "run", "--rm", "--network", "none", IMAGE, "true"], check=True, capture_output=True)
    return time.perf_counter() - started


IMAGE = "debian:stable-slim"


def docker_answers() -> bool:
    """Whether an engine with that image is here; the comparison is left out, and said to be, where there is none."""
    if shutil.which("docker") is None:
        return False
    found = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False)
    return found.returncode == 0


@asynccontextmanager
async def served(folder: Path, repo: Path) -> AsyncGenerator[Client]:
    async with connect_to_server(folder, ["--repo", str(repo)], "2026-07-28") as client:
        yield client


async def run(folder: Path, rounds: int, sizes: tuple[int, ...] = SIZES) -> str:
    """The table as Markdown: medians in milliseconds, and the ratio to the floor of the same repository."""
    found: dict[str, dict[int, Timing]] = {}
    memory = ""
    for size in sizes:
        repo = make_tree(folder / f"r{size}", size)
        floor, copies = Floor(folder, repo), Copies(folder, repo)
        async with served(folder, repo) as client:
            ours = Ours(client)
            await ours.prepare()
            contenders = {
                "floor: mount, bubblewrap, guest, true": floor.run, "second open to first command": ours.open,
                "fork to first command": ours.fork, "restore to first command": ours.restore,
                "resume to first command": ours.resume, "git status right after opening": ours.status,
                "git status once more": ours.second_status, "`git worktree add`": copies.worktree, "`cp -a`": copies.cp,
            }  # fmt: skip
            if docker_answers():
                contenders["`docker run`"] = docker_run
            for name, timing in (await interleaved(contenders, rounds)).items():
                found.setdefault(name, {})[size] = timing
            memory = await idle_memory(client, folder)
    floor_name = next(iter(found))
    rows = [
        [
            name,
            *(
                f"{t.median:.0f} / {t.p95:.0f} ({t.median / found[floor_name][size].median:.2f}x)"
                for size, t in timings.items()
            ),
        ]
        for name, timings in found.items()
    ]
    head = ["median / p95 ms (ratio to floor)", *(f"{size:,} files" for size in sizes)]
    note = (
        "" if docker_answers() else "\nNo Docker engine answered on this machine, so `docker run` was not measured.\n"
    )
    return f"{table(head, rows)}\n{note}\n{memory}\n"


async def idle_memory(client: Client, folder: Path) -> str:
    """Proportional memory of one idle live cell, all its processes, and the number a suspended workspace has."""
    ws = (await ask(client, "workspace_open")).split()[1]
    await ask(client, "bash", workspace=ws, command="true")
    live = cell_processes(folder, ws)
    total = sum(proportional(pid) for pid in live) / 1e6
    await ask(client, "workspace_checkpoint", workspace=ws)
    suspended = len(cell_processes(folder, ws))
    await ask(client, "workspace_close", workspace=ws, discard=True)
    return f"Idle live cell: {total:.1f} MB in {len(live)} processes (PSS). Suspended workspace: {suspended} processes."


def cell_processes(folder: Path, ws: str) -> list[int]:
    """The sandbox of one workspace: the processes that name its mount, and everything below them."""
    children: dict[int, list[int]] = {}
    roots: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            if f"{folder}/state/workspaces/{ws}".encode() in (path / "cmdline").read_bytes():
                roots.append(int(path.name))
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.name))
    pending, found = roots, set[int]()
    while pending:
        pid = pending.pop()
        found.add(pid)
        pending += [child for child in children.get(pid, []) if child not in found]
    return sorted(found)


def proportional(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0.0
