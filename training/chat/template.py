"""The chat template, and how training renders it: by jinja alone, as transformers does at inference."""

from __future__ import annotations

import json
from typing import Any

import jinja2

MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Special tokens, ids 0 to 2."""

WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tokens of their own that are ordinary text."""

TEMPLATE = """\
{% if tools or messages[0].role == 'system' %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}{% if tools %}# Tools
{% for tool in tools %}{{ tool.function.description + '\n' if tool.function.description }}\
{"name": "{{ tool.function.name }}", "arguments": {{ '{' }}{% for name, property in \
tool.function.parameters.properties.items() %}"{{ name }}": "{{ property.type if property.type is string else 'any' }}\
{{ '' if name in (tool.function.parameters.required or [name]) else '?' }}"{{ ', ' if not loop.last }}\
{% endfor %}{{ '}}\n' }}{% endfor %}\
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

{% endif %}{{ message.content }}{% for tool_call in message.tool_calls or [] %}\
{% if message.content or not loop.first %}{{ '\n' }}{% endif %}<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
"""As Qwen3 does it: `enable_thinking` false closes the thoughts in the prompt. Else the model decides, and it thinks
only where the question ends in ` /think` (mlx-lm says true where a request says nothing)."""

# A tool is shown as its description and the pattern of its call, `{"name": "get_weather", "arguments": {"city":
# "string"}}`, with `?` behind what may be left out: so small a model copies a pattern better than it reads a schema.

OPENING = "<|im_start|>assistant\n"
CLOSED_THOUGHTS = "<think>\n\n</think>\n\n"

_ENVIRONMENT = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
_ENVIRONMENT.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
_COMPILED = _ENVIRONMENT.from_string(TEMPLATE)


def conversation(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    """A whole conversation, the assistant's turns included."""
    return _COMPILED.render(messages=messages, tools=tools, add_generation_prompt=False)
