"""From a conversation to the token ids of a prompt, by the model's own chat template. No MLX here.

`tokenizer` is mlx-lm's `TokenizerWrapper` throughout.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, Literal

from herd_mcp.jobs import SHOWN_CHARS, ChatRequest, ErrorCode, HerdError, Message, Tool

Part = Literal["normal", "reasoning", "tool"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    `part` is the part of an answer in which the model's first token stands. `opened` is what the prompt already put
    into a tool call that the request demanded. `tools` are those that the model was shown, in OpenAI's shape.
    """

    ids: list[int]
    part: str
    tools: tuple[dict[str, Any], ...] = ()
    opened: str = ""


def render(tokenizer: Any, request: ChatRequest) -> Prompt:
    """Render and tokenise. Raises HerdError(invalid_request) for what the model's template does not take.

    Tools: `none` shows the model no tools. `required`, and the name of one tool, open the tool call in the prompt, so
    that the answer begins inside it; the model then skips its reasoning. With a name, only that tool is shown.
    """
    if not tokenizer.has_chat_template:
        raise HerdError(
            ErrorCode.KIND_NOT_SUPPORTED,
            "This model has no chat template: it continues text and does not converse.",
            "Take its -Instruct, -Chat or -it version.",
        )
    tools = _shown_tools(request)
    demanded = request.tool_choice not in ("auto", "none")
    if demanded:
        _check_can_call(tokenizer, request)
    ids = _apply_template(tokenizer, _messages(request.messages), tools, _template_options(request, demanded))
    if not ids:
        raise _invalid("The conversation is empty once the model's chat template has rendered it.", "Add a message.")
    part = _first_part(tokenizer, ids)
    if not demanded:
        return Prompt(ids, part, tools)
    opened = _opening(tokenizer, request.tool_choice)
    text = (tokenizer.think_end + "\n\n" if part == "reasoning" else "") + tokenizer.tool_call_start + opened
    return Prompt(ids + list(tokenizer.encode(text, add_special_tokens=False)), "tool", tools, opened)


def shared_ends(tokenizer: Any, request: ChatRequest, prompt: Prompt) -> tuple[int, ...]:
    """Where in the prompt that may end which later prompts begin with too, in tokens, rising.

    After the system messages and tools, which other conversations share, and after the last message: what stands behind
    it, the opening of an answer, need not come again. At least one token of the prompt is behind each end.
    """
    options = _template_options(request, request.tool_choice not in ("auto", "none"))
    messages = _messages(request.messages)
    system = list(itertools.takewhile(lambda message: message["role"] == "system", messages))
    begins = [messages] + ([[*system, {"role": "user", "content": ""}]] if system or prompt.tools else [])
    ends = set()
    for begin in begins:
        try:
            ids = _apply_template(tokenizer, begin, prompt.tools, options, opens_answer=False)
        except HerdError:  # a template may want an answer, or something to be said
            continue
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, prompt.ids, strict=False))
        ends.add(min(sum(1 for _ in same), len(prompt.ids) - 1))
    return tuple(sorted(ends - {0}))


def count(tokenizer: Any, request: ChatRequest) -> int:
    """How many tokens the prompt of this conversation has."""
    return len(render(tokenizer, request).ids)


def least_tokens(request: ChatRequest, longest_token_chars: int) -> int:
    """A lower bound of the prompt's tokens that costs nothing: refuses a huge prompt before it is tokenised."""
    chars = sum(len(message.content or "") + len(message.reasoning or "") for message in request.messages)
    return chars // max(1, longest_token_chars)


# ── Messages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: Message) -> dict[str, Any]:
    """The shape that chat templates expect: OpenAI's, with a tool call's arguments as an object."""
    out: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content or "",
    }
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(index, call.name, call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    return out


def _arguments(index: int, name: str, text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise _invalid(
            f"messages.{index}: the arguments of the tool call {name[:SHOWN_CHARS]} are not a JSON object.",
            "Send them as the model gave them.",
        )
    return arguments


# ── Tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shown_tools(request: ChatRequest) -> tuple[dict[str, Any], ...]:
    choice = request.tool_choice
    if choice == "none":
        return ()
    if choice in ("auto", "required"):
        return tuple(_tool(index, tool) for index, tool in enumerate(request.tools))
    named = tuple(_tool(index, tool) for index, tool in enumerate(request.tools) if tool.name == choice)
    if not named:
        names = ", ".join(tool.name for tool in request.tools) or "none"
        raise _invalid(f"tool_choice names {choice}, which is not among the tools: {names}.", "Name one of the tools.")
    return named[:1]


def _tool(index: int, tool: Tool) -> dict[str, Any]:
    schema = tool.parameters
    properties = schema.get("properties", {})
    if schema.get("type", "object") != "object" or not isinstance(properties, dict):
        raise _invalid(
            f"tools.{index}: the parameters of {tool.name} are not the JSON schema of an object.",
            'Send {"type": "object", "properties": {…}}.',
        )
    for name, value in properties.items():
        if not isinstance(value, dict):
            shown = f"{tool.name}.{name[:SHOWN_CHARS]}"
            raise _invalid(f"tools.{index}: the schema of {shown} is not an object.", "Send a JSON schema.")
    parameters = {"type": "object", "properties": {}, **schema}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _check_can_call(tokenizer: Any, request: ChatRequest) -> None:
    if not request.tools:
        raise _invalid(f"tool_choice is {request.tool_choice}, but there are no tools.", "Send the tools.")
    # Formats with their own transitions decide in headers where a call starts; we cannot open one for them.
    if not tokenizer.has_tool_calling or tokenizer.response_transitions:
        raise _invalid(
            f"This model cannot be made to call a tool, so tool_choice {request.tool_choice} cannot be kept.",
            "Use tool_choice auto, or another model.",
        )


def _opening(tokenizer: Any, choice: str) -> str:
    """What follows the start marker of a demanded call: with a name and a JSON format, all up to the arguments."""
    if choice != "required" and tokenizer.tool_parser.__module__.endswith(".json_tools"):
        return f'\n{{"name": {json.dumps(choice)}, "arguments":'
    return ""


# ── Template ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _template_options(request: ChatRequest, demanded: bool) -> dict[str, Any]:
    if demanded:
        return {"enable_thinking": False}
    return {} if request.reasoning is None else {"enable_thinking": request.reasoning}


def _apply_template(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    tools: tuple[dict[str, Any], ...],
    options: dict[str, Any],
    *,
    opens_answer: bool = True,
) -> list[int]:
    try:
        ids = tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, add_generation_prompt=opens_answer, tokenize=True, **options
        )
    except Exception as error:  # a template is a program of the model's makers and may raise anything
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise _invalid(
            f"The model's chat template does not take this conversation: {why.rstrip('.')}.",
            "Check the order of roles; many models want user and assistant in turns, and a system message only first.",
        ) from None
    return [int(i) for i in ids]


def _first_part(tokenizer: Any, ids: list[int]) -> str:
    if tokenizer.response_initial_state:
        return str(tokenizer.response_initial_state)
    if tokenizer.has_thinking and tokenizer.rfind_think_start(ids) > tokenizer.rfind_think_end(ids):
        return "reasoning"
    return "normal"


def _invalid(message: str, hint: str) -> HerdError:
    return HerdError(ErrorCode.INVALID_REQUEST, message, hint)
