"""Resources and completions: what a host can show of a workspace by its address."""

import base64
import json
from pathlib import Path

import pytest
from mcp import Client, MCPError
from mcp_types import BlobResourceContents, ResourceTemplateReference, TextResourceContents

from harness import Connect, ask

pytestmark = pytest.mark.anyio
FILES = ResourceTemplateReference(uri="repocell://{workspace}/files/{+path}")


async def opened(client: Client) -> str:
    return (await ask(client, "workspace_open")).split()[1]


async def shown(client: Client, uri: str) -> str:
    content = (await client.read_resource(uri)).contents[0]
    assert isinstance(content, TextResourceContents)
    return content.text


async def test_a_workspaces_files_and_diff_have_addresses(connect: Connect, era: str) -> None:
    """The list names diff and top directory of each workspace; files are read as they are, directories as a list."""
    async with connect(era) as client:
        ws = await opened(client)
        await ask(
            client, "bash", command="echo '# ä' > 'odd name ?#%.md'; printf '\\0\\1' > raw; sed -i s/-/+/ calc.py"
        )
        listed = [str(each.uri) for each in (await client.list_resources()).resources]
        assert listed == [f"repocell://{ws}/diff", f"repocell://{ws}/files/"]
        templates = [each.uri_template for each in (await client.list_resource_templates()).resource_templates]
        assert templates == ["repocell://{workspace}/files/{+path}", "repocell://{workspace}/diff"]
        assert await shown(client, f"repocell://{ws}/files/README.md") == "# calc\n\nAdds numbers.\n"
        assert await shown(client, f"repocell://{ws}/files/odd%20name%20%3F%23%25.md") == "# ä\n"
        assert "test_calc.py" in await shown(client, f"repocell://{ws}/files/tests")
        assert "+    return a + b" in await shown(client, f"repocell://{ws}/diff")
        raw = (await client.read_resource(f"repocell://{ws}/files/raw")).contents[0]
        assert isinstance(raw, BlobResourceContents)
        assert base64.b64decode(raw.blob) == b"\0\1"


@pytest.mark.parametrize(
    "uri",
    ["repocell://{ws}/files/nope.py", "repocell://{ws}/files/../../etc/passwd", "repocell://{ws}/files/%2Fetc%2Fpasswd",
     "repocell://{ws}/files/out", "repocell://{ws}/other", "repocell://ws_00000000000000000000000000000000/diff",
     "file:///etc/passwd"],
)  # fmt: skip
async def test_what_is_not_there_is_an_error_with_the_address(connect: Connect, uri: str) -> None:
    """Missing files, paths outside, links out of the workspace and foreign addresses say so and show nothing."""
    async with connect() as client:
        ws = await opened(client)
        await ask(client, "bash", command="ln -s /etc/passwd out")
        uri = uri.format(ws=ws)
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
        assert caught.value.error.data == {"uri": uri}
        assert "root:" not in caught.value.error.message


async def test_arguments_of_an_address_are_completed(connect: Connect, era: str) -> None:
    """Workspace ids and paths are completed from what is there; directories end with a slash."""
    async with connect(era) as client:
        ws = await opened(client)
        found = await client.complete(FILES, {"name": "workspace", "value": ws[:5]})
        assert found.completion.values == [ws]
        within = {"workspace": ws}
        found = await client.complete(FILES, {"name": "path", "value": "te"}, context_arguments=within)
        assert found.completion.values == ["tests/"]
        found = await client.complete(FILES, {"name": "path", "value": "tests/TEST"}, context_arguments=within)
        assert found.completion.values == ["tests/test_calc.py"]
        for nothing in ("nope/x", "../", "/etc/"):
            found = await client.complete(FILES, {"name": "path", "value": nothing}, context_arguments=within)
            assert found.completion.values == []


async def test_reading_by_address_is_recorded_like_a_call(connect: Connect, folder: Path) -> None:
    """A resource read stands in the audit record before it happens, under the name of the tool that reads the same."""
    async with connect() as client:
        ws = await opened(client)
        await shown(client, f"repocell://{ws}/files/README.md")
    (log,) = (folder / "state" / "audit").glob("*.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (decided,) = [record for record in records if record["event"] == "decided" and record["tool"] == "read_file"]
    assert "README.md" in decided["arguments"]["preview"]
    assert [record["outcome"] for record in records if record.get("of") == decided["n"]] == ["done"]
