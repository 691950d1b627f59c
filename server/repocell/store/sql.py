"""The store on SQLAlchemy: SQLite in WAL mode.

Lives here: the schema, and nothing that is not in it. It is loaded by name, when a store is opened; what its methods
promise stands in the protocol.
"""

import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..errors import Misconfigured
from ..models import AuditHead, Stop, WorkspaceRecord

SCHEMA = "0002"  # the newest revision in migrations/versions
MIGRATE_SECONDS = 120

metadata = MetaData()
workspaces = Table(
    "workspaces", metadata,
    Column("id", String(40), primary_key=True),
    Column("principal", String(200), nullable=False, index=True),
    Column("repo", Text, nullable=False),
    Column("task", Text),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
)  # fmt: skip
stops = Table(
    "stops", metadata,
    Column("scope", String(20), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("since", Float, nullable=False),
)  # fmt: skip
servers = Table(
    "servers", metadata,
    Column("pid", Integer, primary_key=True),
    Column("born", String(40), nullable=False),
    Column("started", Float, nullable=False),
)  # fmt: skip
audit_heads = Table(
    "audit_heads", metadata,
    Column("chain", String(100), primary_key=True),
    Column("records", Integer, nullable=False),
    Column("segment", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    Column("closed", Boolean, nullable=False),
)  # fmt: skip


class SqlStore:
    """See Store. Use through open_store."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def _do(self, *statements: Any) -> None:
        async with self._engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)

    # -- the index of workspaces

    async def put(self, record: WorkspaceRecord) -> None:
        await self._do(_index(record))

    async def remove(self, ws_id: str) -> None:
        await self._do(delete(workspaces).where(workspaces.c.id == ws_id))

    async def indexed(self) -> Sequence[str]:
        """Ids in the index, the most recently used first."""
        async with self._engine.connect() as connection:
            return list(
                (await connection.execute(select(workspaces.c.id).order_by(workspaces.c.used.desc()))).scalars()
            )

    async def reconcile(self, records: Sequence[WorkspaceRecord]) -> None:
        """Makes the index say what the manifests say."""
        await self._do(delete(workspaces), *(_index(record) for record in records))

    # -- stops

    async def stop(self, scope: str, name: str) -> None:
        row = {"scope": scope, "name": name, "since": time.time()}
        await self._do(upsert(stops).values(**row).on_conflict_do_nothing())

    async def release(self, scope: str, name: str) -> None:
        await self._do(delete(stops).where(stops.c.scope == scope, stops.c.name == name))

    async def stopped(self) -> Sequence[Stop]:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(select(stops).order_by(stops.c.since))).mappings()
            return [Stop.model_validate(dict(row)) for row in rows]

    # -- running servers

    async def register(self, pid: int) -> None:
        """Says that a server with this pid runs and wants to hear of stops; replaces what a dead one of that pid left."""
        row = {"pid": pid, "born": born(pid), "started": time.time()}
        await self._do(delete(servers).where(servers.c.pid == pid), insert(servers).values(**row))

    async def unregister(self, pid: int) -> None:
        await self._do(delete(servers).where(servers.c.pid == pid))

    async def running(self) -> Sequence[int]:
        """Pids of servers that are alive; a pid that was given to another process is not one of them."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(select(servers.c.pid, servers.c.born))).all()
        return [row.pid for row in rows if row.born == born(row.pid)]

    # -- heads of audit chains

    async def anchor(self, heads: Sequence[AuditHead]) -> bool:
        try:
            await self._do(*(_forward(head) for head in heads))
        except SQLAlchemyError:
            return False
        return True

    async def anchored(self) -> Sequence[AuditHead]:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(select(audit_heads).order_by(audit_heads.c.chain))).mappings()
            return [AuditHead.model_validate(dict(row)) for row in rows]


def _index(record: WorkspaceRecord) -> Any:
    row = {
        "id": record.id, "principal": record.principal.name, "repo": record.repo, "task": record.task,
        "created": record.created, "used": record.used,
    }  # fmt: skip
    return upsert(workspaces).values(**row).on_conflict_do_update(index_elements=["id"], set_=row)


def _forward(head: AuditHead) -> Any:
    row = head.model_dump()
    newer = (audit_heads.c.records < head.records) | ((audit_heads.c.head == head.head) & ~audit_heads.c.closed)
    return upsert(audit_heads).values(**row).on_conflict_do_update(index_elements=["chain"], set_=row, where=newer)


def born(pid: int) -> str:
    """When a process started, in the kernel's clock ticks: with the pid it names one process for ever. '' when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[19]
    except (OSError, IndexError):
        return ""


@asynccontextmanager
async def open_store(file: Path) -> AsyncGenerator[SqlStore]:
    """The store in one SQLite file, brought to the current schema first. Raises Misconfigured when it cannot be used."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    event.listen(engine.sync_engine, "connect", _tune)
    try:
        try:
            if await _version(engine) is None:
                await _create(engine)
            elif await _version(engine) != SCHEMA:
                await _migrate(file)
            if (found := await _version(engine)) != SCHEMA:
                raise Misconfigured(
                    f"The state was written by another version (schema {found}); use that one, or a new --state-dir."
                )
        except SQLAlchemyError as error:
            raise Misconfigured(
                f"The state's index cannot be used ({error.__class__.__name__}). Remove store.db: it is rebuilt."
            ) from error
        yield SqlStore(engine)
    finally:
        with anyio.CancelScope(shield=True):
            await engine.dispose()


def _tune(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def _version(engine: AsyncEngine) -> str | None:
    async with engine.connect() as connection:
        there = await connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"))
        if there.scalar() is None:
            return None
        return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()


async def _create(engine: AsyncEngine) -> None:
    """A new store gets the newest schema at once. A test holds it against what the migrations make."""
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        )
        await connection.execute(text("INSERT OR IGNORE INTO alembic_version VALUES (:version)"), {"version": SCHEMA})
        await connection.run_sync(metadata.create_all)


async def _migrate(file: Path) -> None:
    """In a process of its own: the migration tool is needed once in a version's life and would slow every start."""
    with anyio.fail_after(MIGRATE_SECONDS):
        done = await anyio.run_process([sys.executable, "-m", "repocell.migrations", str(file)], check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise Misconfigured(f"The state cannot be brought to this version: {lines[-1] if lines else 'no reason given'}")
