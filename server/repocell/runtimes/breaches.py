"""How a runtime tells that it stopped processes of a cell for a limit: an attribute of the stream it yields.

Lives here: the count of such stops, and the stream that carries it. A runtime that cannot tell yields a plain stream. It
may not know what was running, nor how anything is worded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import ByteStream

LimitName = Literal["memory", "disk"]


@dataclass(frozen=True)
class Breaches:
    """How often processes of a cell were stopped for each limit so far."""

    memory: int = 0
    disk: int = 0

    def since(self, before: "Breaches") -> tuple[LimitName, ...]:
        """The limits for which it happened again."""
        again: dict[LimitName, bool] = {"memory": self.memory > before.memory, "disk": self.disk > before.disk}
        return tuple(name for name, more in again.items() if more)


class Told(TypedAttributeSet):
    """What a runtime's stream may tell besides its bytes."""

    breaches: Breaches = typed_attribute()


def nothing_told() -> Breaches | None:
    """Stands where a runtime does not tell."""
    return None


class TellingStream(ByteStream):
    """A stream that tells the count of its cell's stops, as it is at the moment somebody asks."""

    def __init__(self, stream: ByteStream, breaches: Callable[[], Breaches]) -> None:
        self._stream, self._breaches = stream, breaches

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {Told.breaches: self._breaches}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
