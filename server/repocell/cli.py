"""The command line: what people type, and what it prints.

Lives here: commands, options and wording for people. Everything it does is somebody else's function. On stdio the wire
is stdout, so `serve` prints nothing there.
"""

import functools
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table

from . import __version__, admin, audit_cli
from .app import choose_runtime, serve_stdio
from .config import Settings, isolate_git, load_settings
from .errors import RepocellError
from .models import ProbeReport
from .tools import TOOLSETS
from .workspaces import toolchains

app = typer.Typer(name="repocell", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
workspaces_app = typer.Typer(no_args_is_help=True, help="Look at workspaces, compare, close and collect them.")
app.add_typer(workspaces_app, name="workspaces")
app.add_typer(audit_cli.app, name="audit")

StateDir = Annotated[Path | None, typer.Option(help="Where workspaces, mirrors and the audit record are kept.")]


def main() -> None:
    """The console script. Expected errors are one message on stderr and exit status 1, never a traceback."""
    try:
        app()
    except RepocellError as error:
        print(f"repocell: {error}", file=sys.stderr)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"repocell {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Gives coding agents a checkout of a real repository in a real sandbox, over MCP."""


@app.command()
def serve(
    repo: Annotated[str | None, typer.Option(help="Repository that workspace_open opens by default.")] = None,
    state_dir: StateDir = None,
    toolchain: Annotated[
        list[Path] | None, typer.Option(help="Directory shown read-only in every cell, like ~/.pyenv.")
    ] = None,
    toolsets: Annotated[str | None, typer.Option(help=f"Comma-separated: {', '.join(TOOLSETS)}; default: all.")] = None,
    verbose: Annotated[bool, typer.Option(help="Log more to stderr.")] = False,
) -> None:
    """Serve one agent host over stdin and stdout."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr, format="repocell: %(message)s"
    )
    isolate_git()
    chosen: dict[str, Any] = {"repo": repo, "state_dir": state_dir}
    chosen["toolsets"] = toolsets.split(",") if toolsets else None
    chosen["toolchains"] = [path.expanduser().absolute() for path in toolchain] if toolchain else None
    if not anyio.run(serve_stdio, load_settings(chosen)):
        raise typer.Exit(1)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False, state_dir: StateDir = None
) -> None:
    """Try a sandbox here and say what it isolates, what it limits and how, or what is missing."""
    settings = load_settings({"state_dir": state_dir})
    runtime, _ = choose_runtime(settings)
    report = anyio.run(runtime.probe)
    if as_json:
        print(json.dumps(report.model_dump(mode="json"), indent=2))
    else:
        _print_report(report)
        _propose_toolchains(settings)
    raise typer.Exit(0 if report.usable else 1)


def _print_report(report: ProbeReport) -> None:
    console = Console(highlight=False)
    console.print(
        f"[bold]{report.runtime}[/bold] {report.version}: " + ("usable" if report.usable else "[red]not usable[/red]")
    )
    if report.isolation:
        table = Table("isolated", "seen in a trial sandbox", box=None, pad_edge=False)
        for name, holds in report.isolation.items():
            table.add_row(name, "yes" if holds else "[red]NO[/red]")
        console.print(table)
    if report.limits:
        table = Table("limit", "kept by", box=None, pad_edge=False)
        for name, how in report.limits.items():
            table.add_row(name, how if how != "not enforced" else f"[yellow]{how}[/yellow]")
        console.print(table)
    for problem in report.problems:
        console.print(f"[red]cause:[/red]  {problem.cause}\n[green]remedy:[/green] {problem.remedy}")
    for note in report.notes:
        console.print(note)


def _propose_toolchains(settings: Settings) -> None:
    unused = [path for path in toolchains.find(Path.home()) if path not in settings.toolchains]
    if unused:
        options = " ".join(f"--toolchain {path}" for path in unused)
        print(
            f"Toolchains a cell would not see: {', '.join(map(str, unused))}\nShow them read-only: repocell serve {options}"
        )


@workspaces_app.command("list")
def list_workspaces(state_dir: StateDir = None) -> None:
    """Every workspace, the most recently used first."""
    rows = admin.rows(load_settings({"state_dir": state_dir}))
    lines = [tuple(rows[0]), *(tuple(row.values()) for row in rows)] if rows else [("No workspaces.",)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@workspaces_app.command()
def show(workspace: str, state_dir: StateDir = None) -> None:
    """One workspace: where it stands, what it stands on, what it costs."""
    for name, value in admin.show(load_settings({"state_dir": state_dir}), workspace).items():
        print(f"{name:12} {value}")


@workspaces_app.command()
def diff(workspace: str, base: str = "HEAD", state_dir: StateDir = None) -> None:
    """What a workspace changes, new files included, as a unified diff."""
    print(anyio.run(functools.partial(admin.diff, base=base), _settings(state_dir), workspace), end="")


@workspaces_app.command()
def close(workspace: str, state_dir: StateDir = None) -> None:
    """End a workspace and delete its files, uncommitted ones too."""
    anyio.run(admin.close, _settings(state_dir), workspace)
    print(f"Closed {workspace}.")


@workspaces_app.command()
def gc(
    limit: Annotated[
        int | None, typer.Option(help="Bytes of checkouts to keep; default: the layer_cache setting.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Remove what nobody stands on, and the checkouts used longest ago beyond the limit."""
    settings = _settings(state_dir)
    print(anyio.run(admin.gc, settings, settings.layer_cache if limit is None else limit))


@app.command()
@workspaces_app.command()
def stop(
    workspace: Annotated[str | None, typer.Option(help="Only this workspace.")] = None,
    principal: Annotated[str | None, typer.Option(help="Only what this user runs.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Let it go on.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Stop everything at once, in every server: processes end, files stay, calls are refused until it is released."""
    scope, name = (
        ("workspace", workspace) if workspace else ("principal", principal) if principal else ("everything", "")
    )
    act = admin.release if release else admin.stop
    print(anyio.run(act, _settings(state_dir), scope, name or ""))


def _settings(state_dir: Path | None) -> Settings:
    isolate_git()
    return load_settings({"state_dir": state_dir})


if __name__ == "__main__":
    main()
