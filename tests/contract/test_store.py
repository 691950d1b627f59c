"""The store: one file, several processes, every schema from the first on."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from repocell.errors import Misconfigured
from repocell.models import AuditHead, Principal, WorkspaceRecord
from repocell.store import open_store
from repocell.store.sql import SCHEMA, born

pytestmark = pytest.mark.anyio


def schema(file: Path) -> set[tuple[str, str]]:
    """Tables and indices by name, and each table's columns, as SQLite has them."""
    with sqlite3.connect(file) as connection:
        found = set(
            connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        )
        for _, table in [row for row in found if row[0] == "table"]:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            found |= {(table, f"{name} {kind} {notnull} {key}") for _, name, kind, notnull, _, key in columns}
    connection.close()
    return {row for row in found if row[0] != "alembic_version"}


def migrate(file: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "repocell.migrations", str(file)], check=True, capture_output=True, timeout=60
    )


async def test_migrations_and_a_new_store_agree(tmp_path: Path) -> None:
    """All migrations from nothing give exactly the schema a new store gets."""
    migrate(tmp_path / "migrated.db")
    async with open_store(tmp_path / "new.db"):
        pass
    assert schema(tmp_path / "migrated.db") == schema(tmp_path / "new.db")


async def test_a_migrated_store_is_used_as_it_is(tmp_path: Path) -> None:
    """A store the migrations made carries the current version, and opens."""
    migrate(tmp_path / "store.db")
    async with open_store(tmp_path / "store.db") as store:
        assert await store.stopped() == []


async def test_a_store_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    """A newer version's state is not touched; the message says what to do."""
    async with open_store(tmp_path / "store.db"):
        pass
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(Misconfigured, match="state"):
        async with open_store(tmp_path / "store.db"):
            pass


async def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    """Garbage where the store should be is said with the remedy: the index can be rebuilt."""
    (tmp_path / "store.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(Misconfigured, match="rebuilt"):
        async with open_store(tmp_path / "store.db"):
            pass


def record(number: int) -> WorkspaceRecord:
    return WorkspaceRecord(
        id=f"ws_{number:032x}", principal=Principal(name="me"), repo="r", mirror="m", commit="c", base=None, branch="b",
        task=None, created=1.0, used=float(number), upper="u", lowers=(),
    )  # fmt: skip


async def test_two_connections_see_each_others_commits(tmp_path: Path) -> None:
    """What one server writes another reads, while both are open; concurrent writers both succeed."""
    async with open_store(tmp_path / "store.db") as one, open_store(tmp_path / "store.db") as two:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon((one if number % 2 else two).put, record(number))
        assert len(await two.indexed()) == 20
        assert (await one.indexed())[0] == record(19).id
        await two.reconcile([record(3)])
        assert await one.indexed() == [record(3).id]
        await one.remove(record(3).id)
        assert await two.indexed() == []


async def test_stops_are_kept_and_released(tmp_path: Path) -> None:
    """A stop survives a restart, twice is once, and releasing lifts exactly that one."""
    async with open_store(tmp_path / "store.db") as store:
        await store.stop("principal", "me")
        await store.stop("principal", "me")
        await store.stop("everything", "")
    async with open_store(tmp_path / "store.db") as store:
        stops = await store.stopped()
        assert [(stop.scope, stop.name) for stop in stops] == [("principal", "me"), ("everything", "")]
        assert all(stop.covers(record(1)) for stop in stops)
        await store.release("everything", "")
        assert [stop.scope for stop in await store.stopped()] == ["principal"]


async def test_only_living_servers_count(tmp_path: Path) -> None:
    """A pid whose process is gone, or is another one by now, is not a running server."""
    async with open_store(tmp_path / "store.db") as store:
        await store.register(os.getpid())
        assert await store.running() == [os.getpid()]
        with sqlite3.connect(tmp_path / "store.db") as connection:
            connection.execute("UPDATE servers SET born = '1'")
        connection.close()
        assert await store.running() == []
    assert born(os.getpid()) != ""
    assert born(2**22 + 1) == ""


async def test_heads_of_chains_only_go_forward(tmp_path: Path) -> None:
    """A newer head replaces an older one, an end is kept, and an older head or a late copy changes nothing."""
    early, late = (AuditHead(chain="c", records=n, segment=1, head=f"{n:064x}") for n in (1, 2))
    other = AuditHead(chain="d", records=1, segment=1, head="0" * 64)
    closed = late.model_copy(update={"closed": True})
    async with open_store(tmp_path / "store.db") as store:
        assert await store.anchored() == []
        for heads, then in (([early, other], [early, other]), ([late], [late, other]), ([early], [late, other])):
            assert await store.anchor(heads)
            assert await store.anchored() == then
        for head in (closed, late, early):
            assert await store.anchor([head])
            assert await store.anchored() == [closed, other]
        assert await store.anchor([])


async def test_a_head_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    """A store that lost its table answers no instead of ending the server."""
    async with open_store(tmp_path / "store.db") as store:
        with sqlite3.connect(tmp_path / "store.db") as connection:
            connection.execute("DROP TABLE audit_heads")
        connection.close()
        assert not await store.anchor([AuditHead(chain="c", records=1, segment=1, head="0" * 64)])


async def test_a_store_of_the_first_version_is_brought_forward(tmp_path: Path) -> None:
    """What it held is still there, and it takes heads."""
    async with open_store(tmp_path / "store.db") as store:
        await store.stop("principal", "me")
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("DROP TABLE audit_heads")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    async with open_store(tmp_path / "store.db") as store:
        assert [stop.name for stop in await store.stopped()] == ["me"]
        assert await store.anchored() == []


def test_the_newest_migration_is_the_schema_of_the_code() -> None:
    """SCHEMA names the last file in migrations/versions."""
    import repocell.migrations as package  # noqa: PLC0415

    files = sorted(path.name for path in (Path(package.__path__[0]) / "versions").glob("*.py"))
    assert files[-1].startswith(f"{SCHEMA}_")
