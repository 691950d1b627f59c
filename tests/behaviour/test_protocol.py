"""What any MCP client sees: the table, its schemas, errors on the wire, the record, and the end of the server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from mcp import MCPError

from harness import Connect, ask, refuse

pytestmark = pytest.mark.anyio
INSPECTOR = Path(__file__).parents[2] / ".cache" / "inspector" / "node_modules"


async def test_every_tool_is_described_closed_and_annotated(connect: Connect, era: str) -> None:
    """Titles, all four annotations, closed schemas, and descriptions a model can use, in a stable order."""
    async with connect(era) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools][:4] == [
            "workspace_open",
            "workspace_status",
            "workspace_list",
            "workspace_close",
        ]
        for tool in tools:
            hints = tool.annotations
            assert tool.title and hints is not None
            assert None not in (
                hints.read_only_hint,
                hints.destructive_hint,
                hints.idempotent_hint,
                hints.open_world_hint,
            )
            assert tool.input_schema["additionalProperties"] is False
            assert 200 <= len(tool.description or "") <= 600, tool.name
            assert "title" not in json.dumps(tool.input_schema["properties"])


async def test_the_definitions_stay_small(connect: Connect) -> None:
    """The core tools' definitions cost less than 16,000 characters of a model's context; --toolsets leaves out the others."""
    async with connect("legacy", "--toolsets", "core") as client:
        tools = (await client.list_tools()).tools
        assert "workspace_fork" not in {tool.name for tool in tools}
        assert (
            len(json.dumps([tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools])) < 16_000
        )


async def test_an_unknown_tool_is_a_protocol_error_with_a_suggestion(connect: Connect, era: str) -> None:
    """-32602, as the specification says, naming what was probably meant."""
    async with connect(era) as client:
        with pytest.raises(MCPError, match="Did you mean 'read_file'") as caught:
            await client.call_tool("read_fil", {})
        assert caught.value.code == -32602


async def test_bad_arguments_are_all_named_at_once(connect: Connect, era: str) -> None:
    """Every problem with the arguments is reported in one answer, with what was probably meant."""
    async with connect(era) as client:
        text = await refuse(client, "read_file", pth="x", offset=0)
        assert "'path' is required" in text
        assert "Did you mean 'path'" in text
        assert "offset" in text


async def test_every_call_is_on_record_before_it_runs(connect: Connect, folder: Path) -> None:
    """A command can read nothing of the record, yet its own decision is already in it while it runs."""
    async with connect() as client:
        await ask(client, "workspace_open")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "bash", {"command": "touch started; sleep 600"})
            while "started" not in await ask(client, "list_dir"):
                pass
            (chain,) = (folder / "state" / "audit").glob("*.jsonl")
            decided = [json.loads(line) for line in chain.read_text().splitlines()]
            assert any("sleep 600" in r["arguments"]["preview"] for r in decided if r["event"] == "decided")
            tasks.cancel_scope.cancel()


async def test_no_process_outlives_the_server(connect: Connect, folder: Path) -> None:
    """When the client goes, every sandbox and command of the server goes."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="sleep 600 & setsid sleep 600 & sleep 600", background=True)
        assert processes_naming(str(folder))
    with anyio.fail_after(10):
        while processes_naming(str(folder)):
            await anyio.lowlevel.checkpoint()


def processes_naming(text: str) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def inspect(folder: Path, repo: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The MCP Inspector's command line, a client written by other people, against our server over stdio."""
    if not (INSPECTOR / ".bin" / "mcp-inspector").exists():
        if os.environ.get("REPOCELL_REQUIRE_ALL"):
            pytest.fail("the MCP Inspector is missing, and here it must not be: run scripts/lib/inspector.sh")
        pytest.skip("the MCP Inspector is not installed: scripts/test installs it")
    server = [sys.executable, "-m", "repocell.cli", "serve", "--state-dir", str(folder / "state"), "--repo", str(repo)]
    environment = {
        "PATH": f"{INSPECTOR / 'node' / 'bin'}:{os.environ['PATH']}", "HOME": str(folder),
        "MCP_INSPECTOR_SECRET_STORE": "file",
    }  # fmt: skip
    command = [str(INSPECTOR / ".bin" / "mcp-inspector"), "--cli", "--format", "json", *args, "--", *server]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_lists_and_calls_our_tools(folder: Path, repo: Path, era: str) -> None:
    """A third party's client lists the tools and opens a workspace, in both eras."""
    options = ["--protocol-era", "modern"] if era == "modern" else []
    listed = inspect(folder, repo, *options, "--method", "tools/list")
    assert listed.returncode == 0, listed.stderr
    assert "workspace_open" in listed.stdout
    called = inspect(folder, repo, *options, "--method", "tools/call", "--tool-name", "workspace_open")
    assert called.returncode == 0, called.stderr
    assert "calc.py" in called.stdout
    wrong = inspect(
        folder, repo, *options, "--method", "tools/call", "--tool-name", "read_file", "--tool-args-json", '{"path":"x"}'
    )
    assert wrong.returncode == 5, wrong.stdout
