"""What one dialect says, the other can carry: chats, answers and streams cross both ways and mean the same."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from headrace.dialects.anthropic import ANTHROPIC
from headrace.dialects.openai_chat import OPENAI_CHAT
from headrace.handler import Dialect, assemble, reply_events
from headrace.types import (
    Block,
    BlockStart,
    BlockStop,
    Chat,
    Delta,
    End,
    Event,
    Finish,
    FinishReason,
    Image,
    Message,
    Reply,
    ResponseFormat,
    Start,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    UsageReport,
)

A: Dialect = ANTHROPIC
B: Dialect = OPENAI_CHAT

FINISHES: tuple[FinishReason, ...] = ("stop", "length")

# --- what is said -----------------------------------------------------------------------------------------------------

texts = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() != "")
words = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=4), json_values, max_size=3).map(json.dumps)
images = st.builds(
    lambda data: Image(media_type="image/png", data=data), st.sampled_from(["iVBORw0KGgo=", "AAAA"])
) | st.builds(lambda name: Image(url=f"https://example.org/{name}.png"), words)


@st.composite
def rounds(draw: st.DrawFn, number: int) -> list[Message]:
    """A user's turn, the model's, and the results of its calls."""
    asked = draw(st.lists(texts.map(lambda text: Text(text=text)) | images, min_size=1, max_size=3))
    said: list[Block] = [Text(text=text) for text in draw(st.lists(texts, max_size=2))]
    calls = [
        ToolCall(id=f"call_{number}_{at}", name=draw(words), arguments=draw(arguments))
        for at in range(draw(st.integers(0 if said else 1, 3)))
    ]
    results = tuple(
        ToolResult(call_id=call.id, content=(Text(text=draw(texts)),))
        for call in draw(st.permutations(calls))
    )
    messages = [
        Message(role="user", content=tuple(asked)),
        Message(role="assistant", content=(*said, *calls)),
    ]
    return [*messages, Message(role="tool", content=results)] if results else messages


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    """A chat that both dialects can say."""
    system = draw(st.lists(texts, max_size=2))
    messages = [Message(role="system", content=tuple(Text(text=text) for text in system))] if system else []
    for number in range(draw(st.integers(0, 2))):
        messages += draw(rounds(number))
    messages.append(Message(role="user", content=(Text(text=draw(texts)),)))
    schema = Raw(b'{"type":"object","properties":{"z":{"type":"string"},"a":{}}}')
    names = draw(st.lists(words, unique=True, max_size=2))
    tools = tuple(Tool(name=name, description=draw(st.none() | texts), parameters=schema) for name in names)
    modes = [None, ToolChoice(mode="auto"), ToolChoice(mode="required"), ToolChoice(mode="none")]
    modes += [ToolChoice(mode="tool", name=name) for name in names]
    choice = draw(st.sampled_from(modes)) if tools else None
    may_call = tools and (choice is None or choice.mode != "none")
    form = ResponseFormat(kind="json_schema", schema=schema)
    warmth = draw(st.sampled_from(["temperature", "top_p"]))
    return Chat(
        model="claude-sonnet-4-5",
        messages=tuple(messages),
        max_tokens=draw(st.integers(1, 100_000)),
        temperature=draw(st.none() | st.floats(0, 1)) if warmth == "temperature" else None,
        top_p=draw(st.none() | st.floats(0, 1)) if warmth == "top_p" else None,
        stop=tuple(draw(st.lists(texts, max_size=3))),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=draw(st.none() | st.just(False)) if may_call else None,
        response_format=draw(st.none() | st.just(form)),
        user=draw(st.none() | words),
        stream=draw(st.booleans()),
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage that both dialects can report."""
    read, written, fresh = (draw(st.integers(0, 1000)) for _ in range(3))
    output = draw(st.integers(0, 1000))
    return Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=draw(st.integers(0, output)),
    )


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """An answer of text and calls."""
    said = draw(st.lists(texts, max_size=1))
    calls = [
        ToolCall(id=f"call_{at}", name=draw(words), arguments=draw(arguments))
        for at in range(draw(st.integers(0, 3)))
    ]
    finish: FinishReason = "tool_calls" if calls else draw(st.sampled_from(FINISHES))
    return Reply(
        id="msg_1",
        model="claude-x",
        content=(*(Text(text=text) for text in said), *calls),
        finish=finish,
        usage=draw(usages()),
    )


