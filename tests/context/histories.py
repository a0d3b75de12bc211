"""Histories of every kind, sound and broken."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from headrace.types import Block, Image, Message, Text, Thinking, ToolCall, ToolResult

__all__ = ["histories"]

WORDS = st.sampled_from(
    [
        "the",
        "flight",
        "to",
        "Boston",
        "must",
        "leave",
        "before",
        "noon",
        "booking",
        "ABC123",
        "costs",
        "$420",
        "never",
        "cancel",
        "it",
        "please",
        "confirm",
        "seat",
        "14C",
        "user",
        "id",
        "mia_li_3668",
        "hotel",
        "near",
        "station",
        "早い便",
        "für",
        "morgen",
        "decided",
        "budget",
        "refund",
        "policy",
    ]
)
SENTENCES = st.lists(WORDS, min_size=1, max_size=40).map(" ".join)


@st.composite
def histories(draw: Any, *, sound: bool = False) -> tuple[Message, ...]:
    """A conversation: parallel calls, signed and redacted thinking, images, systems in the middle; unless `sound`, orphaned, doubled
    and missing results and empty messages too. Ends with a user's turn or a tool's."""
    messages: list[Message] = []
    number = 0

    def say(role: Any, *blocks: Block) -> None:
        messages.append(Message(role=role, content=blocks))

    if draw(st.booleans()):
        say("system", Text(text=draw(SENTENCES)))
    for _ in range(draw(st.integers(1, 8))):
        blocks: list[Block] = [Text(text=draw(SENTENCES))]
        if draw(st.integers(0, 9)) == 0:
            blocks.append(Image(url="https://example.org/cat.png"))
        say("user", *blocks)
        if not sound and draw(st.integers(0, 9)) == 0:
            say("user", Text(text=""))
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.integers(0, 5))
            thoughts: list[Block] = []
            if kind == 0:
                thoughts = [Thinking(text=draw(SENTENCES), signature="s")]
            elif kind == 1:
                thoughts = [Thinking(redacted="x" * 40)]
            calls = [
                ToolCall(id=f"c{number + k}", name="look_up", arguments='{"q":"' + draw(WORDS) + '"}')
                for k in range(draw(st.integers(1, 3)))
            ]
            number += len(calls)
            say(
                "assistant", *thoughts, *([Text(text=draw(SENTENCES))] if draw(st.booleans()) else []), *calls
            )
            answers = list(calls)
            if not sound and draw(st.integers(0, 5)) == 0:
                answers = answers[: draw(st.integers(0, len(answers)))]
            for call in answers:
                say(
                    "tool",
                    ToolResult(
                        call_id=call.id, content=(Text(text=draw(SENTENCES) * draw(st.integers(1, 6))),)
                    ),
                )
            if not sound and draw(st.integers(0, 7)) == 0:
                gone = draw(st.sampled_from(["gone", calls[0].id]))
                say("tool", ToolResult(call_id=gone, content=(Text(text="late"),)))
        if draw(st.integers(0, 11)) == 0:
            say("system", Text(text=draw(SENTENCES)))
        if not sound and draw(st.integers(0, 11)) == 0:
            say("assistant", Text(text=""))
        elif draw(st.integers(0, 8)):
            say(
                "assistant",
                *([Thinking(text="hm", signature="s")] if draw(st.booleans()) else []),
                Text(text=draw(SENTENCES)),
            )
    if messages[-1].role not in ("user", "tool"):
        say("user", Text(text=draw(SENTENCES)))
    return tuple(messages)
