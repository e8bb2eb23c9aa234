"""The image engine, in its real process, with the built-in model."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import herd_mcp
from herd_mcp.engines import image_load
from herd_mcp.jobs import ChatRequest, ErrorCode, HerdError, ImageRequest
from herd_mcp.pipe import EngineSpec, LoadFailed, LoadingNow, Ready, RunCancelled, Step
from tests.engines.pipe_client import Answer, EngineProcess, ask_chat

MODEL = Path(herd_mcp.__path__[0]) / "builtin" / "herd-tiny-image"


def spec(path: Path = MODEL, family: str = "builtin-flux2-klein") -> EngineSpec:
    return EngineSpec(kind="image", model="herd-tiny-image", path=str(path), family=family, quantize=8)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine") / "log") as process:
        process.load(spec())
        yield process


def draw(engine: EngineProcess, spool: Path, **fields: object) -> Answer:
    request = ImageRequest.model_validate({"prompt": "a red circle", "seed": 7, "steps": 2, **fields})
    return engine.answer(engine.start(request, str(spool)))


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_loading_is_reported_and_ready_comes_with_numbers(engine: EngineProcess) -> None:
    fractions = [message.fraction for message in engine.messages if isinstance(message, LoadingNow)]
    assert fractions == sorted(fractions)
    assert len(fractions) > 10
    ready = next(message for message in engine.messages if isinstance(message, Ready))
    on_disk = sum(file.stat().st_size for file in MODEL.rglob("*.safetensors"))
    assert ready.weights_bytes == pytest.approx(on_disk, rel=0.05)
    assert ready.peak_bytes > ready.weights_bytes


def test_an_image_is_drawn_with_the_models_defaults(engine: EngineProcess, tmp_path: Path) -> None:
    request = ImageRequest(prompt="größe 日本語", negative_prompt="", guidance=4.0)
    answer = engine.answer(engine.start(request, str(tmp_path / "out.png")))
    facts = answer.image_facts
    assert (facts.width, facts.height, facts.steps, facts.guidance, facts.quantize) == (64, 64, 4, None, None)
    assert facts.run_s > 0
    assert [delta.step for delta in answer.deltas] == [0, 1, 2, 3, 4, 4]
    steps = [f"step {i}/4" for i in range(1, 5)]
    assert [delta.message for delta in answer.deltas] == ["encoding prompt", *steps, "decoding"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    with Image.open(tmp_path / "out.png") as image:
        assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")
        colours = image.getcolors(64 * 64)
        assert colours is not None
        assert len(colours) > 50
        described = json.loads(image.info["herd"])
        assert described["prompt"] == "größe 日本語"
        assert (described["seed"], described["steps"], described["model"]) == (facts.seed, 4, "herd-tiny-image")
        assert f"Seed: {facts.seed}" in image.info["parameters"]
        assert image.info["Software"].startswith("herd-mcp ")


def test_the_same_seed_gives_the_same_file_and_another_seed_another(engine: EngineProcess, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        draw(engine, tmp_path / name, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pixels(tmp_path / "a") != pixels(tmp_path / "c")


def test_a_cancelled_image_leaves_nothing_and_the_next_is_as_before(engine: EngineProcess, tmp_path: Path) -> None:
    draw(engine, tmp_path / "before")
    request = ImageRequest(prompt="another", seed=1, steps=200)
    run = engine.start(request, str(tmp_path / "never"))
    engine.wait(lambda: any(delta.step == 1 for delta in engine.answers[run].deltas))
    engine.cancel(run)
    engine.cancel(run)
    answer = engine.answer(run)
    assert isinstance(answer.ending, RunCancelled)
    assert len(answer.deltas) < 10
    draw(engine, tmp_path / "after")
    assert pixels(tmp_path / "after") == pixels(tmp_path / "before")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "before"]
    assert len(engine.answers[run].endings) == 1


def test_an_image_that_waits_can_be_cancelled_alone(engine: EngineProcess, tmp_path: Path) -> None:
    first = engine.start(ImageRequest(prompt="first", seed=1, steps=2), str(tmp_path / "first"))
    second = engine.start(ImageRequest(prompt="second", seed=1, steps=2), str(tmp_path / "second"))
    engine.cancel(second)
    assert engine.answer(first).image_facts.seed == 1
    assert isinstance(engine.answer(second).ending, RunCancelled)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_picture_to_start_from_shows_in_the_result(engine: EngineProcess, tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((128, 64)).convert("RGB").save(out, "PNG")
    answer = draw(engine, tmp_path / "with", image=out.getvalue(), image_strength=0.5, steps=4)
    assert [delta.step for delta in answer.deltas] == [0, 1, 2, 2]
    assert answer.image_facts.width > answer.image_facts.height
    size = {"width": answer.image_facts.width, "height": answer.image_facts.height}
    draw(engine, tmp_path / "without", steps=4, **size)
    assert pixels(tmp_path / "with") != pixels(tmp_path / "without")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["with", "without"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"image": b"no picture"}, "picture"),
        ({"width": 256}, "64 to 128"),
        ({"negative_prompt": "a dog"}, "negative prompt"),
        ({"image_strength": 0.5}, "image_strength"),
    ],
)
def test_a_bad_request_fails_alone(engine: EngineProcess, tmp_path: Path, fields: dict[str, object], word: str) -> None:
    error = draw(engine, tmp_path / "out", **fields).error
    assert error.code is ErrorCode.INVALID_REQUEST
    assert word in error.message
    assert error.hint
    assert not list(tmp_path.iterdir())


def test_the_engine_draws_on_after_a_bad_request(engine: EngineProcess, tmp_path: Path) -> None:
    assert draw(engine, tmp_path / "bad", image=b"no picture").error.code is ErrorCode.INVALID_REQUEST
    assert draw(engine, tmp_path / "good").image_facts.steps == 2


def test_a_chat_is_refused_by_an_image_engine(engine: EngineProcess) -> None:
    request: ChatRequest = ask_chat("hello")
    assert engine.ask(request).error.code is ErrorCode.KIND_NOT_SUPPORTED


def test_a_file_that_cannot_be_written_fails_that_image(engine: EngineProcess, tmp_path: Path) -> None:
    assert draw(engine, tmp_path / "no" / "such" / "folder.png").error.code is ErrorCode.DISK


def test_a_prompt_longer_than_the_model_reads_says_that_it_is_cut(engine: EngineProcess, tmp_path: Path) -> None:
    answer = draw(engine, tmp_path / "out", prompt="x" * 600)
    assert answer.deltas[0].message == "encoding the first 512 of the prompt's 600 tokens; the rest is cut"


def test_the_engine_gives_a_sign_of_life_before_the_first_step(engine: EngineProcess, tmp_path: Path) -> None:
    before = len(engine.messages)
    draw(engine, tmp_path / "out")
    steps = [message for message in engine.messages[before:] if isinstance(message, Step)]
    assert any(not step.runs for step in steps)
    works = [step.work for step in steps]
    assert works == sorted(set(works)), "every step says that more was done"


def test_a_folder_that_lacks_a_part_is_not_loaded_and_the_part_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    shutil.rmtree(folder / "vae")
    with EngineProcess(tmp_path / "log") as process:
        failed = process.try_load(spec(folder))
    assert isinstance(failed, LoadFailed)
    assert failed.error.code is ErrorCode.MODEL_INCOMPLETE
    assert "vae" in failed.error.message


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "tokenizer", "herd.json"])
def test_whatever_part_is_missing_is_named(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (shutil.rmtree if (folder / part).is_dir() else Path.unlink)(folder / part)
    with pytest.raises(HerdError, match=part) as refused:
        image_load.check(spec(folder), image_load.family_for(spec(folder)))
    assert refused.value.info.code is ErrorCode.MODEL_INCOMPLETE


def test_weights_cut_short_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    weights = folder / "vae" / "0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(HerdError, match=r"vae/0\.safetensors") as refused:
        image_load.check(spec(folder), image_load.family_for(spec(folder)))
    assert refused.value.info.code is ErrorCode.MODEL_INCOMPLETE


def test_a_model_that_edits_pictures_is_refused() -> None:
    with pytest.raises(HerdError) as refused:
        image_load.family_for(spec(family="dev-kontext"))
    assert refused.value.info.code is ErrorCode.KIND_NOT_SUPPORTED
