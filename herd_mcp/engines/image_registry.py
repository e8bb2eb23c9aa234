"""Which mflux class draws which model of mflux's registry, and what may be asked of it.

mflux's registry names 52 models and its command line has one program per class, so the pairing below is read from
those programs (`mflux/models/*/cli/*_generate.py`) and from `MODEL_CLASSES` of `mflux-save`. Everything that mflux can
tell by itself is asked of it: steps, text limits, the arguments of `generate_image`, the parts of a checkpoint.

`python -m herd_mcp.engines.image_registry` writes the table that the node reads, since the node never imports mflux.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd_mcp.jobs import ErrorCode, HerdError

BUILTIN = "builtin-flux2-klein"
TABLE = Path(__file__).parents[1] / "node" / "image_families.json"
DEFAULT_PX = 1024  # HEIGHT and WIDTH of mflux.cli.defaults


@dataclass(frozen=True)
class Drawn:
    """How one key of the registry is drawn from text. `guidance` is what mflux's own command uses when none is given;
    None where it uses none, or a schedule of its own."""

    path: str
    """Module and class."""
    guidance: float | None = None
    distilled: bool = False
    """Guidance is trained in. mflux's registry says so with `supports_guidance` for most; this is for the others,
    whose commands refuse or overwrite another value."""
    ignores_negative: bool = False
    """`generate_image` has a negative_prompt and does not use it."""
    json_prompt: bool = False
    """The prompt must be a JSON caption. mflux's command makes one with a further model, which we do not load."""
    own_schedule: bool = False
    """Without steps and guidance the class takes a preset that neither number can express."""
    min_px: int = 64
    max_px: int | None = None


_ANIMA = "mflux.models.anima.variants.txt2img.anima:Anima"
_BOOGU = "mflux.models.boogu.variants.txt2img.boogu_image:BooguImage"
_ERNIE = "mflux.models.ernie_image.variants.txt2img.ernie_image:ErnieImage"
_FIBO = "mflux.models.fibo.variants.txt2img.fibo:FIBO"
_FIBO2 = "mflux.models.fibo2.variants.txt2img.fibo2:Fibo2"
_FLUX1 = "mflux.models.flux.variants.txt2img.flux:Flux1"
_FLUX2 = "mflux.models.flux2.variants.txt2img.flux2_klein:Flux2Klein"
_FLUX3 = "mflux.models.flux3.variants.txt2img.flux3_klein:Flux3Klein"
_IDEOGRAM4 = "mflux.models.ideogram4.variants.txt2img.ideogram4:Ideogram4"
_IRIS = "mflux.models.iris.variants.txt2img.iris:Iris"
_KREA2 = "mflux.models.krea2.variants.txt2img.krea2:Krea2"
_LENS = "mflux.models.lens.variants.txt2img.lens_image:LensImage"
_MING = "mflux.models.ming_image.variants.ming_image:MingImage"
_MOSS = "mflux.models.moss_image.variants.txt2img.moss_image:MOSSImage"
_QWEN = "mflux.models.qwen.variants.txt2img.qwen_image:QwenImage"
_QWEN21 = "mflux.models.qwen21.variants.txt2img.qwen_image_21:QwenImage21"
_Z_IMAGE = "mflux.models.z_image.variants.z_image:ZImage"

