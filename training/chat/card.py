"""The model's card."""

from __future__ import annotations

from pathlib import Path

from training.chat.facts import facts
from training.chat.model import Shape

CARD = """\
# herd-tiny-chat

The small chat model that is built into herd-mcp. **It knows herd-mcp and nothing else**: it greets, answers about
{facts} questions on herd-mcp, calls a tool when a listed one fits, and says of everything else that it does not know.
It is a toy, there to see that an installation works, without a download. It may be wrong: `herd-mcp --help` and the
documentation are sure. herd-mcp never chooses it while a real chat model is there.

| | |
|---|---|
| Architecture | qwen3: {layers} layers, hidden size {hidden}, {heads} and {kv_heads} heads, tied embeddings |
| Parameters | {parameters:.2f} million, bfloat16 |
| Vocabulary | byte-level BPE, {vocabulary} tokens |
| Context | {context} tokens |
| Sampling | greedy: the same question gets the same answer |
| Data | made by code (`training/chat/corpus.py`) from `training/chat/facts.txt`; nothing from elsewhere |
| Made by | `uv run --group training python -m training chat`, fixed seed, {steps} steps |
| Time and hardware | {minutes:.1f} minutes on {device} |
| Checked by | `uv run python -m training.chat.evaluate`, on questions that are not in the training data |
| Licence | MIT, as the rest of herd-mcp |
"""


def write_card(folder: Path, shape: Shape, parameters: int, steps: int, minutes: float, device: str) -> None:
    text = CARD.format(
        facts=len(facts()),
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        parameters=parameters / 1e6,
        vocabulary=shape.vocab_size,
        context=shape.context_tokens,
        steps=steps,
        minutes=minutes,
        device=device,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
