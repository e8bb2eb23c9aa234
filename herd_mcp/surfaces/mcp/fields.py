"""Arguments that several tools take, and small helpers for them."""

from __future__ import annotations

from typing import Annotated, Any

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


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given; what was not is left to the defaults of the vocabulary."""
    return {name: value for name, value in arguments.items() if value is not None}
