"""The table of tools: what a client can call, in the order it is listed.

Lives here: the table and its choice by toolset. A tool is a row (base.py) and knows neither MCP nor policy.
"""

from collections.abc import Collection, Mapping

from . import files, git, patching, search, shell, snapshots, workspaces
from .base import Tool

TABLE: tuple[Tool, ...] = (
    *workspaces.TOOLS, *shell.TOOLS, *files.TOOLS, *patching.TOOLS, *search.TOOLS, *git.TOOLS, *snapshots.TOOLS,
)  # fmt: skip


TOOLSETS = tuple(dict.fromkeys(tool.toolset for tool in TABLE))


def by_name(toolsets: Collection[str] = TOOLSETS) -> Mapping[str, Tool]:
    return {tool.name: tool for tool in TABLE if tool.toolset in toolsets}
