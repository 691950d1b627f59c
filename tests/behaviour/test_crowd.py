"""Many workspaces on one small machine: each answers when called, and all are gone without a trace afterwards."""

from pathlib import Path

import anyio
import pytest

from harness import Connect, ask

pytestmark = pytest.mark.anyio
LIVE, SUSPENDED = 50, 1000


async def test_fifty_live_and_a_thousand_suspended_workspaces(connect: Connect, folder: Path) -> None:
    """Fifty live cells answer side by side, suspended ones cost no process and wake when called, closing leaves nothing."""
    async with connect() as client:
        first = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "bash", command="echo shared > shared.txt")
        crowd = [await fork(client, first) for _ in range(SUSPENDED)]
        assert len(guests(folder)) <= 1
        live = crowd[:: SUSPENDED // LIVE]

        async def answer(ws: str) -> None:
            assert "shared\n" in await ask(
                client, "bash", workspace=ws, command=f"cat shared.txt; echo {ws} > mine.txt"
            )

        async with anyio.create_task_group() as tasks:
            for ws in live:
                tasks.start_soon(answer, ws)
        assert len(guests(folder)) >= LIVE
        for ws in live[::10]:
            assert ws in await ask(client, "read_file", workspace=ws, path="mine.txt")
        for ws in (first, *crowd):
            await ask(client, "workspace_close", workspace=ws, discard=True)
        assert guests(folder) == []
    state = folder / "state"
    assert list((state / "workspaces").iterdir()) == []
    assert [path.name for path in (state / "layers").iterdir() if path.is_dir() and not path.name.startswith("c")] == []


async def fork(client: object, ws: str) -> str:
    return (await ask(client, "workspace_fork", workspace=ws)).split(" into ")[1].split(":")[0]  # pyright: ignore[reportArgumentType]


def guests(folder: Path) -> list[str]:
    """Sandboxes of this test's server, as the host sees them."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"--unshare-all" in command and str(folder).encode() in command and b"overlay\0" not in command[:400]:
            found.append(path.parent.name)
    return found
