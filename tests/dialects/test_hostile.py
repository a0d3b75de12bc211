"""Bytes from strangers: whatever arrives, a dialect answers with a value or with one of our errors."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.dialects.anthropic import ANTHROPIC
from headrace.dialects.openai_chat import OPENAI_CHAT
from headrace.errors import InvalidRequest, ProviderError
from headrace.handler import Dialect
from headrace.types import Frame

DIALECTS: tuple[Dialect, ...] = (ANTHROPIC, OPENAI_CHAT)
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=list(BY_NAME))


def wire(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def stream(*events: Any) -> bytes:
    return b"".join(b"data: " + wire(event) + b"\n\n" for event in events)


# With a text outside ASCII in every place that is kept raw.
REQUESTS = {
    "anthropic": wire(
        {
            "model": "m",
            "max_tokens": 2000,
            "system": [{"type": "text", "text": "ä", "cache_control": {"type": "ephemeral", "ttl": "5m"}}],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "ä", "data": "AA"}},
                        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "new", "x": "ä"}]},
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "ä", "signature": "s"},
                        {"type": "tool_use", "id": "a", "name": "b", "input": {"ä": 1}, "caller": {"ä": "ä"}},
                    ],
                },
            ],
            "tools": [{"name": "a", "input_schema": {"ä": 1}}, {"type": "web_search_1", "name": "ä"}],
            "tool_choice": {"type": "auto", "new": "ä"},
            "thinking": {"type": "enabled", "budget_tokens": 1500, "new": "ä"},
            "output_config": {"format": {"type": "json_schema", "schema": {"ä": 1}}},
            "new": ["ä"],
        }
    ),
    "openai-chat": wire(
        {
            "model": "m",
            "max_tokens": 5,
            "stream": True,
            "stream_options": {"include_usage": False, "new": "ä"},
            "messages": [
                {"role": "system", "content": "ä"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "ä", "cache_control": {"type": "ephemeral", "new": "ä"}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "new": "ä"}},
                        {"type": "new", "x": "ä"},
                    ],
                },
                {
                    "role": "assistant",
                    "reasoning": "ä",
                    "reasoning_details": [{"type": "reasoning.text", "text": "ä", "signature": "s"}],
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "b", "arguments": {"ä": 1}}},
                        {"type": "custom", "custom": {"ä": 1}},
                    ],
                },
            ],
            "tools": [{"type": "function", "function": {"name": "a", "parameters": {"ä": 1}}}],
            "tool_choice": {"type": "function", "function": {"name": "a"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"ä": 1}}},
            "new": ["ä"],
        }
    ),
}
ANSWERS = {
    "anthropic": wire(
        {
            "id": "m",
            "model": "x",
            "content": [
                {"type": "text", "text": "ä", "citations": [{"ä": 1}]},
                {"type": "server_tool_use", "input": {"q": "ä"}},
                {"type": "redacted_thinking", "data": "x"},
            ],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 2, "new": "ä"},
            "new": {"ä": "ä"},
        }
    ),
    "openai-chat": wire(
        {
            "id": "m",
            "created": 3.5,
            "choices": [
                {
                    "message": {
                        "content": "ä",
                        "reasoning_details": [{"type": "reasoning.text", "text": "ä", "signature": "s"}],
                        "tool_calls": [{"id": "a", "function": {"name": "b", "arguments": {"ä": 1}}}],
                        "annotations": [{"ä": 1}],
                    },
                    "finish_reason": "stop",
                },
                {"index": 1, "new": "ä"},
            ],
            "usage": {"prompt_tokens": 1, "new": "ä"},
        }
    ),
}
STREAMS = {
    "anthropic": stream(
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3, "new": "ä"}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "new": "ä"}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"ä":1}'},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "ä"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": "ä"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ä"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "new", "ä": "ä"},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "a", "name": "b"},
        },
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ),
    "openai-chat": stream(
        {"id": "m", "created": 3.5, "choices": [{"delta": {"content": "ä"}}]},
        {"choices": [{"delta": {"content": [{"type": "thinking", "thinking": [{"text": "ä"}]}]}}]},
        {"choices": [{"delta": {"reasoning_details": [{"type": "reasoning.text", "signature": "ä"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": "x", "arguments": {"ä": "ä"}}}]}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}},
        {"choices": [], "x_groq": {"usage": {"prompt_tokens": 2}}},
    )
    + b"data: [DONE]\n\n",
}

DEEP = b"[" * 100_000
JUNK = [
    *(
        b"\xff",
        b'"\xff"',
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"\\u0000",
        b"\x00",
        b"\n\n",
        b'"',
        b"{",
        b"}",
        b"]",
    ),
    *(b"null", b"1e999", b"-1", b"9" * 30, b"1.5", b'""', b"[]", b"{}", b"true", DEEP, b'{"a":' * 50_000),
]
TOKENS = b'"{}[]:,'


def mutated(body: bytes, where: float, junk: bytes, cut: bool) -> bytes:
    """`body` with the token at `where` (0 to 1), or all from there on, replaced."""
    start = int(where * (len(body) - 1))
    end = (
        len(body)
        if cut
        else next((at for at in range(start + 1, len(body)) if body[at] in TOKENS), len(body))
    )
    return body[:start] + junk + body[end:]


def use_request(dialect: Dialect, body: bytes) -> None:
    """Every way in for a request; what is understood can be written for any target."""
    for enter in (
        dialect.peek,
        lambda body: dialect.splice(body, model="x", include_usage=True, max_tokens=5),
        lambda body: dialect.splice(body, model="x", include_usage=False, max_tokens=None),
        lambda body: [target.encode_request(dialect.decode_request(body), []) for target in DIALECTS],
    ):
        with contextlib.suppress(InvalidRequest):
            enter(body)


def use_answer(dialect: Dialect, body: bytes) -> None:
    try:
        reply = dialect.decode_reply(body)
    except ProviderError:
        return
    for target in DIALECTS:
        target.encode_reply(reply, [])


def use_stream(dialect: Dialect, body: bytes, size: int) -> None:
    """A stream read in pieces of `size`; what is understood can be written in any dialect."""
    decoder = dialect.decoder(hide_usage=True)
    frames: list[Frame] = []
    try:
        for at in range(0, len(body), size):
            frames += decoder.feed(body[at : at + size])
        frames += decoder.close()
    except ProviderError as error:
        frames += error.frames
    for target in DIALECTS:
        encoder = target.encoder(include_usage=True, model="m", id="i")
        for frame in frames:
            for event in frame.events:
                encoder.feed(event)
        encoder.end()


places = st.floats(0, 1)
junk = st.sampled_from(JUNK) | st.binary(max_size=4)


@each_dialect
@settings(max_examples=150, deadline=None)
@given(place=places, junk=junk, cut=st.booleans())
def test_damaged_bodies_are_read_or_refused(dialect: Dialect, place: float, junk: bytes, cut: bool) -> None:
    """A request and an answer with any token, or their whole rest, replaced raise nothing but our own errors."""
    use_request(dialect, mutated(REQUESTS[dialect.name], place, junk, cut))
    use_answer(dialect, mutated(ANSWERS[dialect.name], place, junk, cut))


@each_dialect
@settings(max_examples=150, deadline=None)
@given(place=places, junk=junk, cut=st.booleans(), size=st.sampled_from([50, 10**6]))
def test_damaged_streams_are_read_or_broken(
    dialect: Dialect, place: float, junk: bytes, cut: bool, size: int
) -> None:
    """A stream with any token, or its whole rest, replaced raises nothing but our own errors, however it is read."""
    use_stream(dialect, mutated(STREAMS[dialect.name], place, junk, cut), size)


@each_dialect
@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=40) | st.lists(st.sampled_from(JUNK), max_size=4).map(b"".join))
def test_any_bytes_are_read_or_refused(dialect: Dialect, raw: bytes) -> None:
    """So do bytes that never were of the dialect."""
    use_request(dialect, raw)
    use_answer(dialect, raw)
    use_stream(dialect, raw, 10**6)
    use_stream(dialect, b"data: " + raw + b"\n\n", 10**6)


@each_dialect
@pytest.mark.parametrize(
    "raw", [b"\xff", DEEP, b'{"model":"m","messages":[],"x":"\xff"}'], ids=["utf8", "deep", "raw"]
)
def test_peek_refuses_what_cannot_be_read(dialect: Dialect, raw: bytes) -> None:
    """Bytes that are not UTF-8, anywhere in the body, and nesting without end are the caller's fault."""
    with pytest.raises(InvalidRequest):
        dialect.peek(raw)
    with pytest.raises(InvalidRequest):
        dialect.decode_request(raw)


def test_damaged_recordings_are_read_or_refused(recordings: list[Any]) -> None:
    """So do recorded requests, answers and streams with a random token replaced."""
    dice = random.Random(7)
    by_path: dict[str, Dialect] = {"/messages": ANTHROPIC, "/chat/completions": OPENAI_CHAT}
    tried = 0
    for item in dice.sample(recordings, len(recordings)):
        dialect = next((dialect for path, dialect in by_path.items() if item.path.endswith(path)), None)
        if dialect is None or len(item.body) > 50_000 or len(item.req_body) > 50_000:
            continue
        request, answer = (
            mutated(body, dice.random(), dice.choice(JUNK), dice.random() < 0.2)
            for body in (item.req_body, item.body)
        )
        use_request(dialect, request)
        if item.stream:
            use_stream(dialect, answer, 500)
        else:
            use_answer(dialect, answer)
        tried += 1
        if tried == 300:
            break
    assert tried == 300
