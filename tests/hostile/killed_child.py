"""Processes that each do one thing to workspaces and kill themselves at the Nth change they make to the file system.

Reads one JSON list per line, [state, N, verb, repo, workspace?, more?], forks a process that does it, and answers with one
JSON object. Python's audit events tell of every change from every thread before it happens, so no product code is involved;
forking saves each of some hundred deaths the time of starting up.
"""

import json
import os
import signal
import sys
from pathlib import Path

import anyio

from repocell.app import Workspaces, collect, open_workspaces
from repocell.config import Settings
from repocell.models import Principal
from repocell.repos import Repositories

CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.chown",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.utime",
}
ME = Principal(name="tester", kind="local")


def arm(at: int) -> None:
    """From now on the `at`-th change is the last thing this process does; 0 never kills."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        opened_to_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or opened_to_write:
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


async def act(spaces: Workspaces, settings: Settings, verb: str, arguments: list[str]) -> str:
    repo, *rest = arguments
    if verb == "open":
        found = await Repositories(settings.state_dir / "mirrors", {}).checkout(repo, None)
        return (await spaces.lifecycle.open(ME, found, None)).id
    if verb == "gc":
        chosen = settings.model_copy(update={"layer_cache": 0})
        return str(await collect(chosen, spaces.manifests, spaces.layers, spaces.store))
    if verb == "look":
        return str(len(spaces.pool.list(ME)))
    workspace = spaces.pool.get(ME, rest[0])
    if verb == "write":
        await workspace.write(rest[1], rest[1].encode())
        return "written"
    if verb == "fork":
        return (await spaces.lifecycle.fork(workspace, None))[0].id
    if verb == "checkpoint":
        return (await spaces.lifecycle.checkpoint(workspace, "point"))[0].id
    if verb == "restore":
        return (await spaces.lifecycle.restore(workspace, rest[1]))[1].id
    assert verb == "close"
    await spaces.lifecycle.close(workspace)
    return "closed"


async def main(state: str, at: int, verb: str, arguments: list[str]) -> None:
    settings = Settings(state_dir=Path(state))
    async with open_workspaces(settings) as spaces:
        arm(at)
        print("acknowledged", await act(spaces, settings, verb, arguments), flush=True)


def serve() -> None:
    for line in sys.stdin:
        state, at, verb, *arguments = json.loads(line)
        out, out_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(out_end, 1)
            anyio.run(main, state, at, verb, arguments)
            os._exit(0)
        os.close(out_end)
        with os.fdopen(out, encoding="utf-8") as said:
            text = said.read()
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"said": text, "status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
