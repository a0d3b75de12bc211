"""How a form is asked for at a target: the provider's own mode, a forced tool, or in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from headrace.output.narrow import for_anthropic, for_openai
from headrace.output.schema import Shape
from headrace.types import Chat, Message, ResponseFormat, Text, Tool, ToolChoice

__all__ = ["TOOL_NAME", "Means", "Mode", "modes", "phrase"]

TOOL_NAME = "answer"


class Mode(Enum):
    """`NATIVE`: the provider constrains the answer. `TOOL`: a tool whose arguments are the answer. `WORDS`: an instruction."""

    NATIVE = "native"
    TOOL = "tool"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class Means:
    """What a target can do. `json_schema` and `tools` are None where no source says; `strict` is how its schemas are narrowed."""

    dialect: str
    json_schema: bool | None
    tools: bool | None
    local: bool = False


def modes(means: Means, chat: Chat) -> tuple[Mode, ...]:
    """The modes to ask in, the best first; a target that rejects one is asked in the next.

    A target of unknown abilities is asked natively where it speaks OpenAI's dialect, since the servers that do (llama.cpp, vLLM,
    Ollama, ...) take `response_format`; in Anthropic's by a tool. A model that thinks is not forced to call a tool (Anthropic
    rejects it).
    """
    found: list[Mode] = []
    native = means.json_schema
    if native is None:
        native = means.dialect == "openai-chat"
    if native:
        found.append(Mode.NATIVE)
    thinks = means.dialect == "anthropic" and chat.reasoning is not None and chat.reasoning.enabled
    if means.tools is not False and not means.local and not thinks:
        found.append(Mode.TOOL)
    found.append(Mode.WORDS)
    return tuple(found)


def phrase(chat: Chat, shape: Shape[Any], mode: Mode, means: Means) -> Chat:
    """`chat`, asking for the shape in that mode."""
    schema = shape.asked
    match mode:
        case Mode.NATIVE:
            return msgspec.structs.replace(chat, response_format=_native(shape.name, schema, means))
        case Mode.TOOL:
            tool = Tool(
                name=TOOL_NAME,
                description="Give the answer by calling this tool, once.",
                parameters=_raw(for_anthropic(schema) if means.dialect == "anthropic" else schema),
            )
            choice = ToolChoice(mode="required") if chat.tools else ToolChoice(mode="tool", name=TOOL_NAME)
            return msgspec.structs.replace(
                chat, response_format=None, tools=(*chat.tools, tool), tool_choice=choice
            )
        case Mode.WORDS:
            said = (
                "Answer with one JSON value that is valid against this JSON Schema, and with nothing else, no code fence and no "
                f"words around it:\n{msgspec.json.encode(schema).decode()}"
            )
            instruction = Message(role="system", content=(Text(text=said),))
            front = sum(1 for _ in _leading_system(chat.messages))
            messages = (*chat.messages[:front], instruction, *chat.messages[front:])
            return msgspec.structs.replace(chat, response_format=None, messages=messages)


def _leading_system(messages: tuple[Message, ...]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        if message.role not in ("system", "developer"):
            break
        found.append(message)
    return found


def _native(name: str, schema: Mapping[str, Any], means: Means) -> ResponseFormat:
    if means.dialect == "anthropic":
        return ResponseFormat(kind="json_schema", name=name, schema=_raw(for_anthropic(schema)))
    narrowed = None if means.local else for_openai(schema)
    if narrowed is None:
        return ResponseFormat(kind="json_schema", name=name, schema=_raw(schema))
    return ResponseFormat(kind="json_schema", name=name, schema=_raw(narrowed), strict=True)


def _raw(schema: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(schema))
