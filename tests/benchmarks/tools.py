"""What a call costs: commands, files, searches, git; against the floor of each, and beside the peers that can do the same."""

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repocell.models import MiB

from . import trees
from .ground import Ground, host
from .measure import Contender, Failed, Timing, forget_peak, interleaved, peak_megabytes
from .peers import Guest, Rival, as_peers, rival, tried
from .report import Peer, Row, against, ms, timed

RG = str(Path(sys.executable).parent / "rg")
RG_COMMON = ("--no-config", "--color=never", "--hidden", "--glob=!.git")
TEN_MB = 10_000_000
PRINT = f"head -c {TEN_MB} /dev/zero | tr '\\0' x"
LINES = 2_000
EDITED = ("a1000\n", "b1000\n")


async def all_rows(ground: Ground) -> list[Row]:
    rows = [*await bash(ground), await much_output(ground), await output_memory(ground)]
    rows += [await read_file(ground), await edit_file(ground), await grep(ground), await glob(ground)]
    return [*rows, *await changes(ground)]


async def side_by_side(
    ground: Ground, own: Mapping[str, Contender], rivals: Sequence[Rival], rounds: int
) -> tuple[dict[str, Timing], tuple[Peer, ...]]:
    able = await tried(rivals)
    theirs = {each.name: each.run for each in able if each.run is not None}
    timings = await interleaved({**own, **theirs}, rounds)
    return timings, as_peers(able, timings)


# -- commands


def calling(guest: Guest, tool: str, **arguments: Any) -> Contender:
    async def run() -> None:
        await guest.call(tool, **arguments)

    return run


def running(run: Callable[[str], Awaitable[int]], command: str) -> Contender:
    async def go() -> None:
        await run(command)

    return go


def ours(ground: Ground, tool: str, **arguments: Any) -> Contender:
    async def run() -> None:
        await ground.ours.call(tool, **arguments)

    return run


def runners(ground: Ground, command: str) -> list[Rival]:
    """Every peer that can run a command."""
    srt, container = ground.srt, ground.container
    return [
        rival(ground.commands, lambda peer: calling(peer, "run_command", command=command)),
        rival(ground.commander, lambda peer: calling(peer, "start_process", command=command, timeout_ms=60_000)),
        Rival(
            "srt",
            True,
            None if isinstance(srt, str) else running(srt.run, command),
            srt if isinstance(srt, str) else "",
        ),
        Rival("docker exec", True, None if container.why else running(container.run, command), container.why),
    ]


async def bash(ground: Ground) -> list[Row]:
    own = {
        "floor": running(ground.bare.run, "true"),
        "echo": ground.answer,
        "ours": ours(ground, "bash", command="true"),
    }
    timings, peers = await side_by_side(ground, own, runners(ground, "true"), ground.rounds.calls)
    took, floor = timings["ours"], timings["floor"].median + timings["echo"].median
    isolated = [peer for peer in peers if peer.isolated and peer.timing is not None]
    slowest = [f"{peer.name} {peer.timing.median / took.median:.1f}x" for peer in isolated if peer.timing is not None]
    met = (
        all(peer.timing.median >= 8 * took.median for peer in isolated if peer.timing is not None) if isolated else None
    )
    beside = Row(
        "`bash true` beside isolated peers", ", ".join(slowest) or "none took part", "-", ms(took.median), "-",
        "8x faster than each", met,
    )  # fmt: skip
    return [timed("`bash true`", "bash in a live cell + empty tool", floor, took, 1.6, peers), beside]


async def much_output(ground: Ground) -> Row:
    own = {"floor": running(ground.bare.run, PRINT), "ours": ours(ground, "bash", command=PRINT)}
    timings, peers = await side_by_side(ground, own, runners(ground, PRINT), ground.rounds.slow)
    return timed(
        "command printing 10 MB", "the same in a live cell", timings["floor"].median, timings["ours"], 2.0, peers
    )


