"""What a runtime is: something that makes a sandbox and yields one byte stream to a program inside it. Nothing else.

Lives here: the protocol every runtime fits, and the choice by name. It may not know the guest's protocol or workspaces.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from anyio.abc import ByteStream

from ..models import ProbeReport, SandboxSpec


class Runtime(Protocol):
    """Implementations document what they isolate in their probe report, found out by trying and never by assuming."""

    def check(self) -> None:
        """Raises RuntimeUnusable for what is wrong before anything is tried or written."""
        ...

    async def probe(self) -> ProbeReport:
        """Tries a real sandbox and reports what it isolates and limits, or the cause and remedy when it cannot."""
        ...

    def open(self, spec: SandboxSpec) -> AbstractAsyncContextManager[ByteStream]:
        """Makes a sandbox running `spec.argv`, whose stdin and stdout are the stream.

        Leaving the context, also by cancellation, destroys every process that ran there before it returns; the files of
        `spec.tree` stay. Raises RuntimeUnusable when no sandbox can be made; never runs anything without one.
        """
        ...

    async def sweep(self) -> None:
        """Removes what a server that died left behind. Safe to call while other servers run."""
        ...
