"""From a request, a model and the settings to what is asked of an engine: how it is loaded, and within which limits."""

from __future__ import annotations

import asyncio
import io
import math
import warnings
from pathlib import Path

from PIL import Image

from herd_mcp import pipe
from herd_mcp.jobs import MAX_IMAGE_PX, ChatRequest, ErrorCode, HerdError, ImageRequest, Request
from herd_mcp.node import memory
from herd_mcp.node.choose import names_of
from herd_mcp.node.hardware import hardware
from herd_mcp.node.image_families import default_px, default_steps, largest_px
from herd_mcp.node.lanes import EngineKey, Plan
from herd_mcp.node.measured import Known
from herd_mcp.node.memory import Needs
from herd_mcp.node.needs import needs_of
from herd_mcp.node.rates import FirstRates, chip_of, first_rates
from herd_mcp.node.sizes import tokens_at_most
from herd_mcp.settings import ModelSettings, Settings
from herd_mcp.state import ModelInfo


def own_settings(model: ModelInfo, settings: Settings) -> ModelSettings:
    """What stands in the settings for this model alone, under its name or an alias; under its name, if under both,
    which `health` tells of."""
    names = names_of(model, settings.models)
    return settings.models[names[0]] if names else ModelSettings()


def context_tokens(model: ModelInfo, settings: Settings) -> int | None:
    """The longest conversation: the model's own limit or a setting's, whichever is less; None where there is none."""
    if model.kind != "chat":
        return None
    own = own_settings(model, settings).context_tokens
    limits = (model.context_tokens, settings.context_tokens if own is None else own)
    return min((limit for limit in limits if limit is not None), default=None)


def given_context(model: ModelInfo, settings: Settings, needs: Needs, budget_bytes: int) -> int | None:
    """The same of an engine of this model: a longer one than fits alone would never begin, and an answer of no stated
    length shall not ask for it."""
    context = context_tokens(model, settings)
    return (memory.longest_tokens(needs, budget_bytes, context) or context) if model.kind == "chat" else None


class Plans:
    """The plans of this node's models, each made once for a look at the disk and for what was measured by then. So
    there are never more than the models on the disk, each in the bits that it can be loaded in."""

    def __init__(self, settings: Settings, home: Path, budget_bytes: int) -> None:
        self._settings = settings
        self._home = home
        self._budget_bytes = budget_bytes
        self._made: dict[EngineKey, tuple[Known, Plan]] = {}

    async def of(self, model: ModelInfo, quantize: int | None, known: Known) -> Plan:
        """How the model is loaded, quantised to so many bits; `known` is what was measured of it so."""
        made, key = self._made, EngineKey(model.name, quantize)
        before = made.get(key)
        if before is not None and before[0] == known:
            return before[1]
        needs = await asyncio.to_thread(needs_of, model, quantize, self._settings, self._budget_bytes, known)
        plan = plan_for(model, self._settings, self._home, quantize, needs, self._budget_bytes)
        made[key] = known, plan
        return plan

    def forget(self) -> None:
        """The disk was looked at again: other files may lie there."""
        self._made = {}  # a new one: what is being made is of the old files


def plan_for(
    model: ModelInfo, settings: Settings, home: Path, quantize: int | None, needs: Needs, budget_bytes: int
) -> Plan:
    """How the model is loaded. `quantize`: bits to quantise to while loading, None to leave the weights as they are."""
    own = own_settings(model, settings)
    batch = own.batch or settings.chat_batch
    context = given_context(model, settings, needs, budget_bytes)
    answer = own.max_tokens or settings.max_tokens
    spec = pipe.EngineSpec(
        kind=model.kind,
        model=model.name,
        path=model.path,
        family=model.family,
        quantize=quantize,
        prompt_cache_bytes=needs.prompt_cache_bytes,
        max_batch=batch,
        context_tokens=context,
        turns=str(home / "run"),
        stall_s=settings.engine_stall_s,
        # All that the engine could ever be given: near its limit MLX waits for what is under way.
        memory_limit_bytes=max(budget_bytes - memory.PROCESS_BYTES[model.kind], 0),
        cache_limit_bytes=needs.freed_bytes,
        wired_limit_bytes=settings.wired_limit_bytes,
        between_blocks={"auto": None, "step": False, "block": True}[settings.image_hand_over],
    )
    return Plan(
        key=EngineKey(model.name, quantize),
        spec=spec,
        needs=needs,
        capacity=batch if model.kind == "chat" else 1,
        max_tokens=answer if context is None else min(answer, context),
        steps=default_steps(Path(model.path), model.family) if model.kind == "image" else 0,
        # An image model in other bits than usual is another engine: pinned, each would hold its memory for good.
        pinned=own.pinned and quantize == quantize_for(model, settings),
        idle_unload_s=own.idle_unload_s,
        first=first_rates_of(model, quantize, needs.active),
    )


