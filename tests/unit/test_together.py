"""Two things done at once succeed together, or fail with one error that can be caught by its class."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from repocell.repos import GitError
from repocell.together import together

pytestmark = pytest.mark.anyio

Job = Callable[[], Awaitable[str]]


async def good() -> str:
    return "good"


async def bad() -> str:
    raise GitError("bad")


async def worse() -> str:
    raise GitError("worse")


async def forever() -> str:
    await anyio.sleep_forever()
    raise AssertionError


async def deep() -> str:
    return "".join(await together(worse, bad))


async def test_both_results_are_given() -> None:
    """What the first and the second returned, in their order."""
    assert await together(good, good) == ("good", "good")


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (bad, good, "bad"),
        (good, bad, "bad"),
        (bad, forever, "bad"),
        (forever, bad, "bad"),
        (bad, worse, "bad"),
        (worse, bad, "worse"),
        (deep, bad, "bad"),
    ],
)
async def test_the_first_failure_is_the_one_raised(first: Job, second: Job, why: str) -> None:
    """Whether the other succeeds, waits or fails at the same moment, the caller catches a plain GitError."""
    with anyio.fail_after(5), pytest.raises(GitError) as raised:
        await together(first, second)
    assert raised.value.why == why
