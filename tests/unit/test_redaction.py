"""What a preview of arguments shows, and what it must never show."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repocell.audit import PREVIEW, digest_arguments
from repocell.redaction import MARGIN, redact, redact_text

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEhunter2\nhunter2\n-----END RSA PRIVATE KEY-----"
LETTERS = "Hunter2abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
SECRETS = {
    "git clone https://me:hunter2@host/x": "hunter2",
    "psql postgres://app:hunter2@db:5432/app": "hunter2",
    "git clone https://hunter2token@host/x": "hunter2",
    "curl 'https://host/x?api_key=hunter2&b=c'": "hunter2",
    "curl -H 'Authorization: Bearer hunter2'": "hunter2",
    'curl -H "authorization: Basic aHVudGVyMg=="': "aHVudGVyMg",
    'headers = {"Authorization": "token hunter2"}': "hunter2",
    "Proxy-Authorization: Digest hunter2": "hunter2",
    "Cookie: a=b; session=hunter2": "hunter2",
    "x-api-key: hunter2": "hunter2",
    "bearer abcdefghijk0hunter2": "hunter2",
    "TOKEN=hunter2 make": "hunter2",
    "export GITHUB_TOKEN=hunter2": "hunter2",
    'export DB_PASSWORD="hunter2 and more"': "more",
    "PASSWORD='hunter2 and more'": "more",
    'SECRET="unclosed-hunter2': "hunter2",
    "AWS_SECRET_ACCESS_KEY=hunter2": "hunter2",
    "DB_PASS=hunter2": "hunter2",
    "DB_PASSWORD=a&b;c,d)hunter2": "hunter2",
    'PASSWORD="a\\"hunter2"': "hunter2",
    'PASSWORD="a\nhunter2"': "hunter2",
    '{"client_secret": "hunter2"}': "hunter2",
    r"{\"client_secret\": \"hunter2\"}": "hunter2",
    "password: hunter2": "hunter2",
    "password := hunter2": "hunter2",
    "mysql --password hunter2": "hunter2",
    "tool --api-token=hunter2": "hunter2",
    "tool --auth-token 'hunter2 and more'": "more",
    "curl -u me:hunter2 https://host": "hunter2",
    "curl --user 'me:hunter2' https://host": "hunter2",
    f"echo ghp_{LETTERS}": LETTERS,
    f"echo github_pat_{LETTERS}": LETTERS,
    f"echo glpat-{LETTERS}": LETTERS,
    "echo AKIA" + "IOSFODNN7EXAMPLE": "IOSFODNN7EXAMPLE",
    f"echo sk-proj-{LETTERS}": LETTERS,
    f"echo sk_live_{LETTERS}": LETTERS,
    "echo xoxb-" + "1234567890-hunter2": "hunter2",
    f"echo npm_{LETTERS[:36]}": LETTERS[:36],
    f"echo eyJhbGciOiJIUzI1NiJ9.{LETTERS}.{LETTERS}": LETTERS,
    f"cat > key <<E\n{KEY}\nE": "hunter2",
    KEY[:50]: "hunter2",
}
HARMLESS = [
    "git clone https://host:8443/x", "ssh://git@host/x", "git@host:x.git", "http://localhost:8000/a@b", "pytest -q tests/unit",
    "max_tokens=500", "tokens: 12", "tokenizer = load()", "secretary: Bob", "if token == other: pass", "Token::new()",
    "PASSED=3 FAILED=0", "pass: 5", "PWD=/workspace", "task-force-of-the-very-long-names", "risk-assessment-of-everything-here",
    "the bearer of bad news", "basic understanding of things", "-----BEGIN CERTIFICATE-----\nMII", "-----BEGIN PUBLIC KEY-----",
    "sk-learn", "0123456789abcdef0123456789abcdef01234567", "def add(a, b):\n    return a - b\n", "--user me", "sort -u file",
    "eyJust a word", "author: me", "cookies: 3 boxes",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_not_shown(text: str) -> None:
    """In a string of its own, inside of longer text, behind another secret, and in the record's preview."""
    secret = SECRETS[text]
    assert secret in text
    for around in (text, f"first\n{text}\nlast", f"TOKEN=x {text}"):
        assert secret not in redact_text(around, PREVIEW)
        assert secret not in json.dumps(digest_arguments({"command": around, "edits": [{"text": around}]}))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    """Ports, user names, words that only begin like a telling one, and everyday commands are shown as they are."""
    assert redact_text(text, PREVIEW) == text
    assert digest_arguments({"command": text})["preview"] == json.dumps({"command": text})


def test_a_value_behind_a_telling_name_is_hidden_by_its_name() -> None:
    """An argument called like a secret is one, whatever it looks like; its neighbours stay."""
    shown = redact(
        {"api_key": "abc", "password": 1234, "nested": [{"token": "x"}], "tokens": 5, "secret": True}, PREVIEW
    )
    assert LETTERS not in str(redact({f"ghp_{LETTERS}": 1}, PREVIEW))
    assert shown == {"api_key": "***", "password": "***", "nested": [{"token": "***"}], "tokens": 5, "secret": True}


@given(st.integers(0, PREVIEW + 60), st.sampled_from(sorted(SECRETS)))
def test_no_clip_shows_half_a_secret(before: int, text: str) -> None:
    """Wherever the preview ends, what was hidden whole is not shown in part: not even its first five characters."""
    padded = " " * before + text
    assert SECRETS[text][:5] not in redact_text(padded, PREVIEW).replace(text.split(SECRETS[text][:5])[0].strip(), "")
    assert SECRETS[text] not in json.dumps(digest_arguments({"command": padded}))


def test_a_secret_longer_than_what_is_read_is_hidden() -> None:
    """A key or password that goes on beyond the part that is looked at is hidden from its beginning."""
    for begun in ("-----BEGIN PRIVATE KEY-----\n", "https://me:", "TOKEN=", 'TOKEN="', 'TOKEN="x ', "ghp_"):
        assert "xxxxx" not in redact_text(begun + "x" * (PREVIEW + MARGIN), PREVIEW)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_arguments_can_be_recorded(value: object) -> None:
    """Whatever an argument holds, its preview is bounded plain text and its digest is one."""
    recorded = digest_arguments({"value": value})
    assert len(recorded["preview"]) < PREVIEW + 40
    assert recorded["preview"].isascii()
    assert len(recorded["sha256"]) == 64


HOSTILE = [
    "token", "token=", 'token="', "token='x", "token_a_b_c", 'token="\\', 'token=\\"',
    "-token ", "://", "://a:", "https://", "https://a", "eyJ", "-eyJ",
    "eyJaaaaaaaa.", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----BEGIN A PRIVATE KEY", "-----END", "sk-", "xoxb-", "ghp_",
    "bearer ", "bearer a", "authorization: ", "authorization: a ", "cookie:", "-u a:", "-u a", " ", "a", "-", "_", '"', "\n",
    "AKIA", "SG.aaaaaaaaaaaaaaaa.", "pass", "_pass", "api_", "api-key", "access_key-",
]  # fmt: skip


@pytest.mark.parametrize("pattern", HOSTILE)
def test_hostile_text_takes_linear_time(pattern: str) -> None:
    """A megabyte of any beginning of a pattern takes at most about eight times as long as an eighth of it, never minutes."""
    begun = time.process_time()
    redact_text(pattern * (1_000_000 // len(pattern)), 1_000_000)
    assert time.process_time() - begun < 10
