"""An mflux model in memory: the checkpoint judged, built by its class, its weights read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from herd_mcp.engines import image_registry
from herd_mcp.engines.errors import out_of_memory
from herd_mcp.engines.image_registry import BUILTIN, Family
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.pipe import EngineSpec

READ_FROM, READ_TO = 0.1, 0.9
"""The part of loading in which the weights are read, as fractions of the whole."""


def prepare_process() -> None:
    """Before mflux is imported: nothing is downloaded, no progress bars, no advice in the log."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ[name] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def family_for(spec: EngineSpec) -> Family:
    """The family that `spec` names, with the sizes of the folder's `herd.json` for a built-in one. Raises HerdError."""
    key = BUILTIN if spec.family in (BUILTIN, "builtin") else spec.family
    family = image_registry.family_of(key)
    if key != BUILTIN:
        return family
    from herd_mcp.engines import builtin_image

    try:
        config = builtin_image.read_config(Path(spec.path))
        return dataclasses.replace(
            family,
            default_px=int(config["default_px"]),
            max_px=int(config["max_px"]),
            default_steps=int(config["default_steps"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HerdError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{spec.model} cannot be loaded: its herd.json is missing or damaged ({error}).",
            "Install herd-mcp again.",
        ) from error


def check(spec: EngineSpec, family: Family) -> None:
    """Raises HerdError(model_incomplete) that names what is missing: mflux itself would draw noise with it."""
    from mflux.models.common.checking.model_checker import ModelChecker

    folder = Path(spec.path)
    if _only_by_name(folder, family):
        return
    base = "flux2-klein-4b" if family.key == BUILTIN else family.key
    result = ModelChecker.check(str(folder), base_model=_alias(base))
    problems = [problem.rstrip(".") for problem in result.problems]
    problems += [f"{pattern.removesuffix('/*')} is missing" for pattern in _missing_tokenizers(folder, family)]
    if problems:
        raise HerdError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{spec.model} is not complete: {'; '.join(problems[:5])}.",
            f"Download {family.repo} again." if family.repo else "Install herd-mcp again.",
            details={"problems": problems},
        )


def _alias(key: str) -> str:
    from mflux.models.common.config.model_config import AVAILABLE_MODELS

    aliases: list[str] = AVAILABLE_MODELS[key].aliases
    return aliases[0]


def _missing_tokenizers(folder: Path, family: Family) -> list[str]:
    """mflux's own check looks at the weights alone."""
    for layout in family.layouts:
        if all(any(folder.glob(pattern)) for pattern in layout.weights):
            return [pattern for pattern in layout.tokenizers if not any(folder.glob(pattern))]
    return []


def _only_by_name(folder: Path, family: Family) -> bool:
    """mflux reads this one as it is published only by the name of its repository, from the Hugging Face cache."""
    from mflux.models.common.weights.saving.saved_model_info import UpstreamLocator

    return (
        any(layout.hf_cache_only for layout in family.layouts)
        and UpstreamLocator.repo_id_from_cache_path(folder) == family.repo
    )


def build(spec: EngineSpec, family: Family) -> Any:
    """The model, its weights not yet read. Raises HerdError when mflux cannot load it."""
    folder = Path(spec.path)
    try:
        if family.key == BUILTIN:
            from herd_mcp.engines import builtin_image

            return builtin_image.load(folder)
        from mflux.models.common.config.model_config import AVAILABLE_MODELS

        make = image_registry.load_class(image_registry.drawn_by(family.key).path)
        return make(
            quantize=spec.quantize,
            model_path=None if _only_by_name(folder, family) else str(folder),
            model_config=AVAILABLE_MODELS[family.key],
        )
    except HerdError:
        raise
    except Exception as error:
        raise not_loaded(spec, family, error) from error


def not_loaded(spec: EngineSpec, family: Family, error: Exception) -> HerdError:
    if isinstance(error, HerdError):
        return error
    text = f"{spec.model} did not load: {error}".rstrip(".") + "."
    if out_of_memory(error):
        return HerdError(ErrorCode.INSUFFICIENT_MEMORY, text, "Close other programs, or ask for fewer bits (quantize).")
    others = [repo for layout in family.layouts for repo in layout.other_repos]
    if others and isinstance(error, OSError):
        hint = f"It also reads {' and '.join(others)}: download each to the Hugging Face cache, then try again."
        return HerdError(ErrorCode.MODEL_INCOMPLETE, text, hint)
    if isinstance(error, OSError | ValueError):  # ValueError: shapes that do not fit each other
        return HerdError(ErrorCode.MODEL_INCOMPLETE, text, "Download it again.")
    return HerdError(ErrorCode.INTERNAL, text, "The log of the engine says more.")


def read_weights(model: Any, report: Callable[[float], None]) -> int:
    """Read and quantise every weight, which mflux leaves for the first image. Returns their bytes."""
    import mlx.core as mx

    arrays = list(_arrays(model))
    total = sum(array.nbytes for array in arrays)
    done = 0
    batch: list[Any] = []
    for array in arrays:
        batch.append(array)
        if sum(item.nbytes for item in batch) >= max(total // 50, 1) or array is arrays[-1]:
            mx.eval(batch)
            done += sum(item.nbytes for item in batch)
            batch = []
            report(READ_FROM + (READ_TO - READ_FROM) * done / max(total, 1))
    return int(total)


def _arrays(model: Any) -> Iterator[Any]:
    from mlx import nn
    from mlx.utils import tree_flatten

    modules = [model] if isinstance(model, nn.Module) else list(vars(model).values())
    for module in modules:
        if isinstance(module, nn.Module):
            for _, array in tree_flatten(module.parameters()):
                yield array
