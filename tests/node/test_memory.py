"""The ledger's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd_mcp.node import memory
from herd_mcp.node.memory import Needs, budget_bytes, chat_needs, image_needs, loaded_bytes, longest_tokens
from herd_mcp.node.shapes import LARGEST
from herd_mcp.pipe import CACHE_SPARE_TOKENS, PREFILL_BATCH
from herd_mcp.settings import GIB, MIB, load_settings

QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA = {**QWEN3_8B, "model_type": "gemma3_text", "head_dim": 256, "sliding_window": 1024, "sliding_window_pattern": 6}


@pytest.mark.parametrize(("total", "budget"), [(8, 6), (16, 12), (64, 48), (4, 2), (1, 0)])
def test_a_quarter_of_the_mac_and_at_least_two_gib_are_left_to_its_owner(total: int, budget: int) -> None:
    assert budget_bytes(load_settings(), total * GIB) == budget * GIB


def test_the_owners_floor_and_budget_stand_before_the_default() -> None:
    assert budget_bytes(load_settings(memory_floor_bytes=GIB), 8 * GIB) == 7 * GIB
    assert budget_bytes(load_settings(memory_budget_bytes=3 * GIB), 8 * GIB) == 3 * GIB


def test_quantising_while_loading_shrinks_the_weights_and_a_quantised_checkpoint_stays() -> None:
    assert loaded_bytes(16 * GIB, None, 8) == int(8.5 * GIB)
    assert loaded_bytes(8 * GIB, 8, 4) == loaded_bytes(8 * GIB, 8, None) == 8 * GIB


def test_built_in_models_reserve_little() -> None:
    drawing = image_needs("builtin-flux2-klein", 5 * MIB, builtin=True)
    assert drawing.bytes_for([128 * 128]) < GIB / 2
    assert memory.prompt_cache_share(GIB, 12 * GIB, builtin=True) == 16 * MIB


def test_kept_conversations_take_a_part_of_the_budget_and_never_more_than_the_setting() -> None:
    assert memory.prompt_cache_share(GIB, 6 * GIB, builtin=False) == 384 * MIB
    assert memory.prompt_cache_share(100 * MIB, 6 * GIB, builtin=False) == 100 * MIB


def needs_of(config: dict[str, object], fused: bool = True, factor: float = 1.0) -> Needs:
    return chat_needs(config, 5 * GIB, prompt_cache_bytes=256 * MIB, fused=fused, factors=((LARGEST, factor),))


def test_a_batch_costs_as_many_times_its_longest_sequence() -> None:
    needs = needs_of(QWEN3_8B)
    assert needs.bytes_for([8192, 100, 100]) == needs.bytes_for([8192] * 3)
    assert needs.caches_for([8192]) == 36 * 2 * 8 * 128 * 2 * (8192 + CACHE_SPARE_TOKENS)


def test_no_work_takes_what_loading_took_and_the_proof_of_an_image_is_not_counted_twice() -> None:
    needs = image_needs("z-image-turbo", 6 * GIB, builtin=False)
    assert needs.bytes_for([]) == needs.load_bytes
    assert needs.bytes_for([64 * 64]) == needs.load_bytes
    beyond = needs.work_for([1024 * 1024]) - needs.proof_bytes
    assert needs.bytes_for([1024 * 1024]) == needs.load_bytes + beyond


def test_heads_that_are_not_fused_take_memory_with_the_square_of_the_context() -> None:
    wide = needs_of(GEMMA)
    assert wide.pair_bytes > 20 * needs_of(QWEN3_8B).pair_bytes
    assert wide.pair_bytes == needs_of(GEMMA, fused=False).pair_bytes


def test_a_step_copies_caches_of_its_prompts_alone_and_all_when_they_have_joined() -> None:
    needs = needs_of(QWEN3_8B)
    eight, more = needs.work_for([4096] * PREFILL_BATCH), needs.work_for([4096] * 2 * PREFILL_BATCH)
    assert more - eight == pytest.approx(PREFILL_BATCH * needs.row_bytes, abs=1)
    many = [4096] * 50 * PREFILL_BATCH
    assert needs.work_for(many) == pytest.approx(needs.copies * needs.caches_for(many) + len(many) * needs.row_bytes)


def test_a_factor_counts_for_the_work_alone() -> None:
    once, twice = needs_of(QWEN3_8B), needs_of(QWEN3_8B, factor=2.0)
    assert twice.work_for([4096]) == pytest.approx(2 * once.work_for([4096]), rel=1e-6)
    assert twice.caches_for([4096]) == once.caches_for([4096])
    assert twice.load_bytes == once.load_bytes


def test_the_longest_conversation_is_the_last_that_fits() -> None:
    needs = needs_of(QWEN3_8B)
    tokens = longest_tokens(needs, 9 * GIB, 40_960)
    assert needs.bytes_for([tokens]) <= 9 * GIB < needs.bytes_for([tokens + 1024])
    assert longest_tokens(needs, 100 * GIB, 40_000) == 40_000
    assert longest_tokens(needs, 5 * GIB, 40_960) == 0


@st.composite
def any_needs(draw: st.DrawFn) -> Needs:
    if draw(st.booleans()):
        family = draw(st.sampled_from(["flux2-klein-4b", "dev", "builtin-flux2-klein"]))
        return image_needs(family, draw(st.integers(0, GIB)), builtin=family.startswith("builtin"))
    states = {"model_type": "falcon_h1", "mamba_n_heads": 24, "mamba_d_head": 64}
    config = draw(st.sampled_from([QWEN3_8B, GEMMA, {}, {**QWEN3_8B, "kv_lora_rank": 512}, {**QWEN3_8B, **states}]))
    return needs_of(config, draw(st.booleans()), draw(st.floats(0.25, 4)))


@given(any_needs(), st.lists(st.integers(1, 200_000), max_size=12), st.integers(1, 200_000), st.data())
def test_more_jobs_and_longer_ones_never_need_less(
    needs: Needs, sizes: list[int], another: int, data: st.DataObject
) -> None:
    before = needs.bytes_for(sizes)
    assert before >= needs.load_bytes - needs.proof_bytes
    assert needs.bytes_for([*sizes, another]) >= before
    if sizes:
        which = data.draw(st.integers(0, len(sizes) - 1))
        longer = [size + another if index == which else size for index, size in enumerate(sizes)]
        assert needs.bytes_for(longer) >= before
