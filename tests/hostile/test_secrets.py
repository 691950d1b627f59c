"""Nothing of the server's environment, of the host's paths or of our own code is in a cell or in what a model is told.

The server is started with a secret in its environment; every result of a broad sweep over the tools is searched for it, for
the folders of the test, and for tracebacks.
"""

import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

import repocell
from harness import ask, connect_to_server, git
from hostile.observe import outside, python
from hostile.stage import Stage

pytestmark = pytest.mark.anyio

# -- what a cell sees


@pytest.mark.parametrize(
    "command",
    [
        "env", "export -p", "cat /proc/self/environ /proc/[0-9]*/environ", "cat /proc/[0-9]*/cmdline",
        python("import os; print(os.environ)"), "grep -r GITHUB_TOKEN ~ /workspace /tmp /etc /run /var 2>/dev/null",
        "cat ~/.*rc ~/.profile ~/.ssh/* ~/.aws/* ~/.config/*/* ~/.netrc ~/.git-credentials 2>&1",
        "git config --list --show-origin", "printenv AWS_SECRET_ACCESS_KEY",
    ],
)  # fmt: skip
async def test_a_cell_has_nothing_of_the_servers_environment(stage: Stage, command: str) -> None:
    """A variable the server was started with is in its own environment and nowhere in a cell."""
    assert stage.secret in Path(f"/proc/{stage.server}/environ").read_text()
    assert stage.secret not in await stage.attack(command, timeout_s=20)


async def test_a_cell_does_not_know_who_runs_it(stage: Stage) -> None:
    """Host name, users and resolver of a cell are the same on every machine."""
    said = await stage.attack("hostname; cut -d: -f1 /etc/passwd; id -un; cat /etc/resolv.conf /etc/machine-id")
    assert said.startswith("cell\nroot\nagent\nnobody\nagent\n")
    assert os.uname().nodename not in said.split()
    assert outside("hostname").stdout == f"{os.uname().nodename}\n"


async def test_the_environment_is_what_programs_need(stage: Stage) -> None:
    """A command has the usual variables, all of them about the cell."""
    said = await stage.attack("env")
    found = {line.partition("=")[0]: line.partition("=")[2] for line in said.splitlines() if "=" in line}
    assert (found["HOME"], found["USER"], found["PWD"]) == ("/home/agent", "agent", "/workspace")
    assert not [value for value in found.values() if str(stage.folder) in value or "site-packages" in value]


# -- what a model is told

