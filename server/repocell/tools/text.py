"""Making text fit: bounding, cutting, and showing what a terminal would have shown.

Lives here: pure functions from text to text. It may not know tools, workspaces or handles; those are passed in as words.
"""

import re
import signal

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def as_text(data: bytes) -> str:
    """Bytes as a reader of a terminal would see them: no colours, no overwritten progress bars, no control characters."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    text = _ESCAPES.sub("", text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(name: str) -> str:
    """A file name that can be shown and sent: undecodable bytes and control characters as escapes."""
    raw = name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", raw.replace("\n", "\\n").replace("\t", "\\t"))


def cut_middle(text: str, limit: int, how_to_read_on: str) -> str:
    """The text when it fits; otherwise its first and last lines with a note of what is missing between, within `limit`."""
    if len(text) <= limit:
        return text
    room = limit - 200 - len(how_to_read_on)
    head_end = text.rfind("\n", 0, room // 2) + 1 or room // 2
    tail_start = text.find("\n", len(text) - room // 2) + 1 or len(text) - room // 2
    missing = text[head_end:tail_start]
    note = f"[... {missing.count(chr(10)):,} lines ({len(missing):,} characters) left out; {how_to_read_on}]"
    return f"{text[:head_end].rstrip(chr(10))}\n{note}\n{text[tail_start:]}"


def size_of(count: int) -> str:
    """Bytes as a person says them."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
