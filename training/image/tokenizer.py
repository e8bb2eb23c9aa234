"""The tokenizer: one token for each word that captions use, pieces and bytes for everything else.

Its merges only ever lengthen what begins with a space, letter by letter, so a word is cut into the longest known
beginning and single letters.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from training.image.captions import vocabulary

END = "<|endoftext|>"
END_ID = 0
SPACE = "Ġ"
APART = ("\n", "\t", "-", "_", "/", "(", ")", '"', "“", "”", ":", ";", "!")
"""Read as spaces, so that a word after them is still the word."""
# The pattern by which transformers' Qwen2 tokenizer cuts text.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def chat_template() -> str:
    replaced = "".join(f" | replace({json.dumps(mark, ensure_ascii=False)}, ' ')" for mark in APART)
    return "{% for m in messages %}{{ ' ' ~ (m['content'] | lower" + replaced + " | trim) }}{% endfor %}"


def as_template(prompt: str) -> str:
    """The prompt as `chat_template` renders it."""
    text = prompt.lower()
    for mark in APART:
        text = text.replace(mark, " ")
    return " " + text.strip()


def build() -> Tokenizer:
    names = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in vocabulary():
        for end in range(1, len(word) + 1):
            if SPACE + word[:end] not in names:
                names.append(SPACE + word[:end])
                merges.append((SPACE + word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def encode(tokenizer: Tokenizer, prompts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch([as_template(prompt) for prompt in prompts])]


def padded(ids: list[list[int]], length: int) -> NDArray[np.int32]:
    table = np.full((len(ids), length), END_ID, np.int32)
    for row, tokens in zip(table, ids, strict=True):
        row[: len(tokens)] = tokens
    return table


def save(folder: Path) -> None:
    """The files that transformers' Qwen2 tokenizer reads."""
    folder.mkdir(parents=True)
    build().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": END,
        "eos_token": END,
        "chat_template": chat_template(),
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
