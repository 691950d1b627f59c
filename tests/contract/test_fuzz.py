"""Both ends of the channel against frames at random: a host with a lying guest, a real guest with a lying host.

Each run is bounded in time; its seed is printed, and REPOCELL_FUZZ_SEED runs it again. In CI it is the same each time.
"""

import os
import random
import resource
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from contract.cells import ROOT, open_wire
from contract.liar import ENDED, FACTS, SOON, Peer, greet, header, link_to
from hostile.observe import guests_of
from repocell.errors import SandboxLost
from repocell.guest.agent import (
    CREDIT,
    DATA,
    DONE,
    EOF,
    ERR,
    FAIL,
    MAX_BODY,
    MAX_JSON,
    NOTE,
    OPEN,
    WINDOW,
    encode,
)
from repocell.guest.link import Exited, GuestRefused, Link
from repocell.runtimes.bubblewrap import Bubblewrap

pytestmark = pytest.mark.anyio

SECONDS = 6.0  # for each of the two
KEPT_KB = 64 << 10  # how much more memory either end may have taken in the end


def seeded(record: Callable[[str, object], None]) -> random.Random:
    seed = int(os.environ.get("REPOCELL_FUZZ_SEED") or (1 if os.environ.get("CI") else random.randrange(1 << 32)))
    print(f"REPOCELL_FUZZ_SEED={seed}")
    record("seed", seed)
    return random.Random(seed)


# -- a guest that says anything

ANSWERS: list[dict[str, Any]] = [
    {}, FACTS, ENDED, {**ENDED, "status": 7 << 8}, {**ENDED, "status": 9}, {**ENDED, "status": -1}, {**ENDED, "aside": "x"},
    {"size": 3, "mode": 0o644}, {"size": 1 << 62, "mode": 0}, {"size": -1, "mode": 0}, {"bytes": 1}, {"bytes": WINDOW},
    {"bytes": -1}, {"bytes": True}, {"bytes": None}, {"entries": [], "more": False}, {"entries": [FACTS], "more": True},
    {"entries": [{**FACTS, "path": "a"}], "more": 1}, {"created": True, "mode": 0o644}, {"error": "not_found"},
    {"error": "conflict", "found": "absent"}, {"errno": "ENOENT"}, {"error": []}, {"error": "tired"}, {"verb": "stat"},
]  # fmt: skip


def said(chance: random.Random, streams: list[int]) -> bytes:
    """One frame as no honest guest would necessarily send it, on a stream that was opened, mostly."""
    stream = chance.choice(streams) if chance.random() < 0.97 else chance.randrange(1 << 32)
    kind = chance.choice([DATA, DATA, ERR, CREDIT, NOTE, DONE, FAIL, DONE, FAIL, EOF, OPEN])
    if kind in (DATA, ERR) and chance.random() < 0.9:
        return encode(kind, stream, None, bytes(chance.choice([1, 2, 100, 5000, MAX_BODY])))
    if chance.random() < 0.03:
        return chance.randbytes(chance.randrange(1, 60))
    if chance.random() < 0.03:
        return header(kind, stream, chance.choice([0, MAX_JSON + 1, 1 << 31]), chance.choice([0, MAX_BODY + 1]))
    body = chance.randbytes(3) if chance.random() < 0.05 else b""
    return encode(kind, stream, chance.choice(ANSWERS), body)


async def run(link: Link) -> object:
    """A command to its end, with input; one that says nothing more is given up, as its own timeout would."""
    async with link.spawn(["true"], cwd="/", stdin=True, aside=True) as process:
        with anyio.move_on_after(0.3):
            await process.write(bytes(1000))
            while True:
                event = await process.receive()
                if isinstance(event, Exited) and not event.running:
                    return event.status
    return None


USES: list[Callable[[Link], Awaitable[object]]] = [
    run,
    lambda link: link.stat("a", root=ROOT),
    lambda link: link.list("", root=ROOT, depth=2, limit=3),
    lambda link: link.read("a", root=ROOT, max_bytes=9),
    lambda link: link.write("a", bytes(3 * WINDOW), root=ROOT),
    lambda link: link.remove("a", root=ROOT, recursive=True),
    lambda link: link.move("a", "b", root=ROOT),
]
TOLD = (None, 0, 7)  # the exits that some answer above tells of: nothing else may ever come out


async def one_guest(chance: random.Random) -> None:
    """Several things asked at once of a guest that answers with frames at random, and then ends or goes silent."""
    count = chance.randrange(1, 5)

    async def script(peer: Peer) -> None:
        await greet(peer)
        streams = [1]
        for _ in range(count):
            streams.append((await peer.hear(OPEN)).stream)
        while chance.random() < 0.9:
            await peer.say_raw(b"".join(said(chance, streams[1:]) for _ in range(chance.randrange(1, 9))))
        if chance.random() < 0.9:
            await peer.end()

    async def use(link: Link) -> None:
        with suppress(GuestRefused, SandboxLost):
            ended = await chance.choice(USES)(link)
            assert getattr(ended, "exit", None) in TOLD

    with anyio.fail_after(SOON), suppress(SandboxLost):  # a greeting may come too late for so little patience
        async with link_to(script, patience=0.2) as link, anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(use, link)


