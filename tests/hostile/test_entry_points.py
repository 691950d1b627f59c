"""Every boundary, tried through every way in: whatever starts a command, the walls around it are the same.

Each attack works outside (the control), changes nothing the host can see when made in a cell, stands in the audit record,
and has a twin that does the same to something of the cell's own and works.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from mcp import MCPError

from hostile.entries import ENTRIES
from hostile.observe import (
    alive,
    guests_of,
    listener,
    listening,
    manifest,
    mounts,
    outside,
    python,
    running,
)
from hostile.stage import Stage

pytestmark = pytest.mark.anyio

REACH = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('reached')"
WITHIN = (
    "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    "socket.create_connection(s.getsockname(), 5); print('reached')"
)


@dataclass(frozen=True)
class Attack:
    """Shell text that prints `loot` where it succeeds, and its twin. {names} are filled in by the ground it is tried on."""

    command: str
    twin: str
    loot: str = "it worked"


ATTACKS = {
    "read": Attack("cat {decoy}/secret.txt", "echo {secret} > own; cat own; rm own", "{secret}"),
    "write": Attack("echo more >> {decoy}/secret.txt && echo it worked", "echo more >> own && rm own && echo it worked"),
    "delete": Attack("rm {decoy}/spare && echo it worked", "touch own && rm own && echo it worked"),
    "neighbour": Attack("cat {neighbour}", "cat README.md", "# calc"),
    "record": Attack("grep -h event {state}/audit/*.jsonl", "echo '\"event\"' > own; cat own; rm own", '"event"'),
    "signal": Attack("kill -0 {pid} && echo it worked", "sleep 9 & kill -0 $! && kill $! && echo it worked"),
    "namespace": Attack("unshare --user true && echo it worked", "setsid --wait true && echo it worked"),
    "mount": Attack(
        "unshare --user --map-root-user --mount mount -t tmpfs none /mnt && echo it worked",
        "ls -d / > /dev/null && echo it worked",
    ),
    "channel": Attack(
        "ls /proc/{keeper}/fd > /dev/null && head -c 0 /proc/{keeper}/environ && echo it worked",
        "ls /proc/self/fd > /dev/null && head -c 0 /proc/self/environ && echo it worked",
    ),
    "network": Attack(python(REACH, "{port}"), python(WITHIN), "reached"),
}  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """What the attacks are after, filled into their texts."""

    names: dict[str, object]
    pid: int

    def text(self, template: str) -> str:
        for name, value in self.names.items():
            template = template.replace(f"{{{name}}}", str(value))
        return template


@contextmanager
def prepared(stage: Stage) -> Generator[Ground]:
    """A process, a listener and files of the test's own, each of which an attack is after."""
    (stage.decoy / "spare").write_text("spare\n")
    with running("sleep", "600") as victim, listener(("127.0.0.1", 0)) as sock:
        names: dict[str, object] = {
            "decoy": stage.decoy, "secret": stage.secret, "neighbour": stage.on_host("README.md", stage.bystander),
            "keeper": 1,
            "state": stage.state, "pid": victim.pid, "port": sock.getsockname()[1],
        }  # fmt: skip
        yield Ground(names, victim.pid)


def seen_by_the_host(stage: Stage) -> object:
    """What no attack may change: files, mounts and listeners of the host, and the mounts of the neighbour."""
    return (
        manifest(stage.decoy, stage.repo),
        mounts(),
        listening(),
        [mounts(guest) for guest in guests_of(stage.server)],
    )


def decisions(stage: Stage) -> int:
    return sum(log.read_text().count('"event":"decided"') for log in (stage.state / "audit").glob("*.jsonl"))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", ATTACKS)
