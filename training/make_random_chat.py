"""Make `herd-tiny-chat`: the real qwen3 architecture, very small, with random weights.

    uv run python training/make_random_chat.py [FOLDER]

The same version of MLX writes the same bytes each time. Nothing is trained: a bias towards the letter frequencies of
English makes the noise harmless to look at and lets an answer end after about fifty tokens.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from mlx_lm.utils import save_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

FOLDER = Path(__file__).parent.parent / "herd_mcp" / "builtin" / "herd-tiny-chat"
SEED = 20_261_121

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>")

END_PROBABILITY = 1 / 50
LETTERS = {
    " ": 18, "e": 10, "t": 7.5, "a": 6.5, "o": 6.2, "i": 5.7, "n": 5.7, "s": 5.3, "h": 5, "r": 5, "d": 3.5, "l": 3.3,
    "u": 2.3, "c": 2.2, "m": 2, "f": 2, "w": 1.9, "g": 1.6, "y": 1.6, "p": 1.5, "b": 1.2, "v": 0.8, "k": 0.6,
    ".": 1, ",": 1, "\n": 0.3,
}  # fmt: skip
RARE_PROBABILITY = 1e-6

TEMPLATE = """\
{% if tools or messages[0].role == 'system' %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}{% if tools %}# Tools

You may call these functions:
<tools>
{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}</tools>

For each call answer with its name and arguments inside <tool_call></tool_call>:
<tool_call>
{"name": "the name", "arguments": {}}
</tool_call>
{% endif %}<|im_end|>
{% endif %}{% for message in messages %}{% if message.role == 'system' %}{% if not loop.first %}\
{{ raise_exception('a system message may only come first') }}{% endif %}{% elif message.role == 'tool' %}\
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{% if message.reasoning_content and loop.last %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{% for tool_call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""


def make_tokenizer() -> Tokenizer:
    """Byte-level without merges: ids 0–2 special, then the 256 bytes, then the plain markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    return tokenizer


def write_tokenizer(folder: Path, template: str) -> Tokenizer:
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 4096,
            "clean_up_tokenization_spaces": False,
            "tool_parser_type": "json_tools",
            "chat_template": template,
        },
    )
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")


def make_config(tokenizer: Tokenizer, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "torch_dtype": "bfloat16",
        **changes,
    }


def make_model(config: dict[str, Any]) -> Model:
    """Random weights. Every token's embedding shares one direction, which the output layer turns into the bias."""
    mx.random.seed(SEED)
    model = Model(ModelArgs.from_dict(config))
    hidden = config["hidden_size"]
    weights: dict[str, mx.array] = {}
    for name, array in tree_flatten(model.parameters()):
        weights[name] = mx.ones(array.shape) if array.ndim == 1 else 0.05 * mx.random.normal(array.shape)
    common = mx.sign(mx.random.normal((hidden,)))
    weights["model.embed_tokens.weight"] = common + 0.3 * mx.random.normal((config["vocab_size"], hidden))
    bias = mx.array(token_log_probabilities(config["vocab_size"]))
    noise = 0.12 * mx.random.normal((config["vocab_size"], hidden))
    weights["lm_head.weight"] = bias[:, None] * common[None, :] / hidden + noise
    model.update(tree_unflatten([(name, array.astype(mx.bfloat16)) for name, array in weights.items()]))
    mx.eval(model.parameters())
    return model


def token_log_probabilities(vocab_size: int) -> list[float]:
    tokenizer = make_tokenizer()
    probabilities = [RARE_PROBABILITY] * vocab_size
    total = sum(LETTERS.values())
    for letter, weight in LETTERS.items():
        (token,) = tokenizer.encode(letter, add_special_tokens=False).ids
        probabilities[token] = (1 - END_PROBABILITY) * weight / total
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False).ids
    probabilities[end] = END_PROBABILITY
    return [math.log(probability) for probability in probabilities]


CARD = """\
# herd-tiny-chat

**Random weights. It answers noise.** It is the real qwen3 architecture in a very small size, loaded by the same mlx-lm
code as a model of any size, so that `herd-mcp demo` and the tests run everywhere without a download. It has learned
nothing and knows nothing: use it to see that your installation works, and a real model for everything else.

With its default sampling (temperature 1) an answer ends by itself, after about fifty tokens and rarely after more than
three hundred. At temperature 0 it repeats itself until `max_tokens` or the end of its context.

| | |
|---|---|
| Architecture | qwen3, 2 layers, hidden size 64, bfloat16 |
| Vocabulary | 256 bytes and 7 markers |
| Context | 4,096 tokens |
| Made by | `training/make_random_chat.py`, fixed seed, no data |
| Licence | MIT, as the rest of herd-mcp |
"""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(write_tokenizer(folder, TEMPLATE))
    write_json(folder / "config.json", config)
    eos = config["eos_token_id"]
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 1.0, "eos_token_id": eos})
    save_model(folder, make_model(config))
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
