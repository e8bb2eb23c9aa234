"""What prompts take in layers that keep a state. What it is compared with is measured in tests/engines."""

from __future__ import annotations

from typing import Any

import pytest

from herd_mcp.node.memory import Needs, chat_needs
from herd_mcp.node.shapes import shape_of
from herd_mcp.node.sizes import work
from herd_mcp.pipe import PREFILL_BATCH, PREFILL_CHUNK_TOKENS
from herd_mcp.settings import GIB

BASE: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
MAMBA2: dict[str, Any] = {
    "model_type": "granitemoehybrid", "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128,
    "mamba_d_conv": 4, "mamba_n_groups": 1,
}  # fmt: skip
HYBRIDS: dict[str, dict[str, Any]] = {
    "Mamba-2": MAMBA2,
    "delta net": {
        "model_type": "qwen3_next", "linear_num_value_heads": 32, "linear_num_key_heads": 16,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    },
    "convolution": {"model_type": "lfm2", "conv_L_cache": 3},
    "every state": {"model_type": "jamba", "mamba_d_state": 16, "mamba_expand": 2},
    "one by one": {"model_type": "falcon_mamba", "state_size": 16, "intermediate_size": 8192},
}  # fmt: skip
TOKENS = 4096


def needs(layers: list[str] | None = None, **fields: Any) -> Needs:
    kinds = {"layer_types": layers, "num_hidden_layers": len(layers)} if layers else {}
    return chat_needs({**BASE, **fields, **kinds}, GIB, prompt_cache_bytes=0, fused=True)


@pytest.mark.parametrize("fields", HYBRIDS.values(), ids=HYBRIDS)
def test_what_leads_to_a_state_is_held_in_every_such_layer(fields: dict[str, Any]) -> None:
    few, many = (
        needs(["mamba"] * states + ["attention"] * (32 - states), **fields).states for states in (8, 24)
    )  # fmt: skip
    if fields["model_type"] == "falcon_mamba":  # it has no other layers
        few, many = needs(num_hidden_layers=8, **fields).states, needs(num_hidden_layers=24, **fields).states
    assert few is not None
    assert many is not None
    assert many.layer_bytes(1, 512) == few.layer_bytes(1, 512)
    assert many.held_bytes(1, 512) == 3 * few.held_bytes(1, 512) > 0


def test_pairs_of_tokens_are_counted_for_each_head_of_one_stretch() -> None:
    one, two = (needs(["mamba"] * 32, **MAMBA2 | {"mamba_n_heads": n, "mamba_d_head": 8192 // n}) for n in (128, 256))

    def more(*sizes: int) -> int:
        return two.work_for(sizes) - one.work_for(sizes)

    scores = 128 * 256 * 256 * 4
    assert more(TOKENS) > (3 + 32) * scores
    assert more(2 * TOKENS) == more(TOKENS)
    assert more(*[TOKENS] * 32) == PREFILL_BATCH * more(TOKENS)


def test_a_layer_is_computed_or_another_and_never_both() -> None:
    """So one of each is hardly more than the larger."""
    hybrid = work({**BASE, **MAMBA2, "layer_types": ["mamba", "attention"], "num_hidden_layers": 2}, fused=False)
    needed = needs(["mamba", "attention"], **MAMBA2)
    assert hybrid.states is not None
    step = needed.work_for([TOKENS]) - needed.copies * needed.caches_for([TOKENS])
    held = hybrid.states.held_bytes(1, PREFILL_CHUNK_TOKENS)
    assert step == pytest.approx(hybrid.states.layer_bytes(1, PREFILL_CHUNK_TOKENS) + held, rel=0.01)


def test_dense_models_have_none() -> None:
    assert needs(model_type="qwen3").states is None


def test_numbers_of_nonsense_stay_numbers() -> None:
    most = 2**31 - 1
    fields: dict[str, Any] = {"model_type": "jamba", "mamba_d_state": most, "mamba_expand": most, "hidden_size": most}
    assert needs(num_hidden_layers=4096, **fields).work_for([TOKENS]) < 2**63


def test_what_was_measured_corrects_states_too() -> None:
    config = {**BASE, **MAMBA2, "layer_types": ["mamba"] * 32}
    whole = needs(["mamba"] * 32, **MAMBA2).work_for([TOKENS])
    twice = chat_needs(config, GIB, prompt_cache_bytes=0, fused=True, factors=((shape_of(whole), 2.0),))
    assert twice.work_for([TOKENS]) == pytest.approx(2 * whole, rel=1e-6)
