"""No file of the host can be read, changed or made from a cell, by a command or by a tool, and the clone is never written.

Every attack is made outside too, where it reaches what it is after; what the host looks like is compared before and after.
"""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from harness import GIT_ENVIRONMENT, SANDBOX_UID, ask, git, make_repo
from hostile.observe import LOST, guests_of, manifest, mounts, outside, python, until
from hostile.stage import Stage

pytestmark = pytest.mark.anyio

# -- reading, by commands

# Each prints the file named by {path} when it can be reached; {one} is a process: PID 1 in a cell, the test itself outside.
READS = {
    "absolute": "cat {path}",
    "dotdot": "cat ../../../../../../../../../../../..{path}",
    "the-root-of-pid-1": "cat /proc/{one}/root{path}",
    "the-own-root": "cat /proc/self/root{path}",
    "any-root": 'for it in /proc/[0-9]*/root; do cat "$it{path}"; done',
    "any-working-directory": 'for it in /proc/[0-9]*/cwd; do cat "$it/../../../../../../../../..{path}"; done',
    "any-descriptor": 'exec 9<.; for it in /proc/[0-9]*/fd/*; do cat "$it/../../../../../../../../..{path}"; done',
    "link": "ln -sfn {path} planted-1 && cat planted-1",
    "link-to-the-root": "ln -sfn / planted-2 && cat planted-2{path}",
    "link-over-proc": "ln -sfn /proc/{one}/root planted-3 && cat planted-3{path}",
    "hard-link": "ln -f {path} planted-4 && cat planted-4",
    "copy": "cp -a $(dirname {path}) planted-5 && cat planted-5/*",
    "search": "find $(dirname $(dirname {path})) -maxdepth 2 -type f -exec cat {{}} +",
    "open-at": python("import os; print(os.read(os.open('{path}'[1:], 0, dir_fd=os.open('/', os.O_PATH)), 999))"),
    "mapped": python("import mmap; f = open('{path}', 'rb'); print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:])"),
    "git-no-index": "git diff --no-index /dev/null {path}",
    "git-include": "git config --file {path} --list; git -c include.path={path} status; cat {path}",
    "loader": "/usr/bin/env -i /usr/bin/head -n 9 {path}",
}


@pytest.mark.parametrize("command", READS.values(), ids=list(READS))
async def test_a_command_cannot_read_a_file_of_the_host(stage: Stage, command: str) -> None:
    """What prints a secret outside does not in a cell, whatever way it takes there."""
    path = stage.decoy / "secret.txt"
    scratch = stage.folder / "outside"
    scratch.mkdir(exist_ok=True)
    assert stage.secret in outside(command.format(path=path, one=os.getpid()), cwd=scratch).stdout
    assert stage.secret not in await stage.attack(command.format(path=path, one=1), timeout_s=20)
    await stage.healthy()


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("{state}/audit/*.jsonl", '"event":"decided"'),
        ("{neighbour}", "# calc"),
        ("{state}/workspaces/{bystander}/workspace.json", "principal"),
        ("{state}/mirrors/*/config", "bare"),
        ("{folder}/server.log {folder}/config.toml {clone}/private.txt", "uncommitted-in-the-clone"),
        ("{clone}/.git/config", "repositoryformatversion"),
        ("/proc/{server}/cmdline", "repocell.cli"),
        ("/proc/{server}/root{clone}/README.md", "# calc"),
    ],
    ids=["audit", "neighbour", "records", "mirror", "clone", "clone-config", "server", "through-the-server"],
)
async def test_nothing_of_the_servers_own_can_be_read(stage: Stage, path: str, holds: str) -> None:
    """The record, the neighbours, the mirrors, the clone and the server's process are not there in a cell."""
    neighbour = stage.on_host("README.md", stage.bystander)
    names = {
        "state": stage.state,
        "bystander": stage.bystander,
        "neighbour": neighbour,
        "clone": stage.repo,
        "server": stage.server,
    }
    command = "cat " + path.format(**names, folder=stage.folder)
    assert holds in outside(command).stdout
    said = await stage.attack(command)
    assert holds not in said
    assert "No such file or directory" in said


