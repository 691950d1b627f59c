"""What a workspace costs: opening, forking, returning, waking, against the physical floor and against copying.

The floor is what no implementation on this machine can beat: mount one overlay, start bubblewrap and the guest, run `true`.
Everything of ours is measured through a real MCP client over stdio, gate and audit on.
"""

import os
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp import Client

from harness import SANDBOX_UID, ask, connect_to_server, git
from repocell.guest.link import Exited, boot_argv, open_link
from repocell.models import OverlayTree, SandboxSpec
from repocell.runtimes.bubblewrap import Bubblewrap, Identity
from repocell.runtimes.diagnosis import GUEST_PYTHON
from repocell.workspaces.pool import cell_environment

from . import trees
from .ground import docker_argv, docker_missing
from .measure import Contender, Timing, interleaved
from .report import Peer, Row, ms, table, timed

FLOOR = "floor: mount, bubblewrap, guest, `true`"
OPEN, FORK, CHECKPOINT, RESTORE, RESUME = (
    f"{verb} to first command" for verb in ("second open", "fork", "checkpoint", "restore", "resume")
)


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

    async def checkpoint(self) -> float:
        started = time.perf_counter()
        await ask(self._client, "workspace_checkpoint", workspace=self._base)
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


async def docker_run() -> None:
    """A new container and the same first command. The image holds no repository: nothing is copied or mounted for it."""
    subprocess.run(docker_argv("--rm", "true"), check=True, capture_output=True)


@asynccontextmanager
async def served(folder: Path, repo: Path) -> AsyncGenerator[Client]:
    async with connect_to_server(folder, ["--repo", str(repo)], "2026-07-28") as client:
        yield client


@dataclass(frozen=True)
class Measured:
    """Every contender's timing by the number of files in the repository."""

    timings: dict[str, dict[int, Timing]]

    def median(self, name: str, size: int) -> float:
        return self.timings[name][size].median


async def measure(folder: Path, sizes: Mapping[int, int]) -> Measured:
    """`sizes`: how many files, and how many rounds with so many."""
    found: dict[str, dict[int, Timing]] = {}
    for size, rounds in sizes.items():
        repo = trees.small_files(folder / f"r{size}", size)
        floor, copies = Floor(folder, repo), Copies(folder, repo)
        async with served(folder, repo) as client:
            ours = Ours(client)
            await ours.prepare()
            contenders: dict[str, Contender] = {
                FLOOR: floor.run, OPEN: ours.open, FORK: ours.fork, CHECKPOINT: ours.checkpoint, RESTORE: ours.restore,
                RESUME: ours.resume, "`git status` right after opening": ours.status,
                "`git status` once more": ours.second_status, "`git worktree add`": copies.worktree, "`cp -a`": copies.cp,
            }  # fmt: skip
            if not docker_missing():
                contenders["`docker run`, without a copy"] = docker_run
            for name, timing in (await interleaved(contenders, rounds)).items():
                found.setdefault(name, {})[size] = timing
    return Measured(found)


def matrix(measured: Measured, sizes: Sequence[int]) -> str:
    """Markdown: medians, and the ratio to the floor of the same repository."""
    rows = [
        [
            name,
            *(
                f"{ms(t.median)} / {ms(t.p95)} ({t.median / measured.median(FLOOR, size):.2f}x)"
                for size, t in by_size.items()
            ),
        ]
        for name, by_size in measured.timings.items()
    ]
    note = f"\n\n`docker run` was not measured: {why}." if (why := docker_missing()) else ""
    return table(["median / p95 (ratio to floor)", *(f"{size:,} files" for size in sizes)], rows) + note


def rows(measured: Measured, sizes: Sequence[int]) -> list[Row]:
    """The targets, at the middle size, and whether the size matters."""
    middle, smallest, largest = sizes[len(sizes) // 2], sizes[0], sizes[-1]
    floor, opened = measured.median(FLOOR, middle), measured.median(OPEN, middle)
    peers = [
        Peer(name, "docker" in name, by_size[middle])
        for name, by_size in measured.timings.items()
        if name.startswith(("`docker", "`cp", "`git worktree"))
    ]
    if why := docker_missing():
        peers.append(Peer("`docker run`", True, None, why))
    found = [timed(OPEN, "overlay, bubblewrap, guest, `true`", floor, measured.timings[OPEN][middle], 1.5, peers)]
    if len(sizes) > 1:
        few, many = measured.median(OPEN, smallest), measured.median(OPEN, largest)
        found.append(
            Row(
                f"{OPEN}, {largest:,} files", f"with {smallest:,} files", ms(few), ms(many), f"{many / few:.2f}x",
                "at most 1.3x: size does not matter", many <= 1.3 * few,
            )
        )  # fmt: skip
    others = (FORK, CHECKPOINT, RESTORE, RESUME)
    found += [timed(name, "second open", opened, measured.timings[name][middle], 2.0) for name in others]
    return found