TEXT_TO_IMAGE: dict[str, Drawn] = {
    "anima-turbo": Drawn(_ANIMA, 1.0),
    "anima-aesthetic": Drawn(_ANIMA, 4.0),
    "anima-base": Drawn(_ANIMA, 4.0),
    "boogu-image-turbo": Drawn(_BOOGU),
    "dev": Drawn(_FLUX1, 3.5, ignores_negative=True),
    "schnell": Drawn(_FLUX1, ignores_negative=True),
    "krea-dev": Drawn(_FLUX1, 3.5, ignores_negative=True),
    "ernie-image": Drawn(_ERNIE, 4.0),
    "ernie-image-turbo": Drawn(_ERNIE),
    "fibo": Drawn(_FIBO, 5.0, json_prompt=True),
    "fibo-lite": Drawn(_FIBO, distilled=True, json_prompt=True),
    "fibo2": Drawn(_FIBO2, 5.0),
    "fibo2-edit-turbo": Drawn(_FIBO2),
    "flux2-klein-4b": Drawn(_FLUX2, distilled=True),
    "flux2-klein-9b": Drawn(_FLUX2, distilled=True),
    "flux2-klein-9b-kv": Drawn(_FLUX2, distilled=True),
    "flux2-klein-base-4b": Drawn(_FLUX2, 1.0),
    "flux2-klein-base-9b": Drawn(_FLUX2, 1.0),
    "flux3-image-klein": Drawn(_FLUX3),
    "flux3-image-klein-base": Drawn(_FLUX3, 3.5),
    "ideogram-4-fp8": Drawn(_IDEOGRAM4, own_schedule=True, min_px=256, max_px=2048),
    "iris-3b": Drawn(_IRIS),
    "iris-3b-base": Drawn(_IRIS, 3.0),
    "krea-2": Drawn(_KREA2, 1.0),
    "krea-2-raw": Drawn(_KREA2, 1.0),
    "lens-turbo": Drawn(_LENS),
    "ming-image-design": Drawn(_MING, 1.0),
    "moss-image-sft": Drawn(_MOSS, 3.0),
    "moss-image-base": Drawn(_MOSS, 3.0),
    "qwen-image": Drawn(_QWEN, 3.5),
    "qwen-image-2.1": Drawn(_QWEN21, 1.0),
    "qwen-image-2.1-turbo": Drawn(_QWEN21),
    "z-image": Drawn(_Z_IMAGE, 0.0),
    "z-image-turbo": Drawn(_Z_IMAGE),
}

NOT_FROM_TEXT: dict[str, str] = {
    "dev-kontext": "edits a picture",
    "dev-fill": "fills a masked part of a picture",
    "dev-fill-catvton": "dresses a person in a picture",
    "dev-redux": "varies a picture",
    "dev-depth": "follows the depth of a picture",
    "dev-controlnet-canny": "follows the edges of a picture",
    "schnell-controlnet-canny": "follows the edges of a picture",
    "dev-controlnet-upscaler": "enlarges a picture",
    "fibo-edit": "edits a picture",
    "fibo-edit-rmbg": "removes the background of a picture",
    "krea-2-controlnet-depth": "follows the depth of a picture",
    "qwen-image-edit": "edits a picture",
    "qwen-image-edit-2511": "edits a picture",
    "qwen-image-2.1-controlnet-union": "follows a control picture",
    "qwen-image-2.1-turbo-controlnet-union": "follows a control picture",
    "seedvr2-3b": "enlarges a picture",
    "seedvr2-7b": "enlarges a picture",
    "z-image-turbo-controlnet-union-2.1": "follows a control picture",
}

FIELD_NAMES: dict[str, tuple[str, ...]] = {
    # What people and other programs call them, where it is neither mflux's alias nor the name of the repository.
    "dev": ("flux-dev", "flux1-dev"),
    "schnell": ("flux-schnell", "flux1-schnell"),
    "krea-dev": ("flux-krea-dev", "flux1-krea-dev", "flux-krea"),
    "flux2-klein-4b": ("flux-2-klein", "flux-2-klein-4b", "flux-klein"),
    "flux2-klein-9b": ("flux-2-klein-9b",),
    "z-image-turbo": ("z_image_turbo",),
    "qwen-image": ("qwen_image",),
}


@dataclass(frozen=True)
class Layout:
    """One way a checkpoint lies on disk: patterns below its folder, each of which must match a file."""

    weights: tuple[str, ...]
    tokenizers: tuple[str, ...] = ()
    other_repos: tuple[str, ...] = ()
    """Repositories whose files mflux takes from the Hugging Face cache besides."""
    hf_cache_only: bool = False
    """mflux reads this layout from the Hugging Face cache only, not from a copy of the folder."""


