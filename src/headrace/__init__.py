"""Headrace: the layer between an application and the LLM APIs.

The names below are loaded when they are first used, so that importing the package costs little and does nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.answer import Answer, AnswerStream
    from headrace.cache.standalone import Cache
    from headrace.choice import first_good
    from headrace.client import AsyncClient, Estimated, ModelInfo
    from headrace.config import Settings, check, load
    from headrace.content import assistant, file_block, system, tool_result, user
    from headrace.conversation import AsyncConversation, Conversation
    from headrace.errors import (
        AllTargetsFailed,
        AnswerBlocked,
        BudgetExceeded,
        ConfigError,
        ContextTooLong,
        DeadlineExceeded,
        Forbidden,
        HeadraceError,
        InvalidOutput,
        InvalidRequest,
        ProviderError,
        RateLimited,
        Refused,
        RequestBlocked,
        RequestError,
        StoreError,
        StreamBroken,
        StreamRestarted,
        ToolLoopStopped,
        Unauthorized,
        UnknownModel,
        Unsupported,
    )
    from headrace.guards import redact, restore, untrusted
    from headrace.prompts import FilePrompt, Filled, Prompt, prompt
    from headrace.sync import Client
    from headrace.testing import fake
    from headrace.tools import ToolRun
    from headrace.types import (
        CacheHint,
        Document,
        Image,
        Message,
        Reasoning,
        Refusal,
        ResponseFormat,
        Text,
        Thinking,
        Tool,
        ToolCall,
        ToolChoice,
        ToolResult,
        Usage,
    )

__version__ = "0.1.0"

_HOMES = {
    "answer": ("Answer", "AnswerStream"),
    "choice": ("first_good",),
    "cache.standalone": ("Cache",),
    "client": ("AsyncClient", "Estimated", "ModelInfo"),
    "config": ("Settings", "check", "load"),
    "conversation": ("AsyncConversation", "Conversation"),
    "content": ("assistant", "file_block", "system", "tool_result", "user"),
    "errors": (
        "AllTargetsFailed",
        "AnswerBlocked",
        "BudgetExceeded",
        "ConfigError",
        "ContextTooLong",
        "DeadlineExceeded",
        "Forbidden",
        "HeadraceError",
        "InvalidOutput",
        "InvalidRequest",
        "ProviderError",
        "RateLimited",
        "Refused",
        "RequestBlocked",
        "RequestError",
        "StoreError",
        "StreamBroken",
        "StreamRestarted",
        "ToolLoopStopped",
        "Unauthorized",
        "UnknownModel",
        "Unsupported",
    ),
    "types": (
        "CacheHint",
        "Document",
        "Image",
        "Message",
        "Reasoning",
        "Refusal",
        "ResponseFormat",
        "Text",
        "Thinking",
        "Tool",
        "ToolCall",
        "ToolChoice",
        "ToolResult",
        "Usage",
    ),
    "guards": ("redact", "restore", "untrusted"),
    "sync": ("Client",),
    "prompts": (
        "FilePrompt",
        "Filled",
        "Prompt",
        "prompt",
    ),
    "tools": ("ToolRun",),
    "testing": ("fake",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AllTargetsFailed",
    "Answer",
    "AnswerBlocked",
    "AnswerStream",
    "AsyncClient",
    "AsyncConversation",
    "BudgetExceeded",
    "Cache",
    "CacheHint",
    "Client",
    "ConfigError",
    "ContextTooLong",
    "Conversation",
    "DeadlineExceeded",
    "Document",
    "Estimated",
    "FilePrompt",
    "Filled",
    "Forbidden",
    "HeadraceError",
    "Image",
    "InvalidOutput",
    "InvalidRequest",
    "Message",
    "ModelInfo",
    "Prompt",
    "ProviderError",
    "RateLimited",
    "Reasoning",
    "Refusal",
    "Refused",
    "RequestBlocked",
    "RequestError",
    "ResponseFormat",
    "Settings",
    "StoreError",
    "StreamBroken",
    "StreamRestarted",
    "Text",
    "Thinking",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolLoopStopped",
    "ToolResult",
    "ToolRun",
    "Unauthorized",
    "UnknownModel",
    "Unsupported",
    "Usage",
    "assistant",
    "check",
    "fake",
    "file_block",
    "first_good",
    "load",
    "prompt",
    "redact",
    "restore",
    "system",
    "tool_result",
    "untrusted",
    "user",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(import_module(f"headrace.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
