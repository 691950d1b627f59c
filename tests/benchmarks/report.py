"""The page: what was measured as rows, and rows as Markdown a person can read. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from .measure import Timing


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to do the same; `why` says why there is no timing."""

    name: str
    isolated: bool
    timing: Timing | None
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One operation: its floor, ours, what we want of it, and what others take for the same."""

    what: str
    floor_is: str
    floor: str
    ours: str
    ratio: str
    target: str
    met: bool | None
    """None: nobody could tell in this run."""
    median: float | None = None
    peers: tuple[Peer, ...] = ()


def ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def timed(what: str, floor_is: str, floor: float, ours: Timing, most: float, peers: Sequence[Peer] = ()) -> Row:
    """A row whose target is a ratio to the floor; all in milliseconds."""
    return Row(
        what, floor_is, ms(floor), ms(ours.median), ratio(ours.median / floor), f"at most {most:g}x the floor",
        ours.median <= most * floor, ours.median, tuple(peers),
    )  # fmt: skip


def against(what: str, floor_is: str, floor: float, ours: Timing, rival: str, peers: Sequence[Peer]) -> Row:
    """A row whose target is to be as fast as one of its peers, within what a run can tell (5 %)."""
    found = next(peer for peer in peers if peer.name == rival)
    met = None if found.timing is None else ours.median <= 1.05 * found.timing.median
    return Row(
        what, floor_is, ms(floor), ms(ours.median), ratio(ours.median / floor), f"as fast as {rival}", met, ours.median,
        tuple(peers),
    )  # fmt: skip


def page(facts: Sequence[str], rows: Sequence[Row], workspaces: str, sources: Sequence[str]) -> str:
    """The whole of docs/performance.md."""
    return "\n".join([
        "# Performance", "",
        "Written by `scripts/bench`. Everything is measured side by side in one run, in turn, through a real MCP client "
        "over stdio, with the gate and the record on. Compare ratios, not milliseconds: machines differ and are shared.",
        "", *(f"- {fact}" for fact in facts), "",
        "## Targets", "",
        "A floor is what nobody can beat on the same machine: the bare operation, and where it says so the answer of an "
        "empty tool through the same protocol library. Times are medians.", "",
        _targets(rows), "",
        "## Beside others", "",
        "The same work by other people's tools, as they come. *Isolated* says whether what runs there is kept from the "
        "machine; where it is not, nothing had to be paid for it.", "",
        _beside(rows), "",
        "## Workspaces", "", workspaces, "",
        "## Repeat it", "",
        "`scripts/bench` installs the other tools into `.cache/peers` and runs everything, about a quarter of an hour. "
        "`scripts/bench --brief` takes fewer rounds and leaves the largest repository out; `scripts/bench --quick` only "
        "shows that everything runs, its figures say little. Docker takes part where an engine answers, or root can "
        "start one.", "",
        "## Other people's tools", "",
        "They are installed from their registries for a run and are no part of this project. Each runs without a network.",
        "", *(f"- {source}" for source in sources), "",
    ])  # fmt: skip


def _targets(rows: Sequence[Row]) -> str:
    head = ["operation", "floor", "is", "repocell", "ratio", "target", "verdict"]
    words = {True: "met", False: "**not met**", None: "not known"}
    cells = [[r.what, r.floor, r.floor_is, r.ours, r.ratio, r.target, words[r.met]] for r in rows]
    return table(head, cells)


def _beside(rows: Sequence[Row]) -> str:
    head = ["operation", "tool", "isolated", "median / p95", "repocell is"]
    cells: list[list[str]] = []
    for row in rows:
        for peer in row.peers:
            isolated = "yes" if peer.isolated else "no"
            if peer.timing is None or row.median is None:
                cells.append([row.what, peer.name, isolated, f"not measured: {peer.why}", ""])
            else:
                took = f"{ms(peer.timing.median)} / {ms(peer.timing.p95)}"
                cells.append([row.what, peer.name, isolated, took, _faster(peer.timing.median / row.median)])
    return table(head, cells)


def _faster(times: float) -> str:
    return f"{times:.1f}x faster" if times >= 1 else f"{1 / times:.1f}x slower"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
