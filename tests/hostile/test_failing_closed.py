"""Where no sandbox can be made, or nothing can be recorded, nothing runs; the message names the cause and what to do.

Each server is really started in an environment that lacks something, and is sent a whole conversation that would leave a mark.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from harness import ask, child_environment, connect_to_server, refuse
from hostile.observe import guests_of, outside, processes, server_of
from hostile.stage import words

pytestmark = pytest.mark.anyio

PROTOCOL = "2025-06-18"
CLIENT = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def conversation(command: str) -> str:
    """What a client says to open a workspace and run a command in it, as lines on the server's stdin."""
    said: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": CLIENT},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "workspace_open", "arguments": {}}},
        {"id": 3, "method": "tools/call", "params": {"name": "bash", "arguments": {"command": command}}},
    ]
    return "".join(json.dumps({"jsonrpc": "2.0", **each}) + "\n" for each in said)


@dataclass(frozen=True)
class Started:
    """How a server ended that was told to serve, and what doctor printed in the same place, where it was asked."""

    status: int
    answers: str
    message: str
    doctor: str


def start(
    folder: Path,
    repo: Path,
    wrapper: Sequence[str] = (),
    path: str | None = None,
    state: str = "state",
    doctor: bool = False,
) -> Started:
    """Starts a server, and doctor where asked, behind a wrapper command and with a PATH of its own; both end by themselves."""
    environment = {**child_environment(folder), **({"PATH": path} if path is not None else {})}
    options = ["--state-dir", str(folder / state)]

    def run(*command: str, said: str = "") -> subprocess.CompletedProcess[str]:
        argv = [*wrapper, sys.executable, "-m", "repocell.cli", *command, *options]
        return subprocess.run(
            argv, input=said, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    mark = folder / "ran"
    served = run("serve", "--repo", str(repo), said=conversation(f"touch {mark}"))
    assert not mark.exists()
    assert not [seen for seen in processes().values() if str(folder) in seen.command]
    examined = run("doctor", "--json") if doctor else None
    complaints = served.stderr + (examined.stderr if examined else "")
    assert "Traceback" not in complaints, complaints
    return Started(served.returncode, served.stdout, served.stderr, examined.stdout if examined else "")


def refused(started: Started, *words: str) -> None:
    """The server said all this and ended with status 1; whatever call it answered was refused with the same words."""
    assert started.status == 1, started
    for answer in map(json.loads, started.answers.splitlines()):
        if "result" in answer and answer["id"] > 1:  # the client has gone: calls may as well be cancelled
            assert answer["result"]["isError"], answer
            assert not [word for word in words if word.lower() not in json.dumps(answer).lower()], answer
    missing = [word for word in words if word.lower() not in started.message.lower()]
    assert not missing, started.message


def diagnosed(started: Started) -> None:
    """Doctor says the same as the server: not usable, with at least one cause and its remedy."""
    report = json.loads(started.doctor)
    assert report["usable"] is False
    assert [problem for problem in report["problems"] if problem["cause"] and problem["remedy"]]


@pytest.fixture
def tools(folder: Path) -> Path:
    """A directory for PATH with what a server needs besides bubblewrap."""
    path = folder / "bin"
    path.mkdir()
    for name in ("git", "sh", "cat", "sleep", "id", "python3"):
        (path / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    return path


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


# -- no sandbox


def test_a_whole_environment_serves(folder: Path, repo: Path, tools: Path) -> None:
    """The control of the tests below: with bubblewrap on the same PATH the conversation is answered."""
    (tools / "bwrap").symlink_to(shutil.which("bwrap") or "/usr/bin/bwrap")
    environment = {**child_environment(folder), "PATH": str(tools)}
    argv = [sys.executable, "-m", "repocell.cli", "serve", "--repo", str(repo), "--state-dir", str(folder / "state")]
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(conversation("echo ran"))
        server.stdin.flush()
        answers = [json.loads(server.stdout.readline()) for _ in range(3)]
        server.stdin.close()
        assert server.wait(15) == 0
    assert [answer["id"] for answer in answers if "result" in answer] == [1, 2, 3] or len(answers) == 3


def test_without_bubblewrap_nothing_starts(folder: Path, repo: Path, tools: Path) -> None:
    """A PATH without bwrap is refused with the command that installs it."""
    refused(
        start(folder, repo, path=str(tools)), "bubblewrap", "not installed", "apt install bubblewrap", "repocell doctor"
    )


def test_without_git_nothing_starts(folder: Path, repo: Path, tools: Path) -> None:
    """A PATH without git is refused with a sentence, not a traceback."""
    (tools / "git").unlink()
    (tools / "bwrap").symlink_to(shutil.which("bwrap") or "/usr/bin/bwrap")
    refused(start(folder, repo, path=str(tools)), "git")


def test_a_set_uid_bubblewrap_is_refused(folder: Path, repo: Path, tools: Path) -> None:
    """A bwrap with the set-uid bit is refused with the command that takes it away."""
    shutil.copy(shutil.which("bwrap") or "/usr/bin/bwrap", tools / "bwrap")
    (tools / "bwrap").chmod(0o4755)
    started = start(folder, repo, path=str(tools), doctor=True)
    refused(started, "set-uid", "chmod u-s")
    diagnosed(started)


# Does what its caller asks but for the sandbox: it starts the command as it is.
PRETENDER = """#!/usr/bin/python3
import json, os, sys
arguments = sys.argv[1:]
if "--version" in arguments:
    print("bubblewrap 0.11.0")
    sys.exit()
if "--info-fd" in arguments:
    os.write(int(arguments[arguments.index("--info-fd") + 1]), json.dumps({"child-pid": os.getpid()}).encode())
command = arguments[arguments.index("--") + 1:]
os.execvp(command[0], command)
"""


def test_a_bubblewrap_that_isolates_nothing_is_found_out(folder: Path, repo: Path, tools: Path) -> None:
    """A program that only pretends to be bwrap does not get past the trial sandbox."""
    program(tools / "bwrap", PRETENDER)
    started = start(folder, repo, path=str(tools), doctor=True)
    refused(started, "cannot be used here")
    diagnosed(started)


async def test_a_client_is_told_why_nothing_runs(folder: Path, repo: Path, tools: Path, era: str) -> None:
    """Where no cell can be made a client still learns which tools there are, and from each call what is wrong."""
    program(tools / "bwrap", PRETENDER)
    async with connect_to_server(folder, ["--repo", str(repo)], era, {"PATH": str(tools)}) as client:
        assert "bash" in [tool.name for tool in (await client.list_tools()).tools]
        for tool, arguments in (("workspace_open", {}), ("bash", {"command": f"touch {folder}/ran"})):
            assert "cannot be used here" in await refuse(client, tool, **arguments)
    assert not (folder / "ran").exists()
    assert "cannot be used here" in (folder / "server.log").read_text()


SYMPTOMS = {
    "bwrap: setting up uid map: Permission denied": ("user namespaces",),
    "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted": ("user namespaces",),
    "bwrap: Unknown option --disable-userns": ("older than 0.8", "upgrade"),
    "bwrap: Can't mount proc on /newroot/proc: Operation not permitted": ("/proc", "systempaths=unconfined"),
    "bwrap: Can't find source path /x: Permission denied": ("cannot be reached", "--state-dir"),
    "": ("cannot be used here",),
}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_what_bubblewrap_dies_of_is_explained(folder: Path, repo: Path, tools: Path, symptom: str) -> None:
    """When bwrap ends with one of its known messages, or none, the operator reads the cause and a remedy."""
    program(
        tools / "bwrap",
        f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\necho "{symptom}" >&2\nexit 1\n',
    )
    refused(start(folder, repo, path=str(tools)), "cannot be used here", *SYMPTOMS[symptom])


NO_NAMESPACES = ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/"]


@pytest.mark.parametrize(
    ("uid", "why"),
    [(0, ("root of a user namespace", "no user 60999", "outside")), (1000, ("user namespaces",))],
    ids=["root", "ordinary"],
)
def test_where_user_namespaces_are_blocked_nothing_starts(
    folder: Path, repo: Path, uid: int, why: tuple[str, ...]
) -> None:
    """Inside a sandbox that forbids nested user namespaces a server refuses to start, and says why, and what to do."""
    wrapper = [*NO_NAMESPACES, "--uid", str(uid), "--gid", str(uid), "--"]
    assert outside(" ".join([*wrapper, "unshare", "--user", "true"])).returncode != 0
    started = start(folder, repo, wrapper, doctor=True)
    refused(started, "cannot be used here", *why)
    diagnosed(started)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a server that is root")
@pytest.mark.parametrize("capability", ["chown", "setgid", "setuid"])
def test_a_root_that_may_not_become_another_user_is_refused(folder: Path, repo: Path, capability: str) -> None:
    """A server that is root without the capability to change to the cells' user names what is missing."""
    wrapper = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", "--"]
    started = start(folder, repo, wrapper, doctor=True)
    refused(started, "cannot be used here", f"no CAP_{capability}", "ordinary user")
    diagnosed(started)
    assert not (folder / "state").exists()


# -- no place


@pytest.mark.parametrize("state", ["below-a-file", "read-only", "a-file", "dangling"])
def test_an_unusable_state_directory_is_refused(folder: Path, repo: Path, state: str) -> None:
    """A state directory that cannot be made or written is refused with the option that chooses another."""
    (folder / "file").write_text("")
    (folder / "read-only").mkdir()
    (folder / "dangling").symlink_to("/proc/nowhere/at/all")
    wrapper = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", f"{folder}/read-only", f"{folder}/read-only", "--"]
    place = {
        "below-a-file": "file/state",
        "a-file": "file",
        "read-only": "read-only/state",
        "dangling": "dangling/state",
    }[state]
    refused(start(folder, repo, wrapper, state=place), "state directory", "--state-dir")


SETTINGS = {
    "limits = {memory = 'much', pids = -1}": ("limits.memory", "limits.pids"),
    "unconfined = true\nruntime = 'none'": ("unconfined",),
    "toolchains = ['/']": ("toolchains",),
    "not toml": ("settings",),
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_that_mean_nothing_are_refused(
    folder: Path, repo: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settings file with a mistake starts nothing, and every mistake is named with its place."""
    (folder / "config.toml").write_text(text)
    wrapper = ["env", f"REPOCELL_CONFIG={folder}/config.toml"]
    refused(start(folder, repo, wrapper), *SETTINGS[text])


# -- no record


@asynccontextmanager
async def recorded_in(folder: Path, repo: Path, *place: str) -> AsyncGenerator[Client]:
    """A client of a server whose audit directory is mounted as given, in a mount namespace of its own."""
    audit = folder / "state" / "audit"
    audit.mkdir(parents=True)
    (folder / "state").chmod(0o755)
    args = ["--dev-bind", "/", "/", *place, str(audit), "--", sys.executable, "-m", "repocell.cli", "serve"]
    args += ["--state-dir", str(folder / "state"), "--repo", str(repo)]
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        started = StdioServerParameters(command="bwrap", args=args, env=child_environment(folder))
        async with Client(stdio_client(started, errlog=log), mode="legacy") as client:
            yield client


async def test_when_the_record_is_full_nothing_is_run(folder: Path, repo: Path) -> None:
    """Once the disk of the audit record is full, calls are refused with the reason, and none that says so had an effect.

    Room for a few records comes back again and again, so that the disk is full now before a decision, now before an outcome.
    """
    refusals: dict[str, str] = {}
    async with recorded_in(folder, repo, "--size", str(256 << 10), "--tmpfs") as client:
        await ask(client, "workspace_open")
        ballast = Path(f"/proc/{server_of(folder)}/root{folder}/state/audit/ballast")
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(400):
            result = await client.call_tool(
                "bash", {"command": f"touch effect-{number}; : {'x' * (number * 30 % 200)}"}
            )
            if result.is_error:
                refusals[f"effect-{number}"] = words(result)
                os.truncate(ballast, ballast.stat().st_size - 4096)
                if len(refusals) == 24:
                    break
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(8):
            await client.call_tool("bash", {"command": f"echo {number}"})
        for tool, arguments in (
            ("bash", {"command": "touch effect"}), ("write_file", {"path": "effect", "content": ""}), ("workspace_open", {}),
            ("workspace_close", {"discard": True}), ("read_file", {"path": "calc.py"}),
        ):  # fmt: skip
            refusals[tool] = await refuse(client, tool, **arguments)
        assert len(refusals) == 24 + 5
        assert not [said for said in refusals.values() if "audit record cannot be written" not in said]
        assert not list((folder / "state").rglob("effect"))
        assert len(list((folder / "state" / "workspaces").glob("ws_*"))) == 1
        ran = [
            name for name, said in refusals.items() if "nothing is run" in said and list((folder / "state").rglob(name))
        ]
        assert not ran


def test_without_a_place_for_the_record_nothing_starts(folder: Path, repo: Path) -> None:
    """A server that cannot write its audit record does not start."""
    audit = folder / "state" / "audit"
    audit.mkdir(parents=True)
    wrapper = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--size",
        "4096",
        "--tmpfs",
        str(audit),
        "--remount-ro",
        str(audit),
        "--",
    ]
    refused(start(folder, repo, wrapper), "cannot be")


# -- lost on the way


async def test_a_bubblewrap_that_vanishes_stops_everything(folder: Path, repo: Path, tools: Path) -> None:
    """When bwrap is removed under a running server, calls that need a new sandbox are refused, and run nowhere."""
    (tools / "bwrap").symlink_to(shutil.which("bwrap") or "/usr/bin/bwrap")
    args = ["-m", "repocell.cli", "serve", "--state-dir", str(folder / "state"), "--repo", str(repo)]
    environment = {**child_environment(folder), "PATH": str(tools)}
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        started = StdioServerParameters(command=sys.executable, args=args, env=environment)
        async with Client(stdio_client(started, errlog=log), mode="legacy") as client:
            workspace = (await ask(client, "workspace_open")).split()[1]
            (tools / "bwrap").unlink()
            assert "cannot be used here" in await refuse(client, "workspace_open")
            for guest in guests_of(server_of(folder)):
                os.kill(guest, 9)
            said = [
                words(await client.call_tool("bash", {"command": f"touch {folder}/ran", "workspace": workspace}))
                for _ in range(2)
            ]
            assert "bubblewrap" in said[1]
            assert not (folder / "ran").exists()
