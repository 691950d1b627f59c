"""What a tool is: a row with a name, an argument model, an effect, and a handler that knows neither MCP nor policy.

Lives here: the row, the call a handler gets, and the reply it gives. Handlers raise RepocellError for what the caller can
act on; the gate turns replies and errors into wire results.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ..models import Principal, ProbeReport
from ..repos import Repositories
from ..workspaces.lifecycle import Lifecycle
from ..workspaces.pool import Pool
from ..workspaces.workspace import Workspace

Effect = Literal["read", "write", "execute", "open"]
MAX_TEXT = 30_000


class Arguments(BaseModel):
    """Base of every tool's arguments: frozen, closed, and without the noise of titles in its schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


WorkspaceId = Annotated[str | None, Field(default=None, description="Id; needed when several are open.")]


class InWorkspace(Arguments):
    workspace: WorkspaceId = None


A = TypeVar("A", bound=Arguments, covariant=True)


class Progress(Protocol):
    """Tells the caller that something is still going on; does nothing when it did not ask."""

    async def __call__(self, done: float, total: float | None, message: str) -> None: ...


@dataclass(frozen=True)
class Services:
    """What handlers may use."""

    pool: Pool
    lifecycle: Lifecycle
    repositories: Repositories
    report: ProbeReport
    default_repo: str | None


@dataclass(frozen=True)
class Call(Generic[A]):
    """One parsed call: who, with which frozen arguments."""

    principal: Principal
    args: A
    progress: Progress


@dataclass(frozen=True)
class Image:
    data: bytes
    mime_type: str


@dataclass(frozen=True)
class Reply:
    """What the caller gets. `structured` only where it is small and says everything the text says: hosts show one of both."""

    text: str
    structured: Mapping[str, Any] | None = None
    image: Image | None = None
    failed: bool = False


@dataclass(frozen=True)
class Tool:
    """A row of the table. `description`: what, when not, limits; 200 to 600 characters."""

    name: str
    title: str
    toolset: str
    effect: Effect
    arguments: type[Arguments]
    handler: Callable[[Services, Call[Any]], Awaitable[Reply]]
    description: str
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    schema: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", compact(self.arguments.model_json_schema()))


def compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema without what costs tokens and says nothing: titles, nulls of optional arguments, null defaults."""
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: compact(item) for name, item in value.items()}
        elif key == "anyOf" and {"type": "null"} in value:
            found |= compact(next(item for item in value if item != {"type": "null"}))
        elif key == "items":
            found[key] = compact(value)
        elif key != "title" and not (key == "default" and value is None):
            found[key] = value
    return found


def workspace_of(services: Services, call: Call[InWorkspace]) -> Workspace:
    return services.pool.get(call.principal, call.args.workspace)
