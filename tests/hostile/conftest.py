"""Fixtures of the attacks: a server of its own for each module, with the workspace that attacks and one that stands by."""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from harness import ask, connect_to_server, make_repo
from hostile.observe import server_of
from hostile.stage import Stage


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def ground() -> Generator[Path]:
    """An empty directory that a cell's uid can walk through, for a whole module."""
    path = Path(tempfile.mkdtemp(prefix="repocell-test-"))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=False)  # attacks leave trees too deep for shutil


@pytest.fixture(scope="module")
def settings() -> str:
    """The settings file of the module's server; a module may override it."""
    return ""


@pytest.fixture(scope="module")
async def stage(ground: Path, settings: str) -> AsyncGenerator[Stage]:
    """One server for a module's attacks, with two workspaces of one repository."""
    repo = make_repo(ground / "project", {"calc.py": "def add(a, b):\n    return a - b\n", "README.md": "# calc\n"})
    (repo / "private.txt").write_text("uncommitted-in-the-clone\n")
    secret = f"secret-of-{ground.name}"
    decoy = ground / "decoy"
    decoy.mkdir()
    (decoy / "secret.txt").write_text(f"{secret}\n")
    (decoy / "secret.txt").chmod(0o666)
    decoy.chmod(0o777)
    (ground / "config.toml").write_text(settings)
    environment = {"REPOCELL_CONFIG": str(ground / "config.toml")}
    async with connect_to_server(ground, ["--repo", str(repo)], "legacy", environment) as client:
        cells = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        yield Stage(client, ground, repo, server_of(ground), cells[0], cells[1], decoy, secret)


@pytest.fixture
def big_folder(folder: Path) -> Generator[Path]:
    """The folder of one test, removed also when an attack made its tree too deep for shutil."""
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)
