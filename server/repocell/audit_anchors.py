"""Copying the heads of audit chains into the store, so that a chain and its head file cannot go missing together.

Lives here: when that is done. Not with every record: the head file is exact to the record, the store at most ANCHOR_SECONDS
behind while a server runs. It may not know what is recorded.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from .audit import AuditLog
from .audit_trail import all_heads
from .models import AuditHead
from .store import Store

_log = logging.getLogger(__name__)
ANCHOR_SECONDS = 5.0
PATIENCE_SECONDS = 2.0


@asynccontextmanager
async def anchored(log: AuditLog, store: Store, state: Path, every: float = ANCHOR_SECONDS) -> AsyncGenerator[None]:
    """Anchors the chain at once and every so many seconds when it grew; ends it when the context is left."""
    await _copy(store, [log.anchor])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep, log, store, state, every)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            await finish(log, store)


async def finish(log: AuditLog, store: Store, **facts: Any) -> None:
    """Ends the chain: a last record, and that it is the last one beside it and in the store."""
    log.conclude("stopped", **facts)
    log.seal()
    await _copy(store, [log.anchor])


async def _keep(log: AuditLog, store: Store, state: Path, every: float) -> None:
    # Killed servers could not anchor their last records; the next server does it for them.
    await _copy(store, await anyio.to_thread.run_sync(all_heads, state))
    kept: AuditHead | None = None
    worked = True
    while True:
        await anyio.sleep(every)
        if (now := log.anchor) != kept:
            done = await _copy(store, [now])
            if worked and not done:
                _log.warning("the head of the audit record could not be copied into the store; trying again")
            kept, worked = (now if done else kept), done


async def _copy(store: Store, heads: Sequence[AuditHead]) -> bool:
    """Shielded, because a transaction cut in half would cost its connection; and bounded, because a server has to end."""
    with anyio.move_on_after(PATIENCE_SECONDS, shield=True):
        return await store.anchor(heads)
    return False