async def test_no_home_of_the_host_is_there(stage: Stage) -> None:
    """/home holds the agent's own home and nobody else's, and there is no /root."""
    assert outside("ls -d /root /home").returncode == 0
    said = await stage.attack("ls -A /home; ls -d /root /mnt /media /srv /boot /sys")
    assert said.startswith("agent\n")
    assert said.count("No such file or directory") == 6


async def test_no_descriptor_is_inherited(stage: Stage) -> None:
    """A command has its three standard descriptors, none of them a file or socket of the host."""
    show = python("import os; print(sorted(os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in range(256) "
                  "if os.path.exists(f'/proc/self/fd/{n}') or os.path.islink(f'/proc/self/fd/{n}')))")  # fmt: skip
    assert str(stage.decoy) in outside(f"exec 9<{stage.decoy}; {show}").stdout
    assert (await stage.attack(show)).startswith("['/dev/null', 'pipe', 'pipe']\n")


# -- writing, by commands

WRITES = {
    "overwrite": "echo changed > {path}",
    "append": "echo changed >> {path}",
    "truncate": "truncate -s 0 {path}",
    "remove": "rm -f {path}",
    "replace": "echo changed > new && mv -f new {path}",
    "through-a-link": "ln -sfn {path} written-1 && echo changed > written-1",
    "through-a-link-to-the-root": "ln -sfn / written-2 && echo changed > written-2{path}",
    "through-proc": "echo changed > /proc/self/root{path}",
    "beside": "mkdir -p $(dirname {path}) && echo new > {path}.new",
    "mode": "chmod 0777 {path}",
    "time": "touch -d 2001-01-01 {path}",
    "hard-link": "ln -f {path} written-3 && echo changed > written-3",
    "git-work-tree": "git --work-tree=$(dirname {path}) checkout --force HEAD -- .",
}


@pytest.mark.parametrize("command", WRITES.values(), ids=list(WRITES))
async def test_a_command_cannot_change_a_file_of_the_host(stage: Stage, command: str, folder: Path) -> None:
    """What changes a file outside leaves the host as it was when done in a cell."""
    copy = make_repo(folder / "outside", {"README.md": "# calc\n"})
    target = folder / "target" / "file.txt"
    target.parent.mkdir(mode=0o777)
    target.write_text("untouched\n")
    for path, mode in ((target, 0o666), (target.parent, 0o777)):
        path.chmod(mode)
    before = manifest(target.parent, stage.decoy, stage.repo)
    await stage.attack(command.format(path=target))
    assert manifest(target.parent, stage.decoy, stage.repo) == before
    outside(command.format(path=target), cwd=copy)
    assert manifest(target.parent, stage.decoy, stage.repo) != before
    await stage.healthy()


@pytest.mark.parametrize(
    "path",
    [
        "/evil", "/usr/bin/evil", "/usr/local/bin/evil", "/lib/evil", "/etc/evil", "/etc/passwd", "/etc/ld.so.preload",
        "/etc/gitconfig", "/etc/alternatives/evil", "/etc/ssl/certs/evil.pem", "/dev/evil", "/run/evil", "/var/evil",
        "/home/evil", "/opt/evil", "/opt/repocell/bin/rg", "/mirror/HEAD", "/mirror/config", "/mirror/evil",
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/1/oom_score_adj",
    ],
)  # fmt: skip
async def test_the_system_cannot_be_written(stage: Stage, path: str) -> None:
    """Outside the workspace, the home and the temporary directories a cell has nothing that can be written."""
    before = manifest(*stage.state.glob("mirrors/*"), *stage.state.glob("tools"))
    said = await stage.attack(f"echo evil > {path}")
    assert "exit 1" in said, said
    assert manifest(*stage.state.glob("mirrors/*"), *stage.state.glob("tools")) == before
    assert not path.endswith("evil") or not os.path.lexists(path)


