"""The document about the dialects says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from headrace.dialects.anthropic import ANTHROPIC, DEFAULT_MAX_TOKENS
from headrace.dialects.openai_chat import EFFORT_BUDGETS, OPENAI_CHAT
from headrace.errors import HeadraceError
from headrace.types import Chat, FinishReason, Image, Message, Reply, Text, Thinking, ToolResult

DOCUMENT = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text(encoding="utf-8")


def table(section: str) -> list[list[list[str]]]:
    """The rows of a section's table, without its head: the words in backquotes of each cell."""
    text = DOCUMENT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]


def finished(dialect: Any, reply: Reply) -> str:
    wire = json.loads(dialect.encode_reply(reply, []))
    return str(wire["stop_reason"] if dialect is ANTHROPIC else wire["choices"][0]["finish_reason"])


def test_finish_reasons() -> None:
    """Every reason is in the table, with the words that it is read from and written as."""
    rows = table("Finish reasons")
    assert {row[0][0] for row in rows} == set(get_args(FinishReason))
    for (reason, *_), from_anthropic, to_anthropic, from_openai, to_openai in rows:
        for word in from_anthropic:
            answer: dict[str, Any] = {"content": [], "stop_reason": word}
            assert ANTHROPIC.decode_reply(json.dumps(answer).encode()).finish == reason
        for word in from_openai:
            answer = {"choices": [{"message": {"content": "x"}, "finish_reason": word}]}
            assert OPENAI_CHAT.decode_reply(json.dumps(answer).encode()).finish == reason
        assert finished(ANTHROPIC, Reply(finish=reason)) == to_anthropic[0]  # type: ignore[arg-type]
        assert finished(OPENAI_CHAT, Reply(finish=reason)) == to_openai[0]  # type: ignore[arg-type]


def statuses(of: type[HeadraceError]) -> dict[str, int]:
    known = {of.kind: of.status}
    for child in of.__subclasses__():
        known = {**statuses(child), **known}
    return known


def test_errors() -> None:
    """The words of the envelopes are those of the table, with the status that the error has."""
    rows = table("Errors")
    assert len(rows) > 12
    for (kind, *_), anthropic, openai in rows:
        status = statuses(HeadraceError)[kind]
        wire = json.loads(ANTHROPIC.encode_error(kind, "m", status=status, request_id="r"))
        if anthropic:
            assert [wire["error"]["type"]] == anthropic
        error = json.loads(OPENAI_CHAT.encode_error(kind, "m", status=status, request_id="r"))["error"]
        assert [word for word in (error["type"], error["code"]) if word is not None] == openai


CHAT = Chat(
    model="claude-sonnet-4-5",
    messages=(
        Message(role="user", content=(Text(text="x"),)),
        Message(role="assistant", content=(Thinking(text="t", signature="s"), Text(text="y"))),
        Message(
            role="tool", content=(ToolResult(call_id="c", content=(Image(url="https://example.org/x"),)),)
        ),
    ),
    temperature=1.5,
    top_k=3,
    seed=1,
)


@pytest.mark.parametrize("line", re.findall(r"^(?:openai-chat|anthropic): .+$", DOCUMENT, re.MULTILINE))
def test_warnings(line: str) -> None:
    """Every warning that is quoted is one that a chat gets."""
    warnings: list[str] = []
    for dialect in (ANTHROPIC, OPENAI_CHAT):
        dialect.encode_request(CHAT, warnings)
    assert line in warnings


def test_numbers() -> None:
    """The default limit and the thresholds of efforts are those of the code."""
    assert f"so {DEFAULT_MAX_TOKENS} is sent" in DOCUMENT
    (high, _), (medium, _), _ = EFFORT_BUDGETS
    assert f"`high` from {high:,} tokens, `medium` from {medium:,}" in DOCUMENT
