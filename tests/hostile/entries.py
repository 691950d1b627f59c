"""The ways in which text becomes a running command in a cell, and what each lets the model see of it.

Lives here: one function per entry point, all alike: run this in the attacking cell, return what is told. It may not know
which attack it carries.
"""

import re
import shlex
from collections.abc import Awaitable, Callable

from hostile.stage import Stage

SECONDS = 20


def _job(said: str) -> str:
    found = re.search(r"job_[0-9a-f]{32}", said)
    assert found is not None, said
    return found.group()


async def by_bash(stage: Stage, command: str) -> str:
    return await stage.attack(command, timeout_s=SECONDS)


async def by_job(stage: Stage, command: str) -> str:
    said = await stage.attack(command, background=True, timeout_s=SECONDS)
    found = re.search(r"job_[0-9a-f]{32}", said)
    return said if found is None else said + await stage.call("bash_output", job=found.group(), wait_s=SECONDS)


async def by_terminal(stage: Stage, command: str) -> str:
    return await stage.attack(command, tty=True, timeout_s=SECONDS)


async def by_session(stage: Stage, command: str) -> str:
    """As the second command of a session, which takes up what the first one left."""
    await stage.attack("export FIRST=1", session="attack")
    return await stage.attack(command, session="attack", timeout_s=SECONDS)


async def by_typing(stage: Stage, command: str) -> str:
    """Typed into an interactive shell on a terminal."""
    job = _job(await stage.attack("exec bash --noprofile --norc -i", tty=True, wait_s=0.2, timeout_s=SECONDS))
    await stage.call("write_file", path="typed.sh", content=f"{command}\n")
    said = await stage.call("bash_input", job=job, text="source ./typed.sh; rm -f typed.sh; exit\n")
    return said + await stage.call("bash_output", job=job, wait_s=SECONDS)


async def by_filter(stage: Stage, command: str) -> str:
    """As a filter that git runs, in the cell, because the repository's own configuration says so."""
    await stage.call(
        "write_file", path=".git/attack.sh", content=f"cd /workspace\n{{ {command}\n}} > /tmp/told 2>&1\ncat\n"
    )
    await stage.attack(
        f"git config filter.attack.clean {shlex.quote('bash .git/attack.sh')}; echo '*.lure filter=attack' > .gitattributes;"
        "echo lure > a.lure; rm -f /tmp/told"
    )
    shown = await stage.call("git_diff")
    return shown + await stage.attack(
        "cat /tmp/told; rm -f a.lure .gitattributes .git/attack.sh; git config --unset-all filter.attack.clean"
    )


async def by_patch(stage: Stage, command: str) -> str:
    """As a hook a patch puts in place, run by the next commit."""
    lines = "".join(f"+{line}\n" for line in ("#!/bin/bash", command))
    patch = f"--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1,{lines.count(chr(10))} @@\n{lines}"
    placed = await stage.call("apply_patch", patch=patch)
    commit = "chmod +x .git/hooks/pre-commit; git commit --allow-empty -qm hooked; rm -f .git/hooks/pre-commit"
    return placed + await stage.attack(commit, timeout_s=SECONDS)


ENTRIES: dict[str, Callable[[Stage, str], Awaitable[str]]] = {
    "bash": by_bash, "background": by_job, "terminal": by_terminal, "session": by_session, "typed": by_typing,
    "git-filter": by_filter, "patched-hook": by_patch,
}  # fmt: skip
