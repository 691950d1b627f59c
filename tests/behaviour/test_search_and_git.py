"""grep, glob and git_diff, through a real client."""

from pathlib import Path

import pytest

from harness import Connect, ask, git, refuse

pytestmark = pytest.mark.anyio


async def test_grep_has_three_modes(connect: Connect, era: str) -> None:
    """Files, content with line numbers, and counts, each with a total."""
    async with connect(era) as client:
        await ask(client, "workspace_open")
        assert await ask(client, "grep", pattern="return") == "calc.py\n(1 files)"
        content = await ask(client, "grep", pattern="return", output_mode="content")
        assert content == "calc.py:2:    return a - b\ncalc.py:6:    return 2 * x\n(2 matching lines)"
        assert await ask(client, "grep", pattern="return", output_mode="count") == "calc.py:2\n(1 files, 2 matches)"


async def test_grep_shows_context(connect: Connect) -> None:
    """Lines around a match carry a dash instead of a colon."""
    async with connect() as client:
        await ask(client, "workspace_open")
        text = await ask(client, "grep", pattern="2 \\*", output_mode="content", before=1)
        assert text == "calc.py-5-def double(x):\ncalc.py:6:    return 2 * x\n(1 matching lines)"


async def test_grep_narrows_by_path_glob_type_and_case(connect: Connect) -> None:
    """path, glob, type and ignore_case restrict or widen as their names say."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "(2 files)" in await ask(client, "grep", pattern="add")
        assert await ask(client, "grep", pattern="add", path="tests") == "tests/test_calc.py\n(1 files)"
        assert "(1 files)" in await ask(client, "grep", pattern="add", glob="!tests/**")
        assert "No matches" in await ask(client, "grep", pattern="add", type="js")
        assert "(3 files)" in await ask(client, "grep", pattern="ADD", ignore_case=True)
        found = await ask(client, "grep", pattern="add.*\\n.*a - b", multiline=True)
        assert found == "calc.py\n(1 files)"


async def test_grep_pages(connect: Connect) -> None:
    """head_limit and offset walk through all results exactly once, in path order."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="for i in $(seq 100 149); do echo hit > f$i; done")
        first = await ask(client, "grep", pattern="^hit$", head_limit=30)
        assert "(50 files; go on with offset=30" in first
        rest = await ask(client, "grep", pattern="^hit$", head_limit=30, offset=30)
        seen = [line for line in (first + "\n" + rest).splitlines() if line.startswith("f")]
        assert seen == [f"f{n}" for n in range(100, 150)]


async def test_grep_sees_hidden_files_but_not_ignored_ones_nor_git(connect: Connect) -> None:
    """.github is searched; .git and what .gitignore names are not."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(
            client, "bash", command="mkdir .github out; echo zebra | tee .github/a out/b .git/c; echo out > .gitignore"
        )
        assert await ask(client, "grep", pattern="zebra") == ".github/a\n(1 files)"
        assert ".github/a" in await ask(client, "glob", pattern="**/a")
        assert "1 ignored files would: out/b" in await ask(client, "glob", pattern="out/*")
        for pattern in ("**", "**/*", ".git/**"):
            assert ".git/" not in await ask(client, "glob", pattern=pattern)
            assert ".git/" not in await ask(client, "grep", pattern="zebra", glob=pattern)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pattern": "("}, "regex parse error: unclosed group. To find a parenthesis itself"),
        ({"pattern": "[z-a]"}, "regex"),
        ({"pattern": "(?<=a)b"}, "grep -P in bash"),
        ({"pattern": "a\nb"}, "Set multiline"),
        ({"pattern": "a{"}, "write \\{"),
        ({"pattern": "a", "glob": "{a"}, "unclosed alternate group"),
        ({"pattern": "a", "type": "tsx"}, "Did you mean 'ts'"),
        ({"pattern": "a", "type": "javascript"}, "'js'"),
        ({"pattern": "a", "type": "zzzz"}, "glob='*.ext'"),
    ],
)
async def test_a_bad_search_is_explained(connect: Connect, arguments: dict[str, str], says: str) -> None:
    """ripgrep's own words reach the caller, with what to do about it here."""
    async with connect() as client:
        await ask(client, "workspace_open")
        said = await refuse(client, "grep", **arguments)
        assert says in said
        assert "--" not in said


@pytest.mark.parametrize("pattern", ["--files", "-e", "--pre=id", "-rf"])
async def test_a_pattern_is_never_an_option(connect: Connect, pattern: str) -> None:
    """Patterns and globs that look like options are searched for literally."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "write_file", path="opt.txt", content=f"x {pattern} y\n")
        assert await ask(client, "grep", pattern=pattern) == "opt.txt\n(1 files)"
        await ask(client, "glob", pattern=pattern)


async def test_glob_finds_by_name_anywhere_or_by_path(connect: Connect) -> None:
    """Without a slash a pattern matches at any depth; with one it is anchored; braces and classes work."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert await ask(client, "glob", pattern="*.py") == "calc.py\ntests/test_calc.py\n(2 files)"
        assert await ask(client, "glob", pattern="tests/*.py") == "tests/test_calc.py\n(1 files)"
        assert await ask(client, "glob", pattern="*.py", path="tests") == "tests/test_calc.py\n(1 files)"
        assert await ask(client, "glob", pattern="*.{md,txt}") == "README.md\n(1 files)"
        assert await ask(client, "glob", pattern="[cR]*") == "README.md\ncalc.py\n(2 files)"