@st.composite
def streams(draw: st.DrawFn) -> tuple[Reply, list[Event]]:
    """An answer, and events that spell it: pieces of any size, calls interleaved in any way, usage at the end."""
    reply = draw(replies())
    events: list[Event] = [Start(reply.id, reply.model)]
    waiting: dict[int, list[Event]] = {}
    for index, block in enumerate(reply.content):
        if isinstance(block, Text):
            events.append(BlockStart(index, Text(text="")))
            events += [Delta(index, "text", piece) for piece in draw(pieces(block.text))]
            events.append(BlockStop(index))
        elif isinstance(block, ToolCall):
            begun = ToolCall(id=block.id, name=block.name, arguments="")
            parts: list[Event] = [Delta(index, "arguments", piece) for piece in draw(pieces(block.arguments))]
            waiting[index] = [BlockStart(index, begun), *parts, BlockStop(index)]
    # A block begins after the one before it has begun; from then on all that are open take turns.
    begun_up_to = min(waiting, default=0)
    while waiting:
        open_now = [index for index in waiting if index <= begun_up_to]
        index = draw(st.sampled_from(open_now)) if open_now else min(waiting)
        event = waiting[index].pop(0)
        if isinstance(event, BlockStart):
            begun_up_to = index + 1
        events.append(event)
        if not waiting[index]:
            del waiting[index]
    assert reply.usage is not None
    return reply, [*events, Finish(reply.finish), UsageReport(reply.usage), End()]


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """`text`, cut somewhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=3)) | {0, len(text)})
    return [text[start:end] for start, end in pairwise(cuts)]


# --- what it means ----------------------------------------------------------------------------------------------------


def meaning(chat: Chat) -> dict[str, Any]:
    """What a chat asks, whatever its spelling: who said what in what order, with which tools and limits."""
    said: list[tuple[str, Any]] = []
    for message in chat.messages:
        for block in message.content:
            match block:
                case ToolResult(call_id=call_id, content=content):
                    said.append(("result", (call_id, [meant(inner) for inner in content])))
                case _:
                    said.append((message.role, meant(block)))
    return {
        "said": said,
        "tools": [
            (tool.name, tool.description, json.loads(bytes(tool.parameters or b""))) for tool in chat.tools
        ],
        # Where tools are given, no choice is the choice `auto`.
        "choice": chat.tool_choice or (ToolChoice(mode="auto") if chat.tools else None),
        "parallel": chat.parallel_tool_calls,
        "schema": chat.response_format and json.loads(bytes(chat.response_format.schema or b"")),
        "limits": (chat.max_tokens, chat.temperature, chat.top_p, chat.stop),
        "rest": (chat.model, chat.user, chat.stream),
    }


def meant(block: Block) -> Any:
    match block:
        case Text(text=text):
            return text
        case ToolCall():
            return block.id, block.name, json.loads(block.arguments)
        case Image():
            return block.media_type, block.data, block.url
    raise AssertionError(f"not said: {block}")


def told(reply: Reply) -> dict[str, Any]:
    """What an answer says."""
    return {
        "text": reply.text,
        "calls": [meant(call) for call in reply.tool_calls],
        "finish": reply.finish,
        "usage": reply.usage,
        "who": (reply.id, reply.model),
    }


def spoken(dialect: Dialect, events: list[Event]) -> bytes:
    encoder = dialect.encoder(include_usage=True, model="", id="")
    return b"".join([encoder.feed(event) for event in events if not isinstance(event, End)] + [encoder.end()])


def heard(dialect: Dialect, raw: bytes, size: int) -> list[Event]:
    decoder = dialect.decoder(hide_usage=False)
    frames = [frame for at in range(0, len(raw), size) for frame in decoder.feed(raw[at : at + size])]
    return [event for frame in frames + decoder.close() for event in frame.events]


# --- the properties ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(chats())
def test_a_chat_crosses_and_comes_back(chat: Chat) -> None:
    """Anthropic to OpenAI and back: the same things said in the same order with the same tools, and nothing warned about."""
    warnings: list[str] = []
    first = A.decode_request(A.encode_request(chat, warnings))
    crossed = B.decode_request(B.encode_request(first, warnings))
    back = A.decode_request(A.encode_request(crossed, warnings))
    assert meaning(first) == meaning(chat)
    assert meaning(crossed) == meaning(chat)
    assert meaning(back) == meaning(chat)
    assert warnings == []


@settings(max_examples=100, deadline=None)
@given(chats())
def test_a_dialect_reads_what_it_wrote(chat: Chat) -> None:
    """Encoding what was decoded gives the same bytes, in each dialect: prompt caches live by that."""
    for dialect in (A, B):
        once = dialect.encode_request(chat, [])
        assert dialect.encode_request(dialect.decode_request(once), []) == once


@settings(max_examples=150, deadline=None)
@given(replies())
def test_an_answer_crosses_and_comes_back(reply: Reply) -> None:
    """Text, calls, finish and usage of a buffered answer survive each way."""
    for one, other in ((A, B), (B, A)):
        first = one.decode_reply(one.encode_reply(reply, []))
        crossed = other.decode_reply(other.encode_reply(first, []))
        back = one.decode_reply(one.encode_reply(crossed, []))
        assert told(first) == told(crossed) == told(back) == told(reply)


@settings(max_examples=150, deadline=None)
@given(streams(), st.integers(1, 60))
def test_a_stream_crosses_and_comes_back(stream: tuple[Reply, list[Event]], size: int) -> None:
    """Text, calls, finish and usage of a stream survive each way, however it is cut and interleaved."""
    reply, events = stream
    for one, other in ((A, B), (B, A)):
        first = heard(one, spoken(one, events), size)
        crossed = heard(other, spoken(other, first), size)
        back = heard(one, spoken(one, crossed), size)
        for read in (first, crossed, back):
            assert told(assemble(read)) == told(reply)
            assert read[-1] == End()


@settings(max_examples=100, deadline=None)
@given(streams())
def test_blocks_begin_grow_and_end_in_order(stream: tuple[Reply, list[Event]]) -> None:
    """What a decoder gives has consecutive blocks, each begun before it grows and ended once; Anthropic's never overlap."""
    _, events = stream
    for dialect in (A, B):
        begun: list[int] = []
        ended: list[int] = []
        for event in heard(dialect, spoken(dialect, events), 1000):
            match event:
                case BlockStart(index=index):
                    assert index == len(begun)
                    assert dialect is B or begun == ended
                    begun.append(index)
                case Delta(index=index):
                    assert index in begun and index not in ended
                case BlockStop(index=index):
                    assert index in begun and index not in ended
                    ended.append(index)
                case _:
                    pass
        assert sorted(ended) == begun


