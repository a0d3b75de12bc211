"""Frames of an answer with the values put back, however the wire cuts it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.dialects import by_name
from headrace.handler import assemble
from headrace.layers.guard.restored import Restored
from headrace.types import (
    BlockStart,
    BlockStop,
    Complete,
    Delta,
    Finish,
    Frame,
    Ping,
    Reply,
    Restart,
    Text,
    Thinking,
    ToolCall,
)

VALUES = {"[EMAIL_1]": "ann@example.com", "[NOTE_1]": 'say "hi"\\\n', "[NOTE_12]": "b"}
TEXT = "To [EMAIL_1][NOTE_12], see [1] [EMAIL_ [NOTE_1]"
SAID = 'To ann@example.comb, see [1] [EMAIL_ say "hi"\\\n'
ARGUMENTS = '{"to":"[EMAIL_1]","note":"[NOTE_1]"}'

dialects = pytest.mark.parametrize("name", ["openai-chat", "anthropic"])


def sse(name: str, pieces: list[tuple[str, str]]) -> list[bytes]:
    """A stream of `kind, text` pieces as the dialect's servers send it, one event each; unknown members in all of them."""
    events: list[tuple[str, dict[str, Any]]] = []
    if name == "openai-chat":
        for kind, text in pieces:
            delta: dict[str, Any] = {"content": text, "x_mark": [1.50]}
            if kind == "thinking":
                delta = {"reasoning_content": text}
            if kind == "call":
                call = {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": text, "arguments": ""},
                }
                delta = {"tool_calls": [call]}
            if kind == "arguments":
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            events.append(
                ("", {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})
            )
        events.append(("", {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        return [*(b"data: " + json.dumps(data).encode() + b"\n\n" for _, data in events), b"data: [DONE]\n\n"]
    head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
    events.append(("message_start", {"message": head}))
    open_kind, index = "", -1
    members = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking"), "arguments": ("input_json_delta", "partial_json")}  # fmt: skip
    for kind, text in pieces:
        block = "tool" if kind in ("call", "arguments") else kind
        if block != open_kind:
            if open_kind:
                events.append(("content_block_stop", {"index": index}))
            open_kind, index = block, index + 1
            began: dict[str, Any] = {"type": "text", "text": ""}
            if kind == "thinking":
                began = {"type": "thinking", "thinking": "", "signature": ""}
            if kind == "call":
                began = {"type": "tool_use", "id": "toolu_1", "name": text, "input": {}}
            events.append(("content_block_start", {"index": index, "content_block": began}))
        if kind != "call":
            type_, member = members[kind]
            events.append(
                (
                    "content_block_delta",
                    {"index": index, "delta": {"type": type_, member: text}, "x_mark": [1.50]},
                )
            )
    events.append(("content_block_stop", {"index": index}))
    events.append(
        (
            "message_delta",
            {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 3}},
        )
    )
    events.append(("message_stop", {}))
    return [
        f"event: {event}\ndata: {json.dumps({'type': event, **data})}\n\n".encode() for event, data in events
    ]


def restored(name: str, stream: list[bytes], **how: bool) -> tuple[Reply, Reply, list[Frame], list[Frame]]:
    """What the events say, what the bytes say to a client, and the frames before and after."""
    decoder, restorer = by_name(name).decoder(hide_usage=False), Restored(VALUES, **how)
    before: list[Frame] = []
    after: list[Frame] = []
    for piece in stream:
        batch = decoder.feed(piece)
        before += batch
        after += restorer.feed(batch) if batch else []
    after += restorer.close()
    events = assemble([event for frame in after for event in frame.events])
    again = by_name(name).decoder(hide_usage=False)
    wire = b"".join(frame.raw or b"" for frame in after)
    return events, assemble([e for frame in again.feed(wire) for e in frame.events]), before, after


@dialects
def test_every_cut_of_text_and_arguments(name: str) -> None:
    """Cut at every two places: events and bytes say the same, with nothing missed; frames without a value keep their bytes."""
    for first in range(len(TEXT) + 1):
        for second in range(first, len(TEXT) + 1):
            said = [TEXT[:first], TEXT[first:second], TEXT[second:]]
            events, wire, before, after = restored(name, sse(name, [("text", text) for text in said]))
            assert events.text == wire.text == SAID, said
            assert len(before) == len(after)
    for first in range(1, len(ARGUMENTS)):
        for second in range(first, len(ARGUMENTS) + 1):
            pieces = [("call", "send"), *(("arguments", text) for text in (ARGUMENTS[:first], ARGUMENTS[first:second], ARGUMENTS[second:]))]  # fmt: skip
            events, wire, _, _ = restored(name, sse(name, pieces))
            for reply in (events, wire):
                arguments = json.loads(reply.tool_calls[0].arguments)
                assert arguments == {"to": "ann@example.com", "note": VALUES["[NOTE_1]"]}


@dialects
def test_one_character_at_a_time(name: str) -> None:
    """Each character in an event of its own, as slow models send them."""
    events, wire, _, _ = restored(name, sse(name, [("text", character) for character in TEXT]))
    assert events.text == wire.text == SAID


@dialects
def test_frames_without_a_value_are_the_very_objects(name: str) -> None:
    """Also those that waited in vain: their bytes, with whatever the provider put there, are not written anew."""
    pieces = [("text", text) for text in ("plain ", "see [", "EMAIL", "] and [", "x")]
    _, wire, before, after = restored(name, sse(name, pieces))
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert wire.text == "plain see [EMAIL] and [x"


@dialects
def test_only_strings_that_change_are_written(name: str) -> None:
    """Spaces, numbers and unknown members of a frame with a value stay as the provider wrote them."""
    stream = sse(name, [("text", "to [EMAIL_1] now")])
    _, _, before, after = restored(name, stream)
    changed = [(b.raw, a.raw) for b, a in zip(before, after, strict=True) if a is not b]
    assert len(changed) == 1
    assert changed[0][1] == (changed[0][0] or b"").replace(b"[EMAIL_1]", b"ann@example.com")
    assert b"1.5" in (changed[0][1] or b"")


@dialects
def test_thinking_stays_as_it_was_thought(name: str) -> None:
    """A signature may hold it to the letter; the text after it has its values."""
    events, wire, _, _ = restored(name, sse(name, [("thinking", "mail [EMAIL_1]?"), ("text", "[EMAIL_1]")]))
    for reply in (events, wire):
        assert reply.thinking == "mail [EMAIL_1]?"
        assert reply.text == "ann@example.com"


def test_a_text_that_is_also_thought_is_put_back_once() -> None:
    """One chunk with the same words as thinking and as text; and one that repeats the text elsewhere, whole."""
    details = [{"type": "reasoning.text", "text": "[EMAIL_1]"}]
    thought = {"reasoning_content": "[EMAIL_1]", "reasoning_details": details}
    delta = {**thought, "content": "[EMAIL_1]", "note": "of [EMAIL_1]"}
    raw = b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
    events = (Delta(0, "thinking", "[EMAIL_1]"), Delta(1, "text", "[EMAIL_1]"))
    [frame] = Restored(VALUES).feed([Frame(events, raw, "openai-chat")])
    assert frame.raw is not None
    said = json.loads(frame.raw[6:])["choices"][0]["delta"]
    assert said == {**thought, "content": "ann@example.com", "note": "of ann@example.com"}
    assert frame.events == (events[0], Delta(1, "text", "ann@example.com"))


def test_arguments_that_are_an_object_are_no_text_of_json() -> None:
    """A member of the caller's own that is called `arguments` or `text` is a plain string there."""
    body = {
        "type": "message",
        "role": "assistant",
        "content": [
            {
                "type": "tool_use",
                "id": "t",
                "name": "f",
                "input": {"arguments": "[NOTE_1]", "text": "[NOTE_1]"},
            }
        ],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    data = json.dumps(body).encode()
    reply = by_name("anthropic").decode_reply(data)
    [frame] = Restored(VALUES, json_text=True).feed([Frame((Complete(reply),), data, "anthropic")])
    note = VALUES["[NOTE_1]"]
    assert frame.raw is not None
    assert json.loads(frame.raw)["content"][0]["input"] == {"arguments": note, "text": note}
    [event] = frame.events
    assert isinstance(event, Complete)
    assert json.loads(event.reply.tool_calls[0].arguments) == {"arguments": note, "text": note}


@dialects
def test_text_that_is_json_gets_values_as_json(name: str) -> None:
    """A structured answer stays one, with quotes and line ends in the values."""
    events, wire, _, _ = restored(
        name, sse(name, [("text", '{"a":"[NO'), ("text", 'TE_1]"}')]), json_text=True
    )
    assert json.loads(events.text) == json.loads(wire.text) == {"a": VALUES["[NOTE_1]"]}


@dialects
def test_a_whole_answer_with_its_bytes(name: str) -> None:
    """Text, arguments as text or as an object, and a citation beside it."""
    dialect = by_name(name)
    call = ToolCall(id="t", name="send", arguments=ARGUMENTS)
    body = dialect.encode_reply(Reply(content=(Text(text=TEXT), call), finish="tool_calls"), [])
    reply = dialect.decode_reply(body)
    [frame] = Restored(VALUES).feed([Frame((Complete(reply),), body, name)])
    assert frame.raw is not None
    [event] = frame.events
    assert isinstance(event, Complete)
    for said in (event.reply, dialect.decode_reply(frame.raw)):
        assert said.text == SAID
        assert json.loads(said.tool_calls[0].arguments) == {
            "to": "ann@example.com",
            "note": VALUES["[NOTE_1]"],
        }


def test_what_waits_comes_before_what_ends_it() -> None:
    """A block's end, a finish or a restart lets everything go, in its order; pings behind a doubt wait with it."""
    restorer = Restored(VALUES)
    start, doubt, ping = (
        Frame((BlockStart(0, Text(text="")),)),
        Frame((Delta(0, "text", "[EMA"),)),
        Frame((Ping(),)),
    )
    assert restorer.feed([start, doubt, ping]) == [start]
    stop = Frame((BlockStop(0), Finish("length")))
    assert restorer.feed([stop]) == [doubt, ping, stop]
    assert restorer.feed([doubt]) == []
    restart = Frame((Restart("a/b", "timeout"),))
    assert restorer.feed([restart]) == [doubt, restart]
    assert restorer.feed([doubt]) == []
    assert restorer.close() == [doubt]


def test_blocks_that_grow_at_once_do_not_mix() -> None:
    """Two calls whose arguments come in turns each have their own doubt."""
    restorer = Restored(VALUES)
    pieces = [(0, '"[EMA'), (1, '"[NOTE_1'), (0, 'IL_1]"'), (1, '2]"')]
    out = [f for index, text in pieces for f in restorer.feed([Frame((Delta(index, "arguments", text),))])]
    texts = {0: "", 1: ""}
    for frame in out:
        for event in frame.events:
            assert isinstance(event, Delta)
            texts[event.index] += event.text
    assert texts == {0: '"ann@example.com"', 1: '"b"'}


def test_thinking_events_are_left() -> None:
    """Typed thinking in a whole answer keeps its placeholders, signed or not."""
    thought = Thinking(text="[EMAIL_1]", signature="s")
    [frame] = Restored(VALUES).feed([Frame((Complete(Reply(content=(thought, Text(text="[EMAIL_1]")))),))])
    [event] = frame.events
    assert isinstance(event, Complete)
    assert event.reply.content == (thought, Text(text="ann@example.com"))
