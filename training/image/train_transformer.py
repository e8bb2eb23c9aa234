"""Trains the transformer and the embedding by flow matching, all sizes together.

The noise decides the seed's play: where the shape lies within its place and how large it is follow from three sums over
the noise. So every noise has one picture, paths are straight, and few steps reach it as well as many.

The first stage stands in for the 512 tokens of a padded prompt with 64; the second has all 512, as mflux has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.image import config, model, optimizer, shapes, vae

PEAK_RATE = 2e-3
SHORT_TEXT = 64
SCHEDULES = {1: 0.08, 2: 0.17, 4: 0.45, 8: 0.30}
"""Step counts whose exact noise levels are trained, and how often."""
FREE_LEVELS = 0.35
"""How often the noise level is any other."""
LOOSE = 0.1
"""How often, at lower noise, the play does not follow from the noise: as with a picture to start from."""

Batches = tuple[tuple[int, int, int], ...]
SHORT: Batches = ((4, 4, 384), (8, 8, 256), (6, 6, 64), (4, 8, 32), (8, 4, 32))
FULL: Batches = ((4, 4, 96), (8, 8, 96), (6, 6, 32), (4, 8, 16), (8, 4, 16))
"""Rows and columns of tokens of 16 px, and pictures of that size in a step."""


@dataclass(frozen=True)
class Pairs:
    """Captions and their scenes, on the device."""

    ids: Any
    lengths: Any
    numbers: Any


jax.tree_util.register_dataclass(Pairs, ["ids", "lengths", "numbers"], [])


def play_of(noise: Any) -> Any:
    """The play (radius, x, y in -1…1, evenly spread) of noise [batch, tokens, 128]."""
    sums = noise[:, :, :3].sum(1) / np.sqrt(noise.shape[1])
    return jax.lax.erf(sums / np.sqrt(2.0))


def noise_levels(key: Any, count: int, tokens: int) -> Any:
    keys = jax.random.split(key, 3)
    levels = [
        (level, share / steps) for steps, share in SCHEDULES.items() for level in model.sigmas(tokens, steps)[:-1]
    ]
    exact = jnp.asarray([level for level, _ in levels])[
        jax.random.choice(keys[0], len(levels), (count,), p=jnp.asarray([share for _, share in levels]))
    ]
    free = jax.nn.sigmoid(0.6 + 1.3 * jax.random.normal(keys[1], (count,)))
    return jnp.where(jax.random.uniform(keys[2], (count,)) < FREE_LEVELS, free, exact)


def _loss(weights: Any, key: Any, vae_weights: Any, pairs: Pairs, batches: Batches, full: bool) -> tuple[Any, Any]:
    half = {name: array.astype(jnp.bfloat16) for name, array in weights.items()}
    errors = []
    for rows, columns, count in batches:
        key, *keys = jax.random.split(key, 7)
        chosen = jax.random.randint(keys[0], (count,), 0, len(pairs.ids))
        noise = jax.random.normal(keys[1], (count, rows * columns, config.LATENT))
        level = noise_levels(keys[2], count, rows * columns)
        loose = (jax.random.uniform(keys[3], (count,)) < LOOSE) & (level < 0.9)
        other = jax.random.uniform(keys[4], (count, 3), minval=-1, maxval=1)
        placed = shapes.place_shapes(pairs.numbers[chosen], jnp.where(loose[:, None], other, play_of(noise)))
        drawn = shapes.render(placed, rows * config.TOKEN_PX, columns * config.TOKEN_PX)
        clean = jax.lax.stop_gradient(vae.normalise(vae_weights, vae.pack(vae.encode(vae_weights, drawn))))
        used = np.arange(config.LATENT) < config.USED
        mixed = ((1 - level)[:, None, None] * clean + level[:, None, None] * noise) * used
        ids = pairs.ids[chosen]
        if full:
            text = model.all_pads(jnp.pad(ids, ((0, 0), (0, config.TEXT_TOKENS - SHORT_TEXT))))
        else:
            text = model.few_pads(keys[5], ids, pairs.lengths[chosen])
        found = model.velocity(half, mixed, text, level, rows, columns).astype(jnp.float32)
        errors.append(((found - (noise - clean)) ** 2)[..., : config.USED].mean((1, 2)))
    return jnp.concatenate(errors).mean(), jnp.stack([errors[0].mean(), errors[1].mean()])


@partial(jax.jit, donate_argnums=0, static_argnames=("batches", "full"))
def train_step(
    state: optimizer.State, key: Any, vae_weights: Any, pairs: Pairs, learning_rate: Any, batches: Batches, full: bool
) -> tuple[optimizer.State, Any]:
    key = jax.random.fold_in(key, state.step)
    (_, errors), gradients = jax.value_and_grad(_loss, has_aux=True)(
        state.weights, key, vae_weights, pairs, batches, full
    )
    return optimizer.update(state, gradients, learning_rate, 0.01, 0.999), errors


STAGES = ((SHORT, False), (FULL, True))


def start(vocabulary: int, seed: int) -> optimizer.State:
    return optimizer.start(model.initial(vocabulary, seed))


def compiled(stage: int, pairs: Pairs, vocabulary: int) -> Any:
    """`train_step` of one stage, compiled: a minute on a GPU's host, which the VAE's training can fill."""
    batches, full = STAGES[stage]
    frozen = {f"{name}.{kind}": shape for name, shape in vae.layer_shapes().items() for kind in ("weight", "bias")}
    frozen = {name: shape[:1] if name.endswith("bias") else shape for name, shape in frozen.items()}
    frozen |= {"bn.running_mean": (config.LATENT,), "bn.running_var": (config.LATENT,)}
    shaped = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in frozen.items()}
    state = jax.eval_shape(lambda: start(vocabulary, 0))
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    return train_step.lower(state, jax.random.key(0), shaped, pairs, rate, batches=batches, full=full).compile()


def train(
    pairs: Pairs,
    vae_weights: dict[str, Any],
    vocabulary: int,
    steps: tuple[int, int],
    seed: int,
    stages: Callable[[int], Any],
    report: Callable[[str, dict[str, Any] | None], None],
) -> dict[str, Any]:
    """All weights of the transformer and the embedding. `steps` are those with short and with full text, `stages`
    gives what `compiled` made of each."""
    key = jax.random.key(seed)
    frozen = {name: jnp.asarray(array) for name, array in vae_weights.items()}
    state = start(vocabulary, seed)
    for i in range(sum(steps)):
        if i in (0, steps[0]):
            step = stages(int(i > 0))
        state, errors = step(state, key, frozen, pairs, optimizer.rate(i, sum(steps), PEAK_RATE))
        if i % 500 == 0 or i in (steps[0], sum(steps) - 1):
            small, large = (float(error) for error in errors)
            line = f"transformer {i}/{sum(steps)}: error {small:.4f} at 64 px, {large:.4f} at 128 px"
            report(line, state.average if i % 3000 == 0 else None)
    return {name: np.asarray(array) for name, array in state.average.items()}