async def output_memory(ground: Ground) -> Row:
    """Constant: a hundred megabytes may cost the server no more than ten do, but for noise."""
    peaks: list[float] = []
    for factor in (1, 10):
        forget_peak(ground.ours.pid)
        await ground.ours.call("bash", command=PRINT.replace(str(TEN_MB), str(factor * TEN_MB)))
        peaks.append(peak_megabytes(ground.ours.pid))
    ten, hundred = peaks
    return Row(
        "server's memory while 100 MB are printed", "while 10 MB are printed", f"{ten:.1f} MB", f"{hundred:.1f} MB",
        f"{hundred / ten:.2f}x", "within 2 MB", hundred - ten <= 2,
    )  # fmt: skip


# -- files


async def read_file(ground: Ground) -> Row:
    text = trees.numbered(LINES)
    await ground.ours.call("write_file", path="lines.txt", content=text)
    for folder in (ground.copy, ground.bare.folder / "workspace"):
        (folder / "lines.txt").write_text(text, encoding="utf-8")
    answer = await ground.ours.call("read_file", path="lines.txt")
    if f"{LINES:6}\t" not in answer:
        raise Failed("read_file did not return the whole file")

    async def floor() -> None:
        await ground.bare.link.read("lines.txt", root="/workspace", max_bytes=1 * MiB)

    path = str(ground.copy / "lines.txt")
    own = {"floor": floor, "echo": ground.echoing(len(answer)), "ours": ours(ground, "read_file", path="lines.txt")}
    rivals = [
        rival(ground.filesystem, lambda peer: calling(peer, "read_text_file", path=path)),
        rival(ground.commander, lambda peer: calling(peer, "read_file", path=path, length=LINES)),
    ]
    timings, peers = await side_by_side(ground, own, rivals, ground.rounds.calls)
    floor_ms = timings["floor"].median + timings["echo"].median
    name = "`read_file`, 2,000 lines"
    return against(
        name, "read in a live cell + empty tool of that size", floor_ms, timings["ours"], "filesystem server", peers
    )


def toggling(change: Callable[[str, str], Awaitable[object]]) -> Contender:
    """Changes one line there and back again in turn."""
    state = [*EDITED]

    async def run() -> None:
        await change(*state)
        state.reverse()

    return run


async def edit_file(ground: Ground) -> Row:
    path = str(ground.copy / "lines.txt")
    known = {"digest": (await ground.bare.link.stat("lines.txt", root="/workspace", digest=True)).digest}

    async def floor(old: str, new: str) -> None:
        window = await ground.bare.link.read("lines.txt", root="/workspace", max_bytes=1 * MiB)
        body = window.body.replace(old.encode(), new.encode())
        written = await ground.bare.link.write("lines.txt", body, root="/workspace", expect=known["digest"])
        known["digest"] = written.digest

    async def own(old: str, new: str) -> None:
        await ground.ours.call("edit_file", path="lines.txt", old_string=old, new_string=new)

    def filesystem(peer: Guest) -> Contender:
        return toggling(lambda old, new: peer.call("edit_file", path=path, edits=[{"oldText": old, "newText": new}]))

    def commander(peer: Guest) -> Contender:
        return toggling(lambda old, new: peer.call("edit_block", file_path=path, old_string=old, new_string=new))

    contenders = {"floor": toggling(floor), "echo": ground.answer, "ours": toggling(own)}
    (ground.copy / "lines.txt").write_text(trees.numbered(LINES), encoding="utf-8")
    rivals = [rival(ground.filesystem, filesystem)]
    timings, peers = await side_by_side(ground, contenders, rivals, ground.rounds.calls)
    (ground.copy / "lines.txt").write_text(trees.numbered(LINES), encoding="utf-8")
    alone = await tried([rival(ground.commander, commander)])  # on the same file, so not in the same rounds
    slow = await interleaved({each.name: each.run for each in alone if each.run is not None}, ground.rounds.slow)
    floor_ms = timings["floor"].median + timings["echo"].median
    name = "`edit_file` in 2,000 lines"
    everybody = (*peers, *as_peers(alone, slow))
    return against(
        name, "read and write in a live cell + empty tool", floor_ms, timings["ours"], "filesystem server", everybody
    )