async def test_no_way_in_leads_out(stage: Stage, name: str, entry: str) -> None:
    """The attack fails, the host looks as before, the call is on record, and neither cell is worse off."""
    with prepared(stage) as ground:
        attack = ATTACKS[name]
        before, recorded = seen_by_the_host(stage), decisions(stage)
        said = await ENTRIES[entry](stage, ground.text(attack.command))
        assert ground.text(attack.loot) not in said
        assert "bug in repocell" not in said
        assert seen_by_the_host(stage) == before
        assert alive(ground.pid)
        assert decisions(stage) > recorded
        assert ground.text(attack.loot) in await ENTRIES[entry](stage, ground.text(attack.twin))
    await stage.healthy()


@pytest.mark.parametrize("name", ATTACKS)
def test_outside_each_attack_works(tmp_path: Path, name: str) -> None:
    """The control: on the host, with nothing in between, every one of them gets what it is after."""
    decoy, state = tmp_path / "decoy", tmp_path / "state"
    (state / "audit").mkdir(parents=True)
    (state / "audit" / "x.jsonl").write_text(json.dumps({"event": "decided"}))
    decoy.mkdir()
    for file, text in (("secret.txt", "the-secret"), ("spare", ""), ("README.md", "# calc")):
        (decoy / file).write_text(f"{text}\n")
    with running("sleep", "600") as victim, listener(("127.0.0.1", 0)) as sock:
        names: dict[str, object] = {
            "decoy": decoy, "secret": "the-secret", "neighbour": decoy / "README.md", "state": state, "pid": victim.pid,
            "keeper": victim.pid,
            "port": sock.getsockname()[1],
        }  # fmt: skip
        ground = Ground(names, victim.pid)
        assert ground.text(ATTACKS[name].loot) in outside(ground.text(ATTACKS[name].command), cwd=tmp_path).stdout


# -- what takes a path and starts no command

OUT = ["../decoy/secret.txt", "/etc/shadow", "planted/secret.txt", "/proc/1/environ", "a/../../decoy/secret.txt"]


@pytest.mark.parametrize("path", OUT)
@pytest.mark.parametrize(
    "way", ["read", "list", "write", "edit", "grep", "glob", "diff", "patch", "codex-patch", "address", "cwd"]
)
async def test_no_path_leads_out(stage: Stage, way: str, path: str) -> None:
    """Whatever takes a path stays within the workspace: dots, absolute paths and planted links are refused with words."""
    await stage.attack(f"ln -sfn {stage.decoy} planted; ln -sfn / planted-root")
    before = seen_by_the_host(stage)
    with anyio.fail_after(60):
        said = await by_path(stage, way, path)
    assert stage.secret not in said
    assert "root:" not in said
    assert "bug in repocell" not in said
    assert seen_by_the_host(stage) == before
    assert "Adds" in await by_path(stage, way, "own.txt") or way not in ("read", "address")


async def by_path(stage: Stage, way: str, path: str) -> str:
    """One call that names a path; own.txt is there for the twin."""
    await stage.attack("echo Adds > own.txt")
    if way == "address":
        try:
            read = await stage.client.read_resource(f"repocell://{stage.cell}/files/{path}")
        except MCPError as error:
            return error.error.message
        return read.model_dump_json()
    codex = f"*** Begin Patch\n*** Add File: {path}\n+evil\n*** End Patch\n"
    unified = f"--- /dev/null\n+++ {path}\n@@ -0,0 +1 @@\n+evil\n"
    tool, arguments = {
        "read": ("read_file", {"path": path}), "list": ("list_dir", {"path": path}),
        "write": ("write_file", {"path": path, "content": "evil"}),
        "edit": ("edit_file", {"path": path, "old_string": "Adds", "new_string": "Adds more"}),
        "grep": ("grep", {"pattern": ".", "path": path, "output_mode": "content"}),
        "glob": ("glob", {"pattern": "*", "path": path}), "diff": ("git_diff", {"path": path}),
        "patch": ("apply_patch", {"patch": unified}), "codex-patch": ("apply_patch", {"patch": codex}),
        "cwd": ("bash", {"command": f"cat {path}", "cwd": path}),
    }[way]  # fmt: skip
    return await stage.call(tool, **arguments)
