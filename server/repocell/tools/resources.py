"""What a host can show of a workspace by its address: files, directories, and the diff.

Lives here: the addresses, and the rows that read what they name. They are rows like every tool's and carry the name of the
tool that reads the same, so that one rule and one record cover both ways; they are not listed as tools.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from ..errors import FileTooLarge, WrongKind
from ..models import MiB
from .base import Call, Image, InWorkspace, Reply, Services, Tool, workspace_of
from .files import FilePath, ListDir, list_dir
from .git import GitDiff, diff_text
from .kinds import image_type

MAX_SHOWN = 4 * MiB
MAX_COMPLETIONS = 100  # the protocol's own limit on one answer
_ADDRESS = re.compile(r"repocell://(?P<workspace>ws_[0-9a-f]{32})/(?:(?P<diff>diff)|files/(?P<path>.*))", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A family of addresses, as RFC 6570 writes them."""

    uri: str
    name: str
    title: str
    description: str
    mime_type: str | None


FILES = Template(
    "repocell://{workspace}/files/{+path}", "file", "File of a workspace",
    "A file as it is in the workspace now, or what is in a directory.", None,
)  # fmt: skip
DIFF = Template(
    "repocell://{workspace}/diff", "diff", "Changes of a workspace",
    "What the working tree changes against its last commit, new files included.", "text/plain",
)  # fmt: skip
TEMPLATES = (FILES, DIFF)


def address(workspace: str, path: str | None) -> str:
    """The address of a file or directory, or of the diff where the path is None."""
    return f"repocell://{workspace}/diff" if path is None else f"repocell://{workspace}/files/{quote(path)}"


def find(uri: str) -> tuple[Tool, dict[str, Any]] | None:
    """The row that reads an address and the arguments in it; None when it is no address of ours."""
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        return None
    if found["diff"]:
        return READ_DIFF, {"workspace": found["workspace"]}
    return READ_FILE, {"workspace": found["workspace"], "path": unquote(found["path"])}


class PathOnly(InWorkspace):
    path: FilePath = ""


async def read_file(services: Services, call: Call[PathOnly]) -> Reply:
    ws, path = workspace_of(services, call), call.args.path
    if not path:
        return await _directory(services, call)
    try:
        window = await ws.read(path, max_bytes=MAX_SHOWN)
    except WrongKind:
        if (await ws.stat(f"{path}/.")).kind != "directory":
            raise
        return await _directory(services, call)
    if window.cut or window.size > MAX_SHOWN:
        raise FileTooLarge(path, window.size, MAX_SHOWN, "read_file reads it in parts.")
    if window.binary:
        return Reply("", image=Image(window.body, image_type(window.body) or "application/octet-stream"))
    return Reply(window.body.decode("utf-8", errors="replace"))


async def _directory(services: Services, call: Call[PathOnly]) -> Reply:
    args = ListDir(workspace=call.args.workspace, path=call.args.path, depth=1)
    return await list_dir(services, Call(call.principal, args, call.progress))


async def read_diff(services: Services, call: Call[InWorkspace]) -> Reply:
    return Reply(await diff_text(workspace_of(services, call), "HEAD"))


class Prefix(InWorkspace):
    path: str = ""


async def complete(services: Services, call: Call[Prefix]) -> Reply:
    """The paths that begin as given, as `values`; directories end with a slash, so that one can go on from there."""
    ws, (folder, begun) = workspace_of(services, call), posixpath.split(call.args.path)
    listing = await ws.list(ListDir(path=folder).path, depth=1, limit=10_000)
    names = [entry.path + ("/" if entry.kind == "directory" else "") for entry in listing.entries]
    values = [posixpath.join(folder, name) for name in names if name.lower().startswith(begun.lower())]
    return Reply("", {"values": values[:MAX_COMPLETIONS], "total": len(values)})


READ_FILE = Tool(
    name="read_file", title=FILES.title, toolset="resources", effect="read", arguments=PathOnly, handler=read_file,
    description=FILES.description, idempotent=True,
)  # fmt: skip
READ_DIFF = Tool(
    name="git_diff", title=DIFF.title, toolset="resources", effect="read", arguments=GitDiff, handler=read_diff,
    description=DIFF.description, idempotent=True,
)  # fmt: skip
COMPLETE = Tool(
    name="list_dir", title="Paths that begin so", toolset="resources", effect="read", arguments=Prefix, handler=complete,
    description="Paths of a workspace that begin with some text.", idempotent=True,
)  # fmt: skip
