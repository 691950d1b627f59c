"""The program inside a sandbox (agent.py) and the host's end of the byte stream to it (link.py)."""
