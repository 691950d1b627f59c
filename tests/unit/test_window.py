"""Windows of lines, cut out of blocks as they arrive, against the plain splitting of the whole."""

from hypothesis import given, settings
from hypothesis import strategies as st

from repocell.guest.window import LineWindow

TEXTS = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"bb", b"\0", b"ccc"]), max_size=30).map(b"".join)


def in_blocks(text: bytes, sizes: list[int]) -> list[bytes]:
    """The text in blocks of these sizes, none of them empty, and the rest."""
    blocks: list[bytes] = []
    for size in sizes:
        blocks.append(text[:size])
        text = text[size:]
    return [block for block in [*blocks, text] if block]


def lines_of(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    return [*lines[:-1], *([lines[-1][:-1]] if lines[-1] != b"\n" else [])]


@settings(deadline=None, max_examples=300)
@given(
    text=TEXTS,
    sizes=st.lists(st.integers(0, 9), max_size=12),
    first=st.integers(1, 12),
    count=st.integers(0, 12) | st.just(1 << 62),
    room=st.integers(0, 40),
)
def test_a_window_is_the_lines_and_no_more_than_its_room(
    text: bytes, sizes: list[int], first: int, count: int, room: int
) -> None:
    """However the text is cut into blocks, the body is the lines asked for, up to its room, and "cut" tells of more."""
    window = LineWindow(first, first + count, room)
    for block in in_blocks(text, sizes):
        window.add(block)
    wanted = b"".join(lines_of(text)[first - 1 : first - 1 + count])
    assert window.body == wanted[:room]
    assert window.cut == (len(wanted) > room)


@settings(deadline=None)
@given(text=TEXTS, sizes=st.lists(st.integers(0, 9), max_size=12), first=st.integers(1, 9), room=st.integers(0, 9))
def test_the_facts_are_those_of_the_whole(text: bytes, sizes: list[int], first: int, room: int) -> None:
    """Lines are counted to the end, whatever the window, and the head is the text's own."""
    window = LineWindow(first, first + 1, room)
    for block in in_blocks(text, sizes):
        window.add(block)
    assert window.lines == len(lines_of(text))
    assert window.head == text[:8192]
    assert window.begun == (text.count(b"\n") + 1 >= first)


def test_the_head_is_bounded() -> None:
    """Of a long text, the first 8 KiB are kept to tell whether it is one."""
    window = LineWindow(1, 2, 0)
    for _ in range(10):
        window.add(b"x" * 1000)
    assert window.head == b"x" * 8192
