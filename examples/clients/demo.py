"""A small MCP client that fixes a real bug in a real project inside a real sandbox, and shows what happened.

It starts the server as any agent host would (a child process over stdio) and knows nothing of its code. The "model" is the
script below: open, look around, read the failing test, see it fail, edit, see it pass, show the diff, close.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import CallToolResult, TextContent
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from sample_repository import Sample, SampleError, make_sample

console = Console(highlight=False, soft_wrap=True)
SHOWN_LINES = 14


class Failed(Exception):
    """The demonstration did not go as it must; the message says what was expected."""


class Steps:
    """Calls tools one after the other, saying what is done, how long it took, and what came of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.number = 0

    async def call(self, title: str, tool: str, *, show: int = SHOWN_LINES, fails: bool = False, **args: object) -> str:
        self.number += 1
        shown = ", ".join(f"{key}={_short(value)}" for key, value in args.items())
        started = time.perf_counter()
        result = await self._client.call_tool(tool, args)
        took = (time.perf_counter() - started) * 1000
        text = _text(result)
        console.print()
        console.print(Text.assemble((f"{self.number}. {title}", "bold"), (f"  {tool}({shown})  {took:.0f} ms", "dim")))
        if show:
            _print_block(text, show)
        if bool(result.is_error) != fails:
            raise Failed(f"{tool} answered:\n{text}")
        return text


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}...'"


def _print_block(text: str, limit: int) -> None:
    lines = text.splitlines()
    head, tail = (lines, []) if len(lines) <= limit else (lines[: limit - 4], lines[-3:])
    hidden = len(lines) - len(head) - len(tail)
    for line in [*head, *([f"... {hidden} more lines"] if hidden else []), *tail]:
        console.print(Text(f"   {line}"))


async def fix_the_bug(steps: Steps, sample: Sample) -> None:
    command = sample.test_command
    opened = await steps.call("Open a workspace", "workspace_open", task="Parsing integers forgets its base")
    workspace = opened.split()[1]
    await steps.call("Look around", "list_dir", depth=1)
    found = await steps.call("Find the failing test", "grep", pattern="stateless_base", output_mode="content", after=4)
    line = int(found.splitlines()[0].split(":")[1])
    await steps.call("Read it", "read_file", path="test_parse.py", offset=line, limit=6)
    failing = await steps.call("See it fail", "bash", command=command)
    _expect("[exit 1," in failing and "FAILED" in failing, "the test fails before the fix")
    where = await steps.call("Find the code", "grep", pattern="class int_convert", output_mode="content")
    line = int(where.splitlines()[0].split(":")[1])
    await steps.call("Read it", "read_file", path=sample.file, offset=line, limit=45)
    await steps.call("Fix it", "edit_file", path=sample.file, old_string=sample.old, new_string=sample.new, show=0)
    passing = await steps.call("See it pass", "bash", command=command)
    _expect("[exit 0," in passing and "OK" in passing, "the test passes after the fix")
    suite = await steps.call("Run the whole suite", "bash", command=sample.suite_command, show=6)
    _expect("[exit 0," in suite, "no other test breaks")
    diff = await steps.call("Show the change", "git_diff", show=0)
    console.print(Syntax(diff, "diff", background_color="default"))
    outside = await steps.call(
        "Try to look at the host", "bash", command="ls /root /home; cat /etc/shadow; ls /sys/class/net", show=6
    )
    _expect("[exit 0," not in outside and "agent" in outside, "nothing of the host can be seen")
    refused = await steps.call("Close without saving: refused", "workspace_close", fails=True)
    _expect("would be lost" in refused, "unsaved work is not thrown away")
    await steps.call("Close it all the same", "workspace_close", workspace=workspace, discard=True)


def _expect(holds: bool, claim: str) -> None:
    if not holds:
        raise Failed(f"it was to be seen that {claim}")


@contextmanager
def untouched(clone: Path) -> Generator[None]:
    """Says afterwards whether every byte of the clone is as it was."""
    before = _manifest(clone)
    yield
    _expect(before == _manifest(clone), "the clone was not written to")


def _manifest(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = f"{facts.st_mode:o} {facts.st_mtime_ns} {content}"
    return found


def _processes_naming(text: str) -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command and int(path.parent.name) != os.getpid():
            found.append(command)
    return found


async def demonstrate(folder: Path, cache: Path) -> None:
    console.print(
        "[bold]repocell demo[/bold]: a scripted MCP client fixes a real bug in the package [bold]parse[/bold] 1.17.0"
    )
    sample = make_sample(cache, folder / "parse")
    console.print(f"[dim]The clone stands for your own repository: {sample.path}[/dim]")
    args = ["-m", "repocell.cli", "serve", "--repo", str(sample.path), "--state-dir", str(folder / "state")]
    server = StdioServerParameters(command=sys.executable, args=args)
    started = time.perf_counter()
    with untouched(sample.path):
        async with Client(server) as client:
            tools = await client.list_tools()
            took = (time.perf_counter() - started) * 1000
            console.print(
                f"[dim]Server started; {len(tools.tools)} tools after {took:.0f} ms, protocol {client.protocol_version}[/dim]"
            )
            await fix_the_bug(Steps(client), sample)
    left = _processes_naming(str(folder / "state"))
    _expect(not left, f"no process is left behind, but found {left}")
    workspaces = list((folder / "state" / "workspaces").iterdir())
    _expect(not workspaces, f"no workspace is left behind, but found {workspaces}")
    console.print()
    console.print(
        "[bold green]Done.[/bold green] Left behind: no process, no workspace; the clone is byte for byte as it was."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=Path(".cache/sample"), help="where downloads are kept")
    cache = parser.parse_args().cache
    with tempfile.TemporaryDirectory(prefix="repocell-demo-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # a server that is root runs cells under a uid of its own, which must be able to pass
        failures: list[str] = []
        try:
            anyio.run(demonstrate, folder, cache.absolute())
        except* (Failed, SampleError) as group:
            failures = [str(error) for error in _leaves(group)]
        for failure in failures:
            console.print(Text.assemble(("The demo failed: ", "bold red"), failure))
    return 1 if failures else 0


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    sys.exit(main())
