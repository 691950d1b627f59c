"""What a file is by its first bytes.

Lives here: signatures of common formats, from their own specifications. It may not read files.
"""

from collections.abc import Sequence

_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", 0, b"", "image/png"),
    (b"\xff\xd8\xff", 0, b"", "image/jpeg"),
    (b"GIF87a", 0, b"", "image/gif"),
    (b"GIF89a", 0, b"", "image/gif"),
    (b"RIFF", 8, b"WEBP", "image/webp"),
)
_KINDS: Sequence[tuple[bytes, str]] = (
    (b"\x7fELF", "an ELF program or library"),
    (b"MZ", "a Windows program or library"),
    (b"\xca\xfe\xba\xbe", "Java bytecode or a Mach-O program"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O program or library"),
    (b"\0asm", "WebAssembly"),
    (b"PK\x03\x04", "a zip archive (also jar, whl, docx, xlsx)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF-", "a PDF document"),
    (b"SQLite format 3\0", "a SQLite database"),
    (b"\xff\xfe", "UTF-16 text, little-endian"),
    (b"\xfe\xff", "UTF-16 text, big-endian"),
    (b"RIFF", "RIFF media (wav, avi)"),
    (b"OggS", "Ogg media"),
    (b"PAR1", "a Parquet table"),
)


def image_type(head: bytes) -> str | None:
    """The media type of an image that models can be shown, from its first 16 bytes."""
    return next(
        (mime for magic, at, more, mime in _IMAGES if head.startswith(magic) and head.startswith(more, at)), None
    )


def kind_of(head: bytes) -> str | None:
    """What else it is, in words, from its first 16 bytes."""
    return next((kind for magic, kind in _KINDS if head.startswith(magic)), None)


def is_utf16(head: bytes) -> bool:
    """It begins with a byte order mark of UTF-16, and not with that of UTF-32."""
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) and not head.startswith(b"\xff\xfe\0\0")
