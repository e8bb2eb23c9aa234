"""What OpenAI's chat completions ask for, as a ChatRequest. Nothing that changes the answer is silently left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from herd_mcp.jobs import ChatRequest, ErrorCode, HerdError, parse_request
from herd_mcp.surfaces.bodies import check_numbers, note_ignored, read_object, tags_of, wrong

SAMPLING_NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
NUMBERS = (*SAMPLING_NUMBERS, "max_tokens", "max_completion_tokens", "n")
SWITCHES = ("stream", "parallel_tool_calls", "logprobs")
KNOWN = (
    *NUMBERS,
    *SWITCHES,
    *("model", "messages", "tools", "tool_choice", "stop", "logit_bias", "stream_options", "response_format"),
    *("reasoning_effort", "chat_template_kwargs", "metadata", "user", "top_logprobs", "functions", "function_call"),
    *("modalities", "audio"),
)
NO_REASONING = ("none", "minimal")
OPTIONAL_CONTENT = ("assistant",)


@dataclass(frozen=True, slots=True)
class Asked:
    """The request, and how the answer is to look."""

    chat: ChatRequest
    stream: bool
    include_usage: bool
    parallel_tool_calls: bool


async def read_chat(request: Request) -> Asked:
    """Raises HerdError: `invalid_request`, or `kind_not_supported` for what this node cannot do."""
    body = await read_object(request)
    check_numbers(body, NUMBERS)
    for name in SWITCHES:
        if not isinstance(body.get(name), bool | None):
            raise wrong(name, "must be true or false")
    _refuse_unsupported(body)
    note_ignored(request, body, KNOWN)
    options = _object(body, "stream_options")
    tools = [_tool(index, tool) for index, tool in enumerate(_list(body, "tools"))]
    fields: dict[str, Any] = {
        "messages": _messages(body),
        "tools": tools,
        "tool_choice": _tool_choice(body, [tool["name"] for tool in tools]),
        "stop": _stop(body),
        "sampling": _sampling(body),
        "reasoning": _reasoning(body),
        "tags": tags_of(request, body),
    }
    if body.get("model") is not None:
        fields["model"] = body["model"]
    limit = body.get("max_completion_tokens")
    fields["max_tokens"] = body.get("max_tokens") if limit is None else limit
    return Asked(
        chat=parse_request(ChatRequest, fields),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
    )


def unsupported(field: str, message: str, hint: str) -> HerdError:
    return HerdError(ErrorCode.KIND_NOT_SUPPORTED, message, hint, details={"fields": [field]})


def _refuse_unsupported(body: dict[str, Any]) -> None:
    if body.get("n") not in (None, 1):
        raise wrong("n", "must be 1; ask several times for several answers, they run side by side")
    form = _object(body, "response_format").get("type", "text")
    if form != "text":
        raise unsupported(
            "response_format",
            f"response_format {str(form)[:40]!r} is not supported: this node does not force answers into a form.",
            "Leave it out and ask for the form in the prompt, or offer a tool with the wanted parameters.",
        )
    if body.get("logprobs") or body.get("top_logprobs"):
        raise unsupported("logprobs", "Log probabilities are not supported.", "Leave logprobs and top_logprobs out.")
    if body.get("functions") or body.get("function_call"):
        raise unsupported(
            "functions",
            "functions and function_call are not supported.",
            "Use tools and tool_choice, which replaced them.",
        )
    if body.get("audio") or body.get("modalities") not in (None, ["text"]):
        raise unsupported("modalities", "Only text answers are supported.", "Leave modalities and audio out.")


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(name, "must be an object")
    return value


def _list(body: dict[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(name, "must be a list")
    return value


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    if body.get("messages") is None:
        raise wrong("messages", "is required")
    return [_message(f"messages.{index}", message) for index, message in enumerate(_list(body, "messages"))]


def _message(where: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise wrong(where, "must be an object")
    fields = {name: message[name] for name in ("role", "tool_call_id", "name") if message.get(name) is not None}
    content = message.get("content")
    if content is None and message.get("role") not in OPTIONAL_CONTENT:
        raise wrong(f"{where}.content", "is required")
    fields["content"] = _text_of(f"{where}.content", content) if isinstance(content, list) else content
    reasoning = message.get("reasoning_content")
    fields["reasoning"] = message.get("reasoning") if reasoning is None else reasoning
    calls = _list(message, "tool_calls")
    fields["tool_calls"] = [_call(f"{where}.tool_calls.{index}", call) for index, call in enumerate(calls)]
    return fields


def _text_of(where: str, parts: list[Any]) -> str:
    """The text parts, one below the other."""
    texts = []
    for index, part in enumerate(parts):
        at = f"{where}.{index}"
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if kind in ("text", "refusal") else None
        if kind is not None and text is None and kind not in ("text", "refusal"):
            raise unsupported(
                at,
                f"{at} is of type {str(kind)[:40]!r}: chat models here read text only.",
                "Send text parts only; describe the picture, or use a model elsewhere that sees.",
            )
        if not isinstance(text, str):
            raise wrong(at, 'must be {"type": "text", "text": "..."}')
        texts.append(text)
    return "\n".join(texts)


def _call(where: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise wrong(where, 'must be {"id": "...", "type": "function", "function": {"name": "...", "arguments": "..."}}')
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": call.get("id"), "name": function.get("name"), "arguments": arguments}


def _tool(index: int, tool: Any) -> dict[str, Any]:
    where = f"tools.{index}"
    if not isinstance(tool, dict):
        raise wrong(where, "must be an object")
    if (kind := tool.get("type", "function")) != "function":
        raise unsupported(
            where, f"{where} is of type {str(kind)[:40]!r}: only functions are supported.", "Offer it as a function."
        )
    function = tool.get("function")
    if not isinstance(function, dict):
        raise wrong(f"{where}.function", "must be an object")
    names = ("name", "description", "parameters")
    return {"name": None} | {name: function[name] for name in names if function.get(name) is not None}


def _tool_choice(body: dict[str, Any], tools: list[Any]) -> str:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise wrong("tool_choice", 'must name a function: {"type": "function", "function": {"name": "..."}}')
        if name not in tools:
            raise wrong("tool_choice", "names a function that is not among the tools")
        return name
    if choice not in ("auto", "none", "required"):
        raise wrong("tool_choice", 'must be "auto", "none", "required" or an object that names a function')
    if choice == "required" and not tools:
        raise wrong("tool_choice", "requires a tool and there is none")
    return str(choice)


def _stop(body: dict[str, Any]) -> list[Any]:
    stop = body.get("stop")
    if isinstance(stop, str):
        return [stop]
    return _list(body, "stop")


def _sampling(body: dict[str, Any]) -> dict[str, Any]:
    sampling = {name: body[name] for name in SAMPLING_NUMBERS if body.get(name) is not None}
    return {**sampling, "logit_bias": _object(body, "logit_bias")}


def _reasoning(body: dict[str, Any]) -> bool | None:
    """`chat_template_kwargs.enable_thinking` says it exactly; `reasoning_effort` none or minimal means no."""
    thinking = _object(body, "chat_template_kwargs").get("enable_thinking")
    if thinking is not None:
        if not isinstance(thinking, bool):
            raise wrong("chat_template_kwargs.enable_thinking", "must be true or false")
        return thinking
    effort = body.get("reasoning_effort")
    if effort is None:
        return None
    if not isinstance(effort, str):
        raise wrong("reasoning_effort", "must be a text such as none, low or high")
    return effort not in NO_REASONING
