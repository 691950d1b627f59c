"""Opening, listing, looking at and closing workspaces, through a real client in both eras."""

from pathlib import Path

import pytest

from harness import Connect, ask, git

pytestmark = pytest.mark.anyio


async def test_a_workspace_holds_the_commit_the_clone_is_at(connect: Connect, repo: Path, era: str) -> None:
    """The files and the commit in the cell are those of the clone's HEAD."""
    async with connect(era) as client:
        opened = await ask(client, "workspace_open")
        assert git(repo, "rev-parse", "HEAD")[:12] in opened
        assert "calc.py" in opened
        assert "return a - b" in await ask(client, "read_file", path="calc.py")