# --- thinking ---------------------------------------------------------------------------------------------------------


def handed_back(dialect: Dialect, answer: bytes, *, streamed: bool) -> dict[str, Any]:
    """The message that an OpenAI client sends in the next turn, having kept all of the answer that it got."""
    first = dialect.decode_reply(answer)
    if not streamed:
        message: dict[str, Any] = json.loads(B.encode_reply(first, []))["choices"][0]["message"]
        return message
    whole: dict[str, Any] = {}
    for line in spoken(B, reply_events(first)).splitlines():
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                for name, value in choice["delta"].items():
                    whole[name] = value if name == "role" or name not in whole else whole[name] + value
    return whole


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_survives_an_openai_client(streamed: bool) -> None:
    """Signed and redacted thinking of Claude goes through a client of chat completions and is back in the next request, byte
    for byte, without a warning."""
    thinking = [
        {"type": "thinking", "thinking": 'I "think" ä \n', "signature": "Eq+/=="},
        {"type": "redacted_thinking", "data": "Zm9v=="},
        {"type": "thinking", "thinking": "", "signature": "omitted"},
    ]
    said = [
        *thinking,
        {"type": "text", "text": "Yes."},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    ]
    answer = {"id": "m", "model": "c", "content": said, "stop_reason": "tool_use"}
    message = handed_back(A, json.dumps(answer).encode(), streamed=streamed)
    if streamed:
        (call,) = message["tool_calls"][:1]
        message["tool_calls"] = [{**call, "function": {"name": "f", "arguments": "{}"}}]
    result = {"role": "tool", "tool_call_id": "t", "content": "1"}
    ask = {"model": "c", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}, message, result]}
    chat = B.decode_request(json.dumps(ask).encode())
    warnings: list[str] = []
    sent = json.loads(A.encode_request(chat, warnings))
    assert sent["messages"][1] == {"role": "assistant", "content": said}
    assert warnings == []
    # A target of the same dialect gets what the client wrote.
    again = json.loads(B.encode_request(chat, warnings))["messages"][1]
    assert again["reasoning_details"] == message["reasoning_details"]
    assert again["reasoning_content"].strip() == message["reasoning_content"].strip()


def test_thinking_of_other_models_is_not_sent_as_claudes() -> None:
    """Encrypted reasoning of OpenAI, in the same member, stays with its dialect and is named."""
    details = [{"type": "reasoning.encrypted", "data": "x", "format": "openai-responses-v1", "index": 0}]
    said = {"role": "assistant", "content": "a", "reasoning": "why", "reasoning_details": details}
    ask = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}, said]}
    chat = B.decode_request(json.dumps(ask).encode())
    warnings: list[str] = []
    assert json.loads(A.encode_request(chat, warnings))["messages"][1]["content"] == [
        {"type": "text", "text": "a"}
    ]
    assert "anthropic: message reasoning_details of openai-chat dropped" in warnings
    assert json.loads(B.encode_request(chat, []))["messages"][1] == said


def test_a_streamed_signature_of_openrouter_reaches_an_anthropic_client() -> None:
    """OpenRouter repeats the text in the details and sends the signature last; redacted thinking is a block of its own."""
    form = {"format": "anthropic-claude-v1", "index": 0}
    deltas: list[dict[str, Any]] = [
        {"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a", **form}]},
        {"reasoning": "b", "reasoning_details": [{"type": "reasoning.text", "text": "b", **form}]},
        {"reasoning_details": [{"type": "reasoning.text", "signature": "s", **form}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "r", **form}]},
        {"content": "x"},
    ]
    raw = b"".join(
        b"data: " + json.dumps({"id": "c", "choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
        for delta in deltas
    )
    reply = assemble(heard(A, spoken(A, heard(B, raw, 1000)), 1000))
    assert reply.content == (Thinking(text="ab", signature="s"), Thinking(redacted="r"), Text(text="x"))