SWEEP: list[tuple[str, dict[str, Any]]] = [
    ("workspace_list", {}),
    ("workspace_status", {}),
    ("workspace_status", {"workspace": "ws_" + "0" * 32}),
    ("workspace_status", {"workspace": "../../audit"}),
    ("workspace_status", {"nonsense": 1}),
    ("workspace_open", {}),
    ("workspace_open", {"ref": "absent"}),
    ("workspace_open", {"ref": "HEAD:README.md"}),
    ("workspace_open", {"ref": "--upload-pack=x"}),
    ("workspace_open", {"ref": "a\0b"}),
    ("workspace_open", {"ref": "x" * 5000}),
    ("workspace_open", {"repo": "/nonexistent/repository"}),
    ("workspace_open", {"repo": "relative/../../path"}),
    ("workspace_open", {"repo": "~/nothing"}),
    ("workspace_open", {"repo": "/proc/self/cwd"}),
    ("workspace_open", {"repo": "ext::sh -c id"}),
    ("workspace_open", {"repo": "git://127.0.0.1:1/x"}),
    ("workspace_open", {"repo": "http://127.0.0.1:1/x"}),
    ("workspace_open", {"repo": "https://127.0.0.1:1/x"}),
    ("workspace_open", {"repo": "ssh://127.0.0.1:1/x"}),
    ("workspace_open", {"repo": "https://user:password@127.0.0.1:1/x"}),
    ("workspace_open", {"repo": "--help"}),
    ("workspace_open", {"repo": ""}),
    ("workspace_open", {"repo": "a\0b"}),
    ("workspace_open", {"workspace": "ws_" + "0" * 32}),
    ("workspace_close", {"workspace": "ws_none"}),
    ("bash", {"command": "exit 3"}),
    ("bash", {"command": ""}),
    ("bash", {"command": "echo a\0b"}),
    ("bash", {"command": "x" * 120_000}),
    ("bash", {"command": "true", "cwd": "absent"}),
    ("bash", {"command": "true", "cwd": "README.md"}),
    ("bash", {"command": "true", "cwd": "/etc"}),
    ("bash", {"command": "true", "timeout_s": -1}),
    ("bash", {"command": "kill -SEGV $$"}),
    (
        "bash",
        {"command": "pwd -P; realpath . ~ /mirror; cat .git/config .git/objects/info/alternates; df; git remote -v"},
    ),
    (
        "bash",
        {
            "command": "find / -name 'repocell*' 2>/dev/null; ls -la / /mirror /opt/repocell/bin; git -C /mirror config --list"
        },
    ),
    ("bash_output", {"job": "job_none"}),
    ("bash_stop", {"job": "../../x"}),
    ("read_file", {"path": "absent"}),
    ("read_file", {"path": "."}),
    ("read_file", {"path": "README.md/x"}),
    ("read_file", {"path": "x" * 5000}),
    ("read_file", {"path": "/" + "x/" * 3000}),
    ("read_file", {"path": "README.md", "offset": 10**30}),
    ("read_file", {"path": 7}),
    ("write_file", {"path": "README.md", "content": "x"}),
    ("write_file", {"path": "README.md/below", "content": "x"}),
    ("write_file", {"path": "/etc/passwd", "content": "x"}),
    ("write_file", {"path": ".", "content": "x"}),
    ("edit_file", {"path": "README.md", "old_string": "absent", "new_string": "x"}),
    ("edit_file", {"path": "README.md", "old_string": "", "new_string": "x"}),
    ("list_dir", {"path": "absent"}),
    ("list_dir", {"path": "README.md"}),
    ("glob", {"pattern": "[z-a]"}),
    ("glob", {"pattern": "\0"}),
    ("glob", {"pattern": "*", "path": "absent"}),
    ("grep", {"pattern": "("}),
    ("grep", {"pattern": "a\0b"}),
    ("grep", {"pattern": "x", "glob": "[z-a]"}),
    ("grep", {"pattern": "x", "glob": "\0"}),
    ("grep", {"pattern": "x", "type": "none"}),
    ("grep", {"pattern": "--files"}),
    ("grep", {"pattern": "x" * 200_000}),
    ("git_diff", {"base": "absent"}),
    ("git_diff", {"base": "a\0b"}),
    ("git_diff", {"base": "HEAD", "path": "absent"}),
    ("git_diff", {"base": ":(exclude)"}),
    ("no_such_tool", {}),
    ("Bash", {"command": "true"}),
]


async def told(stage: Stage, tool: str, arguments: dict[str, Any]) -> str:
    """Everything that comes back for one call, whatever it is."""
    chosen = arguments if tool in ("workspace_list", "workspace_open") else {"workspace": stage.cell, **arguments}
    try:
        return (await stage.client.call_tool(tool, chosen)).model_dump_json()
    except MCPError as error:
        return f"{error} {error.error.model_dump_json()}"


def gives_away(stage: Stage, said: str) -> list[str]:
    """What a result must not hold and does."""
    places = [str(stage.folder), str(Path(repocell.__file__).parents[1]), "/state/", "site-packages", "repocell-test-"]
    forbidden = [
        *places,
        stage.secret,
        "password",
        "Traceback",
        'File "',
        'File \\"',
        ".py, line",
        "bug in repocell",
        "pydantic",
    ]
    return [each for each in forbidden if each in said]


@pytest.mark.parametrize(("tool", "arguments"), SWEEP, ids=[f"{n}-{tool}" for n, (tool, _) in enumerate(SWEEP)])
async def test_no_result_gives_the_host_away(stage: Stage, tool: str, arguments: dict[str, Any]) -> None:
    """No result and no error holds a path of the host, the server's environment, a password or a traceback."""
    said = await told(stage, tool, arguments)
    assert len(said) > 20
    assert not gives_away(stage, said), said[:1000]
    assert "sandbox was lost" not in said