# -- searches


def searching(guest: Guest, **arguments: Any) -> Contender:
    """Desktop Commander answers a search with its first results and an id to ask for the rest."""

    async def run() -> None:
        answer = await guest.call("start_search", **arguments)
        found = re.search(r"search_\w+", answer)
        while found and "Status: COMPLETED" not in answer and "completed" not in answer.lower():
            answer = await guest.call("get_more_search_results", sessionId=found.group())

    return run


async def grep(ground: Ground) -> Row:
    argv = (RG, *RG_COMMON, "--files-with-matches", f"--regexp={trees.NEEDLE}", "--", "./")
    own = {"floor": host(ground.copy, *argv), "ours": ours(ground, "grep", pattern=trees.NEEDLE)}
    arguments = {"path": str(ground.copy), "pattern": trees.NEEDLE, "searchType": "content", "contextLines": 0}
    rivals = [rival(ground.commander, lambda peer: searching(peer, **arguments))]
    timings, peers = await side_by_side(ground, own, rivals, ground.rounds.slow)
    return timed("`grep`", "`rg` on the host", timings["floor"].median, timings["ours"], 1.15, peers)


async def glob(ground: Ground) -> Row:
    own = {
        "floor": host(ground.copy, RG, *RG_COMMON, "--files", "--", "./"),
        "ours": ours(ground, "glob", pattern="**/*.yml", head_limit=1000),
    }
    where = str(ground.copy)
    rivals = [
        rival(ground.filesystem, lambda peer: calling(peer, "search_files", path=where, pattern="**/*.yml")),
        rival(ground.commander, lambda peer: searching(peer, path=where, pattern="*.yml", searchType="files")),
    ]
    timings, peers = await side_by_side(ground, own, rivals, ground.rounds.slow)
    return timed("`glob`", "`rg --files` on the host", timings["floor"].median, timings["ours"], 1.2, peers)


# -- git


async def changes(ground: Ground) -> list[Row]:
    """git_diff and workspace_status with twenty changed files; the host's git has the same changes in the clone."""
    change = "rm -f lines.txt; ls pkg0/part*/*.py | head -20 | xargs -n1 sed -i '1i import changed'"
    await ground.ours.call("bash", command=change)
    subprocess.run(["bash", "-c", change], cwd=ground.copy, check=True)
    where = str(ground.copy)
    own = {
        "git diff": host(ground.copy, "git", "diff", "HEAD"),
        "diff and others": host(ground.copy, "bash", "-c", "git diff HEAD && git ls-files --others --exclude-standard"),
        "git status": host(ground.copy, "git", "status", "--short", "--branch"),
        "git_diff": ours(ground, "git_diff"),
        "workspace_status": ours(ground, "workspace_status"),
    }
    rivals = [
        rival(ground.git, lambda peer: calling(peer, "git_diff", repo_path=where, target="HEAD")),
        rival(ground.git, lambda peer: calling(peer, "git_status", repo_path=where)),
    ]
    able = await tried(rivals)
    named = {f"{each.name} {number}": each.run for number, each in enumerate(able) if each.run is not None}
    timings = await interleaved({**own, **named}, ground.rounds.slow)
    peers = [(Peer(each.name, False, timings.get(f"{each.name} {n}"), each.why),) for n, each in enumerate(able)]
    return [
        timed("`git_diff`", "`git diff HEAD` on the host", timings["git diff"].median, timings["git_diff"], 1.3, peers[0]),
        timed(
            "`git_diff`, equal work",
            "`git diff HEAD` and `git ls-files --others` on the host",
            timings["diff and others"].median,
            timings["git_diff"],
            1.3,
        ),
        timed(
            "`workspace_status`", "`git status` on the host", timings["git status"].median, timings["workspace_status"],
            1.3, peers[1],
        ),
    ]  # fmt: skip