@pytest.mark.parametrize("path", ["/workspace/mine", "/home/agent/mine", "/tmp/mine", "/var/tmp/mine", "/dev/shm/mine"])
async def test_the_cells_own_places_can_be_written(stage: Stage, path: str) -> None:
    """The workspace, the home and the temporary directories take files and programs that run."""
    said = await stage.attack(f"printf '#!/bin/sh\\necho ran\\n' > {path} && chmod +x {path} && {path}; rm {path}")
    assert said.startswith("ran\n[exit 0")


# -- mounting

MOUNTS = {
    "tmpfs": "mkdir -p at && mount -t tmpfs none at",
    "bind": "mkdir -p at && mount --bind . at",
    "proc": "mkdir -p at && mount -t proc proc at",
    "overlay": "mkdir -p lower upper work at && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none at",
    "remount": "mount -o remount,rw,bind /usr",
    "remount-root": "mount -o remount,rw,bind /",
    "unmount": "umount -l /usr",
    "propagate": "mount --make-rshared /",
    "pivot": "mkdir -p at/old && mount --bind at at && pivot_root at at/old",
    "chroot": "chroot / /bin/true",
    "new-namespace": "unshare --mount true",
}
# A mount namespace of the control's own, where the same things work: /usr and / are mounts there, as they are in a cell.
PRIVATE = (
    "unshare --user --map-root-user --mount --pid --fork "
    "bash -c 'mount --make-rprivate /; mount --rbind / /; mount --bind /usr /usr; {}'"
)


@pytest.mark.parametrize("command", MOUNTS.values(), ids=list(MOUNTS))
async def test_mounts_stay_as_they_are(stage: Stage, command: str, folder: Path) -> None:
    """No mount is made, moved, changed or taken away in a cell, where whoever has a namespace of their own can."""
    assert outside(PRIVATE.format(f"{command}"), cwd=folder).returncode == 0
    guest = max(guests_of(stage.server))
    before, host = mounts(guest), mounts()
    assert "[exit 0" not in await stage.attack(command)
    assert mounts(guest) == before
    assert mounts() == host


async def test_no_device_can_be_made(stage: Stage) -> None:
    """mknod makes no device in a cell; pipes, which are harmless, can be made."""
    assert "Operation not permitted" in await stage.attack("mknod device b 254 0")
    assert "exit 0" in await stage.attack("mknod pipe p && rm pipe")
    assert not stage.on_host("device").exists()


async def test_the_devices_are_the_harmless_ones(stage: Stage) -> None:
    """/dev holds null, zero, full, random, urandom, and tty, and no disk."""
    listed = 'cd /dev; for it in *; do [ ! -L "$it" ] && [ -b "$it" -o -c "$it" ] && echo "$it"; done | sort'
    said = await stage.attack(listed)
    assert said.split("[")[0].split() == ["full", "null", "random", "tty", "urandom", "zero"]


# -- tools

TOOL_CALLS = {
    "read_file": {},
    "write_file": {"content": "changed\n"},
    "edit_file": {"old_string": "secret", "new_string": "changed"},
    "list_dir": {},
    "grep": {"pattern": "secret", "output_mode": "content"},
    "glob": {"pattern": "**"},
    "git_diff": {},
}
TOOL_PATHS = {
    "link": "leads/file",
    "below-a-link": "leads/folder/secret.txt",
    "absolute": "{decoy}/secret.txt",
    "dotdot": "../../../../../..{decoy}/secret.txt",
    "dotdot-inside": "leads/../../../../../..{decoy}/secret.txt",
    "own-root": "/proc/self/root{decoy}/secret.txt",
    "link-to-the-root": "leads/root{decoy}/secret.txt",
    "workspace-prefix": "/workspace-other{decoy}/secret.txt",
    "nul": "leads/file\0.png",
    "option": "--pre=cat",
    "url": "file://{decoy}/secret.txt",
    "home": "~/../..{decoy}/secret.txt",
}


