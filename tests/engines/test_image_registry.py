"""Every text-to-image class of the installed mflux, against its real signature and its own defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from mflux.models.common.cli.save import MODEL_CLASSES
from mflux.models.common.config.model_config import AVAILABLE_MODELS

from herd_mcp.engines import image_registry
from herd_mcp.engines.image_registry import BUILTIN, NOT_FROM_TEXT, TEXT_TO_IMAGE, drawn_by, family_of, load_class
from herd_mcp.engines.image_request import Drawing, plan
from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest

KEYS = [BUILTIN, *TEXT_TO_IMAGE]


def ask(key: str, **fields: object) -> ImageRequest:
    prompt = '{"short_description": "a cat"}' if drawn_by(key).json_prompt else "a cat"
    return ImageRequest.model_validate({"prompt": prompt, **fields})


def test_every_key_of_mfluxs_registry_is_drawn_or_says_why_not() -> None:
    assert sorted([*TEXT_TO_IMAGE, *NOT_FROM_TEXT]) == sorted(AVAILABLE_MODELS)


def test_the_classes_are_those_with_which_mflux_saves() -> None:
    # One Qwen-Image-2.1 checkpoint draws and edits, and mflux saves it with the editing class; the same for FIBO 2.
    other = {"qwen-image-2.1": "QwenImage21Edit", "qwen-image-2.1-turbo": "QwenImage21Edit"}
    other["fibo2-edit-turbo"] = "Fibo2Edit"
    saved = {key: cls.__name__ for key, cls in MODEL_CLASSES.items() if key in TEXT_TO_IMAGE}
    ours = {key: family_of(key).class_name for key in saved}
    assert saved == {**ours, **other}
    assert set(TEXT_TO_IMAGE) - set(saved) == {"lens-turbo"}  # mflux cannot save this one


@pytest.mark.parametrize("key", KEYS)
def test_our_arguments_bind_to_the_class(key: str) -> None:
    family = family_of(key)
    cls = load_class(drawn_by(key).path)
    signature = inspect.signature(cls.generate_image)
    taken = image_registry.parameters_of(drawn_by(key))
    plain = plan(ask(key), family, key)
    signature.bind(None, **plain.arguments(taken))

    fields: dict[str, object] = {"steps": 3, "guidance": 2.0, "seed": 1, "negative_prompt": ""}
    if family.takes_negative_prompt:
        fields["negative_prompt"] = "a dog"
    if family.takes_image:
        fields |= {"image": b"x", "image_strength": 0.5}
    full = plan(ask(key, **fields), family, key, (100, 100) if family.takes_image else None)
    arguments = full.arguments(taken, Path("in.png") if family.takes_image else None)
    bound = signature.bind(None, **arguments).arguments
    assert {"seed", "prompt", "width", "height", "num_inference_steps"} <= set(bound)
    assert ("guidance" in bound) == family.takes_guidance
    assert ("negative_prompt" in bound) == family.takes_negative_prompt
    assert ("image_path" in bound) == ("image_strength" in bound) == family.takes_image

    config = AVAILABLE_MODELS.get(key)
    inspect.signature(cls).bind(quantize=8, model_path="folder", model_config=config)


@pytest.mark.parametrize("key", TEXT_TO_IMAGE)
def test_no_required_argument_is_left_out(key: str) -> None:
    taken = image_registry.parameters_of(drawn_by(key))
    signature = inspect.signature(load_class(drawn_by(key).path).generate_image)
    required = {name for name, p in signature.parameters.items() if p.default is p.empty} - {"self"}
    assert required <= set(plan(ask(key), family_of(key), key).arguments(taken))


def test_default_guidance_is_what_mflux_itself_uses() -> None:
    from mflux.cli.defaults.defaults import GUIDANCE_SCALE
    from mflux.models.anima.variants.txt2img.anima import Anima
    from mflux.models.ernie_image.cli.ernie_image_generate import ErnieImageCommand
    from mflux.models.fibo2.variants.txt2img.fibo2 import Fibo2
    from mflux.models.iris.variants.txt2img.iris import Iris
    from mflux.models.krea2.cli.krea2_generate import DEFAULT_GUIDANCE as KREA2
    from mflux.models.moss_image.variants.txt2img.moss_image import MOSSImage
    from mflux.models.qwen.cli.qwen_image_generate import QwenImageCommand

    unsaid = SimpleNamespace(guidance=None)
    expected = {
        "dev": GUIDANCE_SCALE,
        "krea-dev": GUIDANCE_SCALE,
        "flux3-image-klein-base": GUIDANCE_SCALE,
        "ernie-image": ErnieImageCommand._guidance(unsaid),
        "fibo2": Fibo2.DEFAULT_GUIDANCE,
        "iris-3b-base": Iris.DEFAULT_GUIDANCE,
        "krea-2": KREA2,
        "krea-2-raw": KREA2,
        "moss-image-sft": MOSSImage.DEFAULT_GUIDANCE,
        "moss-image-base": MOSSImage.DEFAULT_GUIDANCE,
        "qwen-image": QwenImageCommand._guidance(unsaid),
        **Anima.DEFAULT_GUIDANCE,
    }
    assert {key: family_of(key).default_guidance for key in expected} == expected


def test_guidance_is_taken_only_where_a_value_means_something() -> None:
    taking = {key for key in TEXT_TO_IMAGE if family_of(key).takes_guidance}
    distilled = {"z-image-turbo", "schnell", "flux2-klein-4b", "flux2-klein-9b-kv", "ernie-image-turbo", "fibo-lite"}
    assert taking.isdisjoint(distilled)
    assert {"dev", "z-image", "qwen-image", "flux2-klein-base-4b", "ideogram-4-fp8"} <= taking
    # A default without guidance, or guidance without a default, would be a slip in the table; one has a preset.
    assert {key for key in taking if family_of(key).default_guidance is None} == {"ideogram-4-fp8"}
    assert all(TEXT_TO_IMAGE[key].guidance is None for key in set(TEXT_TO_IMAGE) - taking)


def test_the_layouts_name_the_parts_of_a_real_checkpoint() -> None:
    assert family_of("dev").layouts[0].weights == (
        "vae/*.safetensors",
        "transformer/*.safetensors",
        "text_encoder_2/*.safetensors",
        "text_encoder/*.safetensors",
    )
    assert family_of("dev").layouts[0].tokenizers == ("tokenizer/*", "tokenizer_2/*")
    assert "*.safetensors" in family_of("krea-2").layouts[0].weights
    assert family_of("anima-base").layouts[1].weights[1].endswith("anima-base-v1.0.safetensors")
    assert family_of("lens-turbo").layouts[0].other_repos
    assert all(family_of(key).layouts for key in TEXT_TO_IMAGE)


def test_a_model_that_needs_a_picture_is_refused_with_what_it_does() -> None:
    with pytest.raises(HerdError, match="edits a picture") as refused:
        drawn_by("dev-kontext")
    assert refused.value.info.code is ErrorCode.KIND_NOT_SUPPORTED
    with pytest.raises(HerdError) as unknown:
        drawn_by("sd-1.5")
    assert unknown.value.info.code is ErrorCode.MODEL_NOT_FOUND


def test_never_an_argument_that_the_class_does_not_take() -> None:
    everything = Drawing("a cat", 64, 64, 1, steps=2, guidance=5.0, negative_prompt="a dog", strength=0.5)
    taken = image_registry.parameters_of(drawn_by("boogu-image-turbo"))
    arguments = everything.arguments(taken, Path("in.png"))
    assert set(arguments) == {"seed", "prompt", "width", "height", "num_inference_steps"}
