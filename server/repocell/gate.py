"""The one path every call takes: find the row, parse, decide, record, run, record, render.

Lives here: that path, and the table that turns errors into wire outcomes. Besides auth.py and app.py the only module that
knows MCP. It may not know what any tool does.
"""

import base64
import difflib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from pydantic import ValidationError

from .audit import AuditLog, digest_arguments
from .auth import WhoIsCalling
from .errors import (
    Denied,
    InvalidArguments,
    NoSuchResource,
    OurBug,
    OutcomeUnrecorded,
    RepocellError,
    StateUnusable,
    suggest,
)
from .policy.decide import Facts, decide
from .store import Store
from .tools import resources
from .tools.base import Arguments, Call, Progress, Reply, Services, Tool
from .workspaces.workspace import Workspace

_log = logging.getLogger(__name__)
MAX_RESULT = 40_000  # characters of text: a tool that forgets its own bound is cut here
Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class Ground:
    """What a call stands on: what handlers may use, the record, and where its head is kept."""

    services: Services
    audit: AuditLog
    store: Store


Ready = Callable[[], Awaitable[Ground]]
"""Waits until there is ground to stand on. Raises Misconfigured when there will be none."""


class Gate:
    """Holds the table, who is calling, and the way to the ground; one per server."""

    def __init__(self, tools: Mapping[str, Tool], ready: Ready, who: WhoIsCalling) -> None:
        self._tools, self._ready, self._who = tools, ready, who
        self._listed = types.ListToolsResult(tools=[_listed(tool) for tool in tools.values()])

    async def list_tools(self, _context: Context, _params: object) -> types.ListToolsResult:
        return self._listed

    async def call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """Answers one tools/call. Nothing runs before its decision is on disk."""
        tool = self._tools.get(params.name)
        if tool is None:
            raise _unknown_tool(params.name, self._tools)
        try:
            return _rendered(await self._answer(context, tool, params.arguments or {}))
        except RepocellError as error:
            return _refused(str(error))

    async def _answer(self, context: Context, tool: Tool, raw: Mapping[str, Any]) -> Reply:
        """The one path: parse, decide, record, run, record. Raises RepocellError for whatever goes wrong on it."""
        try:
            arguments = parse(tool, raw)
            principal = self._who()
            ground = await self._ready()
            verdict = decide(Facts(tool=tool.name, effect=tool.effect))
            entry = ground.audit.write(
                "decided", principal=principal.name, tool=tool.name, arguments=digest_arguments(arguments.model_dump()),
                verdict=verdict.decision, rule=verdict.rule, client=_client(context),
            )  # fmt: skip
            if verdict.decision != "allow":
                raise Denied(f"{tool.name} was not run: {verdict.reason} (rule {verdict.rule})")
            return await _run(ground, tool, Call(principal, arguments, _progress(context)), entry)
        except RepocellError:
            raise
        except OSError as error:  # of the host: what a cell's files answer comes as RepocellError
            _log.exception("%s failed", tool.name)
            raise StateUnusable(tool.name, error.strerror or "unknown error") from None
        except Exception as error:  # a bug of ours must not reach the model as a traceback
            _log.exception("%s failed", tool.name)
            raise OurBug(tool.name) from error

    # -- resources: the same reads, by address

    async def list_templates(self, _context: Context, _params: object) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=[
            types.ResourceTemplate(
                uri_template=each.uri, name=each.name, title=each.title, description=each.description,
                mime_type=each.mime_type,
            )
            for each in resources.TEMPLATES
        ])  # fmt: skip

    async def list_resources(self, _context: Context, _params: object) -> types.ListResourcesResult:
        """The diff and the top directory of each of the caller's workspaces; what is in them has templates."""
        mine = await self._mine()
        return types.ListResourcesResult(resources=[
            types.Resource(uri=resources.address(ws.id, path), name=f"{ws.record.repo} {ws.record.branch}: {what}")
            for ws in mine for path, what in ((None, "changes"), ("", "files"))
        ])  # fmt: skip

    async def _mine(self) -> Sequence[Workspace]:
        """The caller's workspaces. Raises MCPError where the server has no ground to stand on."""
        try:
            return (await self._ready()).services.pool.list(self._who())
        except RepocellError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """Answers one resources/read, on the path every call takes. Raises MCPError with the address in its data."""
        found = resources.find(str(params.uri))
        try:
            if found is None:
                raise NoSuchResource(str(params.uri), [each.uri for each in resources.TEMPLATES])
            return _contents(str(params.uri), await self._answer(context, *found))
        except RepocellError as error:
            raise MCPError(types.INVALID_PARAMS, str(error), {"uri": str(params.uri)}) from error

    async def complete(self, context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        """What an argument of a template may become; nothing where nothing fits."""
        name, begun = params.argument.name, params.argument.value
        given = (params.context.arguments if params.context else None) or {}
        values: Sequence[str] = ()
        if name == "workspace":
            values = [ws.id for ws in await self._mine() if ws.id.startswith(begun)]
        elif name == "path":
            with suppress(RepocellError):
                raw = {"workspace": given.get("workspace"), "path": begun}
                values = ((await self._answer(context, resources.COMPLETE, raw)).structured or {})["values"]
        shown = [*values[: resources.MAX_COMPLETIONS]]
        return types.CompleteResult(completion=types.Completion(values=shown, total=len(values)))


async def _run(ground: Ground, tool: Tool, call: Call[Any], entry: int) -> Reply:
    """Runs what was decided and records what came of it, cancelled or not."""
    outcome, recorded, started = "cancelled", False, time.monotonic()
    try:
        reply = await tool.handler(ground.services, call)
        outcome = "failed" if reply.failed else "done"
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        took = round(time.monotonic() - started, 6)
        recorded = ground.audit.conclude("outcome", of=entry, outcome=outcome, seconds=took)
    if not recorded:
        raise OutcomeUnrecorded(tool.name, outcome)
    return reply


def parse(tool: Tool, arguments: Mapping[str, Any]) -> Arguments:
    """The frozen arguments. Raises InvalidArguments naming every problem, and what was probably meant."""
    try:
        return tool.arguments.model_validate(arguments)
    except ValidationError as error:
        known = list(tool.arguments.model_fields)
        raise InvalidArguments(tool.name, [*_problems(error, known)]) from None


def _problems(error: ValidationError, known: Sequence[str]) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            hint = suggest(difflib.get_close_matches(name, known, n=1, cutoff=0.5)) or f" It takes: {', '.join(known)}."
            yield f"there is no argument {name!r}.{hint}".rstrip(".")
        elif problem["type"] == "missing":
            yield f"the argument {name!r} is required"
        else:
            yield f"{name}: {problem['msg'].removeprefix('Value error, ').rstrip('.')}"


def _unknown_tool(name: str, tools: Mapping[str, Tool]) -> MCPError:
    hint = suggest(difflib.get_close_matches(name, list(tools), n=3, cutoff=0.5))
    return MCPError(types.INVALID_PARAMS, f"There is no tool {name!r}.{hint}")


def _client(context: Context) -> str:
    """What the client calls itself; a claim, not an identity."""
    params = context.session.client_params
    return f"{params.client_info.name} {params.client_info.version}"[:100] if params is not None else "unknown"


def _progress(context: Context) -> Progress:
    async def report(done: float, total: float | None, message: str) -> None:
        await context.session.report_progress(done, total, message)

    return report


def _rendered(reply: Reply) -> types.CallToolResult:
    text = reply.text if len(reply.text) <= MAX_RESULT else f"{reply.text[:MAX_RESULT]}\n[cut]"
    content: list[types.ContentBlock] = [types.TextContent(type="text", text=text)]
    if reply.image is not None:
        data = base64.b64encode(reply.image.data).decode("ascii")
        content.append(types.ImageContent(type="image", data=data, mime_type=reply.image.mime_type))
    structured = dict(reply.structured) if reply.structured is not None else None
    return types.CallToolResult(content=content, structured_content=structured, is_error=reply.failed)


def _contents(uri: str, reply: Reply) -> types.ReadResourceResult:
    if reply.image is None:
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, text=reply.text, mime_type="text/plain")]
        )
    blob = base64.b64encode(reply.image.data).decode("ascii")
    return types.ReadResourceResult(
        contents=[types.BlobResourceContents(uri=uri, blob=blob, mime_type=reply.image.mime_type)]
    )


def _refused(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)


def _listed(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=dict(tool.schema),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.effect == "read",
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=tool.open_world,
        ),
    )
