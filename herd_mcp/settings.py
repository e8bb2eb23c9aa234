"""Every setting once: name, type, default, unit and why. `config.toml` in HERD_HOME, overridden by HERD_* variables.

docs/settings.md is generated from this file (`uv run python -m herd_mcp.settings`) and a test compares the two.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from herd_mcp import bridge
from herd_mcp.jobs import MAX_STEPS, SHOWN_CHARS, ErrorCode, HerdError, problems_of

MIB = 1024 * 1024
GIB = 1024 * MIB
MOST_BYTES = 2**60
"""More than any machine has; beyond, numbers do not fit into what engines are told."""


def home() -> Path:
    """HERD_HOME, or ~/.herd, as an absolute path."""
    return Path(bridge.herd_home())


Short = Literal["moderate", "high", "critical"]
"""How short of memory this Mac is; a level that a setting does not name is without its limit."""


def _default_name() -> str:
    return platform.node().removesuffix(".local").removesuffix(".lan") or "mac"


def _names(value: Any) -> Any:
    """Names as a list in TOML, or with commas between in a variable."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _paths(value: Any) -> Any:
    """Folders as a list in TOML, or joined by the system's path separator in a variable."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = "|".join(DAYS)
_PAUSE_TIME = re.compile(rf"(?:({_DAY})(?:-({_DAY}))? +)?(\d{{1,2}}):(\d\d)-(\d{{1,2}}):(\d\d)", re.IGNORECASE)
DAY_MINUTES = 24 * 60


class PauseTime(NamedTuple):
    """A time of some days of the week (0 is Monday), in minutes of the day. One that ends before it begins ends on the
    day after."""

    days: frozenset[int]
    begins: int
    ends: int


def pause_time(text: str) -> PauseTime:
    """`mon-fri 9:00-17:30`, `sat 0:00-24:00`, `22:00-6:00`. Raises ValueError."""
    found = _PAUSE_TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:SHOWN_CHARS]!r} is no time such as `9:00-17:30` or `mon-fri 9:00-17:30`")
    first, last = (found[1] or "mon").lower(), (found[2] or found[1] or "sun").lower()
    begin, count = DAYS.index(first), (DAYS.index(last) - DAYS.index(first)) % 7 + 1
    begins, ends = (int(found[at]) * 60 + int(found[at + 1]) for at in (3, 5))
    if max(int(found[4]), int(found[6])) > 59 or begins >= DAY_MINUTES or ends > DAY_MINUTES or begins == ends:
        raise ValueError(f"{text[:SHOWN_CHARS]!r} has no such hours: from 0:00 to 24:00, and two that differ")
    return PauseTime(frozenset((begin + day) % 7 for day in range(count)), begins, ends)


def _pause_times(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        pause_time(text)
    return texts


class ModelSettings(BaseModel):
    """What one model has of its own, under `[models."NAME"]` in config.toml. What is left out is as for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pinned: bool = False
    idle_unload_s: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    context_tokens: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1, le=256)


