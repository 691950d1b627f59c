"""The audit chain: whatever is done to it afterwards is found, and where; what a crash leaves is no fault."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repocell.audit import AuditLog, digest_of, link
from repocell.audit_trail import Fault, Verified, all_heads, chains, parse_line, read_head, segments_of, verify_chain
from repocell.errors import AuditUnavailable
from repocell.models import AuditHead

RECORDS, PER_SEGMENT = 12, 600  # bytes: some four records each


def write(state: Path, records: int = RECORDS, segment_bytes: int = PER_SEGMENT) -> AuditHead:
    """A chain of a server that ended in order, and its head as the store would have it."""
    with AuditLog(state, segment_bytes) as log:
        for number in range(records):
            log.write("decided", tool=f"tool-{number}")
    return log.anchor


def check(state: Path, anchor: AuditHead) -> Verified:
    """The one chain, held against its head file and the store."""
    return verify_chain(state, anchor.chain, [anchor])


def lines_of(state: Path, chain: str) -> list[bytes]:
    return [line for _, path in segments_of(state, chain) for line in path.read_bytes().splitlines(keepends=True)]


def rewritten(state: Path, chain: str, change: Callable[[list[bytes]], Sequence[bytes]]) -> None:
    """Applies a change to the lines of a chain, leaving each segment as many as it had as far as there are enough."""
    paths = [path for _, path in segments_of(state, chain)]
    counts = [len(path.read_bytes().splitlines()) for path in paths]
    left = list(change(lines_of(state, chain)))
    for number, (path, count) in enumerate(zip(paths, counts, strict=True)):
        take = len(left) if number == len(paths) - 1 else min(count, len(left))
        path.write_bytes(b"".join(left[:take]))
        left = left[take:]


def forged(lines: Sequence[bytes]) -> list[bytes]:
    """The lines linked anew, as somebody does who knows how it is done."""
    head, made = "0" * 64, list[bytes]()
    for line in lines:
        record = parse_line(line)
        assert record is not None
        head = link(head, digest_of(record.body))
        made.append(record.body[:-1] + f',"hash":"{head}"}}\n'.encode())
    return made


@pytest.fixture(scope="module")
def written() -> tuple[Path, AuditHead]:
    """One chain of several segments for all that only copy it."""
    state = Path(tempfile.mkdtemp(prefix="repocell-audit-"))
    return state, write(state)


def damaged(written: tuple[Path, AuditHead], change: Callable[[list[bytes]], Sequence[bytes]]) -> Verified:
    state, anchor = written
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "state"
        shutil.copytree(state, copy)
        rewritten(copy, anchor.chain, change)
        return check(copy, anchor)


# -- intact


def test_a_chain_spans_segments_and_verifies(tmp_path: Path) -> None:
    """Segments are cut at their size, each begins by naming the last hash before it, and the whole verifies."""
    anchor = write(tmp_path)
    segments = segments_of(tmp_path, anchor.chain)
    assert [number for number, _ in segments] == list(range(1, len(segments) + 1))
    assert len(segments) > 3
    for (_, before), (number, path) in itertools.pairwise(segments):
        last = parse_line(before.read_bytes().splitlines(keepends=True)[-1])
        first = path.read_bytes().splitlines()[0].decode()
        assert last is not None
        assert f'"event":"continued","chain":"{anchor.chain}","segment":{number},"previous":"{last.hash}"' in first
        assert PER_SEGMENT <= before.stat().st_size < PER_SEGMENT + 400
    found = check(tmp_path, anchor)
    assert (found.fault, found.notes, found.live) == (None, (), False)
    assert (found.records, found.head, found.segments) == (anchor.records, anchor.head, len(segments))


def test_a_chain_verifies_while_it_is_written(tmp_path: Path) -> None:
    """After every record, without an end; that somebody writes is seen, and that nobody does any more."""
    with AuditLog(tmp_path, PER_SEGMENT) as log:
        for number in range(RECORDS):
            log.write("event", number=number)
            found = verify_chain(tmp_path, log.chain)
            assert found.fault is None
            assert (found.records, found.head, found.live) == (log.anchor.records, log.head, True)
    assert not check(tmp_path, log.anchor).live


def test_an_empty_chain_is_no_fault(tmp_path: Path) -> None:
    """A server that ended before it recorded anything."""
    assert check(tmp_path, write(tmp_path, 0)).fault is None


def test_every_chain_is_known_by_any_trace(tmp_path: Path) -> None:
    """Segments, a head file and an anchor each are enough to look for a chain."""
    first, second = write(tmp_path), write(tmp_path)
    assert list(chains(tmp_path)) == sorted((first.chain, second.chain))
    assert sorted(head.chain for head in all_heads(tmp_path)) == sorted((first.chain, second.chain))
    shutil.rmtree(tmp_path / "audit")
    assert list(chains(tmp_path)) == sorted((first.chain, second.chain))
    shutil.rmtree(tmp_path / "heads")
    assert list(chains(tmp_path, [first])) == [first.chain]


# -- damage


@settings(deadline=None)  # each example copies files
@given(st.data())
def test_any_changed_byte_is_found_where_it_is(written: tuple[Path, AuditHead], data: st.DataObject) -> None:
    """One byte of one record becomes another: that record is named."""
    number = data.draw(st.integers(0, written[1].records - 1))

    def change(lines: list[bytes]) -> list[bytes]:
        at = data.draw(st.integers(0, len(lines[number]) - 2))
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (lines[number][at], 10)))
        return [*lines[:number], lines[number][:at] + bytes([byte]) + lines[number][at + 1 :], *lines[number + 1 :]]

    fault = damaged(written, change).fault
    assert fault is not None
    assert fault.record == number


@settings(deadline=None)  # each example copies files
@given(st.data())
def test_any_deletion_is_found_where_it_is(written: tuple[Path, AuditHead], data: st.DataObject) -> None:
    """Any run of records goes missing, the first and the last ones too: the first of them is named."""
    first = data.draw(st.integers(0, written[1].records - 1))
    end = data.draw(st.integers(first + 1, written[1].records))
    fault = damaged(written, lambda lines: [*lines[:first], *lines[end:]]).fault
    assert fault is not None
    assert fault.record == first


@settings(deadline=None)  # each example copies files
@given(st.data())
def test_any_insertion_is_found_where_it_is(written: tuple[Path, AuditHead], data: st.DataObject) -> None:
    """A copy of any record anywhere: where it stands, or right after it when it follows itself."""
    source, place = (data.draw(st.integers(0, written[1].records - 1)) for _ in range(2))
    fault = damaged(written, lambda lines: [*lines[:place], lines[source], *lines[place:]]).fault
    assert fault is not None
    assert fault.record == place + (source == place)


@settings(deadline=None)  # each example copies files
@given(st.permutations(range(8)).filter(lambda order: order != list(range(8))))
def test_any_reordering_is_found_where_it_begins(written: tuple[Path, AuditHead], order: list[int]) -> None:
    """The first record that is not in its place is named."""
    fault = damaged(written, lambda lines: [*(lines[number] for number in order), *lines[8:]]).fault
    assert fault is not None
    assert fault.record == next(place for place, number in enumerate(order) if place != number)


@settings(deadline=None)  # each example copies files
@given(st.data())
def test_any_chop_is_found(written: tuple[Path, AuditHead], data: st.DataObject) -> None:
    """The last bytes of the newest segment go, one or all: the first record that is not whole is named."""
    state, anchor = written
    _, path = segments_of(state, anchor.chain)[-1]
    whole = path.read_bytes()
    kept = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "state"
        shutil.copytree(state, copy)
        (copy / "audit" / path.name).write_bytes(kept)
        fault = check(copy, anchor).fault
    assert fault is not None
    assert fault.record == anchor.records - whole.count(b"\n") + kept.count(b"\n")
    assert "cut off" in fault.what


@settings(deadline=None)  # each example copies files
@given(st.integers(0, RECORDS - 1))
def test_a_forged_chain_that_links_is_found(written: tuple[Path, AuditHead], number: int) -> None:
    """Somebody changes a record and links all the rest anew: the anchored head is another."""
    fault = damaged(
        written, lambda lines: forged([line.replace(b"tool-%d" % number, b"evil-%d" % number) for line in lines])
    ).fault
    assert fault is not None
    assert "rewritten" in fault.what


@pytest.mark.parametrize("number", [1, 2, 3, -1], ids=["first", "second", "third", "last"])
def test_a_missing_segment_is_found(tmp_path: Path, number: int) -> None:
    """A segment that was deleted is named, in the middle and at the end."""
    anchor = write(tmp_path)
    segments = segments_of(tmp_path, anchor.chain)
    lost, path = segments[number - 1 if number > 0 else -1]
    first = parse_line(path.read_bytes().splitlines(keepends=True)[0])
    path.unlink()
    fault = check(tmp_path, anchor).fault
    assert fault is not None and first is not None
    assert (fault.segment, fault.record) == (lost, first.number)
    assert "segment is missing" in fault.what


@pytest.mark.parametrize("anchored", ["head file", "store"])
def test_a_whole_chain_that_is_gone_is_found(tmp_path: Path, anchored: str) -> None:
    """Either place that remembers it is enough."""
    anchor = write(tmp_path)
    shutil.rmtree(tmp_path / "audit")
    if anchored == "store":
        shutil.rmtree(tmp_path / "heads")
    fault = verify_chain(tmp_path, anchor.chain, [anchor] if anchored == "store" else []).fault
    assert fault == Fault(1, 0, f"the whole chain is missing: {anchor.records} records are anchored")


def test_a_head_set_back_with_the_tail_is_found_by_the_store(tmp_path: Path) -> None:
    """Whoever chops the chain and forges its head file is contradicted by the store, as far as that was brought."""
    with AuditLog(tmp_path) as log:
        for _ in range(5):
            log.write("event")
        early = log.anchor
        for _ in range(5):
            log.write("event")
    head = tmp_path / "heads" / log.chain
    head.write_text(f"{early.records:012d} {early.segment:05d} {early.head} open  \n")
    rewritten(tmp_path, log.chain, lambda lines: lines[:5])
    assert verify_chain(tmp_path, log.chain, [early]).fault is None  # what was not anchored elsewhere is not missed
    found = check(tmp_path, log.anchor)
    assert found.fault == Fault(1, 5, "the tail was cut off: 5 records are missing")


def test_without_its_head_file_a_chain_is_not_believed(tmp_path: Path) -> None:
    """Deleted, or no head any more."""
    anchor = write(tmp_path)
    for text in ("garbage", "", None):
        path = tmp_path / "heads" / anchor.chain
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        fault = check(tmp_path, anchor).fault
        assert fault is not None and "head file" in fault.what


def test_records_added_after_the_end_are_found(tmp_path: Path) -> None:
    """A record that links, after a chain that ended in order; so is a stray file among the segments."""
    anchor = write(tmp_path, 3, 1 << 20)
    more = lines_of(tmp_path, anchor.chain)[2].replace(b'{"n":2,', b'{"n":3,')
    rewritten(tmp_path, anchor.chain, lambda lines: forged([*lines, more]))
    assert check(tmp_path, anchor).fault == Fault(1, 3, "1 records were added after the last one")
    (tmp_path / "audit" / "stray.jsonl").write_text("")
    assert verify_chain(tmp_path, "stray").fault is not None


# -- crashes


def abandoned(state: Path, records: int) -> AuditHead:
    """A chain whose server was killed: a child that ends without any leave."""
    child = os.fork()
    if child == 0:
        log = AuditLog(state)
        for number in range(records):
            log.write("event", number=number)
        os._exit(0)
    os.waitpid(child, 0)
    (head,) = all_heads(state)
    return head


def test_what_a_killed_server_leaves_is_told_apart(tmp_path: Path) -> None:
    """A server that is gone without an end; a line cut short; a record its head does not know yet: notes, not faults."""
    anchor = abandoned(tmp_path, 4)
    found = check(tmp_path, anchor)
    assert (found.fault, found.notes, found.live) == (None, ("its server was killed",), False)
    _, path = segments_of(tmp_path, anchor.chain)[0]
    intact = path.read_bytes()
    path.write_bytes(intact + b'{"n":4,"time":17')
    found = check(tmp_path, anchor)
    assert found.fault is None
    assert ["cut short" in note for note in found.notes] == [True]
    path.write_bytes(intact)
    early = parse_line(intact.splitlines(keepends=True)[2])
    assert early is not None
    head = f"{3:012d} {1:05d} {early.hash} open  \n"
    (tmp_path / "heads" / anchor.chain).write_text(head)
    found = verify_chain(tmp_path, anchor.chain, [])
    assert found.fault is None
    assert "between writing the two" in found.notes[0]


def test_a_torn_line_the_head_knows_is_a_chop(tmp_path: Path) -> None:
    """The same half line is tampering where the head says that the record was whole."""
    anchor = abandoned(tmp_path, 4)
    _, path = segments_of(tmp_path, anchor.chain)[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert check(tmp_path, anchor).fault == Fault(1, 3, "the tail was cut off: 1 records are missing")


def test_an_end_in_order_allows_no_torn_line(tmp_path: Path) -> None:
    """After a closed chain no server was writing."""
    anchor = write(tmp_path)
    _, path = segments_of(tmp_path, anchor.chain)[-1]
    with path.open("ab") as file:
        file.write(b'{"n":')
    assert check(tmp_path, anchor).fault is not None


def test_a_segment_that_cannot_be_begun_stops_writing_and_not_the_chain(tmp_path: Path) -> None:
    """While the next segment cannot be made calls are refused, outcomes still find a place, and later all goes on."""
    with AuditLog(tmp_path, 1) as log:
        log.write("first")
        blocked = tmp_path / "audit" / f"{log.chain}.00002.jsonl"
        blocked.write_text("")
        with pytest.raises(AuditUnavailable):
            log.write("second")
        assert log.conclude("outcome")
        blocked.unlink()
        log.write("third")
    found = check(tmp_path, log.anchor)
    assert (found.fault, found.records, found.segments) == (None, 4, 2)
    head = read_head(tmp_path, log.chain)
    assert head == log.anchor
    assert head is not None and head.closed
