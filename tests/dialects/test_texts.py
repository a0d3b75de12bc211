"""The texts of a request: the wire's and the typed form have the same ones, and the same are changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.dialects import by_name
from headrace.dialects.texts import change_body, in_json
from headrace.handler import Body

TOOL = {
    "type": "object",
    "properties": {"to": {"type": "string", "description": "secret d", "enum": ["secret e"]}},
}

BODIES: dict[str, dict[str, Any]] = {
    "openai-chat": {
        "model": "secret-model",
        "messages": [
            {"role": "system", "content": "secret 1"},
            {"role": "user", "content": [{"type": "text", "text": "secret 2"}, {"type": "image_url", "image_url": {"url": "https://x.example/secret"}}]},
            {
                "role": "assistant",
                "content": "secret 3",
                "reasoning_content": "secret 4",
                "tool_calls": [{"id": "secret-id", "type": "function", "function": {"name": "secret_tool", "arguments": '{"to": "secret 5", "secret 6": [1.50]}'}}],
            },
            {"role": "tool", "tool_call_id": "secret-id", "content": "secret 7"},
            {"role": "user", "content": "secret 8"},
        ],
        "tools": [{"type": "function", "function": {"name": "secret_tool", "description": "secret 9", "parameters": TOOL}}],
        "user": "secret 10",
    },
    "anthropic": {
        "model": "secret-model",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "secret 1", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "secret 2"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "secret thought", "signature": "secret-signature"},
                    {"type": "text", "text": "secret 3"},
                    {"type": "tool_use", "id": "secret-id", "name": "secret_tool", "input": {"to": "secret 5", "secret 6": {"type": "secret 7", "id": "secret 8"}}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "secret-id", "content": [{"type": "text", "text": "secret 9"}]}]},
        ],
        "tools": [{"name": "secret_tool", "description": "secret 10", "input_schema": TOOL}],
        "metadata": {"user_id": "secret 11"},
    },
}  # fmt: skip

dialects = pytest.mark.parametrize("name", list(BODIES))


def shout(text: str, name: str) -> str:
    """A change that can be seen."""
    return text.replace("secret", "SECRET")


@dialects
def test_both_forms_change_alike(name: str) -> None:
    """The wire changed and decoded is the decoded one changed."""
    dialect, wire = by_name(name), json.dumps(BODIES[name]).encode()
    changed = change_body(Body(wire=wire, dialect=dialect), shout)
    assert changed.wire is not None
    typed = change_body(Body(chat=dialect.decode_request(wire)), shout).chat
    again = json.loads(dialect.encode_request(dialect.decode_request(changed.wire), []))
    assert json.loads(dialect.encode_request(typed, [])) == again


@dialects
def test_every_text_and_nothing_else(name: str) -> None:
    """All numbered ones, names of arguments among them; neither ids, names of tools, addresses, the model nor signed thinking."""
    wire = json.dumps(BODIES[name]).encode()
    changed = change_body(Body(wire=wire, dialect=by_name(name)), shout)
    text = (changed.wire or b"").decode()
    for number in range(1, 12):
        assert f"secret {number}" not in text
    assert f"SECRET {number - 1}" in text and "SECRET d" in text and "SECRET e" in text
    for kept in ("secret-model", "secret-id", "secret_tool"):
        assert kept in text
    assert ("https://x.example/secret" in text) == (name == "openai-chat")
    assert ("secret thought" in text and "secret-signature" in text) == (name == "anthropic")
    assert "1.50" in text or name == "anthropic"


@dialects
def test_both_forms_have_the_same_texts(name: str) -> None:
    """Each once, and a body whose texts stay is the very object that came."""
    dialect, wire = by_name(name), json.dumps(BODIES[name]).encode()
    seen: list[list[str]] = []
    for body in (Body(wire=wire, dialect=dialect), Body(chat=dialect.decode_request(wire))):
        told: list[str] = []

        def tell(text: str, name: str, told: list[str] = told) -> str:
            told.append(text)
            return text

        assert change_body(body, tell) is body
        seen.append([text for text in told if text.startswith("secret ") and text[7:].isdigit()])
    assert sorted(seen[0]) == sorted(seen[1]) and len(set(seen[0])) == len(seen[0]) >= 9


@dialects
def test_unsigned_thinking_is_told_apart(name: str) -> None:
    """Its placeholders are not the caller's own."""
    wire = json.dumps(BODIES[name]).encode()
    thoughts: list[str] = []

    def think(text: str, name: str) -> str:
        thoughts.append(text)
        return text

    change_body(Body(wire=wire, dialect=by_name(name)), lambda text, _: text, think)
    change_body(Body(chat=by_name(name).decode_request(wire)), lambda text, _: text, think)
    assert thoughts == (["secret 4"] * 2 if name == "openai-chat" else [])


def test_arguments_that_are_no_json_are_a_text() -> None:
    """A model may have written anything."""
    assert in_json('{"a": "secret', shout) == '{"a": "SECRET'
    assert in_json('{"a":  "secret"}', shout) == '{"a":  "SECRET"}'
    assert in_json("", shout) == ""