async def test_no_result_gives_the_host_away_in_the_modern_era(ground: Path, stage: Stage) -> None:
    """The same sweep over the modern protocol is as quiet."""
    folder = ground / "modern"
    folder.mkdir()
    environment = {"GITHUB_TOKEN": stage.secret}
    async with connect_to_server(folder, ["--repo", str(stage.repo)], "2026-07-28", environment) as client:
        workspace = (await ask(client, "workspace_open")).split()[1]
        modern = Stage(client, ground, stage.repo, stage.server, workspace, workspace, stage.decoy, stage.secret)
        kept = [row for row in SWEEP if "127.0.0.1" not in str(row[1])]
        found = {
            f"{tool} {arguments}"[:80]: gives_away(modern, await told(modern, tool, arguments))
            for tool, arguments in kept
        }
    assert not {call: what for call, what in found.items() if what}


async def test_what_is_listed_gives_nothing_away(stage: Stage) -> None:
    """The list of tools and the server's instructions name no place of the host."""
    listed = (await stage.client.list_tools()).model_dump_json()
    assert "workspace_open" in listed
    assert not gives_away(stage, listed)


# Ways in which the repository the operator configured can be unusable; the model did not name it and must not learn where it is.
BROKEN = {
    "missing": "mv project moved",
    "no-repository": "mv project/.git git-moved",
    "no-commits": "mv project/.git git-moved; git init -q project",
    "bad-git-file": "mv project/.git git-moved; echo nonsense > project/.git",
    "git-file-to-nowhere": "mv project/.git git-moved; echo 'gitdir: /nonexistent/place' > project/.git",
    "bad-head": "echo nonsense > project/.git/HEAD",
    "bad-config": "echo '[core' > project/.git/config",
    "bad-ref": "echo nonsense > project/.git/refs/heads/main",
    "no-objects": "rm -rf project/.git/objects/??; rm -rf state/mirrors/*",
    "bad-objects": "rm -rf state/mirrors/*; for f in $(find project/.git/objects -type f); do chmod u+w $f; echo x > $f; done",
    "bad-index": "echo nonsense > project/.git/index",
    "no-permission": "chmod 000 project/.git; chown 12345 project/.git 2>/dev/null",
    "foreign": "chown -R 12345:12345 project",
}


@pytest.fixture
def configured(stage: Stage) -> Generator[Stage]:
    """The configured repository, put back after a test has broken it."""
    spare, work = stage.folder / "spare", stage.repo
    shutil.copytree(work, spare, symlinks=True)
    yield stage
    outside("chmod -R u+rwX project; rm -rf project git-moved moved; mv spare project", cwd=stage.folder)


@pytest.mark.parametrize("name", BROKEN)
async def test_the_configured_repository_is_not_named_by_its_place(configured: Stage, name: str) -> None:
    """When the operator's repository cannot be opened, the model learns why and not where it lies."""
    stage = configured
    if name == "foreign" and os.geteuid() != 0:
        pytest.skip("only root can give a repository to somebody else")
    outside(BROKEN[name], cwd=stage.folder)
    said = await told(stage, "workspace_open", {"ref": "main"} if name == "bad-head" else {})
    assert not gives_away(stage, said), said[:1000]
    if json.loads(said)["is_error"]:
        assert "cannot be opened" in said or "no branch" in said or "git" in said


async def test_a_configured_password_is_not_told(ground: Path, stage: Stage) -> None:
    """When the operator's repository is a URL with a password and cannot be reached, the model does not read it."""
    folder = ground / "remote"
    folder.mkdir()
    repo = f"https://user:{stage.secret}@127.0.0.1:1/x.git"
    async with connect_to_server(folder, ["--repo", repo], "legacy") as client:
        said = (await client.call_tool("workspace_open", {})).model_dump_json()
    assert "cannot be opened" in said
    assert stage.secret not in said


async def test_origins_with_credentials_are_shown_without(stage: Stage) -> None:
    """The remote a clone is told to have carries neither the place it was cloned from nor a password."""
    clone = stage.folder / "with-origin"
    outside(f"git clone -q {stage.repo} {clone}")
    git(clone, "remote", "set-url", "origin", f"https://user:{stage.secret}@example.org/x.git")
    workspace = (await ask(stage.client, "workspace_open", repo=str(clone))).split()[1]
    command = "cat .git/config /mirror/config /mirror/FETCH_HEAD; git remote -v; git -C /mirror remote -v; git log -1"
    said = await ask(stage.client, "bash", command=command, workspace=workspace)
    assert not gives_away(stage, said), said
    await ask(stage.client, "workspace_close", workspace=workspace)