@pytest.fixture(scope="module")
async def links(stage: Stage) -> Stage:
    """Links in the workspace to the decoy, its folder and the root of the file system."""
    plant = "mkdir -p leads && cd leads && ln -sfn {0}/secret.txt file && ln -sfn {0} folder && ln -sfn / root"
    await ask(stage.client, "bash", command=plant.format(stage.decoy), workspace=stage.cell)
    return stage


@pytest.mark.parametrize("path", TOOL_PATHS.values(), ids=list(TOOL_PATHS))
@pytest.mark.parametrize("tool", TOOL_CALLS)
async def test_a_tool_cannot_be_led_out_of_the_workspace(links: Stage, tool: str, path: str) -> None:
    """Links and odd paths give every file tool nothing of the host, change nothing there and lose no sandbox."""
    stage, named = links, path.format(decoy=links.decoy)
    if path.startswith("leads/") and "\0" not in path and ".." not in path:
        assert (stage.on_host(named)).read_text() == f"{stage.secret}\n"  # whoever opens it on the host is led out
    before = manifest(stage.decoy, stage.repo)
    with anyio.fail_after(20):
        said = await stage.call(tool, path=named, **TOOL_CALLS[tool])
    assert stage.secret not in said
    assert LOST not in said
    assert manifest(stage.decoy, stage.repo) == before


async def test_a_link_within_the_workspace_is_followed(stage: Stage) -> None:
    """A link from one place of the workspace to another reads and edits like the file it names."""
    await stage.attack("echo one > target.txt && ln -sfn target.txt link.txt")
    assert "one" in await stage.call("read_file", path="link.txt")
    assert "Changed 1 place" in await stage.call("edit_file", path="link.txt", old_string="one", new_string="two")
    assert stage.on_host("target.txt").read_text() == "two\n"
    assert stage.on_host("link.txt").is_symlink()


async def test_a_link_swapped_under_a_reader_reads_nothing_outside(stage: Stage) -> None:
    """While a path flips between a file and a link to the host, a hundred reads get the file or an error."""
    there = "echo inside > swap.n; mv -fT swap.n swap"
    flip = f"while :; do {there}; ln -sfn {stage.decoy}/secret.txt swap.n; mv -fT swap.n swap; done"
    job = await stage.attack(flip, wait_s=0.2, timeout_s=30)
    said = [await stage.call("read_file", path="swap") for _ in range(100)]
    await stage.call("bash_stop", job=job.split("bash_output job=")[1].split()[0])
    assert not [text for text in said if stage.secret in text or LOST in text]
    assert [text for text in said if "inside" in text]


SPECIAL = {
    "pipe": "mkfifo special",
    "socket": python("import socket; socket.socket(socket.AF_UNIX).bind('special')"),
    "endless": "ln -s /dev/zero special",
    "terminal": "ln -s /dev/tty special",
    "own-output": "ln -s /proc/self/fd/1 special",
    "circle": "ln -s special special",
    "directory": "mkdir special && mkfifo special/pipe",
    "unreadable": "echo x > special && chmod 000 special",
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=list(SPECIAL))
@pytest.mark.parametrize("tool", TOOL_CALLS)
async def test_no_special_file_holds_up_a_tool(stage: Stage, tool: str, make: str) -> None:
    """On pipes, sockets, devices, circles and closed files each tool answers at once, and bounded."""
    await stage.attack(f"chmod -R u+rwX special 2>/dev/null; rm -rf special; {make}")
    with anyio.fail_after(4):
        said = await stage.call(tool, path="special", **TOOL_CALLS[tool])
    assert len(said) < 40_100
    assert LOST not in said
    await stage.healthy()


def test_a_pipe_holds_up_who_opens_it(folder: Path) -> None:
    """The control of the test above: outside, reading a pipe nobody writes waits until it is stopped."""
    assert outside("mkfifo special && timeout 0.5 cat special", cwd=folder).returncode == 124


