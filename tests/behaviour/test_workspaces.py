"""Opening, listing, looking at and closing workspaces, through a real client in both eras."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness import Connect, ask, connect_to_server, git, make_repo, refuse

pytestmark = pytest.mark.anyio


async def test_a_workspace_holds_the_commit_the_clone_is_at(connect: Connect, repo: Path, era: str) -> None:
    """The files and the commit in the cell are those of the clone's HEAD."""
    async with connect(era) as client:
        opened = await ask(client, "workspace_open")
        assert git(repo, "rev-parse", "HEAD")[:12] in opened
        assert "return a - b" in await ask(client, "read_file", path="calc.py")


async def test_the_workspace_is_on_a_branch_of_its_own(connect: Connect) -> None:
    """Work happens on agent/<task>-<id>, never on the branch that was opened."""
    async with connect() as client:
        await ask(client, "workspace_open", task="Fix the Sum!")
        assert "agent/fix-the-sum-" in await ask(client, "bash", command="git branch --show-current")


async def test_history_and_tags_are_there(connect: Connect, repo: Path) -> None:
    """git log, remote branches and tags in the cell are the repository's."""
    git(repo, "tag", "v1")
    git(repo, "branch", "topic")
    async with connect() as client:
        await ask(client, "workspace_open")
        shown = await ask(client, "bash", command="git log --oneline; git tag; git branch -r; git status --short")
        assert "first" in shown
        assert "v1" in shown
        assert "origin/topic" in shown


@pytest.mark.parametrize("kind", ["branch", "tag", "commit", "short commit"])
async def test_a_ref_can_be_a_branch_a_tag_or_a_commit(connect: Connect, repo: Path, kind: str) -> None:
    """ref opens that state of the repository."""
    first = git(repo, "rev-parse", "HEAD")
    git(repo, "tag", "v1")
    git(repo, "branch", "old")
    (repo / "later.txt").write_text("later\n")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "second")
    ref = {"branch": "old", "tag": "v1", "commit": first, "short commit": first[:10]}[kind]
    async with connect() as client:
        opened = await ask(client, "workspace_open", ref=ref)
        assert first[:12] in opened
        assert "later.txt" not in opened


async def test_new_commits_of_the_clone_are_seen_by_the_next_open(connect: Connect, repo: Path) -> None:
    """The mirror is refreshed: a workspace opened later has what was committed meanwhile."""
    async with connect() as client:
        await ask(client, "workspace_open")
        (repo / "later.txt").write_text("later\n")
        git(repo, "add", "--all")
        git(repo, "commit", "--quiet", "--message", "second")
        assert "later.txt" in await ask(client, "workspace_open")


async def test_uncommitted_work_is_named_and_left_behind(connect: Connect, repo: Path) -> None:
    """Without being asked, uncommitted files stay in the clone, and the result says which."""
    (repo / "calc.py").write_text("changed\n")
    (repo / "draft.txt").write_text("draft\n")
    async with connect() as client:
        opened = await ask(client, "workspace_open")
        assert "calc.py (modified)" in opened
        assert "draft.txt (untracked)" in opened
        assert "return a - b" in await ask(client, "read_file", path="calc.py")


