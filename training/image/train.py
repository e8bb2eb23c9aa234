"""From nothing to herd-tiny-image: captions and scenes, the VAE, the transformer, a first look, the folder.

    uv run --group training python -m training image [--out FOLDER] [--weights FILE] [--only train|export]

Training wants a GPU: it took 449 s on one H200. `--only train` needs no MLX and `--only export` no GPU, so that two
machines can share the work.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.image import captions, cases, config, model, tokenizer, train_transformer, train_vae, vae
from training.image.judge import judge

SEED = 7
PAIRS = 300_000


@dataclass(frozen=True)
class Budget:
    """How many steps each part gets."""

    vae: int = 5000
    short: int = 12000
    full: int = 1500
    pairs: int = PAIRS


def make_pairs(count: int, seed: int) -> train_transformer.Pairs:
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    drawn = [captions.training_pair(rng) for _ in range(count)]
    ids = tokenizer.encode(tokenizer.build(), [caption for caption, _ in drawn])
    # At least a quarter of the short text must be left to the pads.
    kept = [i for i, tokens in enumerate(ids) if len(tokens) <= train_transformer.SHORT_TEXT * 3 // 4]
    return train_transformer.Pairs(
        ids=jnp.asarray(tokenizer.padded([ids[i] for i in kept], train_transformer.SHORT_TEXT)),
        lengths=jnp.asarray([len(ids[i]) for i in kept]),
        numbers=jnp.asarray([drawn[i][1].numbers() for i in kept], jnp.float32),
    )


def train(target: Path, budget: Budget, seed: int = SEED) -> None:
    """Writes all weights to `target`, an .npz with names that begin with `vae.` and `transformer.`"""
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    pairs = make_pairs(budget.pairs, seed)
    size = tokenizer.build().get_vocab_size()
    report(f"{len(pairs.ids)} captions")
    with ThreadPoolExecutor() as pool:
        stages = [pool.submit(train_transformer.compiled, stage, pairs, size) for stage in (0, 1)]
        vae_weights = train_vae.train(pairs.numbers, budget.vae, seed, report)
        report("vae trained")

        def progress(line: str, so_far: dict[str, Any] | None) -> None:
            report(line)
            if so_far is not None:
                save(target, vae_weights, so_far, time.monotonic() - began, seed)

        weights = train_transformer.train(
            pairs,
            vae_weights,
            size,
            (budget.short, budget.full),
            seed,
            lambda stage: stages[stage].result(),
            progress,
        )
    report("transformer trained")
    save(target, vae_weights, weights, time.monotonic() - began, seed)
    look(vae_weights, weights, report)


def save(target: Path, vae_weights: dict[str, Any], weights: dict[str, Any], seconds: float, seed: int) -> None:
    arrays: dict[str, Any] = {f"vae.{name}": array for name, array in vae_weights.items()}
    arrays |= {f"transformer.{name}": np.asarray(array) for name, array in weights.items()}
    notes = {"device": device_name(), "seconds": seconds, "seed": seed}
    arrays |= {f"notes.{name}": np.array(note) for name, note in notes.items()}
    np.savez(target, allow_pickle=False, **arrays)


def device_name() -> str:
    import jax

    return str(jax.devices()[0].device_kind)


def look(vae_weights: dict[str, Any], weights: dict[str, Any], report: Any, each: int = 64) -> None:
    """The held-out forms, drawn in JAX in bfloat16: how good the weights are before mflux runs them."""
    import jax
    import jax.numpy as jnp

    text = tokenizer.build()
    half = {name: jnp.asarray(array, jnp.bfloat16) for name, array in weights.items()}
    frozen = {name: jnp.asarray(array) for name, array in vae_weights.items()}

    def draw(noise: Any, ids: Any, side: int, steps: int) -> Any:
        latents = model.draw(half, noise, model.all_pads(ids), side, side, steps).astype(jnp.float32)
        return vae.decode(frozen, vae.unpack(vae.denormalise(frozen, latents), side, side))

    drawing = jax.jit(draw, static_argnums=(2, 3))
    for px in (64, 128):
        side = px // config.TOKEN_PX
        for steps in (4, 1, 2, 8):
            for form, asked in cases.held_out(each).items():
                if steps != 4 and form != "plain":
                    continue
                ids = tokenizer.padded(tokenizer.encode(text, [case.prompt for case in asked]), config.TEXT_TOKENS)
                noise = jax.random.normal(jax.random.key(asked[0].seed), (len(asked), side * side, config.LATENT))
                drawn = np.asarray(drawing(noise, jnp.asarray(ids), side, steps))
                pictures = np.round((drawn + 1) * 127.5).clip(0, 255).astype(np.uint8)
                rights = [judge(picture).right(case.scene) for picture, case in zip(pictures, asked, strict=True)]
                shares = {thing: np.mean([right[thing] for right in rights]) for thing in rights[0]}
                report(f"{px} px, {steps} steps, {form}: " + ", ".join(f"{a} {b:.0%}" for a, b in shares.items()))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m training image")
    parser.add_argument("--out", type=Path, default=config.FOLDER, help="folder of the model")
    parser.add_argument("--weights", type=Path, default=Path("herd-tiny-image.npz"), help="what training saves")
    parser.add_argument("--only", choices=("train", "export"))
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, nargs=3, metavar=("VAE", "SHORT", "FULL"), help="instead of the usual")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_exclude_nondeterministic_ops=true")
    if asked.only != "export":
        train(asked.weights, Budget(*asked.steps) if asked.steps else Budget(), asked.seed)
    if asked.only != "train":
        from training.image.export import export

        export(asked.weights, asked.out)
        print(f"the model is in {asked.out}")
