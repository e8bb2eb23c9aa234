"""Models of strangers and of downloads that broke off: an error names what is wrong, and nobody else suffers."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.node.models import BUILTIN_FOLDER, find_models
from herd_mcp.settings import load_settings
from tests.cli.program import until
from tests.faults.node_process import IMAGE, LONG_CHAT, Faulty, a_home, stopped

SHORT_CHAT = LONG_CHAT | {"max_tokens": 4, "sampling": {}}
Header = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """One node for all damaged models: it must outlive each of them."""
    with a_home(tmp_path_factory.mktemp("models")) as it:
        (it.home / "models").mkdir(parents=True)
        with it.running():
            yield it


def copy(faulty: Faulty, builtin: str, name: str) -> Path:
    return Path(shutil.copytree(BUILTIN_FOLDER / builtin, faulty.home / "models" / name))


def weights_of(folder: Path) -> Path:
    return next(
        path for path in (folder / "transformer" / "0.safetensors", folder / "model.safetensors") if path.is_file()
    )


def edit(file: Path, change: Callable[[Header, bytearray], None]) -> None:
    """Change a safetensors file and keep it well-formed."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    change(header, tensors)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def tensors_of(header: Header) -> list[dict[str, Any]]:
    return [entry for name, entry in header.items() if name != "__metadata__"]


def not_numbers(folder: Path) -> None:
    patterns = {"BF16": b"\xc0\x7f", "F16": b"\x00\x7e", "F32": b"\x00\x00\xc0\x7f"}

    def change(header: Header, tensors: bytearray) -> None:
        for entry in tensors_of(header):
            begin, end = entry["data_offsets"]
            pattern = patterns[entry["dtype"]]
            tensors[begin:end] = pattern * ((end - begin) // len(pattern))

    edit(weights_of(folder), change)


def wrong_shapes(folder: Path) -> None:
    def change(header: Header, tensors: bytearray) -> None:
        for entry in tensors_of(header):
            entry["shape"] = entry["shape"][::-1]

    edit(weights_of(folder), change)


def unknown_type(folder: Path) -> None:
    edit(weights_of(folder), lambda header, _: tensors_of(header)[0].update(dtype="X99"))


def cut_in_the_data(folder: Path) -> None:
    file = weights_of(folder)
    file.write_bytes(file.read_bytes()[:-1000])


def cut_in_the_header(folder: Path) -> None:
    file = weights_of(folder)
    file.write_bytes(file.read_bytes()[:50])


def endless_header(folder: Path) -> None:
    file = weights_of(folder)
    file.write_bytes(struct.pack("<Q", 2**63) + file.read_bytes()[8:])


def config_no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type":')


def config_of_wrong_types(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: [value] if isinstance(value, int) else value for key, value in config.items()}))


def no_tokenizer(folder: Path) -> None:
    for file in (*folder.glob("tokenizer*"), *folder.glob("tokenizer/*")):
        if file.is_file():
            file.unlink()


def tokenizer_of_no_sense(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 5}')