class Settings(BaseSettings):
    """The settings of one node. Unknown names in config.toml are refused, so a typing error is not silently ignored."""

    model_config = SettingsConfigDict(env_prefix="HERD_", extra="forbid", frozen=True, populate_by_name=True)

    node_name: str = Field(
        default_factory=_default_name,
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="What this Mac is called in tables and headers. Default: its host name.",
    )
    port: int = Field(
        11435,
        ge=0,
        le=65535,
        description="TCP port for clients on 127.0.0.1; 0 takes a free one.",
    )
    model_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        (),
        validation_alias=AliasChoices("HERD_MODEL_DIRS", "MLX_MODEL_DIR"),
        description="Folders to look for models in, besides the Hugging Face cache and HERD_HOME/models. "
        "As a variable: separated by colons; MLX_MODEL_DIR is read too.",
    )
    hf_cache: Path | None = Field(
        None,
        description="The Hugging Face cache to read. Default: what HF_HUB_CACHE, HF_HOME or the library's default say.",
    )
    chat_model: str | None = Field(
        None,
        description="The chat model when a request names none. Default: a loaded one, else the largest complete one.",
    )
    image_model: str | None = Field(
        None, description="The image model when a request names none. Default: as for chat_model."
    )
    image_quantize: Literal[0, 3, 4, 5, 6, 8] = Field(
        8,
        description="Bits per weight for image models that come unquantised, when a request does not say; 0 leaves "
        "them as they are. 8 halves the memory at no visible cost.",
    )
    max_image_px: int = Field(
        2048, ge=64, le=8192, description="Longest side of an image in pixels; memory grows with its square."
    )
    queue_limit: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Jobs that may wait for one engine; the next is told `busy` with the seconds to wait.",
    )
    chat_batch: int = Field(32, ge=1, le=256, description="Chats that one engine answers at the same time, at most.")
    prompt_cache_bytes: int = Field(
        1 * GIB,
        ge=0,
        le=MOST_BYTES,
        description="Bytes of finished conversations that a chat engine keeps, so that the next turn starts sooner.",
    )
    idle_unload_s: float = Field(
        300, ge=0, description="Seconds after which an engine without work ends and gives its memory back; 0 keeps it."
    )
    load_timeout_s: float = Field(900, gt=0, description="Seconds a model may take to load before its engine is ended.")
    engine_stall_s: float = Field(
        180,
        gt=0,
        description="Seconds an engine with work may be silent before it is taken for hung and ended. "
        "Longer than the slowest single step on this Mac.",
    )
    image_hand_over: Literal["auto", "step", "block"] = Field(
        "auto",
        description="Where an image lets a waiting chat to the GPU: after each `step`, or also after each `block` of "
        "the model, which shortens the gaps between the chat's words and forgoes compiling. `auto`: block without a "
        "GPU, step with one.",
    )
    job_timeout_s: float = Field(
        3600, gt=0, description="Seconds a job may take from acceptance to its end; then it is cancelled."
    )
    max_tokens: int = Field(
        4096, ge=1, le=1_000_000, description="Tokens of an answer when a request does not say how many."
    )
    context_tokens: int | None = Field(
        None,
        ge=64,
        description="Longest conversation in tokens, prompt and answer together. Default: the model's own limit.",
    )
    max_steps: int = Field(MAX_STEPS, ge=1, le=MAX_STEPS, description="Most steps of an image.")
    preload: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (), description="Models to load when the node starts, in this order."
    )
    max_loaded: int = Field(
        0, ge=0, le=64, description="Models loaded at the same time at most, beside what memory allows; 0 is no limit."
    )
    models: dict[str, ModelSettings] = Field(
        default_factory=dict,
        description="What single models have of their own: `pinned` (never ended to make room, nor for being idle), "
        "`idle_unload_s`, `max_tokens`, `context_tokens`, `batch`.",
    )
    pressure_max_tokens: dict[Short, Annotated[int, Field(ge=1)]] = Field(
        {"moderate": 8192, "high": 2048, "critical": 512},
        description="Longest answer in tokens while this Mac is short of memory, by how short. An answer that is cut "
        "so says so.",
    )
    pressure_context_tokens: dict[Short, Annotated[int, Field(ge=64, le=10**9)]] = Field(
        {"high": 32768, "critical": 8192},
        description="Longest conversation in tokens, prompt and answer together, that is begun while this Mac is short "
        "of memory. A longer one is refused with the seconds to wait.",
    )
    pressure_max_image_px: dict[Short, Annotated[int, Field(ge=64, le=8192)]] = Field(
        {"moderate": 1536, "high": 1024, "critical": 512},
        description="Largest image that is begun while this Mac is short of memory, as the side of a square in pixels; "
        "other shapes may have as many pixels. A larger one is refused with the seconds to wait, never made smaller.",
    )
    pressure_max_steps: dict[Short, Annotated[int, Field(ge=2)]] = Field(
        {},
        description="Most steps of an image while this Mac is short of memory; the image says when it has fewer than "
        "asked. Steps cost time and no memory, so by default none are cut.",
    )
    memory_margin: float = Field(
        0.2,
        ge=0,
        le=4,
        description="How far above its reservation an engine may get, as a fraction of it, before it is ended.",
    )
    wired_limit_bytes: int = Field(
        0,
        ge=0,
        le=MOST_BYTES,
        description="Memory in bytes that the system may not move out of an engine (MLX's wired limit). 0 wires none: "
        "wiring is tied to kernel panics on Macs short of memory.",
    )
    memory_floor_bytes: int | None = Field(
        None,
        ge=0,
        le=MOST_BYTES,
        description="Memory in bytes that models leave to the owner of the Mac. Default: a quarter of the Mac's "
        "memory, at least 2 GiB.",
    )
    memory_budget_bytes: int | None = Field(
        None,
        ge=0,
        le=MOST_BYTES,
        description="Memory in bytes for all engines together. Default: the Mac's memory less memory_floor_bytes.",
    )
    wait_s: float = Field(
        45,
        ge=0,
        le=3600,
        description="Seconds an MCP tool waits for its job before it answers `running` with the job's id. "
        "Claude Desktop ends calls after about 60 s.",
    )
    chat_keep_s: float = Field(
        86_400, ge=0, description="Seconds that the answer of a chat is kept after its end. Its prompt goes at its end."
    )
    confirm: Literal["ask", "terminal"] = Field(
        "ask",
        description="How downloads and deletions are confirmed: `ask` through the client (a dialog, or two steps with "
        "a token), `terminal` only by running the command in a terminal.",
    )
    gallery_warn_bytes: int = Field(
        20 * GIB, ge=0, description="Bytes of images after which health advises to tidy up. Nothing is deleted unasked."
    )
    max_body_bytes: int = Field(
        16 * MIB, ge=1024, description="Longest body of an HTTP request in bytes; a longer one is refused with 413."
    )
    peer_port: int = Field(
        11436,
        ge=0,
        le=65535,
        description="TCP port for the other Macs of the herd, TLS; 0 takes a free one. "
        "Nothing listens there until this Mac has a herd.",
    )
    peer_bind: str = Field(
        "0.0.0.0",  # noqa: S104  # only with a herd, and only its members get past TLS
        description="Address that the port for the other Macs is bound to.",
    )
    peers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (), description="Other Macs as `host:port`, for networks where Bonjour does not find them."
    )
    bonjour: bool = Field(True, description="Whether a Mac with a herd is announced and looks for others by Bonjour.")
    lease_s: float = Field(
        15,
        gt=0,
        le=3600,
        description="Seconds that a job from another Mac goes on, or is waited for, while the two "
        "do not reach each other.",
    )
    pause_times: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_pause_times)] = Field(
        (),
        max_length=64,
        description="When this Mac does nothing for others: `9:00-17:30` every day, `mon-fri 9:00-17:30` on some, "
        "`22:00-6:00` over a night. By the Mac's own clock.",
    )
    pause_on_battery: bool = Field(True, description="Whether this Mac does nothing for others while on battery.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much goes into logs/node.log."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home() / "config.toml")


def load_settings(**overrides: Any) -> Settings:
    """Read config.toml and the environment. Raises HerdError(invalid_request) that names the setting and the file."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = "; ".join(problems_of(error)).replace("no such field", "no such setting")
    except ValueError as error:  # a file that is not TOML
        problems = str(error)
    raise HerdError(
        ErrorCode.INVALID_REQUEST,
        f"The settings are not valid: {problems}.",
        f"Correct {home() / 'config.toml'} or the HERD_* variable; `herd-mcp config --defaults` lists every setting.",
    )


def reference() -> str:
    """The Markdown table of every setting."""
    lines = [
        "# Settings",
        "",
        "Made from `herd_mcp/settings.py` by `uv run python -m herd_mcp.settings > docs/settings.md`.",
        "In `config.toml` under HERD_HOME (default `~/.herd`) by these names, or as variables `HERD_<NAME>`.",
        "",
        "| setting | default | what and why |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory is not None or field.default is None else repr(field.default).strip("'")
        lines.append(f"| `{name}` | {f'`{default}`' if default else '–'} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