@pytest.mark.parametrize(
    "name",
    ["-rf", "--", " ", "new\nline", "tab\t", "\x1b[31mred", "ü" * 100, "a" * 255, "日本", "*", "$(touch pwned)", "`id`", "'\"\\"],
    ids=["option", "dashes", "space", "newline", "tab", "escape", "wide", "long", "cjk", "star", "dollar", "tick", "quotes"],
)  # fmt: skip
async def test_odd_names_are_names(stage: Stage, name: str) -> None:
    """A file of any name can be written, read, edited, listed, searched and compared, and nothing else happens."""
    path = f"odd/{name}"
    assert "Created" in await stage.call("write_file", path=path, content="needle\n")
    assert "needle" in await stage.call("read_file", path=path)
    assert "Changed" in await stage.call("edit_file", path=path, old_string="needle", new_string="thread")
    assert "thread" in await stage.call("grep", pattern="thread", path=path, output_mode="content")
    assert "thread" in await stage.call("git_diff", path=path)
    for tool in ("list_dir", "glob", "workspace_status"):
        said = await stage.call(tool, **({"pattern": "odd/**"} if tool == "glob" else {}))
        assert "\x1b" not in said
        assert LOST not in said
    assert stage.on_host(path).read_text() == "thread\n"
    assert not list(stage.on_host("").rglob("pwned"))
    await stage.attack("rm -rf odd")


async def test_names_that_are_no_text_are_shown_escaped(stage: Stage) -> None:
    """A name that is not UTF-8 loses no sandbox: it is listed, found and searched with its bytes escaped."""
    await stage.attack("mkdir -p raw && echo needle > raw/$'\\xff\\xfe'")
    for tool, arguments in (("list_dir", {}), ("glob", {"pattern": "*"}), ("grep", {"pattern": "needle"})):
        assert "\\xff\\xfe" in await stage.call(tool, path="raw", **arguments)
    await stage.attack("rm -rf raw")


@pytest.mark.parametrize("tool", ["list_dir", "workspace_open", "read_file"])
async def test_a_listing_with_much_to_say_loses_no_sandbox(stage: Stage, tool: str) -> None:
    """Hundreds of entries with names or link targets of kilobytes are listed, and cut, like others."""
    await stage.attack(
        "long=$(printf 'ä%.0s' $(seq 120)); target=$(printf 'ü/%.0s' $(seq 1300)); mkdir -p crowd/$long/$long;"
        "for n in $(seq 250); do ln -sfn $target crowd/$n; ln -sfn $target top-$n; done;"
        "for n in $(seq 500); do : > crowd/$long/$long/$n-$long; done"
    )
    arguments = {
        "workspace_open": {},
        "read_file": {"path": "crowd/absent/file"},
        "list_dir": {"path": "crowd", "depth": 4},
    }
    said = await stage.call(tool, **arguments[tool])
    assert LOST not in said
    assert len(said) < 40_100
    await stage.attack("rm -rf crowd top-*")


# -- what a cell leaves on the host


async def test_no_privilege_lies_in_a_cells_files(stage: Stage) -> None:
    """A set-uid program made in a cell belongs to the cells' own user and lies where nobody else can go."""
    await stage.attack("cp /usr/bin/id strong && chmod 6755 strong")
    facts = stage.on_host("strong").lstat()
    assert facts.st_uid == (SANDBOX_UID if os.geteuid() == 0 else os.geteuid())
    assert not stage.state.stat().st_mode & stat.S_IRWXO
    await stage.attack("rm strong")


async def test_programs_set_up_in_a_cell_do_not_run_on_the_host(stage: Stage, folder: Path) -> None:
    """Hooks, filters and a file-system monitor an agent configures fire for the host's git, and never for a tool."""
    marker = folder / "fired"
    folder.chmod(0o777)
    await stage.attack(
        f"printf '#!/bin/sh\\ntouch {marker}\\n' > .git/hooks/evil; chmod +x .git/hooks/evil;"
        "for hook in pre-commit post-checkout post-index-change; do cp .git/hooks/evil .git/hooks/$hook; done;"
        "git config core.fsmonitor /workspace/.git/hooks/evil; git config filter.evil.clean /workspace/.git/hooks/evil;"
        "git config diff.external /workspace/.git/hooks/evil; echo '* filter=evil' > .gitattributes; echo >> calc.py"
    )
    for tool in ("git_diff", "workspace_status", "list_dir", "workspace_list"):
        await stage.client.call_tool(tool, {} if tool == "workspace_list" else {"workspace": stage.cell})
    await stage.call("workspace_open")
    assert not marker.exists()
    trusting = "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'; "
    at = stage.on_host("")
    outside(f"{trusting} git -C {at} -c core.fsmonitor={at}/.git/hooks/evil status")
    assert marker.exists()
    await stage.attack("git config --unset core.fsmonitor; git config --unset diff.external; git checkout --force . ; "
                       "rm .git/hooks/* .gitattributes")  # fmt: skip


