"""What an operator learns from the record of real sessions: that it is whole, what happened, and what somebody did to it."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from harness import Connect, ask, child_environment, refuse

pytestmark = pytest.mark.anyio


def repocell(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """An audit command, as an operator types it."""
    command = [sys.executable, "-m", "repocell.cli", "audit", *args]
    if args[0] != "verify" or not args[1:] or args[1].startswith("-"):
        command += ["--state-dir", str(folder / "state")]
    done = subprocess.run(
        command, env=child_environment(folder), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done


def verdicts(folder: Path) -> dict[str, Any]:
    return json.loads(repocell(folder, "verify", "--json").stdout)


def chain_of(folder: Path) -> Path:
    (path,) = (folder / "state" / "audit").glob("*.jsonl")
    return path


async def session(connect: Connect) -> None:
    """A short conversation with a failure in it: ten records."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="TOKEN=hunter2 true")
        await refuse(client, "read_file", path="nope")
        await ask(client, "read_file", path="README.md")


async def eventually(what: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not what():
            await anyio.lowlevel.checkpoint()


def copied(folder: Path) -> list[tuple[str, int, int]]:
    """What the store remembers: chain, records, closed."""
    with sqlite3.connect(folder / "state" / "store.db") as connection:
        rows = connection.execute("SELECT chain, records, closed FROM audit_heads ORDER BY chain").fetchall()
    connection.close()
    return rows


# -- verify


async def test_a_session_verifies_with_nothing_to_remark(connect: Connect, folder: Path, era: str) -> None:
    """While the server runs and after it, every link and both anchors hold."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        found = repocell(folder, "verify")
        assert found.returncode == 0
        assert found.stdout.rstrip().endswith("; being written")
    found = repocell(folder, "verify")
    assert found.returncode == 0
    assert re.fullmatch(r"\S+: 4 records in 1 segment, intact, head [0-9a-f]{16}\n", found.stdout), found.stdout
    assert [(records, closed) for _, records, closed in copied(folder)] == [(4, 1)]


DAMAGE: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "edited": (lambda lines: [lines[0], lines[1].replace('"allow"', '"deny"'), *lines[2:]], "record 1 was changed"),
    "deleted": (lambda lines: [*lines[:3], *lines[4:]], "record 3 is missing or out of place"),
    "chopped": (lambda lines: lines[:-2], "the tail was cut off: 2 records are missing"),
    "torn": (lambda lines: [*lines[:-1], lines[-1][:30]], "the tail was cut off: 1 records are missing"),
}


async def test_what_is_done_to_the_record_is_found(connect: Connect, folder: Path) -> None:
    """Exit status 1, and one line that says where and what, for people; the same for programs; undone, all is well."""
    await session(connect)
    path = chain_of(folder)
    whole = path.read_text()
    for name, (change, said) in DAMAGE.items():
        path.write_text("".join(change(whole.splitlines(keepends=True))))
        found = repocell(folder, "verify")
        assert found.returncode == 1, name
        assert re.fullmatch(rf"\S+: BROKEN at segment 1, record \d+: {re.escape(said)}.*\n", found.stdout), found.stdout
    assert verdicts(folder)["chains"][0]["fault"]["what"] == DAMAGE["torn"][1]
    assert repocell(folder, "show").returncode == 0
    path.write_text(whole)
    assert repocell(folder, "verify").returncode == 0


async def test_a_chain_that_is_gone_with_its_head_is_missed(connect: Connect, folder: Path) -> None:
    """The store still knows how many records there were."""
    await session(connect)
    shutil.rmtree(folder / "state" / "audit")
    shutil.rmtree(folder / "state" / "heads")
    found = repocell(folder, "verify")
    assert found.returncode == 1
    assert "the whole chain is missing: 10 records are anchored" in found.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_was_ended_is_no_tampering(connect: Connect, folder: Path, number: signal.Signals) -> None:
    """Killed with a call under way: intact to the last record, and said; told to end: closed in order. The call shows."""
    async with connect() as client:
        await ask(client, "workspace_open")
        pid = json.loads(chain_of(folder).read_text().splitlines()[0])["pid"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "bash", {"command": "touch begun; sleep 600"})
            while "begun" not in await ask(client, "list_dir"):
                pass
            assert re.search(r" bash +allow .* running .*sleep 600", repocell(folder, "show").stdout)
            os.kill(pid, number)
            await eventually(lambda: not verdicts(folder)["chains"][0]["live"])
            tasks.cancel_scope.cancel()
    (found,) = verdicts(folder)["chains"]
    assert found["fault"] is None
    assert found["notes"] == (["its server was killed"] if number == signal.SIGKILL else [])
    assert ("no outcome" in repocell(folder, "show").stdout) == (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        records = len(chain_of(folder).read_text().splitlines())
        async with connect():
            await eventually(lambda: any(row[1] == records for row in copied(folder)))
        assert len(verdicts(folder)["chains"]) == 2


# -- show


TOOLS = ["started", "workspace_open", "bash", "read_file", "read_file", "stopped"]


async def test_show_is_a_timeline_of_calls(connect: Connect, folder: Path) -> None:
    """One line per call with its verdict and what came of it, in order; no secret, no colour where no terminal is."""
    await session(connect)
    lines = repocell(folder, "show").stdout.splitlines()
    assert [next(word for word in TOOLS if word in line) for line in lines] == TOOLS
    assert all(" allow " in line for line in lines[1:-1])
    assert " done " in lines[1] and " done " in lines[4]
    assert re.search(r" NoSuchPath +\d", lines[3]), lines[3]
    assert re.search(r" \d+\.\d\ds ", lines[2])
    assert "hunter2" not in "".join(lines)
    assert "\x1b" not in "".join(lines)


async def test_show_chooses(connect: Connect, folder: Path) -> None:
    """Filters by tool, verdict and time narrow it; --last counts from the end; --json is one object per call."""
    await session(connect)
    assert repocell(folder, "show", "--tool", "read_file").stdout.count("\n") == 2
    assert repocell(folder, "show", "--last", "1").stdout.count("stopped") == 1
    assert repocell(folder, "show", "--since", "1h", "--last", "0").stdout.count("\n") == 6
    for nothing in (["--verdict", "deny"], ["--until", "1h"], ["--workspace", "ws_0"], ["--since", "2999-01-01"]):
        assert "Nothing on record matches" in repocell(folder, "show", *nothing).stdout
    (call,) = [json.loads(line) for line in repocell(folder, "show", "--tool", "bash", "--json").stdout.splitlines()]
    assert (call["tool"], call["verdict"], call["outcome"]) == ("bash", "allow", "done")
    refused = repocell(folder, "show", "--since", "yesterday")
    assert refused.returncode == 2
    assert "2h" in refused.stderr


async def test_show_fits_a_terminal(connect: Connect, folder: Path) -> None:
    """On a terminal a call is one line of its width, in colours."""
    await session(connect)
    ours, theirs = os.openpty()
    environment = {**child_environment(folder), "TERM": "xterm-256color", "COLUMNS": "100", "LANG": "C.UTF-8"}
    command = [sys.executable, "-m", "repocell.cli", "audit", "show", "--state-dir", str(folder / "state")]
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := os.read(ours, 65536):
                shown += data
        assert process.wait(60) == 0
    os.close(ours)
    lines = shown.decode().splitlines()
    assert len(lines) == len(TOOLS)
    assert "\x1b[32mallow" in lines[1]
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines) == 100


# -- export


async def test_an_export_verifies_elsewhere(connect: Connect, folder: Path) -> None:
    """A part of the record, in a file, is verified without the state; one changed word in it is found."""
    await session(connect)
    file = folder / "export.jsonl"
    assert repocell(folder, "export", "--tool", "bash", "-o", str(file)).returncode == 0
    assert "sleep" not in file.read_text() and "README" not in file.read_text()
    assert file.read_text() == repocell(folder, "export", "--tool", "bash").stdout
    shutil.rmtree(folder / "state")
    found = repocell(folder, "verify", str(file))
    assert (found.returncode, found.stdout.count("10 records in 1 segment, intact")) == (0, 1)
    file.write_text(file.read_text().replace('"allow"', '"deny"'))
    found = repocell(folder, "verify", str(file))
    assert (found.returncode, found.stdout.count("record 3 was changed")) == (1, 1)


async def test_an_export_replaces_nothing(connect: Connect, folder: Path) -> None:
    """A file that is there stays; what is no export is refused in a sentence."""
    await session(connect)
    file = folder / "mine"
    file.write_text("mine")
    for args in (["export", "-o", str(file)], ["verify", str(file)], ["verify", str(folder / "absent")]):
        refused = repocell(folder, *args)
        assert refused.returncode == 1
        assert refused.stderr.startswith("repocell: ")
    assert file.read_text() == "mine"
