"""What a server that is root reads about itself before it gives anything to the cells' user."""

from pathlib import Path

import pytest

from repocell.runtimes.diagnosis import cannot_become

WHOLE = "         0          0 4294967295"
ALL = "000001ffffffffff"


def process(folder: Path, uids: str = WHOLE, gids: str = WHOLE, held: str = ALL, setgroups: str = "allow") -> Path:
    """A folder like /proc/self of a process with these maps and capabilities."""
    files = {"uid_map": uids, "gid_map": gids, "setgroups": setgroups, "status": f"Name:\tpython\nCapEff:\t{held}"}
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize("ids", [WHOLE, "0 1000 1\n1 100000 65536", "60999 5 1", "60000 0 1000"])
def test_a_whole_root_may_become_the_cells_user(tmp_path: Path, ids: str) -> None:
    """Nothing is in the way where the cells' user is mapped, by whatever row, and nothing is missing."""
    assert cannot_become(60999, 60999, process(tmp_path, ids, ids)) is None


@pytest.mark.parametrize("ids", ["0 0 1", "0 1000 60999", "61000 61000 5", "0 0 1\n5 60999 1"])
@pytest.mark.parametrize("which", ["uids", "gids"])
def test_a_user_that_is_not_mapped_is_named(tmp_path: Path, which: str, ids: str) -> None:
    """A map without the cells' user or group is the cause, also where a row would have it outside."""
    problem = cannot_become(60999, 60999, process(tmp_path, **{which: ids}))
    assert problem is not None
    assert "no user 60999" in problem.cause
    assert "sandbox_uid" in problem.remedy


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ("0000000000000000", "no CAP_CHOWN, no CAP_SETGID, no CAP_SETUID"),
        ("00000000000000c0", "no CAP_CHOWN"),
        ("0000000000000081", "no CAP_SETGID"),
        ("0000000000000041", "no CAP_SETUID"),
    ],
)
def test_a_capability_that_is_missing_is_named(tmp_path: Path, held: str, missing: str) -> None:
    """Every capability that changing to another user takes, and no other, is asked for."""
    problem = cannot_become(60999, 60999, process(tmp_path, held=held))
    assert problem is not None
    assert f"({missing})" in problem.cause


def test_capabilities_without_groups_are_not_enough(tmp_path: Path) -> None:
    """A user namespace that keeps its processes from changing their groups is said."""
    problem = cannot_become(60999, 60999, process(tmp_path, setgroups="deny"))
    assert problem is not None
    assert "setgroups" in problem.cause


def test_where_nothing_can_be_read_nothing_is_claimed_of_the_map(tmp_path: Path) -> None:
    """A kernel without user namespaces has no maps; its root is then judged by its capabilities."""
    process(tmp_path)
    for name in ("uid_map", "gid_map", "setgroups"):
        (tmp_path / name).unlink()
    assert cannot_become(60999, 60999, tmp_path) is None
