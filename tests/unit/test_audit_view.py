"""Looking at the record: joined, filtered, drawn for a terminal, and exported so that others can verify it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repocell.audit import AuditLog
from repocell.audit_export import export_chain, verify_export
from repocell.audit_trail import Verified, chains, read_head
from repocell.audit_view import LOST, RUNNING, Entry, Wanted, choose, entries, parse_when, printable, rows, to_json
from repocell.models import AuditHead


def decide(log: AuditLog, tool: str, verdict: str = "allow", workspace: str | None = None) -> int:
    arguments = {"sha256": "0" * 64, "preview": '{"command": "make"}'}
    return log.write(
        "decided", principal="me", tool=tool, arguments=arguments, verdict=verdict, rule="a rule", workspace=workspace
    )


def session(state: Path, segment_bytes: int = 1 << 20) -> AuditHead:
    """Two calls that overlap, a denied one, one without an outcome, and a start and an end."""
    with AuditLog(state, segment_bytes) as log:
        log.write("started", version="1")
        first = decide(log, "bash", workspace="ws_aaa1")
        second = decide(log, "read_file", workspace="ws_bbb2")
        log.conclude("outcome", of=second, outcome="done", seconds=0.25)
        decide(log, "git_push", "deny", workspace="ws_aaa1")
        log.conclude("outcome", of=first, outcome="failed", seconds=1.5)
        decide(log, "bash", workspace="ws_ccc3")
        log.conclude("stopped")
    return log.anchor


def seen(state: Path, chain: str, wanted: Wanted, last: int = 0) -> list[tuple[str, str]]:
    """Tool (or event) and outcome of what is chosen."""
    chosen = choose(entries(state, chain), wanted, last)
    return [(str(entry.facts.get("tool", entry.event)), entry.outcome) for entry in chosen]


CALLS = [("bash", "failed"), ("read_file", "done"), ("git_push", ""), ("bash", LOST)]
CHOICES: list[tuple[Wanted, int, list[tuple[str, str]]]] = [
    (Wanted(), 0, [("started", ""), *CALLS, ("stopped", "")]), (Wanted(), 2, [("bash", LOST), ("stopped", "")]),
    (Wanted(tool="bash"), 0, [CALLS[0], CALLS[3]]), (Wanted(tool="bash"), 1, [CALLS[3]]), (Wanted(tool="bas"), 0, []),
    (Wanted(verdict="deny"), 0, [CALLS[2]]), (Wanted(workspace="ws_a"), 0, [CALLS[0], CALLS[2]]),
    (Wanted(workspace="ws_bbb2", tool="bash"), 0, []), (Wanted(since=9e9), 0, []), (Wanted(until=0.0), 0, []),
    (Wanted(since=0.0, until=9e9, tool="read_file"), 0, [CALLS[1]]),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "last", "expected"), CHOICES)
@pytest.mark.parametrize("segment_bytes", [1, 1 << 20], ids=["many-segments", "one-segment"])
def test_calls_are_joined_and_chosen(
    tmp_path: Path, wanted: Wanted, last: int, expected: list[tuple[str, str]], segment_bytes: int
) -> None:
    """A decision and its outcome are one entry at the time of the decision, in whatever segments they stand."""
    chain = session(tmp_path, segment_bytes).chain
    found = [each for each in seen(tmp_path, chain, wanted, last) if each[0] != "continued"]
    assert found == expected


def test_a_call_under_way_is_running_and_a_denied_one_is_not(tmp_path: Path) -> None:
    """While the server lives, what was decided has an outcome to come; once it is gone, none came."""
    with AuditLog(tmp_path) as log:
        decide(log, "bash")
        decide(log, "git_push", "deny")
        decide(log, "pr_open", "ask")
        assert seen(tmp_path, log.chain, Wanted()) == [("bash", RUNNING), ("git_push", ""), ("pr_open", "")]
    assert seen(tmp_path, log.chain, Wanted())[0] == ("bash", LOST)


def test_damaged_lines_do_not_stop_a_look(tmp_path: Path) -> None:
    """What cannot be read is left out; what can is shown."""
    chain = session(tmp_path).chain
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    bad = b'{"n":9,"time":"x","event":[]},"hash":"' + b"0" * 64 + b'"}\n'
    path.write_bytes(
        b"".join([b"\xff\n", bad, b'{"n":9,[,"hash":"' + b"0" * 64 + b'"}\n', *lines[1:-1], lines[-1][:9]])
    )
    assert seen(tmp_path, chain, Wanted()) == CALLS


def text(chosen: Sequence[Entry]) -> list[str]:
    return ["  ".join(cell for cell, _ in row).rstrip() for row in rows(chosen)]


def test_a_line_tells_the_whole_call(tmp_path: Path) -> None:
    """Who, where, what, the verdict with its rule and approval, what came of it and how long it took, in columns."""
    with AuditLog(tmp_path) as log:
        log.write("started", version="1")
        facts = {"principal": "somebody", "workspace": "ws_0123456789abcdef", "tool": "bash", "rule": "exec.ask"}
        number = log.write(
            "decided", **facts, verdict="allow", approval={"by": "me"}, arguments={"preview": '{"command": "x"}'}
        )
        log.conclude("outcome", of=number, outcome="done", seconds=1.234)
        decide(log, "read_file", "deny")
    lines = text(choose(entries(tmp_path, log.chain), Wanted(), 0))
    assert lines[0].endswith('  started {"version": "1"}')
    words = [
        "somebody",
        "ws_01234567",
        "bash",
        "allow",
        "exec.ask",
        '{"by": "me"}',
        "done",
        "1.23s",
        '{"command": "x"}',
    ]
    assert [lines[1].index(word) for word in words] == sorted(lines[1].index(word) for word in words)
    assert lines[1].index("bash") == lines[2].index("read_file")
    assert rows([]) == []


@given(st.text())
def test_nothing_on_record_steers_a_terminal(said: str) -> None:
    """Whatever is written there, control characters and invisible ones come out as their numbers, on one line."""
    assert printable(said).isprintable()
    entry = Entry(
        "c",
        (0,),
        0.0,
        "decided",
        {"tool": said, "principal": said, "approval": [said], "arguments": {"preview": said}},
        said,
    )
    other = Entry("c", (1,), 1e300, said, {"x": said})
    assert all(line.isprintable() for line in text([entry, other]))


def test_an_entry_for_programs_has_everything(tmp_path: Path) -> None:
    """One object with the facts of the decision and what came of it."""
    (_, first, *_) = choose(entries(tmp_path, session(tmp_path).chain), Wanted(), 0)
    found = to_json(first)
    assert (found["tool"], found["outcome"], found["seconds"], found["n"]) == ("bash", "failed", 1.5, 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("0s", 1e9),
        ("90s", 1e9 - 90),
        ("2h", 1e9 - 7200),
        ("3d", 1e9 - 259200),
        ("1w", 1e9 - 604800),
        (" 5m ", 1e9 - 300),
    ],
)
def test_how_long_ago_is_understood(said: str, expected: float) -> None:
    """A number and a unit count back from now."""
    assert parse_when(said, 1e9) == expected


def test_moments_are_understood_in_their_zone() -> None:
    """ISO 8601: with an offset it is that moment, without one it is local."""
    assert parse_when("2026-07-28T14:00:00+00:00", 0) == datetime(2026, 7, 28, 14, tzinfo=UTC).timestamp()
    assert parse_when("2026-07-28T14:00", 0) == datetime(2026, 7, 28, 14).timestamp()
    assert parse_when("2026-07-28", 0) == datetime(2026, 7, 28).timestamp()


@pytest.mark.parametrize("said", ["", "2", "h", "-2h", "2y", "yesterday", "2026-13-01", "9" * 400 + "s"])
def test_what_is_no_moment_is_refused(said: str) -> None:
    """With a sentence that shows how it is written."""
    with pytest.raises(ValueError, match="write it like"):
        parse_when(said, 1e9)


# -- exports


def exported(state: Path, head: AuditHead, numbers: set[int]) -> list[bytes]:
    verified, lines = export_chain(state, head.chain, numbers, [head])
    assert verified.fault is None
    return list(lines)


def verified(lines: Sequence[bytes]) -> Verified:
    (found,) = verify_export(lines)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(numbers=st.sets(st.integers(0, 7)))
def test_any_choice_of_records_verifies_up_to_the_head(tmp_path: Path, numbers: set[int]) -> None:
    """Records that were left out are digests, and the chain still computes; only what was chosen can be read."""
    head = read_head(tmp_path, chain) if (chain := next(iter(chains(tmp_path)), "")) else session(tmp_path)
    assert head is not None
    lines = exported(tmp_path, head, numbers)
    found = verified(lines)
    assert (found.fault, found.head, found.records) == (None, head.head, head.records)
    assert sum(b'"hash"' in line for line in lines) == len(numbers)


def test_two_chains_in_one_file(tmp_path: Path) -> None:
    """Each is verified on its own."""
    one, two = session(tmp_path), session(tmp_path)
    found = verify_export([*exported(tmp_path, one, {1}), *exported(tmp_path, two, set())])
    assert [(each.chain, each.head, each.fault) for each in found] == [
        (one.chain, one.head, None),
        (two.chain, two.head, None),
    ]


def test_any_single_damage_to_an_export_is_found(tmp_path: Path) -> None:
    """Every line changed, left out, doubled or swapped with the next, and every end cut off."""
    head = session(tmp_path, 1)
    lines = exported(tmp_path, head, {1, 4, 5, 7})
    assert verified(lines).fault is None
    assert verified(lines).records == head.records
    for at in range(1, len(lines)):
        line = lines[at]
        for damage in (
            [*lines[:at], line.replace(b"0", b"1", 1), *lines[at + 1 :]], [*lines[:at], *lines[at + 1 :]],
            [*lines[: at + 1], line, *lines[at + 1 :]], lines[:at], [*lines[:at], line[:-9]], [*lines[:at], b"\n", *lines[at:]],
            [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]] if at + 1 < len(lines) else lines[:at],
        ):  # fmt: skip
            assert verified(damage).fault is not None, (at, damage)


@pytest.mark.parametrize(
    "lines", [[b"x\n"], [b'{"n":0}\n'], [b'{"export":2}\n'], [b'{"export":1,'], [b'{"export":1,"chain":5}\n']]
)
def test_what_is_no_export_is_refused(lines: list[bytes]) -> None:
    """It raises instead of calling it intact."""
    with pytest.raises(ValueError, match=r"begin like|opens a chain"):
        verify_export(lines)


def test_a_broken_chain_is_exported_as_far_as_it_holds_and_says_so(tmp_path: Path) -> None:
    """The export carries the fault with it, so that nobody takes its intact part for the whole."""
    head = session(tmp_path)
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"git_push", b"git_pull"))
    found, lines = export_chain(tmp_path, head.chain, {1, 2}, [head])
    assert found.fault is not None
    again = verified(list(lines))
    assert again.records == 4
    assert again.fault is not None and "record 4 was changed" in again.fault.what


def test_an_export_of_a_living_chain_verifies(tmp_path: Path) -> None:
    """It ends where it was read; what comes later is in the next one."""
    with AuditLog(tmp_path) as log:
        decide(log, "bash")
        head = read_head(tmp_path, log.chain)
        assert head is not None
        _, lines = export_chain(tmp_path, log.chain, {0}, [])
        decide(log, "bash")
        assert verified(list(lines)).records == 1
