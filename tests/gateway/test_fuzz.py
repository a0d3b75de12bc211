"""Random bodies to both endpoints: whatever they are, Headrace itself never fails and never hangs.

The suite sends some hundred. For many more: `pytest tests/gateway/test_fuzz.py --hypothesis-profile long --timeout 0`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.gateway.gate import KEY, PATHS, Gate, clock

from headrace.testing import Answer

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["user", "assistant", "system", "tool", "text", "image", "auto", "", "openai/m", "\ud800"]
    )
)
WORDS = [
    *(
        "role",
        "content",
        "type",
        "text",
        "name",
        "tool_calls",
        "tool_call_id",
        "id",
        "function",
        "arguments",
        "input",
    ),
    *(
        "image_url",
        "url",
        "source",
        "data",
        "media_type",
        "cache_control",
        "thinking",
        "signature",
        "tool_use_id",
    ),
    *(
        "input_schema",
        "parameters",
        "description",
        "strict",
        "is_error",
        "detail",
        "citations",
        "title",
        "refusal",
    ),
]
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=20,
)

texts = st.text(max_size=10)
TYPES = [
    *(
        "text",
        "image",
        "image_url",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
        "document",
        "input_audio",
    ),
    *("file", "refusal", "server_tool_use", "web_search_tool_result", "unknown"),
]


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs here, or now and then anything."""
    return st.one_of(good, good, good, values)


parts = st.fixed_dictionaries(
    {"type": mostly(st.sampled_from(TYPES))},
    optional={
        "text": mostly(texts),
        "image_url": mostly(st.fixed_dictionaries({"url": texts})),
        "source": mostly(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["base64", "url", "file", "text", "content"])},
                optional={"media_type": texts, "data": texts, "url": texts, "file_id": texts},
            )
        ),
        "id": mostly(texts),
        "tool_use_id": mostly(texts),
        "name": mostly(texts),
        "input": values,
        "content": values,
        "thinking": mostly(texts),
        "signature": mostly(texts),
        "data": mostly(texts),
        "cache_control": values,
    },
)
calls = st.fixed_dictionaries(
    {
        "id": mostly(texts),
        "type": mostly(st.just("function")),
        "function": mostly(st.fixed_dictionaries({"name": texts, "arguments": mostly(texts)})),
    }
)
messages = st.lists(
    mostly(
        st.fixed_dictionaries(
            {
                "role": mostly(st.sampled_from(["user", "assistant", "system", "developer", "tool"])),
                "content": mostly(texts | st.lists(mostly(parts), max_size=3)),
            },
            optional={
                "tool_calls": mostly(st.lists(calls, max_size=2)),
                "tool_call_id": mostly(texts),
                "name": values,
            },
        )
    ),
    max_size=4,
)
tools = st.lists(
    mostly(
        st.fixed_dictionaries(
            {},
            optional={
                "type": mostly(st.sampled_from(["function", "custom", "web_search_20250305"])),
                "name": mostly(texts),
                "input_schema": values,
                "description": mostly(texts),
                "function": mostly(st.fixed_dictionaries({"name": texts}, optional={"parameters": values})),
            },
        )
    ),
    max_size=2,
)
bodies = st.fixed_dictionaries(
    {
        "model": mostly(st.sampled_from(["openai/m", "anthropic/m", "both"])),
        "messages": mostly(messages),
    },
    optional={
        "max_tokens": mostly(st.integers(1, 100)),
        "system": mostly(texts | st.lists(parts, max_size=2)),
        "stream": mostly(st.booleans()),
        "stream_options": values,
        "tools": mostly(tools),
        "tool_choice": values,
        "stop": values,
        "stop_sequences": values,
        "temperature": values,
        "n": values,
        "response_format": values,
        "reasoning_effort": values,
        "thinking": values,
        "metadata": values,
        "unknown": values,
    },
)


@pytest.fixture(scope="module")
def client(running: Gate) -> Iterator[http.client.HTTPConnection]:
    """One kept connection for all: a body that puts it out of step is a failure, too."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    yield connection
    connection.close()


def send(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    """Asks, and judges what comes back."""
    began = clock.now()
    connection.request(
        "POST", path, body, {"authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
    )
    response = connection.getresponse()
    data = response.read()
    assert clock.now() - began < 2.0
    assert response.status < 500, (body, data)
    if response.headers["content-type"].startswith("text/event-stream"):
        assert b"[DONE]" in data or b"message_stop" in data
    else:
        value = json.loads(data)
        if response.status >= 400:
            assert value["error"]["message"]


@given(body=bodies, path=st.sampled_from([*PATHS.values(), "/v1/messages/count_tokens"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example({"model": "openai/m", "messages": [{"role": "user", "content": "\ud800"}]}, "/v1/messages")
@example(
    {"model": "anthropic/m", "messages": [{"role": "user", "content": "\ud800"}]}, "/v1/chat/completions"
)
def test_structured_bodies(running: Gate, client: http.client.HTTPConnection, body: Any, path: str) -> None:
    """Requests that are nearly right: an answer, or an error that says what the caller did wrong."""
    running.provider.requests.clear()
    running.provider.default = Answer("fine", tool_calls=[("f", "{not json")])
    send(client, path, json.dumps(body).encode("utf-8", "surrogatepass"))


@given(
    body=st.binary(max_size=200)
    | st.tuples(
        bodies.map(lambda value: json.dumps(value).encode()), st.integers(0, 200), st.binary(max_size=4)
    ).map(lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + 1 :]),
    path=st.sampled_from([*PATHS.values(), "/v1/messages/count_tokens"]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_broken_bodies(running: Gate, client: http.client.HTTPConnection, body: bytes, path: str) -> None:
    """Noise, and requests with some bytes exchanged."""
    running.provider.requests.clear()
    running.provider.default = Answer("fine")
    send(client, path, body)
