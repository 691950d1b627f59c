"""Glob patterns, against a slow reading of their rules. Pure functions."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repocell.globs import MAX_CHOICES, MAX_PATTERN, glob_matcher


def slow(pattern: str, path: str) -> bool:
    """The rules as they are written, trying everything. For patterns with classes of plain characters only."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found:
        rests = [pattern[: found.start()] + each + pattern[found.end() :] for each in found[1].split(",")]
        return any(slow(rest, path) for rest in rests)
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    return names_fit(pattern.removeprefix("/").split("/"), path.split("/"))


def names_fit(patterns: Sequence[str], names: Sequence[str]) -> bool:
    if not patterns:
        return not names
    first, *rest = patterns
    if first == "**":
        if not rest:
            return bool(names)
        return any(names_fit(rest, names[skipped:]) for skipped in range(len(names) + 1))
    return bool(names) and fits(first, names[0]) and names_fit(rest, names[1:])


def fits(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(fits(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    found = re.match(r"\[([!]?)([a-z]+)\]", pattern)
    if found and name:
        return ((name[0] in found[2]) != bool(found[1])) and fits(pattern[found.end() :], name[1:])
    return bool(name) and pattern[0] in ("?", name[0]) and fits(pattern[1:], name[1:])


PIECES = ["a", "b", "c", "*", "**", "?", "/", "/**/", "**/", "[ab]", "[!a]", "{a,b*}", "{b,/c,}", ".", "*a", "a*"]
NAMES = st.text(alphabet="abc.", min_size=1, max_size=5)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.lists(NAMES, min_size=1, max_size=5).map("/".join)
)
def test_it_matches_what_the_rules_say(pattern: str, path: str) -> None:
    """Fast and slow agree on every pattern and path."""
    assert glob_matcher(pattern)(path) == slow(pattern.removeprefix("./"), path)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", "d/e/a.py"], ["a.pyc", "py"]),
        ("/*.py", ["a.py"], ["d/a.py"]),
        ("./*.py", ["a.py", "d/a.py"], ["a.pyc"]),
        ("src/*.py", ["src/a.py"], ["src/d/a.py", "x/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/d/e/a.py"], ["a.py"]),
        ("**/test_*", ["test_a", "d/test_a"], ["a_test"]),
        ("**/a/**/b/**", ["a/b/c", "x/a/y/b/c/d"], ["a/b", "b/a/c"]),
        ("*.{js,ts}", ["a.js", "d/a.ts"], ["a.jsx"]),
        ("{src,tests/**}/*.{c,h{,pp}}", ["src/a.h", "tests/x/y/a.hpp", "tests/a.c"], ["src/x/a.c", "lib/a.c"]),
        ("[!a]?c", ["bbc"], ["abc", "bc", "/bc"]),
        ("[]a-]x", ["]x", "-x", "ax"], ["bx"]),
        ("[+-9]x", ["0x"], ["/x"]),
        ("a+b(c).txt", ["a+b(c).txt"], ["aab(c).txt"]),
        (r"\*\{a,b\}", ["*{a,b}"], ["xa"]),
        ("d/**", ["d/a", "d/e/f"], ["d"]),
        ("**", ["a", "a/b"], []),
        (".*", [".env", "d/.git"], ["a.b"]),
        ("{", ["{"], ["a"]),
        ("{a,b", ["{a,b"], ["a"]),
        ("[", ["["], ["a"]),
        ("[a&&b-]~~", ["&~~", "-~~"], ["d~~"]),
        ("a\nb*", ["a\nbc"], ["a"]),
        ("ü\udcff?", ["ü\udcffx"], ["ü"]),
    ],
)
def test_globs_match_what_they_say(pattern: str, yes: list[str], no: list[str]) -> None:
    """*, **, ?, classes, braces and escapes; everything else is itself."""
    matches = glob_matcher(pattern)
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@given(st.text(alphabet="ab/*?[]{},!^\\-&|~#. \n", max_size=14), st.text(alphabet="ab/.", max_size=12))
def test_only_words_are_raised(pattern: str, path: str) -> None:
    """Every pattern matches or not, or is refused with words."""
    with suppress(ValueError):
        glob_matcher(pattern)(path)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("[z-a]", "z-a runs backwards"),
        ("{a,b}" * 9, f"more than {MAX_CHOICES}"),
        ("{a,aa,a*}" * 12 + "b", "use fewer"),
        ("{" * 17 + "}" * 17, "nested"),
        ("{" + "," * 200 + "}" + "a" * 1000, "too much text"),
        ("a" * (MAX_PATTERN + 1), "4,097 characters"),
    ],
)
def test_what_is_too_much_is_refused_in_words(pattern: str, says: str) -> None:
    """Limits are named; nothing is cut silently."""
    with pytest.raises(ValueError, match=re.escape(says)):
        glob_matcher(pattern)


HARD = {
    "stars": "*a" * 2000 + "b",
    "stars-then-all": "*a*a*a*a*a*a*a*a*a*b",
    "names": "**/a*a*a*b/" * 40 + "c",
    "questions": "*" + "?" * 200 + "b",
    "double-stars": "**/" * 1000 + "x/**/y/**/z",
    "classes": "*[ab]" * 700 + "c",
    "open-brackets": "[" * 4000,
    "open-braces": "{" * 4000,
}


@pytest.mark.parametrize("pattern", HARD.values(), ids=list(HARD))
def test_no_pattern_is_slow(pattern: str) -> None:
    """Patterns that could match in countless ways take milliseconds a path, also for the longest names and deepest paths."""
    began = time.process_time()
    matches = glob_matcher(pattern)
    paths = ["a" * 240 + str(n) for n in range(100)] + ["a/" * 2000 + "b"] * 3 + ["/".join(["a" * 200] * 20)] * 10
    assert not any(map(matches, paths))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("pattern", ["*.py", "src/**/test_*.{ts,tsx,js}", "**/a*/**/*_x?.[ch]"])
def test_ordinary_patterns_are_quick(pattern: str) -> None:
    """50,000 paths take well under half a second."""
    paths = [f"packages/module_{n % 97}/src/components/deep/file_{n}.tsx" for n in range(50_000)]
    matches = glob_matcher(pattern)
    began = time.process_time()
    assert sum(map(matches, paths)) == 0
    assert time.process_time() - began < 0.5
