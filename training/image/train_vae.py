"""Trains the VAE: pictures of scenes, a quarter of them in colours of no palette, at 64 and 128 px together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.image import config, optimizer, shapes, vae

BATCHES = {64: 96, 128: 32}
PEAK_RATE = 2e-3
LATENT_NOISE = 0.1
"""Added to latents before they are decoded, so that pictures forgive the transformer small errors."""
STATISTICS_FLOOR = 0.1
"""No channel's variance counts for less than this part of the median: such a channel would be mostly noise."""


def pictures(key: Any, numbers: Any, count: int, px: int) -> Any:
    keys = jax.random.split(key, 4)
    chosen = numbers[jax.random.randint(keys[0], (count,), 0, len(numbers))]
    placed = shapes.place_shapes(chosen, jax.random.uniform(keys[1], (count, 3), minval=-1, maxval=1))
    free = jax.random.uniform(keys[2], (count, 6), minval=-1, maxval=1)
    placed = placed.at[: count // 4, 4:].set(free[: count // 4])
    return shapes.render(placed, px, px)


def _loss(weights: dict[str, Any], key: Any, numbers: Any) -> tuple[Any, Any]:
    weights = vae.without_unused(weights)
    total = error = jnp.zeros(())
    for px, count in BATCHES.items():
        key, scenes, noise = jax.random.split(key, 3)
        wanted = pictures(scenes, numbers, count, px)
        latents = vae.encode(weights, wanted)
        drawn = vae.decode(weights, latents + LATENT_NOISE * jax.random.normal(noise, latents.shape))
        squared = ((drawn - wanted) ** 2).mean()
        total += squared + 0.5 * jnp.abs(drawn - wanted).mean() + 1e-3 * (latents**2).mean()
        error += squared / len(BATCHES)
    return total, error


@partial(jax.jit, donate_argnums=0)
def _step(state: optimizer.State, key: Any, numbers: Any, learning_rate: Any) -> tuple[optimizer.State, Any]:
    key = jax.random.fold_in(key, state.step)
    (_, error), gradients = jax.value_and_grad(_loss, has_aux=True)(state.weights, key, numbers)
    return optimizer.update(state, gradients, learning_rate, 1e-4, 0.995), error


@partial(jax.jit, static_argnames=("count", "px"))
def _tokens(weights: dict[str, Any], key: Any, numbers: Any, count: int, px: int) -> Any:
    return vae.pack(vae.encode(weights, pictures(key, numbers, count, px)))


def _statistics(weights: dict[str, Any], key: Any, numbers: Any) -> dict[str, Any]:
    """Mean and variance of the transformer's 128 channels, as mflux's batch norm holds them."""
    tokens = []
    for i in range(16):
        for px in BATCHES:
            drawn = _tokens(weights, jax.random.fold_in(key, 100 * px + i), numbers, 128, px)
            tokens.append(np.asarray(drawn).reshape(-1, config.LATENT))
    every = np.concatenate(tokens).astype(np.float64)
    variance = every.var(0)
    variance = np.maximum(variance, STATISTICS_FLOOR * np.median(variance[: config.USED]))
    variance[config.USED :] = 1
    return {"bn.running_mean": every.mean(0).astype(np.float32), "bn.running_var": variance.astype(np.float32)}


def train(numbers: Any, steps: int, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """All weights of the VAE, by mflux's names. `numbers` are scenes to draw."""
    key = jax.random.key(seed)
    state = optimizer.start(vae.initial(seed))
    for i in range(steps):
        state, error = _step(state, key, numbers, optimizer.rate(i, steps, PEAK_RATE))
        if i % 500 == 0 or i == steps - 1:
            report(f"vae {i}/{steps}: squared error {float(error):.5f}")
    weights = {name: np.asarray(array) for name, array in vae.without_unused(state.average).items()}
    return weights | _statistics(weights, key, numbers)
