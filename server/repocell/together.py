"""Two things done at once.

Lives here: that, and which failure is raised when both fail. It may not know what is done.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

_A = TypeVar("_A")
_B = TypeVar("_B")


async def together(first: Callable[[], Awaitable[_A]], second: Callable[[], Awaitable[_B]]) -> tuple[_A, _B]:
    """Both results. The first failure ends the other and is raised as it is, also where both fail at the same moment."""
    left: list[_A] = []
    right: list[_B] = []

    async def do_left() -> None:
        left.append(await first())

    async def do_right() -> None:
        right.append(await second())

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do_left)
            tasks.start_soon(do_right)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return left[0], right[0]
