"""Windows of a file that arrives in blocks: the lines asked for, and what can be told of the whole.

Lives here: pure cutting. It may not know where blocks come from.
"""


class LineWindow:
    """Cuts lines `first` up to `end`, at most `room` bytes of them, out of blocks as they come."""

    def __init__(self, first: int, end: int, room: int) -> None:
        self._first, self._end, self._room = first, end, room
        self._line = 1
        self._parts: list[bytes] = []
        self._last = b"\n"
        self.head = b""
        self.cut = False

    def add(self, block: bytes) -> None:
        if len(self.head) < 8192:
            self.head += block[: 8192 - len(self.head)]
        if not self.full:
            newlines = block.count(b"\n")
            start = _behind(block, self._first - self._line, newlines)
            part = block[start : _behind(block, self._end - self._line, newlines)]
            self.cut = len(part) > self._room
            self._parts.append(part[: self._room])
            self._room -= len(self._parts[-1])
            self._line += newlines
        else:
            self._line += block.count(b"\n")
        self._last = block[-1:]

    @property
    def full(self) -> bool:
        return self.cut or self._line >= self._end

    @property
    def begun(self) -> bool:
        return self._line >= self._first

    @property
    def lines(self) -> int:
        """Lines seen so far, the last one also when it has no newline."""
        return self._line - (self._last == b"\n")

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)


def _behind(block: bytes, wanted: int, newlines: int) -> int:
    """The index behind so many newlines of a block that has `newlines`; its end when it has fewer."""
    if wanted > newlines:
        return len(block)
    if wanted == newlines > 0:
        return block.rfind(b"\n") + 1
    at = 0
    for _ in range(wanted):
        at = block.find(b"\n", at) + 1
    return at
