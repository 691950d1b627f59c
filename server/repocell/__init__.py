"""repocell: an MCP server that gives a coding agent a checkout of a real repository in a real sandbox."""

import os

__version__ = "0.1.0"

# GitPython looks for git when it is imported, and fails the import where there is none; we say that in words, at start.
# Only the environment changes its mind, and only before: the one thing of ours that happens at import.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