def first_rates_of(model: ModelInfo, quantize: int | None, active: float) -> FirstRates:
    """How fast the model is on this Mac, as guessed from its size and the chip."""
    bits = quantize if model.bits is None else model.bits
    weights_bytes = memory.loaded_bytes(model.bytes, model.bits, quantize)
    return first_rates(chip_of(hardware().chip), model.kind, model.bytes, weights_bytes, bits, active)


def quantize_for(model: ModelInfo, settings: Settings, asked: int | None = None) -> int | None:
    """Bits to quantise to while loading: none for a checkpoint that is quantised, and none for a toy."""
    if model.kind == "chat" or model.bits is not None:
        return None
    if asked is not None:
        return asked
    return None if model.builtin else settings.image_quantize or None


def size_of(request: Request, plan: Plan) -> int:
    """What memory is reserved for: tokens of the chat, prompt and answer together, or pixels of the image."""
    if isinstance(request, ChatRequest):
        return tokens_at_most(request, plan.max_tokens, plan.spec.context_tokens)
    width, height = drawn_px(request, Path(plan.spec.path), plan.spec.family)
    return width * height


def drawn_px(request: ImageRequest, folder: Path, family: str) -> tuple[int, int]:
    """Width and height of the image: as asked, the rest in the proportions of the picture it starts from, as the engine
    completes them."""
    usual = default_px(folder, family)
    ratio = _proportions(request.image) if request.image and not (request.width and request.height) else None
    if ratio is None:
        return request.width or usual, request.height or usual
    if request.width or request.height:
        width, height = request.width or (request.height or 0) * ratio, request.height or (request.width or 0) / ratio
    else:
        width, height = usual * math.sqrt(ratio), usual / math.sqrt(ratio)
    most = largest_px(folder, family) or MAX_IMAGE_PX
    return _side(width, most), _side(height, most)


def _side(px: float, most: int) -> int:
    return min(max(round(px / 16) * 16, 64), most)


def _proportions(picture: bytes) -> float | None:
    """Width by height of a picture, upright. None where it cannot be read: the engine says what is wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size: nothing is decoded here
            opened = Image.open(io.BytesIO(picture), formats=("PNG", "JPEG", "WEBP"))
            width, height = opened.size
            turned = opened.getexif().get(_ORIENTATION, 1) in range(5, 9)
    except Exception:  # Pillow raises nearly everything on damaged bytes
        return None
    return height / width if turned else width / height


_ORIENTATION = 0x0112
"""EXIF's tag; 5 to 8 lie on their side."""


def with_limits(request: Request, plan: Plan) -> Request:
    """The request as an engine gets it: an answer has a length also when its asker named none."""
    if not isinstance(request, ChatRequest) or request.max_tokens is not None:
        return request
    return request.model_copy(update={"max_tokens": plan.max_tokens})


def check_image(request: ImageRequest, model: ModelInfo, settings: Settings) -> None:
    """Refuse what the model or this Mac does not draw, before anything is loaded for it. Raises
    HerdError(invalid_request) that names the limit."""
    if request.steps is not None and request.steps > settings.max_steps:
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"{request.steps} steps are too many: images have at most {settings.max_steps} here, a limit of max_steps "
            "(`herd-mcp config`).",
            f"Ask for at most {settings.max_steps} steps.",
            details={"max_steps": settings.max_steps},
        )
    limit, why = settings.max_image_px, "max_image_px (`herd-mcp config`)"
    largest = largest_px(Path(model.path), model.family)
    if largest is not None and largest <= limit:
        limit, why = largest, "the model"
    asked = max(request.width or 0, request.height or 0)
    if request.image:
        asked = max(asked, *drawn_px(request, Path(model.path), model.family))
    if asked > limit:
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"{asked} px is too large: {model.name} draws at most {limit} px here, a limit of {why}.",
            f"Ask for at most {limit} px.",
            details={"max_px": limit},
        )