async def test_glob_says_what_else_would_match(connect: Connect) -> None:
    """A pattern may be absolute in the cell; one that names directories only says so; a file is no place to search in."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert await ask(client, "glob", pattern="/workspace/tests/*.py") == "tests/test_calc.py\n(1 files)"
        assert await ask(client, "glob", pattern="/workspace/tests/*", path="tests") == "tests/test_calc.py\n(1 files)"
        for pattern in ("tests", "test*/"):
            assert "tests would match: add /**" in await ask(client, "glob", pattern=pattern)
        assert "list_dir shows" in await ask(client, "glob", pattern="*.nothing")
        assert "is a file" in await refuse(client, "glob", pattern="*", path="calc.py")
        assert "runs backwards" in await refuse(client, "glob", pattern="[z-a]")


async def test_pages_of_context_count_lines_and_not_separators(connect: Connect) -> None:
    """A separator belongs to the line it stands before: no page begins or ends with one, and none is lost."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "bash", command="for i in 1 2 3; do echo hit $i; seq 11 15; done | tee s1 > s2")
        arguments = {"pattern": "hit", "output_mode": "content", "context": 1, "glob": "s?"}
        everything = (await ask(client, "grep", **arguments)).splitlines()
        pages = [
            (await ask(client, "grep", **arguments, head_limit=4, offset=at)).splitlines() for at in range(0, 16, 4)
        ]
        assert everything[-1] == "(6 matching lines)"
        assert not {"--"} & {line for page in pages for line in (page[0], page[-2])}
        joined = [line for page in pages for line in page[:-1] if line != "--"]
        assert joined == [line for line in everything[:-1] if line != "--"]
        assert everything.count("--") == 5


async def test_a_match_far_inside_a_long_line_is_shown(connect: Connect) -> None:
    """A long line is clipped around what matched, and binary files that are named say that they match."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(
            client,
            "bash",
            command="(head -c 9000 /dev/zero | tr '\\0' x; echo needle; ) > long; "
            "(printf 'y%.0s' $(seq 20000); echo needle) > longer; printf 'needle\\0' > bin",
        )
        found = await ask(client, "grep", pattern="needle", output_mode="content", path="long")
        assert found.startswith("long:1:...xxx")
        assert "xneedle (match at column 9,001" in found
        assert "match at column 20,001" in await ask(
            client, "grep", pattern="needle", output_mode="content", path="longer"
        )
        assert "bin: matches, but binary" in await ask(
            client, "grep", pattern="needle", output_mode="content", path="bin"
        )


async def test_a_search_below_a_missing_path_says_so(connect: Connect) -> None:
    """A path that does not exist is an error with a suggestion, not 'no matches'."""
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "Did you mean 'tests'" in await refuse(client, "grep", pattern="x", path="test")
        assert "There is no" in await refuse(client, "glob", pattern="x", path="nowhere")


async def test_the_diff_has_new_files_and_leaves_the_index_alone(connect: Connect) -> None:
    """Untracked files appear as additions; git status in the cell is the same before and after."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(client, "write_file", path="new dir/new.txt", content="hello\n")
        await ask(client, "bash", command="rm README.md; echo '# end' >> calc.py; git add calc.py")
        before = await ask(client, "bash", command="git status --porcelain; sha1sum .git/index")
        diff = await ask(client, "git_diff")
        assert "+++ b/new dir/new.txt" in diff
        assert "+# end" in diff
        assert "deleted file" in diff
        after = await ask(client, "bash", command="git status --porcelain; sha1sum .git/index")
        assert before.rpartition("[exit")[0] == after.rpartition("[exit")[0]


async def test_the_diff_takes_a_base_a_path_and_stat(connect: Connect, repo: Path) -> None:
    """base compares with an earlier commit, path narrows, stat summarises."""
    (repo / "calc.py").write_text("def add(a, b):\n    return a + b\n")
    git(repo, "commit", "--quiet", "--all", "--message", "second")
    async with connect() as client:
        await ask(client, "workspace_open")
        assert "Nothing differs from HEAD." in await ask(client, "git_diff")
        assert "+    return a + b" in await ask(client, "git_diff", base="HEAD~1")
        assert "calc.py | " in await ask(client, "git_diff", base="HEAD~1", stat=True)
        assert "Nothing differs" in await ask(client, "git_diff", base="HEAD~1", path="README.md")
        assert "git could not compare with 'nope'" in await refuse(client, "git_diff", base="nope")
        assert "base" in await refuse(client, "git_diff", base="--output=x")


async def test_the_diff_runs_nothing_the_repository_names(connect: Connect) -> None:
    """External diff drivers and text converters set in the cell are not run by the tool."""
    async with connect() as client:
        await ask(client, "workspace_open")
        await ask(
            client,
            "bash",
            command="git config diff.external 'touch /workspace/ran;false'; git config diff.x.textconv 'touch ran;cat'; "
            "echo '* diff=x' > .gitattributes; echo z >> calc.py",
        )
        assert "+z" in await ask(client, "git_diff")
        assert "ran" not in await ask(client, "glob", pattern="ran")
