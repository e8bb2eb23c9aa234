"""AdamW with a warm-up and a cosine, clipped gradients, and a moving average of the weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class State(NamedTuple):
    weights: dict[str, Any]
    average: dict[str, Any]
    first: dict[str, Any]
    second: dict[str, Any]
    step: Any


def start(weights: dict[str, Any]) -> State:
    def copy(scale: float) -> dict[str, Any]:  # each its own: a step takes the memory of all over
        return {name: scale * jnp.array(array, jnp.float32) for name, array in weights.items()}

    return State(copy(1), copy(1), copy(0), copy(0), jnp.zeros((), jnp.int32))


def rate(step: int, steps: int, peak: float, warm_up: int = 100) -> np.float32:
    half_wave = 0.5 * (1 + math.cos(math.pi * step / steps))
    return np.float32(peak * min(1.0, (step + 1) / warm_up) * max(0.01, half_wave))


def update(state: State, gradients: dict[str, Any], learning_rate: Any, decay: float, smooth: float) -> State:
    """One step. `smooth` is how much of the moving average stays, once it has begun."""
    norm = jnp.sqrt(sum(jnp.sum(gradient**2) for gradient in gradients.values()))
    scale = jnp.minimum(1.0, 1.0 / (norm + 1e-9))
    step = state.step + 1
    keep = jnp.minimum(smooth, (1.0 + state.step) / (10.0 + state.step))
    weights, average, first, second = {}, {}, {}, {}
    for name, weight in state.weights.items():
        gradient = gradients[name] * scale
        first[name] = 0.9 * state.first[name] + 0.1 * gradient
        second[name] = 0.99 * state.second[name] + 0.01 * gradient**2
        change = first[name] / (1 - 0.9**step) / (jnp.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
        if weight.ndim > 1:
            change = change + decay * weight
        weights[name] = weight - learning_rate * change
        average[name] = keep * state.average[name] + (1 - keep) * weights[name]
    return State(weights, average, first, second, step)
