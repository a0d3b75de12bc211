"""The wire formats, in both directions: pure functions over bytes, no I/O. They do not import each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.dialects.anthropic import ANTHROPIC
    from headrace.dialects.openai_chat import OPENAI_CHAT
    from headrace.handler import Dialect

__all__ = ["ANTHROPIC", "NAMES", "OPENAI_CHAT", "by_name"]

NAMES = ("anthropic", "openai-chat")
"""Every dialect that a provider may be said to speak. `openai-embeddings` is that of one more path of `openai-chat`."""


def by_name(name: str) -> Dialect:
    """The dialect called `name`, one of `NAMES`; its module is imported on first use. Raises `ConfigError`."""
    match name:
        case "openai-chat":
            from headrace.dialects.openai_chat import OPENAI_CHAT

            return OPENAI_CHAT
        case "anthropic":
            from headrace.dialects.anthropic import ANTHROPIC

            return ANTHROPIC
        case "openai-embeddings":
            from headrace.dialects.openai_chat.embeddings import EMBEDDINGS

            return EMBEDDINGS
        case _:
            raise ConfigError(f"no dialect is called {name!r}; there are: {', '.join(NAMES)}")


def __getattr__(name: str) -> Dialect:
    if name in ("ANTHROPIC", "OPENAI_CHAT"):
        return by_name({"ANTHROPIC": "anthropic", "OPENAI_CHAT": "openai-chat"}[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
