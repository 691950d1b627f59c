"""Copying a cell's files into another, from sandbox to sandbox, as a stream of tar.

Lives here: the one way files are copied: for the plain-copy plan, and to flatten a stack of layers that grew too tall. The
host passes the bytes on and opens nothing, so no link or name in them can matter to it.
"""

import anyio

from ..errors import GitFailed
from ..guest.link import Exited, Link, Process
from ..models import ExitStatus

# Extended headers keep times to the nanosecond. Sockets are skipped by tar itself.
_PACK = ("tar", "--create", "--file=-", "--format=posix", "--directory=/", "workspace", "home/agent")
_UNPACK = ("tar", "--extract", "--file=-", "--preserve-permissions", "--directory=/")


async def copy(source: Link, target: Link) -> None:
    """Copies /workspace and /home/agent. Raises GitFailed when either end fails; the target must then be discarded."""
    said, packed, unpacked = bytearray(), list[ExitStatus](), list[ExitStatus]()
    async with (
        source.spawn(_PACK, cwd="/") as packing,
        target.spawn(_UNPACK, cwd="/", stdin=True) as unpacking,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_finish, unpacking, said, unpacked)
        while not isinstance(event := await packing.receive(), Exited):
            if event.source == "out":
                await unpacking.write(event.body)
        packed.append(event.status)
        unpacking.close_stdin()
    # tar ends with 1 when a file changed while it was read, which is no failure of ours.
    if packed[0].exit not in (0, 1) or not unpacked[0].ok:
        raise GitFailed("copy the workspace", said.decode(errors="replace").strip()[:500] or "tar failed")


async def _finish(process: Process, said: bytearray, status: list[ExitStatus]) -> None:
    while not isinstance(event := await process.receive(), Exited):
        said += event.body[:4096]
    status.append(event.status)
