"""Finding models on disk, and choosing one: folders made here, file headers only."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.node.choose import choose
from herd_mcp.node.models import chat_architectures, find_models
from herd_mcp.settings import load_settings
from herd_mcp.state import ModelInfo


def safetensors(
    path: Path, data_bytes: int = 64, missing_bytes: int = 0, metadata: dict[str, str] | None = None
) -> None:
    header: dict[str, object] = {"w": {"dtype": "U8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}}
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data_bytes - missing_bytes))


def chat_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **config})
    )
    (folder / "tokenizer.json").write_text("{}")
    safetensors(folder / "model.safetensors")
    return folder


def found(home: Path, **settings: object) -> dict[str, ModelInfo]:
    return {model.name: model for model in find_models(load_settings(**settings), home)}


def test_the_built_in_models_are_found_whole_on_an_empty_machine(herd_home: Path) -> None:
    models = found(herd_home)
    assert {(name, model.kind, model.usable) for name, model in models.items()} == {
        ("herd-tiny-chat", "chat", True),
        ("herd-tiny-image", "image", True),
    }


def test_models_are_found_in_the_home_in_folders_and_in_the_hugging_face_cache(herd_home: Path, tmp_path: Path) -> None:
    chat_folder(herd_home / "models" / "mine", quantization={"bits": 4}, max_position_embeddings=4096)
    chat_folder(tmp_path / "elsewhere" / "org" / "theirs")
    cache = tmp_path / "hub" / "models--org--cached"
    chat_folder(cache / "snapshots" / "abc")
    chat_folder(cache / "snapshots" / "old", model_type="llama")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    models = found(herd_home, model_dirs=[tmp_path / "elsewhere"], hf_cache=tmp_path / "hub")
    assert (models["mine"].source, models["mine"].bits, models["mine"].context_tokens) == ("herd", 4, 4096)
    assert (models["org/theirs"].source, models["org/theirs"].aliases) == ("folder", ("theirs",))
    assert (models["org/cached"].source, models["org/cached"].family) == ("huggingface", "qwen3")
    assert all(model.usable for model in models.values())


def test_the_variable_that_others_use_for_model_folders_is_read(
    herd_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_folder(tmp_path / "dir" / "model-x")
    monkeypatch.setenv("MLX_MODEL_DIR", str(tmp_path / "dir"))
    assert "model-x" in found(herd_home)


def test_what_is_not_whole_is_listed_with_the_reason(herd_home: Path) -> None:
    place = herd_home / "models"
    safetensors(chat_folder(place / "short") / "model.safetensors", missing_bytes=10)
    shards = chat_folder(place / "shards")
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))
    (chat_folder(place / "wordless") / "tokenizer.json").unlink()
    (chat_folder(place / "empty") / "model.safetensors").unlink()
    chat_folder(place / "future", model_type="not_invented")
    models = found(herd_home)
    assert "cut short" in models["short"].problem
    assert "model-2.safetensors is missing" in models["shards"].problem
    assert "tokenizer" in models["wordless"].problem
    assert "safetensors" in models["empty"].problem
    assert "not_invented" in models["future"].problem
    assert [models[name].complete for name in ("short", "shards", "wordless", "empty", "future")] == [False] * 4 + [
        True
    ]
    assert not any(models[name].usable for name in ("short", "shards", "wordless", "empty", "future"))


def test_what_is_no_text_model_is_not_listed(herd_home: Path) -> None:
    chat_folder(herd_home / "models" / "embedder", model_type="bert", architectures=["BertModel"])
    (herd_home / "models" / "notes").mkdir()
    assert set(found(herd_home)) == {"herd-tiny-chat", "herd-tiny-image"}


def test_an_image_model_is_known_by_its_parts_and_name_and_its_bits(herd_home: Path, tmp_path: Path) -> None:
    folder = herd_home / "models" / "my-z-image-turbo-8bit"
    for part in ("transformer", "text_encoder", "vae"):
        safetensors(folder / part / "0.safetensors", 1000, metadata={"quantization_level": "8"})
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    model = found(herd_home)["my-z-image-turbo-8bit"]
    assert (model.kind, model.family, model.bytes, model.bits, model.problem) == ("image", "z-image-turbo", 3000, 8, "")
    assert choose(list(found(herd_home).values()), "image", "z-image-turbo", None).name == "my-z-image-turbo-8bit"


def test_mlx_lm_is_asked_for_its_architectures_without_being_imported() -> None:
    assert {"qwen3", "llama", "gemma3"} <= chat_architectures()


def _odd_folder(folder: Path, oddity: str) -> None:
    """A folder that looks like a chat model and has one thing about it that no download makes."""
    chat_folder(folder)
    weights = folder / "model.safetensors"
    config = folder / "config.json"
    if oddity == "link to nowhere":
        weights.unlink()
        weights.symlink_to("../gone")
    elif oddity == "link to itself":
        weights.unlink()
        weights.symlink_to("model.safetensors")
    elif oddity == "pipe as weights":
        weights.unlink()
        os.mkfifo(weights)
    elif oddity == "pipe as config":
        config.unlink()
        os.mkfifo(config)
    elif oddity == "pipe as herd.json":
        os.mkfifo(folder / "herd.json")
    elif oddity == "endless herd.json":
        (folder / "herd.json").symlink_to("/dev/zero")
    elif oddity == "deep config":
        config.write_text("[" * 100_000)
    elif oddity == "huge config":
        config.write_text('{"x": "' + "y" * 5_000_000 + '"}')
    elif oddity == "numbers for words":
        config.write_text('{"model_type": 5, "architectures": 5, "quantization": {"bits": "four"}}')
    elif oddity == "half a character":
        config.write_text('{"model_type": "\\ud800", "architectures": ["XForCausalLM"]}')
    elif oddity == "header without offsets":
        text = b'{"w": {"dtype": "U8"}}'
        weights.write_bytes(struct.pack("<Q", len(text)) + text)
    elif oddity == "shards as a list":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    elif oddity == "shard with a long name":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "a" * 300}}))
    elif oddity == "shard outside":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../x"}}))
    else:
        raise AssertionError(oddity)


ODDITIES = [
    "link to nowhere", "link to itself", "pipe as weights", "pipe as config", "pipe as herd.json", "endless herd.json",
    "deep config", "huge config", "numbers for words", "half a character", "header without offsets",
    "shards as a list", "shard with a long name", "shard outside",
]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_an_odd_folder_is_its_own_affair_and_tells_no_path(herd_home: Path, oddity: str) -> None:
    chat_folder(herd_home / "models" / "good")
    _odd_folder(herd_home / "models" / "odd", oddity)
    models = found(herd_home)
    assert models["good"].usable
    assert models["herd-tiny-chat"].usable
    if (odd := models.get("odd")) is not None:
        assert odd.model_dump_json()
        assert str(herd_home) not in odd.problem
        assert odd.usable == (oddity in ("pipe as herd.json", "endless herd.json"))


def test_links_in_circles_and_names_that_are_no_text_hide_nothing_beside_them(herd_home: Path) -> None:
    place = herd_home / "models"
    chat_folder(place / "good")
    (place / "loop").symlink_to("loop")
    os.mkdir(os.fsencode(place) + b"/bad\xff")
    (place / "two\nlines").mkdir()
    assert set(found(herd_home)) == {"good", "herd-tiny-chat", "herd-tiny-image"}


# ── Choosing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def model(name: str, **fields: object) -> ModelInfo:
    facts: dict[str, object] = {"kind": "chat", "family": "qwen3", "source": "huggingface", "path": "/", "bytes": 10}
    facts |= {"name": name, "complete": True}
    return ModelInfo.model_validate({**facts, **fields})


TINY = model("herd-tiny-chat", source="builtin", bytes=1)


def test_a_real_model_is_taken_before_the_built_in_one_a_loaded_one_before_others() -> None:
    small, large = model("small"), model("large", bytes=20)
    assert choose([TINY], "chat", None, None) == TINY
    assert choose([TINY, small, large], "chat", None, None) == large
    loaded = model("small", loaded=True)
    assert choose([TINY, loaded, large], "chat", None, None) == loaded
    assert choose([TINY.model_copy(update={"loaded": True}), small], "chat", None, None) == small


def test_the_owners_setting_decides_when_the_request_names_none() -> None:
    assert choose([TINY, model("other")], "chat", None, "herd-tiny-chat") == TINY


def test_names_are_compared_without_case_and_short_names_are_enough() -> None:
    full = model("mlx-community/Qwen3-4B-4bit", aliases=("Qwen3-4B-4bit",))
    assert choose([TINY, full], "chat", "qwen3-4b-4BIT", None) == full


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("herd-tiny-cat", ErrorCode.MODEL_NOT_FOUND, "Did you mean herd-tiny-chat?"),
        ("broken", ErrorCode.MODEL_INCOMPLETE, "huggingface_hub hf download broken"),
        ("strange", ErrorCode.KIND_NOT_SUPPORTED, "others"),
        ("painter", ErrorCode.KIND_NOT_SUPPORTED, "chat models"),
    ],
)
def test_a_name_that_cannot_be_served_is_an_error_that_says_what_to_do(name: str, code: ErrorCode, words: str) -> None:
    models = [
        TINY,
        model("broken", complete=False, problem="it is cut short"),
        model("strange", supported=False, problem="no such architecture"),
        model("painter", kind="image"),
    ]
    with pytest.raises(HerdError) as caught:
        choose(models, "chat", name, None)
    assert caught.value.info.code == code
    assert words in caught.value.info.hint


def test_a_model_that_mflux_knows_and_is_not_here_is_named_with_its_repository() -> None:
    with pytest.raises(HerdError) as caught:
        choose([TINY], "image", "flux-schnell", None)
    assert "hf download black-forest-labs/FLUX.1-schnell" in caught.value.info.hint