# -- the user's clone


@dataclass(frozen=True)
class Poison:
    """A way to make git run a program: what is done to a repository, and the plain command that then runs it."""

    name: str
    plant: str
    fire: str


# {run} is a program that touches a marker and copies its input, {end} one that touches it and fails.
POISONS = [
    Poison("fsmonitor", "git config core.fsmonitor {run}", "git status"),
    Poison("clean-filter", "git config filter.evil.clean {run}; echo '*.txt filter=evil' > .gitattributes", "git add ."),
    Poison("clean-filter-of-info", "git config filter.a.clean {run}; echo '* filter=a' > .git/info/attributes", "git add ."),
    Poison("process-filter", "git config filter.a.process {run}; echo '* filter=a' > .gitattributes", "git add ."),
    Poison("required-filter", "git config filter.a.clean {run}; git config filter.a.required true;"
           "echo '* filter=a' > .gitattributes", "git status; git add ."),
    Poison("filter-of-odd-name", "git config 'filter.a.b=c d.clean' {run}; echo '* filter=a.b=c' > .gitattributes;"
           "git config filter.a.b=c.clean {run}", "git add ."),
    Poison("smudge-filter", "git config filter.a.smudge {run}; echo '* filter=a' > .gitattributes",
           "rm note.txt; git checkout note.txt"),
    Poison("included-file", "printf '[core]\\nfsmonitor = {run}\\n' > .git/more; git config include.path more", "git status"),
    Poison("conditional-include", "printf '[core]\\nfsmonitor = {run}\\n' > .git/more;"
           "git config includeIf.gitdir:/.path more", "git status"),
    Poison("included-filter", "printf '[filter \"a\"]\\nclean = {run}\\n' > .git/more; git config include.path more;"
           "echo '* filter=a' > .gitattributes", "git add ."),
    Poison("worktree-config", "git config extensions.worktreeConfig true; git config --worktree core.fsmonitor {run}",
           "git status"),
    Poison("worktree-filter", "git config extensions.worktreeConfig true; git config --worktree filter.a.clean {run};"
           "echo '* filter=a' > .gitattributes", "git add ."),
    Poison("hooks-path", "mkdir .git/mine; cp {run} .git/mine/post-index-change; git config core.hooksPath .git/mine",
           "touch note.txt; git status"),
    Poison("hooks", "for hook in post-index-change post-checkout reference-transaction pre-auto-gc; do"
           " cp {run} .git/hooks/$hook; done", "git checkout -b other"),
    Poison("tracked-hooks", "mkdir .husky; cp {run} .husky/post-checkout; git add .; git commit -qm h;"
           "git config core.hooksPath .husky", "git checkout -b other"),
    Poison("ssh-command", "git config core.sshCommand {end}; git remote add origin ssh://127.0.0.1/x", "git ls-remote"),
    Poison("alias", "git config alias.remote-update '!{run}'; git config alias.st '!{run}'", "git st"),
    Poison("external-diff", "git config diff.external {run}", "git diff"),
    Poison("text-conversion", "git config diff.a.textconv {run}; echo '* diff=a' > .gitattributes", "git diff"),
    Poison("credentials", "git config credential.helper {run}", "echo url=https://example.org | git credential fill"),
    Poison("editor", "git config core.editor {run}", "git commit -a"),
    Poison("signing", "git config gpg.program {run}; git config commit.gpgSign true", "git commit -am x"),
    Poison("upload-pack", "git remote add evil .; git config remote.evil.uploadpack '{end};git-upload-pack'",
           "git fetch evil"),
    Poison("external-transport", "git remote add evil 'ext::{end}'; git config protocol.ext.allow always", "git fetch evil"),
    Poison("instead-of", "git config url.ext::{end}.insteadOf short:; git config protocol.ext.allow always;"
           "git remote add evil short:", "git fetch evil"),
    Poison("alternate-refs", "git init -q --bare ../alternate.git; echo ../../../alternate.git/objects > "
           ".git/objects/info/alternates; git config core.alternateRefsCommand {run}", "git fetch ../poisoned HEAD"),
    Poison("merge-driver", "git config merge.a.driver {run}; echo '* merge=a' > .gitattributes; git add .; git commit -qm a;"
           "git checkout -qb two HEAD; echo two > note.txt; git commit -qam two; git checkout -q main;"
           "echo three > note.txt; git commit -qam three; echo left > new.txt", "git merge two"),
    Poison("submodule", "git -c protocol.file.allow=always submodule --quiet add ./. sub; git commit -qm s;"
           "git -C sub config core.fsmonitor {run}", "git status"),
    Poison("nested-repository", "git init -q nested; git -C nested config core.fsmonitor {run}", "git -C nested status"),
    Poison("bare-inside", "git clone -q --bare . bare; git -C bare config core.fsmonitor {run};"
           "git -C bare config core.bare false; git -C bare config core.worktree ..", "git -C bare status"),
]  # fmt: skip


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name)
async def test_a_poisoned_clone_runs_nothing_and_is_not_written(stage: Stage, folder: Path, poison: Poison) -> None:
    """Opening a clone whose configuration runs programs, with its uncommitted work, runs none and changes no byte of it."""
    marker, run, end = folder / "fired", folder / "run", folder / "end"
    run.write_text(f"#!/bin/sh\ntouch {marker}\n[ -p /dev/stdin ] && cat\nexit 0\n")
    end.write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    for program in (run, end):
        program.chmod(0o755)
    clone = make_repo(folder / "poisoned", {"note.txt": "one\n", "calc.py": "x = 1\n"})
    exports = "; ".join(f"export {name}='{value}'" for name, value in GIT_ENVIRONMENT.items())
    planted = outside(f"{exports}; {poison.plant.format(run=run, end=end)}", cwd=clone)
    (clone / "note.txt").write_text("changed\n")
    (clone / "new.txt").write_text("untracked\n")
    marker.unlink(missing_ok=True)
    before = manifest(clone)
    said = await ask(stage.client, "workspace_open", repo=str(clone), include_uncommitted=True)
    workspace = said.split()[1]
    assert not marker.exists()
    assert manifest(clone) == before
    assert "untracked" in await ask(stage.client, "read_file", path="new.txt", workspace=workspace)
    assert "changed" in await ask(stage.client, "read_file", path="note.txt", workspace=workspace)
    await ask(stage.client, "workspace_close", workspace=workspace, discard=True)
    assert not marker.exists()
    outside(f"{exports}; {poison.fire}", cwd=clone)
    assert marker.exists(), planted.stderr


