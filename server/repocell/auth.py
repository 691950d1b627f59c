"""Who is calling. Over stdio, whoever started the process.

Lives here: turning a connection into a principal. It may not know tools or policy. Which rule applies is fixed when the
server is assembled, never guessed per call: falling back from "no token" to "local" would fail open.
"""

from collections.abc import Callable

from .models import Principal

WhoIsCalling = Callable[[], Principal]


def local_principal(user: str) -> WhoIsCalling:
    principal = Principal(name=user, kind="local")
    return lambda: principal
