"""The table of tools: what a client can call, in the order it is listed.

Lives here: the table and its choice by toolset. A tool is a row (base.py) and knows neither MCP nor policy.
"""

from collections.abc import Mapping

from . import files, git, search, shell, workspaces
from .base import Tool

TABLE: tuple[Tool, ...] = (*workspaces.TOOLS, *shell.TOOLS, *files.TOOLS, *search.TOOLS, *git.TOOLS)


def by_name() -> Mapping[str, Tool]:
    return {tool.name: tool for tool in TABLE}
