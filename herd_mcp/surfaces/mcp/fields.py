"""Arguments that several tools take, and small helpers for them."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import ToolAnnotations
from pydantic import Field

from herd_mcp.jobs import MAX_TAGS

Tags = Annotated[
    list[str] | None,
    Field(
        description="Labels kept with the job and counted in the statistics, for example the project.",
        max_length=MAX_TAGS,
    ),
]

WaitS = Annotated[
    float | None,
    Field(
        description='Seconds to wait for the result, then the answer is status "running" and the job goes on. '
        "Left out, as the node's settings say (45: some clients end a call after 60 s).",
        ge=0,
        le=3600,
    ),
]

JobId = Annotated[str, Field(description="The job_id that an earlier answer told.", min_length=1, max_length=128)]


def hints(
    *, read_only: bool = False, destructive: bool = False, idempotent: bool = False, open_world: bool = False
) -> ToolAnnotations:
    """What a tool does to the world, all of it said: left out, some would mean yes."""
    return ToolAnnotations(
        read_only_hint=read_only, destructive_hint=destructive, idempotent_hint=idempotent, open_world_hint=open_world
    )


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given; what was not is left to the defaults of the vocabulary."""
    return {name: value for name, value in arguments.items() if value is not None}


class TextStaysText(FuncMetadata):
    """The SDK reads texts that look like JSON as JSON, unless the argument is a plain `str`: some clients send lists
    so. A prompt that is JSON must stay the text it is, though, also where the argument is `str | None`."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        fields = self.arg_model.model_fields
        texts = {
            name: value
            for name, value in data.items()
            if isinstance(value, str) and name in fields and _takes_text(fields[name].annotation)
        }
        return super().pre_parse_json(data) | texts


def _takes_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    return get_origin(annotation) is not list and any(_takes_text(part) for part in get_args(annotation))


NAMED = ("properties", "$defs")
"""Keys of a JSON schema whose value has names of our own as keys."""


def slim(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema without what pydantic adds and nobody reads (titles, null defaults): agents pay by the token."""
    return {
        key: _slim_named(value) if key in NAMED else _slim_value(value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and value is None)
    }


def _slim_named(schemas: dict[str, Any]) -> dict[str, Any]:
    return {name: slim(schema) for name, schema in schemas.items()}


def _slim_value(value: Any) -> Any:
    if isinstance(value, dict):
        return slim(value)
    return [_slim_value(part) for part in value] if isinstance(value, list) else value
