"""Heads of audit chains in the store: when they get there, and that a store in trouble stops nobody."""

import sqlite3
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import pytest

from repocell.audit import AuditLog
from repocell.audit_anchors import anchored
from repocell.audit_trail import verify_chain
from repocell.models import AuditHead
from repocell.store import Store, open_store

pytestmark = pytest.mark.anyio
EVERY = 0.001


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path / "store.db") as opened:
        yield opened


async def until(store: Store, holds: Callable[[AuditHead], bool]) -> None:
    with anyio.fail_after(20):
        while not any(holds(head) for head in await store.anchored()):
            await anyio.lowlevel.checkpoint()


async def test_a_chain_is_anchored_from_its_start_to_its_end(tmp_path: Path, store: Store) -> None:
    """Before anybody is served, as it grows, and with its last record when it ends."""
    with AuditLog(tmp_path) as log:
        log.write("started")
        async with anchored(log, store, tmp_path, EVERY):
            assert await store.anchored() == [log.anchor]
            log.write("event")
            await until(store, lambda head: head == log.anchor)
            log.write("event")
        assert await store.anchored() == [log.anchor]
    assert (log.anchor.records, log.anchor.closed) == (4, True)
    assert verify_chain(tmp_path, log.chain, await store.anchored()).fault is None


async def test_an_end_by_an_error_is_an_end(tmp_path: Path, store: Store) -> None:
    """Whatever ends the server in order, the last record says so and is anchored."""
    with AuditLog(tmp_path) as log:
        with pytest.RaisesGroup(ZeroDivisionError):
            async with anchored(log, store, tmp_path):
                raise ZeroDivisionError
        assert await store.anchored() == [log.anchor]
    assert log.anchor.closed


async def test_the_next_server_anchors_what_a_killed_one_left(tmp_path: Path, store: Store) -> None:
    """The head of a chain that nobody writes any more gets into the store, also where the store was made anew."""
    left = AuditLog(tmp_path)  # never ended, as by kill -9
    for _ in range(7):
        left.write("event")
    with AuditLog(tmp_path) as log:
        async with anchored(log, store, tmp_path):
            await until(store, lambda head: head == left.anchor)
    left.__exit__()


async def test_a_store_in_trouble_is_logged_and_nothing_stops(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Records go on, the head file keeps up, the log says it once; and once the store is back, so is the copy."""
    with AuditLog(tmp_path) as log:
        async with anchored(log, store, tmp_path, EVERY):
            with sqlite3.connect(tmp_path / "store.db") as connection:
                connection.execute("ALTER TABLE audit_heads RENAME TO elsewhere")
            with anyio.fail_after(20):
                while not caplog.records:
                    log.write("event")
                    await anyio.sleep(EVERY)
            assert verify_chain(tmp_path, log.chain).fault is None
            with sqlite3.connect(tmp_path / "store.db") as connection:
                connection.execute("ALTER TABLE elsewhere RENAME TO audit_heads")
            connection.close()
            await until(store, lambda head: head == log.anchor)
    assert len(caplog.records) == 1
    assert "trying again" in caplog.text
