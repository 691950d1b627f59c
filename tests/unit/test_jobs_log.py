"""A job's log against the plain bytes it was given: what is kept is right, what is lost is named, nothing else is made up."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repocell.workspaces.jobs import JobLog

HEAD, TAIL = 7, 5


class Model:
    """All bytes ever printed, and which of them a log of these sizes may have given up."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.data = b"".join(chunks)
        self.size = len(self.data)
        self.lost = range(HEAD, max(HEAD, self.size - TAIL))


def numbered(lengths: list[int]) -> list[bytes]:
    """Chunks of these lengths in which no short stretch repeats, so that a byte in a wrong place is seen."""
    whole = bytes(number * 73 % 251 for number in range(sum(lengths)))
    ends = [sum(lengths[: at + 1]) for at in range(len(lengths))]
    return [whole[end - length : end] for length, end in zip(lengths, ends, strict=True)]


def filled(logs: Path, chunks: list[bytes]) -> JobLog:
    log = JobLog(logs, head=HEAD, tail=TAIL)
    for chunk in chunks:
        log.append(chunk)
    return log


CHUNKS = st.lists(st.integers(0, 3 * (HEAD + TAIL)), max_size=6).map(numbered)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@settings(deadline=None)
@given(chunks=CHUNKS, start=st.integers(0, 60), limit=st.integers(0, 60))
@example(chunks=numbered([HEAD + TAIL + 1]), start=0, limit=60)
@example(chunks=numbered([HEAD + TAIL + 1]), start=HEAD, limit=60)
def test_a_read_gives_the_bytes_that_stand_there(logs: Path, chunks: list[bytes], start: int, limit: int) -> None:
    """What a read returns was printed at the offset it says, is no more than asked for, and nothing of it is lost."""
    model, log = Model(chunks), filled(logs, chunks)
    at, data = log.read(start, limit)
    log.close()
    assert data == model.data[at : at + len(data)]
    assert len(data) <= limit
    assert not set(range(at, at + len(data))) & set(model.lost)


@settings(deadline=None)
@given(chunks=CHUNKS, start=st.integers(0, 60), limit=st.integers(1, 60))
def test_a_read_passes_over_what_is_lost_and_nothing_else(
    logs: Path, chunks: list[bytes], start: int, limit: int
) -> None:
    """It begins where it was asked to, or behind the gap that is there; what is asked for and kept comes in full."""
    model, log = Model(chunks), filled(logs, chunks)
    at, data = log.read(start, limit)
    log.close()
    assert at == (model.lost.stop if start in model.lost else start)
    stop = min(model.size, at + limit)
    if model.lost and at < model.lost.start < stop:
        stop = model.lost.start
    assert len(data) == max(0, stop - at)


@settings(deadline=None)
@given(chunks=CHUNKS, limit=st.integers(1, 20))
def test_reading_on_gives_everything_that_is_kept(logs: Path, chunks: list[bytes], limit: int) -> None:
    """Reads that each go on where the last one ended meet the whole head and the whole tail, and end."""
    model, log = Model(chunks), filled(logs, chunks)
    seen: dict[int, int] = {}
    at = 0
    while at < model.size:
        at, data = log.read(at, limit)
        assert data
        seen.update(enumerate(data, at))
        at += len(data)
    log.close()
    assert seen == {n: byte for n, byte in enumerate(model.data) if n not in model.lost}


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_size_and_loss_are_known_at_any_time(logs: Path, chunks: list[bytes]) -> None:
    """After every append the log says how much was printed, and which of it is gone."""
    log = JobLog(logs, head=HEAD, tail=TAIL)
    for count, chunk in enumerate(chunks, 1):
        log.append(chunk)
        model = Model(chunks[:count])
        assert (log.size, range(*log.lost)) == (model.size, model.lost)
    log.close()


def test_a_log_takes_no_more_room_than_its_sizes(logs: Path) -> None:
    """However much is printed, only head and tail are kept on the disk, in a file that has no name."""
    log = filled(logs, [bytes(range(256))] * 40)
    kept = log.read(0, 1 << 20)[1] + log.read(HEAD, 1 << 20)[1]
    log.close()
    assert kept == bytes(range(HEAD)) + bytes(range(256))[-TAIL:]
    assert list(logs.iterdir()) == []


def test_a_closed_log_can_be_read_by_who_holds_it_and_by_nobody_else(logs: Path) -> None:
    """Its descriptor is given back with the last holder, and never used again: it may be another file's by then."""
    log = filled(logs, [b"abc"])
    with log.held(), log.held():
        log.close()
        assert log.read(0, 9) == (0, b"abc")
    other = filled(logs, [b"xyz"])  # takes the number that has become free
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.read(0, 9)
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.append(b"more")
    log.close()
    assert other.read(0, 9) == (0, b"xyz")
    other.close()
