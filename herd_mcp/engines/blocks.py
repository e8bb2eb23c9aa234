"""Places to stop inside a model: a diffusion step takes seconds, one of its blocks a small part of it.

MLX computes nothing until it is asked to. Without compiling, asking after each block costs next to nothing and ends
each block where others can go ahead. Inside `mx.compile` nothing can be asked for, so a compiled model is not for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mflux.models.common.vae.block_decoder import VAEBlockDecoder
from mlx import nn


def after_each_block(model: Any, then: Callable[[], None]) -> int:
    """Compute every block of `model` by itself and call `then` after it. Returns how many blocks there are.

    A block is a member of a list of at least two modules, the outermost such list: a transformer's blocks, a text
    encoder's layers, a VAE's levels. `model` is a module or an object with modules as attributes.
    """
    stopping: dict[type, type] = {}
    blocks = {id(block): block for block in _blocks(model)}  # one that is named twice is still one
    for block in blocks.values():
        kind = type(block)
        if kind not in stopping:
            stopping[kind] = _stopping(kind, then)
        block.__class__ = stopping[kind]  # its weights stay where the model looks for them
    return len(blocks)


def after_each_part_of_decoding(then: Callable[[], None]) -> None:
    """Call `then` after each part in which mflux decodes an image, which it computes one by one for most families."""
    computed: Callable[[mx.array], mx.array] = VAEBlockDecoder._evaluated

    def compute_and_stop(x: mx.array) -> mx.array:
        out = computed(x)
        then()
        return out

    VAEBlockDecoder._evaluated = compute_and_stop


def _stopping(kind: type, then: Callable[[], None]) -> type:
    call: Callable[..., Any] = kind.__call__

    def call_and_stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = call(self, *args, **kwargs)
        mx.eval(out)
        then()
        return out

    return type(kind.__name__, (kind,), {"__call__": call_and_stop, "__module__": kind.__module__})


def _blocks(model: Any) -> Iterator[nn.Module]:
    for value in (model if isinstance(model, nn.Module) else vars(model)).values():
        if isinstance(value, nn.Module):
            yield from _blocks(value)
        elif isinstance(value, list) and len(value) > 1 and all(isinstance(item, nn.Module) for item in value):
            yield from value
