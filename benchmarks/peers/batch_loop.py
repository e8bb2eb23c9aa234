"""The bare loop over mlx-lm's `BatchGenerator`, in one process: `python -m benchmarks.peers.batch_loop MODEL`.

Gets {"prompts": [texts], "max_tokens": n}, answers with the seconds from the prompts to the last token.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model, load_tokenizer


def main(folder: Path) -> None:
    """The settings of the loop are those of the chat engine; what is left out is all that surrounds it."""
    model, _ = load_model(folder)
    tokenizer = load_tokenizer(folder)
    batch = BatchGenerator(
        model, prefill_batch_size=8, prefill_step_size=512, stream=mx.default_stream(mx.default_device())
    )
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        question = json.loads(line)
        began = time.perf_counter()
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
            for text in question["prompts"]
        ]
        batch.insert(prompts, max_tokens=[question["max_tokens"]] * len(prompts))
        left, tokens = len(prompts), 0
        while left:
            _, said = batch.next()
            tokens += len(said)
            left -= sum(response.finish_reason is not None for response in said)
        sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
