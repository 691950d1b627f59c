"""Workspaces: files on disk, at most one live sandbox, the jobs in it, and the pool that owns them all."""