def shard_missing(folder: Path) -> None:
    index = weights_of(folder).parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00009.safetensors"}}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_in_the_data, "model.safetensors is cut short"),
        (cut_in_the_header, "model.safetensors is cut short"),
        (endless_header, "model.safetensors is not a safetensors file"),
        (config_no_json, "config.json is not JSON"),
        pytest.param(config_of_wrong_types, "config.json makes no sense", marks=pytest.mark.slow),
        pytest.param(no_tokenizer, "tokenizer is missing", marks=pytest.mark.slow),
        (tokenizer_of_no_sense, "tokenizer cannot be read"),
        (shard_missing, "model-00009.safetensors is missing"),
        (wrong_shapes, "Expected shape"),
        pytest.param(unknown_type, "unsupported dtype X99", marks=pytest.mark.slow),
        (not_numbers, "NaN"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_chat_model_is_refused_with_what_is_wrong(
    faulty: Faulty, damage: Callable[[Path], None], words: str
) -> None:
    name = f"chat-{damage.__name__}"
    damage(copy(faulty, "herd-tiny-chat", name))
    error = faulty.refusal(SHORT_CHAT | {"model": name})
    assert (error["code"], words in error["message"]) == ("model_incomplete", True), error
    assert "Download it again" in error["hint"]
    assert str(faulty.home) not in json.dumps(error)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_in_the_data, "0.safetensors is cut short"),
        (endless_header, "0.safetensors is not a safetensors file"),
        pytest.param(no_tokenizer, "tokenizer", marks=pytest.mark.slow),
        (shard_missing, "model-00009.safetensors is missing"),
        pytest.param(wrong_shapes, "shape", marks=pytest.mark.slow),
        pytest.param(unknown_type, "unknown dtype", marks=pytest.mark.slow),
        (not_numbers, "NaN"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_image_model_is_refused_with_what_is_wrong(
    faulty: Faulty, damage: Callable[[Path], None], words: str
) -> None:
    name = f"image-{damage.__name__}"
    damage(copy(faulty, "herd-tiny-image", name))
    error = faulty.refusal(IMAGE | {"model": name})
    assert (error["code"], words in error["message"]) == ("model_incomplete", True), error
    assert str(faulty.home) not in json.dumps(error)


@pytest.mark.slow
def test_a_model_that_goes_away_after_it_was_listed_is_named_and_others_go_on(faulty: Faulty) -> None:
    folder = copy(faulty, "herd-tiny-chat", "leaves-early")
    until(lambda: "leaves-early" in {model["name"] for model in faulty.get("/herd/api/models")})
    shutil.rmtree(folder)
    error = faulty.refusal(SHORT_CHAT | {"model": "leaves-early"})
    assert (error["code"], "leaves-early" in error["message"]) == ("model_incomplete", True), error
    assert str(faulty.home) not in json.dumps(error)


def test_a_model_that_goes_away_while_it_loads_fails_its_job_alone(faulty: Faulty) -> None:
    folder = copy(faulty, "herd-tiny-chat", "leaves-late")
    beside = faulty.submit(IMAGE | {"steps": 4})
    job_id = faulty.submit(SHORT_CHAT | {"model": "leaves-late"})
    with stopped(faulty.engine_pid("chat")):
        shutil.rmtree(folder)
    job = faulty.over(job_id)
    assert job.error is not None
    assert (job.error.code, len(job.attempts)) == ("model_incomplete", 1), job
    assert faulty.over(beside).status == "completed"


def test_the_node_and_its_sound_models_have_outlived_them_all(faulty: Faulty) -> None:
    assert faulty.over(faulty.submit(SHORT_CHAT)).status == "completed"
    assert faulty.over(faulty.submit(IMAGE)).status == "completed"
    assert faulty.node_process().poll() is None


def test_ten_thousand_files_in_a_model_folder_are_no_ten_thousand_questions(herd_home: Path) -> None:
    crowded = herd_home / "models" / "crowded"
    shutil.copytree(BUILTIN_FOLDER / "herd-tiny-chat", crowded)
    for number in range(10_000):
        (crowded / f"note-{number}.txt").touch()
    began = time.process_time()
    models = {model.name: model for model in find_models(load_settings(), herd_home)}
    assert models["crowded"].usable
    assert time.process_time() - began < 2


def test_ten_thousand_folders_and_weight_files_are_bounded(herd_home: Path) -> None:
    place = herd_home / "models"
    for number in range(3_000):
        (place / f"m-{number}").mkdir(parents=True)
    crowded = place / "a-crowded"
    shutil.copytree(BUILTIN_FOLDER / "herd-tiny-chat", crowded)
    (crowded / "model.safetensors.index.json").unlink()
    text = b'{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    for number in range(10_000):
        (crowded / f"w-{number}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    began = time.process_time()
    models = {model.name: model for model in find_models(load_settings(), herd_home)}
    took_s = time.process_time() - began
    assert "a-crowded" in models
    assert took_s < 10
    assert os.path.isdir(models["a-crowded"].path)
