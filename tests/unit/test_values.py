"""Paths, settings and the decision. Pure, or on a file of the test's own."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.config import load_settings
from repocell.errors import BadPath, InvalidSettings, NoSuchRepository
from repocell.models import normalise_path
from repocell.policy.decide import Facts, decide
from repocell.repos import parse_source
from repocell.runtimes.diagnosis import diagnose
from repocell.runtimes.trial import read_trial


@given(st.text())
def test_a_normalised_path_never_leaves_the_workspace(path: str) -> None:
    """Whatever is given, the result is relative, has no dots in it, and is stable under normalising again."""
    try:
        found = normalise_path(path)
    except BadPath:
        return
    assert not found.startswith("/")
    assert ".." not in found.split("/")
    assert normalise_path(found) == found


@pytest.mark.parametrize("path", ["..", "../x", "/", "/etc", "/workspacex", "a/../../b", "//etc", "x\0"])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    """Parents, absolute paths elsewhere, look-alike prefixes and NULs are refused."""
    with pytest.raises(BadPath):
        normalise_path(path)


def test_all_settings_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types and bad ranges come in one message, each with its place."""
    file = tmp_path / "config.toml"
    file.write_text('nonsense = 1\nidle_seconds = -1\ntoolchains = ["/home"]\n[limits]\nmemory = 1\n')
    with pytest.raises(InvalidSettings) as caught:
        load_settings({}, {"REPOCELL_CONFIG": str(file), "HOME": str(tmp_path)})
    assert all(word in str(caught.value) for word in ("nonsense", "idle_seconds", "toolchains", "limits.memory"))


def test_the_command_line_wins_over_environment_over_file(tmp_path: Path) -> None:
    """Later sources override earlier ones; None on the command line overrides nothing."""
    file = tmp_path / "config.toml"
    file.write_text('repo = "file"\nidle_seconds = 5\n')
    environment = {"REPOCELL_CONFIG": str(file), "REPOCELL_REPO": "environment", "HOME": str(tmp_path)}
    assert load_settings({"repo": None}, environment).repo == "environment"
    assert load_settings({"repo": "chosen"}, environment).repo == "chosen"
    assert load_settings({}, environment).idle_seconds == 5


@pytest.mark.parametrize("text", ["= =", "x"])
def test_an_unreadable_settings_file_is_said(tmp_path: Path, text: str) -> None:
    """A file that is not TOML names itself; so does one that was named and is not there."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidSettings, match=r"config\.toml"):
        load_settings({}, {"REPOCELL_CONFIG": str(file)})
    with pytest.raises(InvalidSettings, match="there is no"):
        load_settings({}, {"REPOCELL_CONFIG": str(tmp_path / "absent")})


def test_what_has_no_rule_is_denied() -> None:
    """An effect the built-in policy does not know is denied, not allowed."""
    assert decide(Facts(tool="x", effect="read")).decision == "allow"
    assert decide(Facts(tool="x", effect="publish")).decision == "deny"


@pytest.mark.parametrize(
    "repo", ["ext::sh", "-x", "", " ", "git://h/x", "http://h/x", "https://-x/y", "/nowhere/at/all", "a\0b"]
)
def test_sources_that_are_not_fetched_are_refused(repo: str) -> None:
    """Transports that run programs, options in disguise, plain http and missing paths are refused before git is started."""
    with pytest.raises(NoSuchRepository):
        parse_source(repo)


def test_a_url_is_shown_without_its_credentials() -> None:
    """User and password of an https URL, and its query, are not part of what is shown."""
    assert parse_source("https://me:pw@host:8443/x.git?token=1").shown == "https://host:8443/x.git"
    assert parse_source("ssh://git@host/x").shown == "ssh://git@host/x"
    assert parse_source("git@host:x.git").shown == "git@host:x.git"


@pytest.mark.parametrize("said", ["", "[]", "{}", "null", '{"pid": 1}', "x" * 100_000])
def test_a_trial_that_cannot_be_read_keeps_no_promise(said: str) -> None:
    """Output of the trial program that is not as expected counts as no isolation at all."""
    assert set(read_trial(said).values()) == {False}


@given(st.text(max_size=300))
def test_every_failure_of_bubblewrap_gets_a_cause_and_a_remedy(said: str) -> None:
    """Whatever bubblewrap says, the person reads a cause and something to do."""
    problem = diagnose(said)
    assert problem.cause
    assert problem.remedy