async def test_uncommitted_work_is_taken_along_when_asked(connect: Connect, repo: Path) -> None:
    """include_uncommitted brings changes, new files, links, deletions and execute bits, byte for byte."""
    (repo / "calc.py").write_bytes(b"changed\r\n\xff\n")
    (repo / "deep" / "er").mkdir(parents=True)
    (repo / "deep" / "er" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (repo / "deep" / "er" / "run.sh").chmod(0o755)
    (repo / "link").symlink_to("calc.py")
    (repo / "README.md").unlink()
    async with connect() as client:
        await ask(client, "workspace_open", include_uncommitted=True)
        shown = await ask(client, "bash", command="od -c calc.py; ./deep/er/run.sh; readlink link; git status --short")
        assert "377" in shown
        assert "ran\ncalc.py\n" in shown
        assert " D README.md" in shown


async def test_opening_never_writes_to_the_clone(connect: Connect, repo: Path) -> None:
    """Not a byte, mode or time below the clone changes, its .git included."""

    def manifest() -> dict[str, tuple[int, int, int]]:
        paths = sorted(repo.rglob("*"))
        return {str(p): (p.lstat().st_mode, p.lstat().st_mtime_ns, p.lstat().st_size) for p in paths}

    (repo / "calc.py").write_text("changed\n")
    before = manifest()
    async with connect() as client:
        await ask(client, "workspace_open", include_uncommitted=True)
        await ask(client, "bash", command="echo x > calc.py; git commit -qam x; git status")
    assert manifest() == before


async def test_a_worktree_and_a_subdirectory_can_be_opened(connect: Connect, repo: Path, folder: Path) -> None:
    """A linked worktree is opened at its own HEAD; a path inside a repository opens that repository."""
    git(repo, "worktree", "add", "--quiet", "-b", "side", str(folder / "side"))
    async with connect() as client:
        assert "(side)" in await ask(client, "workspace_open", repo=str(folder / "side"))
        assert "calc.py" in await ask(client, "workspace_open", repo=str(repo / "tests"))


async def test_a_bare_repository_can_be_opened(connect: Connect, repo: Path, folder: Path) -> None:
    """A bare repository has nothing uncommitted and opens like any other."""
    subprocess.run(["git", "clone", "--quiet", "--bare", str(repo), str(folder / "bare.git")], check=True, timeout=30)
    async with connect() as client:
        assert "calc.py" in await ask(client, "workspace_open", repo=str(folder / "bare.git"))
        assert "calc.py" in await ask(client, "workspace_open", repo=f"file://{folder}/bare.git")


@pytest.mark.parametrize(
    ("repo_argument", "why"),
    [
        ("/does/not/exist", "no such path"),
        ("/usr", "not inside a git repository"),
        ("http://localhost/x.git", "http URLs are not fetched"),
        ("ext::sh -c id", "not a path or URL"),
        ("--upload-pack=id", "not a path or URL"),
        ("https://", "names no host"),
        ("", "not a path or URL"),
    ],
)
async def test_a_repository_that_cannot_be_opened_is_explained(connect: Connect, repo_argument: str, why: str) -> None:
    """What cannot be opened is answered with why, and with what can be given instead."""
    async with connect() as client:
        text = await refuse(client, "workspace_open", repo=repo_argument)
        assert why in text
        assert "https://" in text


async def test_an_empty_repository_is_explained(connect: Connect, folder: Path) -> None:
    """A repository without commits has nothing to check out, and the answer says so."""
    (folder / "empty").mkdir()
    git(folder / "empty", "init", "--quiet")
    async with connect() as client:
        assert "no commits yet" in await refuse(client, "workspace_open", repo=str(folder / "empty"))


@pytest.mark.parametrize("ref", ["mian", "nope", "0" * 40, "-x", "main^{tree}", "main..x"])
async def test_a_ref_that_does_not_exist_is_refused_with_help(connect: Connect, ref: str) -> None:
    """An unknown ref is named, and near ones are suggested; nothing is left of the attempt."""
    async with connect() as client:
        text = await refuse(client, "workspace_open", ref=ref)
        assert ref in text
        assert ref != "mian" or "Did you mean 'main'" in text
        assert "No workspaces" in await ask(client, "workspace_list")


async def test_without_a_repository_the_answer_says_how_to_name_one(connect: Connect) -> None:
    """A server with no default repository asks for one."""
    async with connect("legacy", default_repo=False) as client:
        assert "serve --repo" in await refuse(client, "workspace_open")


async def test_tools_before_opening_say_to_open_first(connect: Connect, era: str) -> None:
    """A call that needs a workspace when there is none names the tool that makes one."""
    async with connect(era) as client:
        assert "workspace_open" in await refuse(client, "read_file", path="x")


async def test_with_two_workspaces_one_must_be_named(connect: Connect) -> None:
    """With several open, a call without workspace= is refused and the ids are listed; named ones keep apart."""
    async with connect() as client:
        ids = [(await ask(client, "workspace_open")).split()[1] for _ in range(2)]
        text = await refuse(client, "bash", command="true")
        assert all(ws in text for ws in ids)
        await ask(client, "write_file", workspace=ids[0], path="only-here", content="1")
        assert "no 'only-here'" in await refuse(client, "read_file", workspace=ids[1], path="only-here")


@pytest.mark.parametrize("workspace", ["ws_0123456789abcdef0123456789abcdef", "ws_../../etc", "", "nonsense"])
async def test_an_unknown_workspace_is_refused(connect: Connect, workspace: str) -> None:
    """An id that is not one of the caller's looks like none at all."""
    async with connect() as client:
        assert "There is no workspace" in await refuse(client, "workspace_status", workspace=workspace)


async def test_status_names_branch_changes_limits_and_network(connect: Connect) -> None:
    """workspace_status says where the work stands and what bounds it, and how each bound is kept."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "write_file", path="new.txt", content="x\n")
        status = await ask(client, "workspace_status")
        assert "?? new.txt" in status
        assert "Network: none" in status
        assert "memory 4.0 GiB (" in status


async def test_closing_refuses_to_lose_work_unless_told(connect: Connect, folder: Path) -> None:
    """Uncommitted changes keep a workspace open; discard=true deletes it and its files."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "write_file", path="new.txt", content="x\n")
        assert "would be lost" in await refuse(client, "workspace_close")
        await ask(client, "workspace_close", discard=True)
        assert "No workspaces" in await ask(client, "workspace_list")
    assert list((folder / "state" / "workspaces").iterdir()) == []


async def test_a_workspace_survives_the_server(connect: Connect) -> None:
    """After a restart the workspace is listed, and everything written in it is there."""
    async with connect() as client:
        ws = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "write_file", path="kept.txt", content="kept\n")
    async with connect() as client:
        assert ws in await ask(client, "workspace_list")
        assert "reopened" in await ask(client, "workspace_open", workspace=ws)
        assert "kept" in await ask(client, "read_file", path="kept.txt")