@pytest.mark.parametrize(
    "shape", ["plain", "split-index", "untracked-cache", "linked-worktree", "stale-index", "packed"]
)
async def test_a_whole_session_leaves_the_clone_as_it_was(stage: Stage, folder: Path, shape: str) -> None:
    """Open, run, edit, compare and close change nothing of the clone, not even a time, whatever shape its index has."""
    clone = make_repo(folder / "clone", {f"f{n}.txt": f"{n}\n" for n in range(30)})
    plain = clone
    if shape == "split-index":
        git(clone, "update-index", "--split-index")
    elif shape == "untracked-cache":
        git(clone, "update-index", "--force-untracked-cache")
    elif shape == "linked-worktree":
        clone = folder / "linked"
        git(plain, "worktree", "add", "--quiet", str(clone))
    elif shape == "stale-index":
        outside("touch -d 2020-01-01 f*.txt", cwd=clone)
    elif shape == "packed":
        git(clone, "gc", "--quiet")
    for path in (clone, *plain.rglob("sharedindex.*")):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    before = manifest(clone, plain)
    workspace = (await ask(stage.client, "workspace_open", repo=str(clone), include_uncommitted=True)).split()[1]
    await ask(
        stage.client, "bash", command="echo more >> f1.txt; git add .; git commit -qm in-the-cell", workspace=workspace
    )
    await ask(stage.client, "write_file", path="new.txt", content="new\n", workspace=workspace)
    assert "new.txt" in await ask(stage.client, "git_diff", workspace=workspace, base="HEAD~1")
    await ask(stage.client, "workspace_close", workspace=workspace, discard=True)
    assert manifest(clone, plain) == before


