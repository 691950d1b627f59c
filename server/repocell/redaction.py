"""Taking secrets out of what is shown: a preview of a call's arguments may be read by more people than the call.

Lives here: the shapes of secrets, as patterns that take linear time on hostile text. What looks like a secret and is none is
hidden too; a secret of no known shape behind no telling name is not seen. It may not know what is recorded or where.
"""

import re
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, cast

HIDDEN = "***"
MARGIN = 512  # characters read beyond what is shown: enough to know any of the shapes by its beginning
_DEPTH = 16
_NAME = (
    r"(?:secret|token|password|passwd|passphrase|passcode|credentials?|authorization|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|signing[_-]?key|encryption[_-]?key|account[_-]?key|(?<=_)pass|(?<=-)pass|(?<=_)pwd)"
    r"(?:[_-][a-z0-9]{1,20}){0,3}"
)
# In quotes that are themselves escaped, in quotes with escapes, in the same quotes cut off, or a word.
_VALUE = r"""(?:\\"[^"]+"?|\\'[^']+'?|"[^"\\]*(?:\\[\s\S][^"\\]*)*\\?(?:"|\Z)|'[^'\\]*(?:\\[\s\S][^'\\]*)*\\?(?:'|\Z)|[^\s"']+)"""
_SENSITIVE = re.compile(_NAME + r"\Z", re.I)

# Each keeps what its named group holds and hides the rest of what it matches (scheme: RFC 9110 section 11.6.2). Every
# repetition is bounded, or cannot begin again inside what it already went over; that is what makes the whole linear.
_SHAPES = (
    r"(?P<url>://[^/\s@:\"']{0,256}:)[^/\s@\"']+(?=@|\Z)",  # RFC 3986 section 3.2.1: userinfo
    r"(?P<user>https?://)[^/\s@:\"']+(?=@)",
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    r"(?P<scheme>authorization\\?[\"']?\s{0,8}[:=]\s{0,8}\\?[\"']?(?:[a-z][a-z0-9-]{0,20}\s{1,8}))[^\s\"'\\]+",
    r"(?P<cookie>\b(?:set-)?cookie:\s{0,8})[^\n\"']+",
    rf"(?P<named>{_NAME}\\?[\"']?\s{{0,8}}(?::=|=>|:(?!:)|=(?!=))\s{{0,8}}){_VALUE}",
    rf"(?P<option>(?<=-){_NAME}\s{{1,8}})(?!-){_VALUE}",
    r"(?P<curl>(?<!\S)(?:-u|--user)[ =]?[\"']?[^\s:\"']{1,100}:)[^\s\"']+",
    r"(?P<bearer>\bbearer\s{1,8})(?=[a-z_.~+/-]{0,40}[0-9])[a-z0-9._~+/-]{16,}=*",  # RFC 6750 section 2.1
    r"(?<![A-Za-z0-9])(?-i:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{32,}|hf_[A-Za-z0-9]{30,}|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{20,})",
    r"(?<![\w-])(?-i:eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*)",  # RFC 7519: a JSON Web Token
)
_SECRETS = re.compile("|".join(_SHAPES), re.I)


def redact(value: Any, limit: int, depth: int = _DEPTH) -> Any:
    """The value with its secrets hidden, and strings, lists and mappings cut to `limit`, which is all that could be shown."""
    if isinstance(value, str):
        return redact_text(value, limit)
    if depth == 0 and isinstance(value, Mapping | list | tuple):
        return "..."
    if isinstance(value, Mapping):
        named = ((str(key), item) for key, item in cast("Mapping[Any, Any]", value).items())
        items = sorted(named, key=itemgetter(0))[:limit]
        return {redact_text(key, limit): _behind(key, item, limit, depth) for key, item in items}
    if isinstance(value, list | tuple):
        return [redact(item, limit, depth - 1) for item in cast("list[Any]", value)[:limit]]
    return value


def _behind(name: str, value: Any, limit: int, depth: int) -> Any:
    telling = isinstance(value, str | int) and not isinstance(value, bool) and _SENSITIVE.search(name)
    return HIDDEN if telling and value != "" else redact(value, limit, depth - 1)


def redact_text(text: str, limit: int) -> str:
    """What stands in the first `limit` characters, without its secrets; a secret that crosses the limit is hidden whole."""
    return "".join(_pieces(text[: limit + MARGIN], limit))


def _pieces(text: str, limit: int) -> Iterator[str]:
    done = 0
    for found in _SECRETS.finditer(text):
        kept = found.group(found.lastgroup) if found.lastgroup else ""
        if found.start() + len(kept) >= limit:
            break
        yield text[done : found.start()]
        yield kept + HIDDEN
        done = found.end()
    yield text[done:limit]
