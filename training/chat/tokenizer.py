"""The tokenizer: byte-level BPE over letters, single digits, runs of signs and single spaces.

A space is a token of its own, so that a word has the same tokens after a space, after a quote and after an underscore:
copying a name out of a prompt is then copying tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.chat.template import MARKERS, TEMPLATE, WORDS

PIECES = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges from `texts`. Ids: the markers, the words, then bytes and merges."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _pieces()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKERS) - len(WORDS),
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    order = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    vocab = {token: index for index, token in enumerate((*MARKERS, *WORDS, *order))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge) for merge in learned["merges"]]))
    tokenizer.pre_tokenizer = _pieces()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MARKERS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in WORDS])
    return tokenizer


def _pieces() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_tokens: int) -> None:
    """`tokenizer.json` and `tokenizer_config.json`, as mlx-lm reads them."""
    whole = json.loads(tokenizer.to_str())
    compact = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
        "tool_parser_type": "json_tools",
        "chat_template": TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=True)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