def test_plain_git_writes_the_clone(folder: Path) -> None:
    """The control of the test above: an ordinary git status rewrites the index of a clone whose files were touched."""
    clone = make_repo(folder / "clone", {"f.txt": "1\n"})
    outside("touch -d 2020-01-01 f.txt", cwd=clone)
    before = manifest(clone)
    outside("git status", cwd=clone)
    assert manifest(clone) != before


@pytest.mark.parametrize("kind", ["link-to-a-file", "link-to-a-folder", "parent-became-a-link"])
async def test_uncommitted_links_do_not_bring_the_host_along(stage: Stage, folder: Path, kind: str) -> None:
    """Uncommitted links are taken along as links: what they lead to on the host does not come with them."""
    clone = make_repo(folder / "clone", {"docs/secret.txt": "harmless\n", "a.txt": "a\n"})
    if kind == "link-to-a-file":
        (clone / "planted").symlink_to(stage.decoy / "secret.txt")
        leads = clone / "planted"
    elif kind == "link-to-a-folder":
        (clone / "planted").symlink_to(stage.decoy)
        leads = clone / "planted" / "secret.txt"
    else:
        shutil.rmtree(clone / "docs")
        (clone / "docs").symlink_to(stage.decoy)
        leads = clone / "docs" / "secret.txt"
    assert leads.read_text() == f"{stage.secret}\n"  # whoever follows the link on the host is led out
    workspace = (await ask(stage.client, "workspace_open", repo=str(clone), include_uncommitted=True)).split()[1]
    said = await ask(
        stage.client, "bash", command="cat planted planted/* docs/*; git grep -h secret; true", workspace=workspace
    )
    assert stage.secret not in said
    await ask(stage.client, "workspace_close", workspace=workspace, discard=True)


async def test_uncommitted_pipes_and_sockets_are_left_alone(stage: Stage, folder: Path) -> None:
    """A clone in which a tracked file became a pipe, beside other special files, opens without waiting for anybody."""
    clone = make_repo(folder / "clone", {"a.txt": "a\n", "b.txt": "b\n"})
    outside("rm a.txt; mkfifo a.txt other; echo more > b.txt", cwd=clone)
    with anyio.fail_after(20):
        said = await ask(stage.client, "workspace_open", repo=str(clone), include_uncommitted=True)
    workspace = said.split()[1]
    assert "more" in await ask(stage.client, "read_file", path="b.txt", workspace=workspace)
    await ask(stage.client, "workspace_close", workspace=workspace, discard=True)


async def test_closing_follows_no_link_out_of_the_workspace(stage: Stage) -> None:
    """Deleting a workspace full of links to host folders deletes the links and nothing behind them."""
    workspace = (await ask(stage.client, "workspace_open")).split()[1]
    plant = f"ln -s {stage.decoy} a; mkdir -p b/c; ln -s {stage.decoy} b/c/d; chmod 000 b/c; ln -s / root"
    await ask(stage.client, "bash", command=plant, workspace=workspace)
    before = manifest(stage.decoy, stage.repo)
    await ask(stage.client, "workspace_close", workspace=workspace, discard=True)
    assert manifest(stage.decoy, stage.repo) == before
    await until("the workspace's folder is gone", lambda: not (stage.state / "workspaces" / workspace).exists())
