"""The captions that the built-in image model learns from, and the tokenizer that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mflux.models.common.tokenizer import TokenizerLoader
from mflux.models.flux2.weights.flux2_weight_definition import Flux2KleinWeightDefinition

from herd_mcp.engines import builtin_image
from training.image import captions, cases, config, tokenizer
from training.image.shapes import COLOURS, FOREGROUNDS, PLACES, SHAPES


def test_no_training_caption_asks_for_a_held_out_combination() -> None:
    rng = np.random.default_rng(0)
    seen = {captions.training_pair(rng)[1].combination for _ in range(20_000)}
    assert not seen & captions.HELD_OUT
    assert {combination[0] for combination in seen} == set(FOREGROUNDS)
    assert {combination[1] for combination in seen} == set(SHAPES)
    assert {combination[2] for combination in seen} == set(COLOURS)


def test_the_held_out_list_is_always_the_same_and_has_every_form() -> None:
    forms = cases.held_out()
    assert forms == cases.held_out()
    assert all(len(asked) >= 30 for asked in forms.values())
    assert all(case.scene.combination in captions.HELD_OUT for asked in forms.values() for case in asked)
    assert {case.scene.place for case in forms["position"]} == set(PLACES)
    assert all(case.scene.background in ("white", "black") for case in forms["no background"])
    assert all("background" not in case.prompt for case in forms["no background"])


def test_the_tokenizer_in_the_package_is_the_one_that_training_used() -> None:
    definitions = Flux2KleinWeightDefinition.get_tokenizers()
    theirs = TokenizerLoader.load_all(definitions=definitions, model_path=str(config.FOLDER))["qwen3"]
    ours = tokenizer.build()
    rng = np.random.default_rng(1)
    prompts = [captions.training_pair(rng)[0] for _ in range(200)]
    prompts += ["A Red-circle (on a\nwhite “background”)!", "größe 日本語", "  two  spaces, 12 stars", " "]
    for prompt in prompts:
        wanted = tokenizer.padded(tokenizer.encode(ours, [prompt]), config.TEXT_TOKENS)[0]
        assert theirs.tokenize(prompt, max_length=config.TEXT_TOKENS).input_ids[0].tolist() == wanted.tolist()
    words = tokenizer.encode(ours, ["a purple triangle on a turquoise background"])[0]
    assert len(words) == 7


def test_the_package_holds_what_training_describes() -> None:
    size = tokenizer.build().get_vocab_size()
    assert builtin_image.read_config(config.FOLDER) == json.loads(json.dumps(config.herd_json(size)))
    assert sum(path.stat().st_size for path in config.FOLDER.rglob("*") if path.is_file()) <= 8_000_000
    words = (Path(config.FOLDER) / "README.md").read_text(encoding="utf-8")
    assert "A toy built into herd-mcp" in words
    assert "random" not in words