def test_any_conversation_with_a_guest_ends_in_a_result_or_a_loss(
    record_property: Callable[[str, object], None],
) -> None:
    """Whatever it says on many streams at once, each use returns, is refused or loses the sandbox, in little time and room."""
    chance, until = seeded(record_property), time.monotonic() + SECONDS
    before, rounds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    while time.monotonic() < until:
        anyio.run(one_guest, chance)
        rounds += 1
    assert rounds > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KEPT_KB


# -- a host that says anything

PATHS: list[Any] = [
    "a",
    "",
    ".",
    "/",
    "..",
    "a/b",
    "\0",
    "x" * 5000,
    "/dev/zero",
    "/proc/self/mem",
    "/workspace/a",
    "é\udcff",
    7,
    None,
    [],
]
THINGS: list[Any] = [0, 1, -1, 2**31, 2**63, 2**100, 1.5, True, None, "", "a", [], ["x"], {}, {"a": 1}, "x" * 3000]


VERBS = ["read", "write", "stat", "list", "remove", "move", "spawn", "spawn", "signal", "resize", "kill", "nothing", 7]
ARGV: list[Any] = [["true"], ["cat"], ["sh", "-c", "echo x; sleep 0.01"], ["nothing"], [], [""], "true", [7], None]
HOW: list[Any] = [True, False, [24, 80], [0, 0], [-1, 1 << 20], "xx", 7]
EXTRA = ["offset", "limit", "grace", "mode", "recursive", "self", "number", "x"]


def asked(chance: random.Random) -> dict[str, Any]:
    """A question of any verb, its arguments right, wrong, too many or too few. `hello` may lower limits for good: not asked."""
    pick, verb = chance.choice, chance.choice(VERBS)
    arguments: dict[str, Any] = {"root": ROOT, "path": pick(PATHS)}
    if verb == "spawn":
        arguments = {
            "argv": pick(ARGV),
            "cwd": pick([ROOT, "/", "nowhere", 7]),
            "env": pick([{}, {"A": "b"}, {"A": 1}, [], ["x"]]),
        }
        arguments.update({name: pick(HOW) for name in ("stdin", "pty", "aside") if chance.random() < 0.4})
    elif verb in ("signal", "resize", "kill"):
        arguments = {"target": chance.randrange(2, 40)}
        facts: dict[Any, Any] = {
            "signal": {"signal": pick([0, 15, 9, 999, -1])},
            "resize": {"rows": pick(THINGS), "columns": 5},
        }
        arguments.update(facts.get(verb, {}))
    elif isinstance(verb, str):
        facts = {"move": {"to": pick(PATHS)}, "list": {"limit": pick([0, 1, 100, -5, "x"])},
                 "write": {"expect": pick([None, "absent", "0" * 64, 7])}}  # fmt: skip
        arguments.update(facts.get(verb, {}))
    if chance.random() < 0.15:
        arguments[pick(EXTRA)] = pick(THINGS)
    if chance.random() < 0.05:
        arguments.pop(pick([*arguments]))
    return {"verb": verb, **arguments}


def spoken(chance: random.Random, last: int) -> bytes:
    """One well-formed frame to a stream that may be open, was, or is new; numbers below 1,000,000 only."""
    stream = chance.randrange(2, last + 2)
    kind = chance.choice([OPEN, OPEN, OPEN, DATA, EOF, CREDIT, DONE, DONE, FAIL, NOTE, ERR])
    meta = asked(chance) if kind == OPEN else {}
    if kind == CREDIT:
        meta = {"bytes": chance.choice([1, WINDOW, 0, -5, True, "x", None, 1 << 40])}
    body = chance.randbytes(chance.choice([0, 1, 5000])) if kind == DATA else b""
    return encode(kind, stream, meta, body)


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2]
    return int(status.split()[0])


async def test_any_conversation_with_a_host_is_answered_in_little_room(
    runtime: Bubblewrap, folder: Path, record_property: Callable[[str, object], None]
) -> None:
    """A real guest takes whatever well-formed frames come, stays as small as it was, and answers the next question."""
    chance, until, rounds = seeded(record_property), time.monotonic() + SECONDS, 0
    async with open_wire(runtime, folder) as wire:
        (guest,) = guests_of(os.getpid())
        before = resident_kb(guest)
        while time.monotonic() < until:
            for _ in range(200):
                await wire.say_raw(spoken(chance, 40))
            for number in range(2, 42):
                await wire.say(DONE, number)
            rounds += 1
            probe = 1_000_000 + rounds
            with anyio.fail_after(SOON):
                await wire.say(OPEN, probe, {"verb": "stat", "path": ".", "root": "/"})
                assert (await wire.hear(probe, DONE, FAIL)).kind == DONE
            assert resident_kb(guest) < before + KEPT_KB
        if os.geteuid() == 0:  # others may not look: the guest is not dumpable
            assert len(list(Path(f"/proc/{guest}/fd").iterdir())) < 40
    assert rounds > 5
