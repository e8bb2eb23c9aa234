"""pull_model: the gate is real; the download itself is not in this build."""

# No `from __future__ import annotations`: the SDK reads the annotations of the tool and of `ask` by evaluating them,
# and `Resolve(ask)` names a local function.

import re
import shlex
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp_types import CallToolResult
from pydantic import Field

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.surfaces.mcp import results
from herd_mcp.surfaces.mcp.fields import hints
from herd_mcp.surfaces.mcp.gate import TOKEN_LIFE_S, Agreed, Confirmation, TokenNeeded, Tokens, can_ask
from herd_mcp.surfaces.mcp.results import Answer

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

DESCRIPTION = """\
Get a model from Hugging Face onto a Mac of this herd. It takes gigabytes of disk and network, so a person must agree: \
clients that can show a form ask by themselves; with others the first call answers status "confirmation_required" with \
what would be downloaded and a confirm_token. Tell the person, and only after their explicit yes call again with the \
token. Never agree in their place. This build has the gate but cannot download yet; after the yes it says which \
command does."""

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")


class PullAnswer(Answer):
    status: Literal["present", "confirmation_required", "failed"]
    model: str | None = None
    repository: str | None = Field(None, description="Where it would come from.")
    confirm_token: str | None = Field(None, description="For the second call, after the person's yes.")
    expires_in_s: float | None = None


class Present(Answer):
    """The model is on this Mac already, so there is nothing to ask."""


def add_pull_tool(mcp: MCPServer, herd: "Herd") -> None:
    """Register pull_model with a gate of its own."""
    tokens = Tokens()

    async def ask(
        ctx: Context[Any, Any], model: str, node: str, confirm_token: str | None
    ) -> Elicit[Confirmation] | Agreed | TokenNeeded | Present:
        check_name(model)
        await check_node(herd, node)
        if await present(herd, model):
            return Present()
        if herd.settings.confirm == "terminal":
            raise HerdError(
                ErrorCode.CONFIRMATION_REQUIRED,
                'Downloads are confirmed in a terminal only (setting confirm = "terminal").',
                "The command for it is `herd-mcp pull`, which this build does not have yet. "
                + by_hand(herd.repository(model)),
            )
        if can_ask(ctx):  # also when a token came: the form of a client that has one is never passed by
            return Elicit(question(model, herd.repository(model), node), Confirmation)
        if confirm_token is None:
            return TokenNeeded(token=tokens.issue("pull", model, node), expires_in_s=TOKEN_LIFE_S)
        tokens.spend(confirm_token, "pull", model, node)
        return Agreed()

    async def pull_model(
        model: Annotated[
            str, Field(description="A repository of Hugging Face (owner/name) or a known short name.", max_length=256)
        ],
        answer: Annotated[ElicitationResult[Any], Resolve(ask)],
        node: Annotated[str, Field(description="The Mac to put it on.", max_length=64)] = "any",
        confirm_token: Annotated[
            str | None,
            Field(description="From the first call; only after the person's explicit yes.", max_length=256),
        ] = None,
    ) -> Annotated[CallToolResult, PullAnswer]:
        outcome = answer.data if isinstance(answer, AcceptedElicitation) else None
        repository = herd.repository(model)
        if isinstance(outcome, Present):
            return results.answer(
                PullAnswer(status="present", model=model, repository=repository), f"{model} is on this Mac already."
            )
        if isinstance(outcome, TokenNeeded):
            return first_step(model, repository, node, outcome)
        if not (isinstance(outcome, Agreed) or (isinstance(outcome, Confirmation) and outcome.confirm)):
            raise HerdError(
                ErrorCode.NOT_CONFIRMED,
                f"The person did not agree to download {model}.",
                "Do not ask again unless they bring it up.",
            )
        raise HerdError(
            ErrorCode.NOT_BUILT_YET,
            f"The download of {model} is confirmed, but this build cannot download models yet.",
            by_hand(repository),
            details={"repository": repository} if repository else {},
        )

    mcp.add_tool(
        pull_model,
        title="Download a model",
        description=DESCRIPTION,
        annotations=hints(destructive=True, idempotent=True, open_world=True),
        meta={"anthropic/requiresUserInteraction": True},
    )


def check_name(model: str) -> None:
    """Raises HerdError(invalid_request) for what is neither a repository nor a short name."""
    if not NAME.fullmatch(model):
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            "model: that is no name of a model.",
            "Pass a repository of Hugging Face as owner/name, or a short name such as z-image-turbo.",
            details={"fields": ["model"]},
        )


async def check_node(herd: "Herd", node: str) -> None:
    """Raises HerdError(no_node) for a node that this herd does not have."""
    names = [name for state in await herd.nodes() for name in (state.name, state.node_id)]
    if node not in ("any", *names):
        raise HerdError(
            ErrorCode.NO_NODE,
            f"There is no node {node!r} in this herd.",
            f"Pass any, or one of: {', '.join(names[::2])}.",
        )


async def present(herd: "Herd", model: str) -> bool:
    """Whether a complete model of this name is here."""
    wanted = {model.lower(), (herd.repository(model) or model).lower()}
    return any(
        known.complete and wanted & {name.lower() for name in (known.name, *known.aliases)}
        for known in await herd.models()
    )


def question(model: str, repository: str | None, node: str) -> str:
    """What the person is asked. The same on every round, or the SDK would ask again."""
    source = (
        f"the repository {repository} of Hugging Face" if repository else "a repository that this build does not know"
    )
    where = "this herd" if node == "any" else f"the node {node}"
    return (
        f"Download the model {model} from {source} to {where}? Its size is not known beforehand; models take gigabytes."
    )


def first_step(model: str, repository: str | None, node: str, needed: TokenNeeded) -> CallToolResult:
    """The answer to a client that cannot ask: the token with which it comes back."""
    return results.answer(
        PullAnswer(
            status="confirmation_required",
            model=model,
            repository=repository,
            confirm_token=needed.token,
            expires_in_s=needed.expires_in_s,
        ),
        f"{question(model, repository, node)}\nA person must agree to this. Ask them now; only after their "
        f"explicit yes call pull_model again with the same arguments and confirm_token {needed.token!r} "
        "(good for five minutes, once).",
    )


def by_hand(repository: str | None) -> str:
    """How a person gets the model without this tool."""
    command = f"uvx --from huggingface_hub hf download {shlex.quote(repository) if repository else 'OWNER/NAME'}"
    return f"The person can run `{command}` in a terminal; herd-mcp then finds it in the Hugging Face cache by itself."