async def test_an_idle_workspace_is_suspended_and_wakes(connect: Connect) -> None:
    """After idle_seconds the sandbox ends; the next call starts it again on the same files."""
    async with connect("legacy", environment={"REPOCELL_IDLE_SECONDS": "0.4"}) as client:
        ws = (await ask(client, "workspace_open")).split()[1]
        await ask(client, "bash", command="echo here > kept.txt")
        while "suspended" not in await ask(client, "workspace_list"):
            pass
        assert "here" in await ask(client, "read_file", workspace=ws, path="kept.txt")


async def test_a_repository_over_https_is_mirrored(connect: Connect, repo: Path, folder: Path, https_site: str) -> None:
    """An https URL is fetched by the host into a bare mirror and checked out in the cell."""
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", str(repo), str(folder / "site" / "r.git")], check=True, timeout=30
    )
    git(folder / "site" / "r.git", "update-server-info")
    environment = {"GIT_SSL_CAINFO": str(folder / "certificate.pem")}
    async with connect("legacy", environment=environment, default_repo=False) as client:
        opened = await ask(client, "workspace_open", repo=f"{https_site}/r.git")
        assert "calc.py" in opened
        text = await refuse(client, "workspace_open", repo=f"{https_site}/missing.git")
        assert "no such repository" in text


async def test_credentials_in_a_url_are_never_shown(connect: Connect, folder: Path, https_site: str) -> None:
    """A token in a URL appears in no answer and in no file of the cell or the state directory."""
    source = make_repo(folder / "other", {"a.txt": "a\n"})
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", str(source), str(folder / "site" / "p.git")], check=True, timeout=30
    )
    git(folder / "site" / "p.git", "update-server-info")
    url = f"{https_site.replace('://', '://me:s3cretT0ken@')}/p.git"
    environment = {"GIT_SSL_CAINFO": str(folder / "certificate.pem")}
    async with connect("legacy", environment=environment, default_repo=False) as client:
        texts = [await ask(client, "workspace_open", repo=url), await ask(client, "workspace_status")]
        texts.append(await ask(client, "bash", command="cat .git/config; grep -r s3cret /mirror .git || true"))
        assert "s3cretT0ken" not in "".join(texts)
        found = subprocess.run(
            ["grep", "-rl", "s3cretT0ken", str(folder / "state")], capture_output=True, text=True, timeout=30
        )
        assert found.stdout == ""


async def test_a_missing_mirror_is_made_again_by_opening(folder: Path, repo: Path) -> None:
    """Deleting the mirrors behind the server's back costs a fetch, nothing else."""
    async with connect_to_server(folder, ["--repo", str(repo)], "legacy") as client:
        await ask(client, "workspace_open")
        shutil.rmtree(folder / "state" / "mirrors")
        assert "calc.py" in await ask(client, "workspace_open")
