"""Train `herd-tiny-chat`: `uv run --group training python -m training chat [--out FOLDER]`.

The same seed, versions and hardware give the same weights; other hardware gives others that pass the same checks
(`training/chat/evaluate.py`). About nine minutes on one H200; hours on a CPU, where `--steps` and `--batch` make it
short.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")

import jax
import jax.numpy as jnp
import numpy as np

from training.chat.card import write_card
from training.chat.corpus import texts
from training.chat.export import write_index, write_json, write_safetensors
from training.chat.model import Shape, Weights, adamw, config, loss, make_weights
from training.chat.packing import Rows, make_rows
from training.chat.template import MARKERS
from training.chat.tokenizer import train_tokenizer, write_tokenizer

FOLDER = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"
SEED = 20_261_121
VOCABULARY = 2_048
TOKENIZER_TEXTS = 40_000
WARM_UP = 200
DECAY = 0.1
AVERAGE = 0.998
"""The written weights are a running average of the last thousand steps or so."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training chat", description="Train herd-tiny-chat.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--batch", type=int, default=96, help="rows of --length tokens per step")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument(
        "--shards", type=int, default=280, help="of 4000 conversations each; when used up they come again"
    )
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(argv)
    began = time.monotonic()
    asked.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(texts(asked.seed, TOKENIZER_TEXTS), VOCABULARY)
    shape = Shape(vocab_size=tokenizer.get_vocab_size())
    write_tokenizer(tokenizer, asked.out, shape.context_tokens)
    rows = make_rows(asked.out / "tokenizer.json", asked.seed, asked.shards, asked.length, asked.workers)
    print(f"{rows.tokens.size / 1e6:.0f}M tokens after {time.monotonic() - began:.0f} s", flush=True)

    weights = fit(shape, rows, asked.steps, asked.batch, asked.rate, asked.seed)
    arrays = {name: np.asarray(weight, np.float32) for name, weight in weights.items()}
    write_safetensors(asked.out / "model.safetensors", arrays)
    write_index(asked.out, arrays)
    eos = MARKERS.index("<|im_end|>")
    write_json(asked.out / "config.json", config(shape, eos))
    write_json(asked.out / "generation_config.json", {"do_sample": False, "temperature": 0.0, "eos_token_id": eos})
    device = f"{jax.devices()[0].device_kind} (JAX {jax.__version__}, {platform.machine()})"
    minutes = (time.monotonic() - began) / 60
    write_card(asked.out, shape, sum(array.size for array in arrays.values()), asked.steps, minutes, device)
    print(f"{asked.out}: {minutes:.1f} minutes on {device}")
    return 0


def fit(shape: Shape, rows: Rows, steps: int, batch: int, rate: float, seed: int) -> Weights:
    """Train, and give the averaged weights."""
    weights = make_weights(shape, seed)
    moments = ({n: jnp.zeros_like(w) for n, w in weights.items()}, {n: jnp.zeros_like(w) for n, w in weights.items()})
    average = {name: jnp.copy(weight) for name, weight in weights.items()}
    key = jax.random.key(seed + 1)
    order = np.random.default_rng(seed)
    shuffled = order.permutation(len(rows.tokens))
    at, began = 0, time.monotonic()
    for step in range(1, steps + 1):
        if at + batch > len(shuffled):
            shuffled, at = order.permutation(len(rows.tokens)), 0
        chosen = shuffled[at : at + batch]
        at += batch
        tokens = jnp.asarray(rows.tokens[chosen].astype(np.int32))
        now = rate * min(1.0, step / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        weights, moments, average, value = _step(
            weights, moments, average, shape, tokens, jnp.asarray(rows.segments[chosen]),
            jnp.asarray(rows.counts[chosen]), jax.random.fold_in(key, step) if step <= steps // 2 else None,
            jnp.float32(step), jnp.float32(now),
        )  # fmt: skip
        if step % 100 == 0 or step == 10:
            print(f"step {step}: loss {float(value):.4f}, {time.monotonic() - began:.0f} s", flush=True)
    return average


@partial(jax.jit, static_argnames="shape", donate_argnames=("weights", "moments"))
def _step(
    weights: Weights,
    moments: tuple[Weights, Weights],
    average: Weights,
    shape: Shape,
    tokens: jax.Array,
    segments: jax.Array,
    counts: jax.Array,
    key: jax.Array | None,
    step: jax.Array,
    rate: jax.Array,
) -> tuple[Weights, tuple[Weights, Weights], Weights, jax.Array]:
    value, slopes = jax.value_and_grad(loss)(weights, shape, tokens, segments, counts, key)
    weights, moments = adamw(weights, slopes, moments, step, rate, DECAY)
    share = jnp.minimum(AVERAGE, step / (step + 10))
    average = {name: share * average[name] + (1 - share) * weight for name, weight in weights.items()}
    return weights, moments, average, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
