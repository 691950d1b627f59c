"""The server killed at every change it makes to the disk, in every verb on workspaces.

After each death: what was acknowledged is there, byte for byte; what was not is either wholly there or wholly not; and the
next start leaves no process, no mount and no directory that nobody stands on.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import child_environment, make_repo
from hostile.observe import marked

Child = Callable[..., tuple[str | None, bool]]


@pytest.fixture
def child(folder: Path) -> Generator[Child]:
    """child(at, verb, *arguments) -> (what was acknowledged, whether it was killed), each in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("killed_child.py"))]
    environment = child_environment(folder)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        orders, answers = server.stdin, server.stdout

        def run(at: int, verb: str, *arguments: str) -> tuple[str | None, bool]:
            orders.write(json.dumps([str(folder / "state"), at, verb, *arguments]) + "\n")
            orders.flush()
            answer = json.loads(answers.readline())
            assert answer["status"] in (0, -9), answer
            said = str(answer["said"])
            return (said.split()[1] if said.startswith("acknowledged") else None), answer["status"] == -9

        yield run
        orders.close()


def records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in (folder / "state" / "workspaces").glob("*/workspace.json"):
        yield json.loads(path.read_text())


def stood_on(folder: Path) -> set[str]:
    found: set[str] = set()
    for record in records(folder):
        found |= {record["upper"], *record["lowers"]}
        for point in record["checkpoints"]:
            found |= set(point["lowers"])
    return found


def assert_clean(folder: Path) -> None:
    """Nothing is left that no workspace stands on, but sealed checkouts."""
    state = folder / "state"
    layers = {path.name for path in (state / "layers").iterdir() if path.is_dir() and not path.name.endswith(".work")}
    assert {name for name in layers if not name.startswith("c")} <= stood_on(folder)
    scratch = {path.stem for path in (state / "layers").glob("*.work")}
    assert scratch <= layers
    directories = {path.name for path in (state / "workspaces").iterdir()}
    assert directories == {str(record["id"]) for record in records(folder)}
    assert list((state / "layers").glob("*.new")) == []
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert [seen for seen in marked(str(folder)) if seen.pid != os.getpid()] == []


def content(folder: Path, ws_id: str) -> set[str]:
    """Names of the test's own files in a workspace, as the layers on disk hold them."""
    record = next(record for record in records(folder) if record["id"] == ws_id)
    found: set[str] = set()
    for layer in (str(record["upper"]), *record["lowers"]):
        found |= {path.name for path in (folder / "state" / "layers" / layer / "workspace").glob("f[0-9]*")}
    return found


@pytest.mark.parametrize("verb", ["open", "fork", "checkpoint", "restore", "close", "gc"])
def test_death_at_any_step_loses_nothing_acknowledged(folder: Path, repo: Path, child: Child, verb: str) -> None:
    """Killed before its 1st, 2nd, ... change, each verb either happened or did not, and the next start cleans up."""
    other = make_repo(folder / "other", {"a.txt": "a\n"})
    ws = child(0, "open", str(repo))[0] or ""
    child(0, "write", str(repo), ws, "f0")
    point = child(0, "checkpoint", str(repo), ws)[0] or ""
    step, result = 0, None
    for step in itertools.count(1):
        assert child(0, "write", str(repo), ws, f"f{step}")[0] == "written"
        kept = content(folder, ws)
        target = ws
        if verb == "close":
            target = child(0, "fork", str(repo), ws)[0] or ""
        if verb == "gc":
            child(0, "close", str(other), child(0, "open", str(other))[0] or "")
        before = {str(record["id"]) for record in records(folder)}
        arguments = {"open": (), "gc": (), "restore": (ws, point)}.get(verb, (target,))
        result, killed = child(step, verb, str(repo), *arguments)
        assert child(0, "look", str(repo))[0] is not None  # a start, which sweeps before anything else
        assert_clean(folder)
        now = {str(record["id"]) for record in records(folder)}
        assert ws in now
        assert kept <= content(folder, ws) or (verb == "restore" and "before point" in names(folder, ws))
        if result is None or verb not in ("open", "fork"):
            assert verb == "fork" or now <= before
        else:
            assert now == {*before, result}
        if not killed:
            break
    assert step > 3, "the verb made too few changes for this test to mean anything"
    assert result is not None


def names(folder: Path, ws_id: str) -> set[str]:
    """Names of a workspace's checkpoints."""
    record = next(record for record in records(folder) if record["id"] == ws_id)
    return {str(point["name"]) for point in record["checkpoints"]}
