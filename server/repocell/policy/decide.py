"""The decision about one call.

Lives here: facts about a call, the verdict, and the built-in policy: what stays inside the cell is allowed, and everything
unknown is denied. Pure: no I/O, no clock, no workspace.
"""

from typing import Literal

from ..models import Frozen


class Facts(Frozen):
    """What a call would do, taken from the same frozen arguments the handler gets."""

    tool: str
    effect: str


class Verdict(Frozen):
    decision: Literal["allow", "ask", "deny"]
    rule: str
    reason: str


_IN_CELL = frozenset({"read", "write", "execute", "open"})


def decide(facts: Facts) -> Verdict:
    if facts.effect in _IN_CELL:
        return Verdict(decision="allow", rule="builtin/inside-the-cell", reason="Its effects stay inside the cell.")
    return Verdict(decision="deny", rule="builtin/unknown-effect", reason=f"The effect {facts.effect!r} has no rule.")
