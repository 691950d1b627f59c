"""What a session's command is said to have left, from any bytes at all: a directory and variables, or nothing."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repocell.guest.agent import ASIDE_BYTES
from repocell.workspaces.sessions import Session, read_session

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True).map(str.encode)
PIECES = st.sampled_from(
    [
        b"\0",
        b"end",
        b"/",
        b"\n",
        b"A=1",
        b"$(x)",
        b"=",
        b"a[$(x)]=1",
        b"\xff",
        b"A",
        b"PWD=/x",
        b"REPOCELL_JOB=job_other",
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join)))
@example(b"\0/\n\0a[$(x)]=1\0end")
@example(b"end")
@example(b"\0\0end")
def test_any_bytes_are_variables_or_nothing(aside: bytes) -> None:
    """Whatever was written, what is taken over is an absolute path and arguments that `export` can only take as variables."""
    session = read_session(aside)
    if session is None:
        return
    assert session.cwd.startswith("/")
    assert "\0" not in session.cwd
    assert session.exported is not None
    for variable in session.exported:
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(=[^\0]*)?", variable)
        assert not re.match(r"(PWD|REPOCELL_JOB|_repocell)", variable)
    assert session.around("true", "job_1")[2:4] == ("true", "job_1")
    assert session.place


@given(
    st.binary(max_size=50).map(lambda path: b"/" + path.replace(b"\0", b"")),
    st.dictionaries(NAMES, st.none() | st.binary(max_size=50).map(lambda value: value.replace(b"\0", b"")), max_size=5),
)
def test_what_was_left_is_taken_over_byte_by_byte(cwd: bytes, variables: dict[bytes, bytes | None]) -> None:
    """Names, values and directories of any bytes come back as they were."""
    told = [name if value is None else name + b"=" + value for name, value in variables.items()]
    session = read_session(b"\0".join([b"names", cwd + b"\n", *told, b"end"]))
    assert session is not None
    assert session.cwd.encode(errors="surrogateescape") == cwd
    kept = [v for v in told if v.partition(b"=")[0] not in (b"_", b"PWD", b"UID", b"PPID", b"EUID")]
    assert [v.encode(errors="surrogateescape") for v in session.exported or ()] == kept


@pytest.mark.parametrize(
    "aside", [b"", b"end", b"/\n\0end", b"\0/\n\0", b"\0/\n\0A=1\0en", b"\0/\n\0A=1\0end\0", b"\0x\n\0end", b"\0/\0end"]
)
def test_what_is_not_whole_is_nothing(aside: bytes) -> None:
    """A shell that was killed while it told leaves the session as it was."""
    assert read_session(aside) is None
    assert read_session(b"\0/\n\0A=" + b"x" * (ASIDE_BYTES - 6)) is None


@pytest.mark.parametrize(
    ("cwd", "place"),
    [("/workspace", "."), ("/workspace/a", "a"), ("/workspaces", "/workspaces"), ("/tmp", "/tmp"), ("/", "/")],
)
def test_a_directory_is_named_as_the_caller_would(cwd: str, place: str) -> None:
    """Relative below the workspace, and whole elsewhere, also beside it."""
    assert Session(cwd).place == place