@dataclass(frozen=True)
class Family:
    """One row of the table: a key of mflux's registry, or the built-in architecture."""

    key: str
    aliases: tuple[str, ...]
    """Every other name that means it, in lower case."""
    repo: str
    text_to_image: bool
    why_not: str = ""
    """What it does instead, where it does not draw from text."""
    class_name: str = ""
    default_px: int = DEFAULT_PX
    min_px: int = 64
    max_px: int | None = None
    """Longest side; None leaves it to the setting `max_image_px`."""
    default_steps: int = 0
    default_guidance: float | None = None
    takes_guidance: bool = False
    """A value changes the picture as the model was made for it."""
    takes_negative_prompt: bool = False
    """Where guidance is above 1."""
    takes_image: bool = False
    json_prompt: bool = False
    own_schedule: bool = False
    layouts: tuple[Layout, ...] = ()


def load_class(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def parameters_of(drawn: Drawn) -> frozenset[str]:
    """The names of the arguments that the class's generate_image takes."""
    return frozenset(inspect.signature(load_class(drawn.path).generate_image).parameters) - {"self"}


def drawn_by(key: str) -> Drawn:
    """Raises HerdError(kind_not_supported) for a model that does not draw from text, model_not_found for others."""
    if key == BUILTIN:
        return Drawn(_FLUX2, distilled=True)
    if key in TEXT_TO_IMAGE:
        return TEXT_TO_IMAGE[key]
    if key in NOT_FROM_TEXT:
        raise HerdError(
            ErrorCode.KIND_NOT_SUPPORTED,
            f"{key} {NOT_FROM_TEXT[key]}; it does not draw from a prompt alone.",
            "Use a text-to-image model such as z-image-turbo.",
        )
    raise HerdError(
        ErrorCode.MODEL_NOT_FOUND,
        f"{key!r} is no image model that mflux knows.",
        "`herd-mcp models` lists what is here.",
    )


def family_of(key: str) -> Family:
    """The row of one key, asked of mflux. Raises HerdError as `drawn_by` does."""
    return _builtin() if key == BUILTIN else _from_mflux(key, drawn_by(key))


def families() -> list[Family]:
    """Every row: the built-in one and all of mflux's registry, in mflux's order."""
    from mflux.models.common.config.model_config import AVAILABLE_MODELS

    return [_builtin()] + [
        _from_mflux(key, TEXT_TO_IMAGE[key]) if key in TEXT_TO_IMAGE else _not_from_text(key, config)
        for key, config in AVAILABLE_MODELS.items()
    ]


def _aliases(key: str, config: Any) -> tuple[str, ...]:
    from mflux.models.common.config.model_config import AVAILABLE_MODELS
    from mflux.models.common.resolution.config_resolution import ConfigResolution

    names = [*config.aliases, *FIELD_NAMES.get(key, ())]
    # Several entries share a repository; its name means the one that mflux itself would take.
    if ConfigResolution.resolve(config.model_name) is AVAILABLE_MODELS[key]:
        names += [config.model_name, config.model_name.split("/")[-1]]
    return tuple(dict.fromkeys(name.lower() for name in names if name.lower() != key))


def _not_from_text(key: str, config: Any) -> Family:
    return Family(
        key,
        _aliases(key, config),
        config.model_name,
        text_to_image=False,
        why_not=NOT_FROM_TEXT[key],
        default_px=0,
        layouts=(_saved_layout(key),),
    )


def _from_mflux(key: str, drawn: Drawn) -> Family:
    from mflux.cli.defaults.defaults import model_inference_steps
    from mflux.models.common.config.model_config import AVAILABLE_MODELS

    config = AVAILABLE_MODELS[key]
    parameters = parameters_of(drawn)
    # None in mflux's registry means that it does not say; only False means that guidance is trained in.
    takes_guidance = "guidance" in parameters and config.supports_guidance is not False and not drawn.distilled
    return Family(
        key=key,
        aliases=_aliases(key, config),
        repo=config.model_name,
        text_to_image=True,
        class_name=drawn.path.split(":")[1],
        min_px=drawn.min_px,
        max_px=drawn.max_px,
        default_steps=model_inference_steps(key),
        default_guidance=drawn.guidance,
        takes_guidance=takes_guidance,
        takes_negative_prompt=takes_guidance and "negative_prompt" in parameters and not drawn.ignores_negative,
        takes_image={"image_path", "image_strength"} <= parameters,
        json_prompt=drawn.json_prompt,
        own_schedule=drawn.own_schedule,
        layouts=_layouts(key),
    )


def _builtin() -> Family:
    parameters = parameters_of(drawn_by(BUILTIN))
    return Family(
        key=BUILTIN,
        aliases=("builtin", "herd-tiny-image"),
        repo="",
        text_to_image=True,
        class_name="Flux2Klein",
        default_px=64,
        max_px=128,
        default_steps=4,
        takes_image={"image_path", "image_strength"} <= parameters,
        layouts=(_saved_layout("flux2-klein-4b"),),
    )


def _saved_layout(key: str) -> Layout:
    """Where `mflux-save` writes, and diffusers too for nearly all: a folder with safetensors for each component."""
    from mflux.models.common.checking.model_checker import ModelChecker
    from mflux.models.common.weights.loading.weight_definition import ComponentDefinition

    definition = ModelChecker._definition_for(key)
    components = definition.get_components()
    folders = ComponentDefinition.save_subdirs(components)
    weights = [f"{folders[part.name]}/*.safetensors".removeprefix("/") for part in components]
    # A tokenizer with fallbacks may lie in several places: mflux looks for it while it loads.
    tokenizers = [f"{part.hf_subdir}/*" for part in definition.get_tokenizers() if not part.fallback_subdirs]
    return Layout(tuple(dict.fromkeys(weights)), tuple(tokenizers))


def _layouts(key: str) -> tuple[Layout, ...]:
    """The layout that mflux saves first, then those in which the model is published."""
    if key == "lens-turbo":
        from mflux.models.lens.variants.txt2img.lens_image import DEFAULT_ENCODER_REPO, VAE_REPO
        from mflux.models.lens.weights.lens_weight_definition import TURBO_WEIGHTS_PATTERN

        return (Layout((TURBO_WEIGHTS_PATTERN,), other_repos=(DEFAULT_ENCODER_REPO, VAE_REPO)),)
    saved = _saved_layout(key)
    if key.startswith("krea-2"):
        weights = tuple("transformer/*.safetensors" if part == "*.safetensors" else part for part in saved.weights)
        return (saved, Layout(weights, saved.tokenizers))
    if key.startswith("iris-"):
        from mflux.models.iris.weights.iris_weight_definition import IrisTurboWeightDefinition, IrisWeightDefinition

        source = IrisWeightDefinition if key == "iris-3b-base" else IrisTurboWeightDefinition
        return (
            saved,
            Layout((source.SOURCE_TRANSFORMER_PATTERN,), other_repos=(source.TEXT_ENCODER_REPO,), hf_cache_only=True),
        )
    if key.startswith("anima-"):
        from mflux.models.anima.weights.anima_weight_definition import AnimaWeightDefinition as Anima

        sources = (Anima.source_vae(), Anima.source_transformer(key), Anima.source_text_encoder())
        files = tuple(f"{source.hf_subdir}/{source.weight_files[0]}" for source in sources)
        return (saved, Layout(files, other_repos=(Anima.QWEN_TOKENIZER_REPO, Anima.T5_TOKENIZER_REPO)))
    return (saved,)


def table() -> str:
    """The JSON that the node reads."""
    return json.dumps([asdict(family) for family in families()], indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    sys.stdout.write(f"{TABLE}: {len(families())} families\n")
