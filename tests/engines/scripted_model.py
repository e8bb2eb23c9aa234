"""A chat model whose answer the user dictates, so that the whole real path can be tested to the letter.

`SAY:hello` as the last user message makes it say `hello` and end; `RAISE` makes its forward pass raise; `DIE:20` makes
it kill its own process at its twentieth token. It stores token
ids in a real KV cache and reads them back at each step, so batching, prompt caching and cancelling are real too.

This file is both the builder (`build`) and, copied into the model's folder, the architecture that mlx-lm imports.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache
from tokenizers import Tokenizer

_USER = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)


class ModelArgs:
    """Plain, because a dataclass looks its module up and mlx-lm imports this one without a place in `sys.modules`."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ModelArgs:
        return cls(config["vocab_size"])


class Model(nn.Module):  # type: ignore[misc]
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.anchor = mx.zeros((1,))
        self._tokenizer = Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))
        self._opening = self._encode("<|im_start|>assistant\n")

    def make_cache(self) -> list[Any]:
        return [KVCache()]

    def __call__(self, x: mx.array, cache: Any = None) -> mx.array:
        batch, length = x.shape
        ids = x.astype(mx.float32)[:, None, :, None]
        seen, _ = cache[0].update_and_fetch(ids, ids)
        if length > 1:  # a chunk of a prompt: nobody looks at its logits
            return mx.zeros((batch, length, self.args.vocab_size))
        rows: Any = seen[:, 0, :, 0].tolist()
        said = [self._next([int(token) for token in row if token]) for row in rows]
        return 100.0 * (mx.arange(self.args.vocab_size)[None, None, :] == mx.array(said)[:, None, None])

    def _next(self, ids: list[int]) -> int:
        at = self._find_last(ids, self._opening)
        if at < 0:  # a chunk of one token, in the middle of a prompt
            return 0
        asked = _USER.findall(self._tokenizer.decode(ids[:at], skip_special_tokens=False))[-1]
        if "RAISE" in asked:
            raise RuntimeError("the script says so")
        said = len(ids) - at - len(self._opening)
        if "DIE:" in asked:
            if said >= int(asked.partition("DIE:")[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return self._encode("x")[0]
        reply = self._encode(asked.partition("SAY:")[2] or "ok") + self._encode("<|im_end|>")
        return reply[min(said, len(reply) - 1)]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @staticmethod
    def _find_last(ids: list[int], part: list[int]) -> int:
        for at in range(len(ids) - len(part), -1, -1):
            if ids[at : at + len(part)] == part:
                return at
        return -1


def build(folder: Path, *, opens_think: bool = False, context_tokens: int = 4096) -> Path:
    """Write the model into `folder`. `opens_think` gives it a template that ends inside a reasoning block."""
    from tests.engines.byte_tokenizer import TEMPLATE, write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tail = "<|im_start|>assistant\n{% if enable_thinking"
    template = (
        TEMPLATE.replace(tail, "<|im_start|>assistant\n<think>\n{% if enable_thinking") if opens_think else TEMPLATE
    )
    assert opens_think == (template != TEMPLATE)
    tokenizer = write_tokenizer(folder, template)
    config = {
        "model_type": "scripted",
        "model_file": "scripted.py",
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": context_tokens,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(__file__, folder / "scripted.py")
    mx.save_safetensors(str(folder / "model.safetensors"), {"anchor": mx.zeros((1,))})
    return folder
