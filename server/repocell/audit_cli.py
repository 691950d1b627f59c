"""The command line's audit verbs: verify, show, export.

Lives here: their options and wording. What they say comes from audit_trail.py, audit_view.py and audit_export.py.
"""

import json
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import anyio
import typer
from rich.console import Console
from rich.text import Text

from .audit_export import export_chain, verify_export
from .audit_trail import Verified, chains, verify_chain
from .audit_view import Wanted, choose, entries, parse_when, printable, rows, to_json
from .config import load_settings
from .errors import Misconfigured
from .models import AuditHead
from .store import open_store

app = typer.Typer(no_args_is_help=True, help="Look at the record of what was decided and done.")

StateDir = Annotated[Path | None, typer.Option(help="Where workspaces, mirrors and the audit record are kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
ByWorkspace = Annotated[str | None, typer.Option(help="Only this workspace; the beginning of its id will do.")]
ByTool = Annotated[str | None, typer.Option(help="Only this tool.")]
ByVerdict = Annotated[str | None, typer.Option(help="Only this verdict, like deny.")]
Since = Annotated[str | None, typer.Option(help="Not before: 2026-07-28T14:00, or 2h for two hours ago.")]
Until = Annotated[str | None, typer.Option(help="Not after; written like --since.")]


@app.command()
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export to verify instead of the record itself.")] = None,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> None:
    """Re-compute every chain and hold it against its anchors; exit status 1 when one is not what was written."""
    found = _verify_file(file) if file is not None else _verify_state(_state(state_dir))
    if not found and not as_json:
        typer.echo("There is no chain.")
    intact = all(each.fault is None for each in found)
    if as_json:
        typer.echo(json.dumps({"intact": intact, "chains": [asdict(each) for each in found]}, indent=2))
    else:
        for each in found:
            typer.echo(_verdict(each, exported=file is not None))
    raise typer.Exit(0 if intact else 1)


def _verify_state(state: Path) -> Sequence[Verified]:
    anchors = anyio.run(_anchors, state)
    return [verify_chain(state, chain, anchors) for chain in chains(state, anchors)]


def _verify_file(file: Path) -> Sequence[Verified]:
    try:
        with file.open("rb") as lines:
            return verify_export(lines)
    except ValueError as error:
        raise Misconfigured(f"{file} is no export of an audit record: {error}.") from error
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}.") from error


def _verdict(found: Verified, *, exported: bool) -> str:
    name = printable(found.chain)
    if found.fault is not None:
        place = "line" if exported else "segment"
        return f"{name}: BROKEN at {place} {found.fault.segment}, record {found.fault.record}: {found.fault.what}"
    segments = f"{found.segments} segment{'' if found.segments == 1 else 's'}"
    said = f"{name}: {found.records} records in {segments}, intact, head {found.head[:16]}"
    return "; ".join([said, *(["being written"] if found.live else []), *found.notes])


@app.command()
def show(
    workspace: ByWorkspace = None,
    tool: ByTool = None,
    verdict: ByVerdict = None,
    since: Since = None,
    until: Until = None,
    last: Annotated[int, typer.Option(min=0, help="How many entries; 0 for all.")] = 20,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> None:
    """What was decided and what came of it, the newest entries last. It is not verified: `audit verify` does that."""
    state, wanted = _state(state_dir), _wanted(workspace, tool, verdict, since, until)
    found = (entry for chain in chains(state) for entry in entries(state, chain) if entry.event != "continued")
    chosen = choose(found, wanted, last)
    if as_json:
        for entry in chosen:
            typer.echo(json.dumps(to_json(entry)))
        return
    if not chosen:
        typer.echo("Nothing on record matches.")
    console = Console(highlight=False)
    for row in rows(chosen):
        line = Text("  ").join(Text(text, style=colour) for text, colour in row)
        line.rstrip()
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        else:
            console.print(line, soft_wrap=True)


@app.command()
def export(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new file; default: stdout.")] = None,
    workspace: ByWorkspace = None,
    tool: ByTool = None,
    verdict: ByVerdict = None,
    since: Since = None,
    until: Until = None,
    state_dir: StateDir = None,
) -> None:
    """Write records as JSON lines that `audit verify FILE` can verify anywhere; what was not asked for is left out as digests."""
    state, wanted = _state(state_dir), _wanted(workspace, tool, verdict, since, until)
    anchors, broken = anyio.run(_anchors, state), False
    with _destination(output) as file:
        for chain in chains(state, anchors):
            numbers = {number for entry in entries(state, chain) if wanted.covers(entry) for number in entry.numbers}
            verified, lines = export_chain(state, chain, numbers, anchors)
            if numbers or verified.fault is not None:
                file.writelines(lines)
            if verified.fault is not None:
                broken = True
                typer.echo(_verdict(verified, exported=False), err=True)
    raise typer.Exit(1 if broken else 0)


@contextmanager
def _destination(output: Path | None) -> Generator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with output.open("xb") as file:
            output.chmod(0o600)
            yield file
    except FileExistsError:
        raise Misconfigured(f"{output} exists already. Choose another name.") from None
    except OSError as error:
        raise Misconfigured(f"{output} cannot be written: {error.strerror}.") from error


def _state(state_dir: Path | None) -> Path:
    state = load_settings({"state_dir": state_dir}).state_dir
    if not any((state / trace).exists() for trace in ("audit", "heads", "store.db")):
        raise Misconfigured("There is no audit record yet: no server has run with this state directory.")
    return state


async def _anchors(state: Path) -> Sequence[AuditHead]:
    """What the store remembers; nothing when there is none, because it can be deleted and is rebuilt."""
    if not (state / "store.db").exists():
        return ()
    async with open_store(state / "store.db") as store:
        return await store.anchored()


def _wanted(
    workspace: str | None, tool: str | None, verdict: str | None, since: str | None, until: str | None
) -> Wanted:
    now = time.time()
    try:
        begin, end = (None if text is None else parse_when(text, now) for text in (since, until))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return Wanted(workspace, tool, verdict, begin, end)
