"""A prompt made in code, and what any prompt becomes when it is filled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.types import Message, Text

__all__ = ["HASH_LENGTH", "Filled", "Prompt", "version_of"]

HASH_LENGTH = 12
"""Hexadecimal digits of a version: 48 bits, so that a million versions of one prompt collide with a chance of 0.2 %."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt with its values: what `chat` takes in place of a text.

    Attributes:
        version: The prompt's name and the hash of its content: `label@3f1c...`, with a label `label@v2+3f1c...`.
        model: The model that the prompt names, None without one.
        config: `temperature`, `max_output_tokens` and the like; arguments of `chat` win over them.
        output: A JSON Schema of the answer, None without one.
    """

    messages: tuple[Message, ...]
    version: str
    model: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] | None = None


def version_of(name: str, content: object, label: str | None = None) -> str:
    """A version: the same content has the same, whatever the order of its members."""
    digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:HASH_LENGTH]
    mark = digest if label is None else f"{label}+{digest}"
    return f"{name}@{mark}" if name else mark


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system text and examples; call it with the user's text.

    ``label = Prompt(system="Label the sentiment.", examples=[("Great!", "pos")])``, then ``llm.chat("fast", label("I loved it"))``.

    Attributes:
        system: What the model is to do; used as it is, nothing is put into it.
        examples: What a user says and what the model answers, each pair as two turns before the question.
        name: For the version; a letter, then letters, digits, `_`, `-` and `.`.
        label: A word of your own in the version.
    """

    system: str = ""
    examples: Sequence[tuple[str, str]] = ()
    name: str = ""
    label: str | None = None

    @property
    def version(self) -> str:
        """Name, label and the hash of the content."""
        content = {"system": self.system, "examples": [list(pair) for pair in self.examples]}
        return version_of(self.name, content, self.label)

    def __call__(self, text: str) -> Filled:
        """The prompt with `text` as what the user says."""
        return Filled((*front(self.system, self.examples), _said("user", text)), self.version)


def front(system: str, examples: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """The messages before the question."""
    messages = [] if not system else [_said("system", system)]
    for asked, answered in examples:
        messages += [_said("user", asked), _said("assistant", answered)]
    return tuple(messages)


def _said(role: Any, text: str) -> Message:
    return Message(role=role, content=(Text(text=text),))
