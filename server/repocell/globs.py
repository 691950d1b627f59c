"""Patterns for paths, in time linear in the path: `*`, `**`, `?`, `[..]`, `[!..]`, `{a,b}` and `\\` before a plain character.

Lives here: pure functions from a pattern to a predicate, the same for tools and policy. It may not know anything of ours.

A path is names between slashes. `*`, `?` and classes stay within a name. `**` as a whole name stands for any number of
names; at the end for at least one. A pattern without a slash matches at any depth, one that starts with a slash does not.
Whatever a star leaves to choose is decided once, at the leftmost place where what follows fits: that is never worse than a
later one when what follows has a fixed length, so nothing is tried again (atomic groups, Python 3.11 and later).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MAX_PATTERN = 4_096  # characters
MAX_CHOICES = 256
MAX_EXPANDED = 32_768  # characters of all choices together
MAX_NESTING = 16
_STARS = re.compile(r"\*+")


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """A predicate on relative paths. Raises ValueError, with words, for a pattern that cannot be or is too large."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern has {len(pattern):,} characters; use fewer, at most {MAX_PATTERN:,}")
    try:
        choices = dict.fromkeys(_expand(pattern.removeprefix("./")))
        regex = re.compile("|".join(map(_choice, choices)), re.DOTALL)
    except _Impossible as error:
        raise ValueError(f"{pattern[:200]!r} is not a pattern: {error}") from None
    return lambda path: regex.fullmatch(path) is not None


class _Impossible(Exception):
    """A class with a range that runs backwards."""


# -- braces


@dataclass(frozen=True)
class _Braces:
    """Where each brace that is closed ends, and where its commas are."""

    ends: Mapping[int, int]
    commas: Mapping[int, Sequence[int]]


def _expand(pattern: str) -> Sequence[str]:
    """The pattern without braces, once for each choice. A brace that is not closed is only itself."""
    return _expand_part(pattern, 0, len(pattern), _braces(pattern))


def _braces(pattern: str) -> _Braces:
    ends: dict[int, int] = {}
    commas: dict[int, list[int]] = {}
    opened: list[int] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "{":
            opened.append(at)
            commas[at] = []
        elif char == "," and opened:
            commas[opened[-1]].append(at)
        elif char == "}" and opened:
            if len(opened) > MAX_NESTING:
                raise ValueError(f"braces are nested more than {MAX_NESTING} deep; use fewer")
            ends[opened.pop()] = at
        at = _next(pattern, at)
    return _Braces(ends, commas)


def _next(pattern: str, at: int) -> int:
    """Where the next element begins: behind a class, an escaped character, or one character."""
    if pattern[at] == "\\":
        return at + 2
    return (_class_end(pattern, at) if pattern[at] == "[" else at) + 1


def _class_end(pattern: str, at: int) -> int:
    """The index of the bracket that closes the class; `at` when none does within the name. A first `]` is a member."""
    first = at + 1 + pattern.startswith(("!", "^"), at + 1)
    end, slash = pattern.find("]", first + 1), pattern.find("/", first)
    return at if end < 0 or 0 <= slash < end else end


def _expand_part(pattern: str, start: int, end: int, braces: _Braces) -> Sequence[str]:
    choices = [""]
    at = plain = start
    while at < end:
        if at not in braces.ends:
            at = min(_next(pattern, at), end)
            continue
        stops = [*braces.commas[at], braces.ends[at]]
        starts = [at + 1, *(comma + 1 for comma in braces.commas[at])]
        options = [text for a, b in zip(starts, stops, strict=True) for text in _expand_part(pattern, a, b, braces)]
        before = pattern[plain:at]
        if len(choices) * len(options) > MAX_CHOICES:
            raise ValueError(f"the braces stand for more than {MAX_CHOICES} patterns; use fewer")
        choices = [choice + before + option for choice in choices for option in options]
        at = plain = braces.ends[at] + 1
    choices = [choice + pattern[plain:end] for choice in choices]
    if sum(map(len, choices)) > MAX_EXPANDED:
        raise ValueError("the braces stand for too much text; use fewer")
    return choices


# -- one choice as a regular expression that does not backtrack


def _choice(pattern: str) -> str:
    """Names between `**` are found at the leftmost place; those after the last `**` stand at the end."""
    runs: list[list[str]] = [[]]
    names = pattern.removeprefix("/").split("/")
    if len(names) == 1 and not pattern.startswith("/"):
        names.insert(0, "**")
    for name in names:
        if name == "**":
            if runs[-1] or len(runs) == 1:
                runs.append([])
        else:
            runs[-1].append(_name(name))
    first, *rest = ["/".join(run) for run in runs]
    if not rest:
        return f"(?:{first})"
    lead = f"{first}/" if runs[0] else ""
    found = "".join(f"(?>(?:[^/]*/)*?{run}/)" for run in rest[:-1])
    return f"(?:{lead}{found}{f'(?:.*/)?{rest[-1]}' if runs[-1] else '.*'})"


def _name(name: str) -> str:
    """One name: what stands before the first star, between stars, and behind the last one."""
    parts, at = [""], 0
    while at < len(name):
        if name[at] == "*":
            at = _end_of_stars(name, at)
            parts.append("")
            continue
        stop = min(_next(name, at), len(name))
        parts[-1] += _element(name[at:stop])
        at = stop
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    return first + "".join(f"(?>[^/]*?{part})" for part in middle) + f"[^/]*{last}"


def _end_of_stars(name: str, at: int) -> int:
    found = _STARS.match(name, at)
    return found.end() if found else at + 1


def _element(text: str) -> str:
    if text == "?":
        return "[^/]"
    if text[0] == "\\" and len(text) > 1:
        return re.escape(text[1])
    if text[0] != "[" or len(text) == 1:
        return re.escape(text)
    negated = text[1] in "!^"
    members = _members(text[1 + negated : -1])
    return f"[^/{members}]" if negated else f"(?!/)[{members}]"


def _members(inner: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(inner):
        low, high = inner[at], inner[at + 2 : at + 3] if inner[at + 1 : at + 2] == "-" else ""
        if high and low > high:
            raise _Impossible(f"the range {low}-{high} runs backwards")
        out.append(f"{re.escape(low)}-{re.escape(high)}" if high else re.escape(low))
        at += 3 if high else 1
    return "".join(out)
