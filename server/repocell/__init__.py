"""repocell: an MCP server that gives a coding agent a checkout of a real repository in a real sandbox."""

__version__ = "0.1.0"
