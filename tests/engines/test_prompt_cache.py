"""The prompt cache with every kind of cache that models have: those that can be cut back, and those that cannot."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache

from herd_mcp.engines.prompt_cache import PromptCache
from herd_mcp.pipe import EngineSpec
from tests.engines.pipe_client import Answer, EngineProcess, ask_chat
from tests.engines.random_model import build

WINDOW_TOKENS = 64
FAMILIES: dict[str, dict[str, Any]] = {
    "whole history": {
        "family": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "rope_theta": 1e4,
    },
    "sliding window": {
        "family": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "rope_theta": 1e4,
        "layer_types": ["full_attention", "sliding_attention"], "sliding_window": WINDOW_TOKENS,
    },
    "state space": {
        "family": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32,
        "state_size": 4, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 2,
        "max_position_embeddings": 4096,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = build(tmp_path_factory.mktemp("random") / "model", **FAMILIES[request.param])
    with EngineProcess(folder / "log") as process:
        process.load(EngineSpec(kind="chat", model="random", path=str(folder), prompt_cache_bytes=1 << 26))
        yield process


def ask(engine: EngineProcess, *messages: dict[str, str], max_tokens: int = 12) -> Answer:
    return engine.ask(ask_chat("", messages=messages, max_tokens=max_tokens, sampling={"temperature": 0}))


def turn(number: int, answer: str) -> tuple[dict[str, str], ...]:
    return *opened(number), {"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}


def opened(number: int) -> tuple[dict[str, str], ...]:
    """The first turn of a conversation that begins like no other."""
    return ({"role": "system", "content": f"{number} Be brief. " * 8}, {"role": "user", "content": "Tell me. " * 12})


def test_the_second_turn_computes_only_what_is_new(engine: EngineProcess) -> None:
    first = ask(engine, *opened(1))
    second = ask(engine, *turn(1, first.text))
    assert len(first.text) == 12
    assert second.facts.cached_tokens >= first.facts.prompt_tokens + 11


def test_the_second_turn_finds_its_first_prompt_when_the_answer_comes_back_changed(engine: EngineProcess) -> None:
    """As templates do that drop the reasoning of earlier answers, and clients that edit."""
    first = ask(engine, *opened(2))
    second = ask(engine, *turn(2, "Something else."))
    assert second.facts.cached_tokens >= first.facts.prompt_tokens - len("<|assistant\n") - 1


def test_the_same_prompt_again_is_hardly_computed(engine: EngineProcess) -> None:
    first = ask(engine, *opened(3))
    again = ask(engine, *opened(3))
    assert again.text == first.text
    assert again.facts.cached_tokens >= first.facts.prompt_tokens - len("<|assistant\n") - 1


def test_what_comes_from_the_cache_says_the_same_as_what_is_computed(engine: EngineProcess) -> None:
    first = ask(engine, *opened(4))
    cached = ask(engine, *turn(4, "Something else."), max_tokens=24)
    messages = turn(4, "Something else.")
    request = ask_chat("", messages=messages, max_tokens=24, sampling={"temperature": 0, "seed": 1})
    computed = engine.ask(request)
    assert computed.facts.cached_tokens == 0
    assert cached.facts.cached_tokens > 0
    assert cached.text == computed.text
    assert first.text


def test_another_conversation_with_the_same_system_message_computes_it_no_more(engine: EngineProcess) -> None:
    system, user = opened(5)
    ask(engine, system, user)
    other = ask(engine, system, {"role": "user", "content": "Quite another question."})
    assert other.facts.cached_tokens >= len(system["content"])


def test_many_conversations_in_turn_all_find_their_prefix(engine: EngineProcess) -> None:
    numbers = range(10, 30)
    firsts = {number: engine.start(_request(opened(number))) for number in numbers}
    texts = {number: engine.answer(run).text for number, run in firsts.items()}
    seconds = {number: engine.start(_request(turn(number, texts[number]))) for number in numbers}
    missed = [
        number
        for number, run in seconds.items()
        if engine.answer(run).facts.cached_tokens < engine.answer(firsts[number]).facts.prompt_tokens
    ]
    assert missed == []


def _request(messages: tuple[dict[str, str], ...]) -> Any:
    return ask_chat("", messages=messages, max_tokens=12, sampling={"temperature": 0})


def test_a_new_conversation_beside_long_ones_is_looked_up_at_once() -> None:
    """The engine stands still for as long as that takes. To look through all continuations takes tens of seconds."""
    cache = PromptCache(1 << 30)
    chance = random.Random(1)
    begin = [1, 2, 3, 4]
    for _ in range(10):
        layer = KVCache()
        layer.update_and_fetch(mx.zeros((1, 1, 1, 1)), mx.zeros((1, 1, 1, 1)))
        cache.keep(begin + [chance.randrange(1000) for _ in range(30_000)], [layer])
    began = time.monotonic()
    _, cached = cache.fetch([*begin, 2000, 2001])
    assert cached == len(begin)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: CacheList(state, KVCache())], ids=["bare", "listed"]
)
def test_a_kept_state_does_not_hold_the_batch_that_it_was_a_row_of(wrap: Callable[[ArraysCache], Any]) -> None:
    before_bytes = mx.get_active_memory()
    batch = ArraysCache(1)
    batch[0] = mx.ones((16, 1 << 16))
    mx.eval(batch.state)
    row = batch.extract(3)
    kept = PromptCache(1 << 30)
    kept.keep([1, 2], [wrap(row)])
    del batch, row
    assert kept.nbytes == 4 << 16
    assert mx.get_active_memory() - before_bytes < 2 * kept.nbytes
