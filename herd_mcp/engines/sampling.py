"""How the next token is chosen: a request's sampling settings, the model's defaults, and mlx-lm's samplers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_logits_processors, make_sampler
from pydantic import ValidationError

from herd_mcp.jobs import ErrorCode, HerdError, Sampling

Sampler = Callable[[mx.array], mx.array]
Processor = Callable[[mx.array, mx.array], mx.array]

GREEDY_BELOW = 1e-3
"""Temperatures below this are greedy: dividing by them overflows, and the likeliest token wins anyway."""

_DEFAULT_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Choice:
    """Sampling settings with nothing left open."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    seed: int | None


def model_defaults(folder: Path, vocab_size: int) -> Sampling:
    """What the model's makers recommend in generation_config.json; values that make no sense are left out."""
    try:
        config = json.loads((folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return Sampling()
    if not isinstance(config, dict):
        return Sampling()
    values: dict[str, Any] = {}
    for key in _DEFAULT_KEYS:
        try:
            values[key] = getattr(Sampling.model_validate({key: config.get(key)}), key)
        except ValidationError:
            values[key] = None
    if config.get("do_sample") is False:
        values["temperature"] = 0.0
    elif config.get("do_sample") is True and values["temperature"] is None:
        values["temperature"] = 1.0
    if (values["top_k"] or 0) >= vocab_size:
        values["top_k"] = None
    return Sampling(**values)


def choose(asked: Sampling, defaults: Sampling, vocab_size: int) -> Choice:
    """Fill what was not asked. Raises HerdError(invalid_request) for settings outside of the vocabulary, which would
    end the whole batch (`top_k`) or the process (`logit_bias`)."""
    if asked.top_k is not None and asked.top_k >= vocab_size:
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"sampling.top_k is {asked.top_k}; this model has {vocab_size} tokens.",
            f"Use at most {vocab_size - 1}, or 0 for no limit.",
        )
    for token in asked.logit_bias:
        if not 0 <= token < vocab_size:
            raise HerdError(
                ErrorCode.INVALID_REQUEST,
                f"sampling.logit_bias names the token {token}; this model's tokens are 0 to {vocab_size - 1}.",
                "Use ids of this model's tokenizer.",
            )

    def pick(name: str, fallback: float) -> Any:
        for source in (asked, defaults):
            value = getattr(source, name)
            if value is not None:
                return value
        return fallback

    temperature = float(pick("temperature", 0.0))
    return Choice(
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_p=float(pick("top_p", 1.0)),
        top_k=int(pick("top_k", 0)),
        min_p=float(pick("min_p", 0.0)),
        repetition_penalty=float(pick("repetition_penalty", 1.0)),
        presence_penalty=float(pick("presence_penalty", 0.0)),
        frequency_penalty=float(pick("frequency_penalty", 0.0)),
        logit_bias=tuple(sorted(asked.logit_bias.items())),
        seed=asked.seed,
    )


def sampler_of(choice: Choice) -> Sampler:
    """One object for all equal settings without a seed, since a batch is sampled in one go only if its rows share it.
    A seeded run has its own stream of random numbers, so that no neighbour in the batch uses them up."""
    if choice.seed is None or choice.temperature == 0:
        return _shared_sampler(choice.temperature, choice.top_p, choice.top_k, choice.min_p)
    return _seeded_sampler(choice, choice.seed)


@lru_cache(maxsize=256)
def _shared_sampler(temperature: float, top_p: float, top_k: int, min_p: float) -> Sampler:
    sampler: Sampler = make_sampler(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    return sampler


def _seeded_sampler(choice: Choice, seed: int) -> Sampler:
    key = mx.random.key(seed)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        if choice.top_p < 1:
            logprobs = apply_top_p(logprobs, choice.top_p)
        if choice.min_p > 0:
            logprobs = apply_min_p(logprobs, choice.min_p)
        if choice.top_k > 0:
            logprobs = apply_top_k(logprobs, choice.top_k)
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs * (1.0 / choice.temperature), key=now)

    return sample


def processors_of(choice: Choice) -> list[Processor]:
    """Penalties and biases; empty where none is asked, which keeps the batch on its fast path."""
    processors: list[Processor] = make_logits_processors(
        dict(choice.logit_bias) or None,
        choice.repetition_penalty if choice.repetition_penalty != 1 else None,
        presence_penalty=choice.presence_penalty or None,
        frequency_penalty=choice.frequency_penalty or None,
    )
    return processors
