"""Sampling settings: what is asked, what the model's makers recommend, and what neither says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from herd_mcp.engines import chat
from herd_mcp.engines.sampling import choose, model_defaults, processors_of, sampler_of
from herd_mcp.jobs import HerdError, Sampling

mx.disable_compile()

FLAT = mx.zeros((1, 50))


def pick(sampled: mx.array) -> int:
    token: Any = sampled.item()
    return int(token)


def draw(sampler: Callable[[mx.array], mx.array], between: Callable[[], object] = lambda: None) -> list[int]:
    tokens = []
    for _ in range(10):
        between()
        tokens.append(pick(sampler(FLAT)))
    return tokens


def test_a_seeded_run_draws_the_same_whatever_its_neighbours_draw() -> None:
    choice = choose(Sampling(temperature=1, seed=7), Sampling(), 50)
    expected = draw(sampler_of(choice))
    assert draw(sampler_of(choice), between=lambda: mx.random.uniform().item()) == expected
    assert draw(sampler_of(choose(Sampling(temperature=1, seed=8), Sampling(), 50))) != expected


def test_equal_settings_share_one_sampler_and_seeds_do_not() -> None:
    warm = choose(Sampling(temperature=0.7, top_p=0.9), Sampling(), 50)
    assert sampler_of(warm) is sampler_of(choose(Sampling(temperature=0.7, top_p=0.9), Sampling(), 50))
    seeded = choose(Sampling(temperature=0.7, top_p=0.9, seed=1), Sampling(), 50)
    assert sampler_of(seeded) is not sampler_of(seeded)


def test_a_seeded_run_keeps_to_top_k() -> None:
    logprobs = mx.log(mx.arange(1, 51, dtype=mx.float32))[None]
    sampler = sampler_of(choose(Sampling(temperature=5, top_k=2, seed=1), Sampling(), 50))
    assert {pick(sampler(logprobs)) for _ in range(40)} == {48, 49}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {}),
        ("not json", {}),
        ([], {}),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": -1, "top_p": "much", "top_k": 50, "repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),
    ],
)
def test_defaults_come_from_the_model_where_they_make_sense(
    tmp_path: Path, config: Any, expected: dict[str, float]
) -> None:
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "generation_config.json").write_text(text)
    assert model_defaults(tmp_path, 50).model_dump(exclude_none=True, exclude_defaults=True) == expected


def test_a_request_goes_before_the_model_and_the_model_before_greedy() -> None:
    model = Sampling(temperature=0.6, top_k=20)
    assert choose(Sampling(), Sampling(), 50).temperature == 0
    assert choose(Sampling(), model, 50).temperature == 0.6
    asked = choose(Sampling(temperature=0.0, top_k=0), model, 50)
    assert (asked.temperature, asked.top_k) == (0, 0)


def test_settings_outside_of_the_vocabulary_are_refused() -> None:
    for bad in (Sampling(top_k=50), Sampling(logit_bias={50: 1}), Sampling(logit_bias={-1: 1})):
        with pytest.raises(HerdError, match=r"50|49"):
            choose(bad, Sampling(), 50)
    choose(Sampling(top_k=49, logit_bias={0: 1, 49: 1}), Sampling(), 50)


def test_neutral_penalties_cost_nothing() -> None:
    neutral = Sampling(repetition_penalty=1, presence_penalty=0, frequency_penalty=0)
    assert processors_of(choose(neutral, Sampling(), 50)) == []
    assert len(processors_of(choose(Sampling(repetition_penalty=1.1, logit_bias={1: 1}), Sampling(), 50))) == 2


def test_the_wired_memory_limit_of_the_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1 << 30})
    monkeypatch.setattr(mx, "set_wired_limit", calls.append)
    chat._generate.BatchGenerator(None)
    assert calls == []
