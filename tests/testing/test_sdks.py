"""The official SDKs, pointed straight at the fake provider, take it for the real one."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from headrace.testing import (
    Answer,
    BadKey,
    CleanCut,
    CutStream,
    ErrorEvent,
    FakeProvider,
    Filtered,
    NoSuchModel,
    Overloaded,
    QuotaGone,
    RateLimited,
    Refuse,
    Reset,
    ServerError,
    SlowDrip,
    Status,
    TooLong,
)

ASK: Any = [{"role": "user", "content": "What is it?"}]
WEATHER = Answer("Let me look.", tool_calls=[("weather", {"city": "Paris"}), ("time", '{"zone":"CET"}')])


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider in a thread of its own."""
    with FakeProvider(rate_limit_headers=True) as fake:
        yield fake


@pytest.fixture
def oai(provider: FakeProvider) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK without retries."""
    with openai.OpenAI(base_url=provider.base_url, api_key="sk-test", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def ant(provider: FakeProvider) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK without retries."""
    with anthropic.Anthropic(
        base_url=provider.anthropic_url, api_key="sk-test", max_retries=0, timeout=10
    ) as client:
        yield client


def test_openai_buffered(provider: FakeProvider, oai: openai.OpenAI) -> None:
    """Text, finish, usage, ids and headers of a buffered answer arrive typed."""
    provider.reply("It is a test.", finish="length", usage=(11, 22, 5))
    raw = oai.chat.completions.with_raw_response.create(model="m1", messages=ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == "It is a test."
    assert answer.choices[0].finish_reason == "length"
    assert answer.model == "m1" and answer.id.startswith("chatcmpl-")
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        11,
        22,
        33,
    )
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
    assert raw.headers["x-ratelimit-limit-requests"] == "15000"
    assert raw.headers["x-request-id"] == answer._request_id
    received = provider.requests[0]
    assert (received.method, received.path, received.model) == ("POST", "/v1/chat/completions", "m1")
    assert received.headers["authorization"] == "Bearer sk-test"
    assert received.json["messages"] == ASK
    assert "sk-test" not in repr(received)


def test_openai_streamed(provider: FakeProvider, oai: openai.OpenAI) -> None:
    """Text comes in pieces, a usage chunk with no choices comes last when it is asked for, and only then."""
    provider.reply(chunks=["Stück ", "für ", "Stück"], usage=(3, 4))
    provider.reply("no usage")
    chunks = list(
        oai.chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert pieces == ["Stück ", "für ", "Stück"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 7
    assert len({c.id for c in chunks}) == 1
    plain = list(oai.chat.completions.create(model="m", messages=ASK, stream=True))
    assert all(c.usage is None for c in plain)


def test_openai_tools(provider: FakeProvider, oai: openai.OpenAI) -> None:
    """Tool calls are the same buffered and streamed, with and without text before them."""
    provider.script(WEATHER, WEATHER, Answer(tool_calls=[("weather", {"city": "Rome"})]))
    whole = oai.chat.completions.create(model="m", messages=ASK).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.tool_calls is not None
    buffered = [
        (c.function.name, c.function.arguments) for c in whole.message.tool_calls if c.type == "function"
    ]
    assert buffered == [("weather", '{"city":"Paris"}'), ("time", '{"zone":"CET"}')]
    with oai.chat.completions.stream(model="m", messages=ASK) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.content == "Let me look." and final.message.tool_calls is not None
    assert [(c.function.name, c.function.arguments) for c in final.message.tool_calls] == buffered
    first = next(iter(oai.chat.completions.create(model="m", messages=ASK, stream=True)))
    assert first.choices[0].delta.tool_calls is not None and first.choices[0].delta.content is None


def test_openai_thinking_and_refusal(provider: FakeProvider, oai: openai.OpenAI) -> None:
    """Reasoning is `reasoning_content`, a refusal is its own member, streamed as well."""
    provider.script(*[Answer("Yes.", thinking="Let me see.")] * 2, *[Answer(refusal="I will not.")] * 2)
    message = oai.chat.completions.create(model="m", messages=ASK).choices[0].message
    assert (message.content, message.model_extra) == ("Yes.", {"reasoning_content": "Let me see."})
    thought = ""
    for chunk in oai.chat.completions.create(model="m", messages=ASK, stream=True):
        thought += (chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "")
    assert thought == "Let me see."
    refused = oai.chat.completions.create(model="m", messages=ASK).choices[0]
    assert (refused.message.refusal, refused.message.content) == ("I will not.", None)
    with oai.chat.completions.stream(model="m", messages=ASK) as stream:
        assert stream.get_final_completion().choices[0].message.refusal == "I will not."


def test_anthropic_buffered(provider: FakeProvider, ant: anthropic.Anthropic) -> None:
    """Text, stop reason, cached usage and ids arrive typed; the key is in the header the SDK uses."""
    provider.reply("It is.", finish="length", usage=(11, 22, 5))
    raw = ant.messages.with_raw_response.create(model="m1", max_tokens=9, messages=ASK)
    answer = raw.parse()
    assert answer.content[0].type == "text" and answer.content[0].text == "It is."
    assert answer.stop_reason == "max_tokens" and answer.id.startswith("msg_")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (6, 22)
    assert answer.usage.cache_read_input_tokens == 5
    assert raw.headers["request-id"] == answer._request_id
    assert raw.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert provider.requests[0].path == "/v1/messages"


def test_anthropic_streamed_with_thinking_and_tools(provider: FakeProvider, ant: anthropic.Anthropic) -> None:
    """Thinking with its signature, text and tools are the same buffered and streamed; events come in their order."""
    answer = Answer(
        "Let me look.", thinking="Hm, weather.", signature="c2ln", tool_calls=WEATHER.tool_calls, usage=(7, 8)
    )
    provider.script(answer, answer, answer)
    whole = ant.messages.create(model="m", max_tokens=9, messages=ASK)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole.content[0].type == "thinking" and whole.content[0].signature == "c2ln"
    assert whole.content[2].type == "tool_use" and whole.content[2].input == {"city": "Paris"}
    with ant.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        final = stream.get_final_message()
    drop = {"id", "content", "usage"}
    assert final.model_dump(exclude=drop) == whole.model_dump(exclude=drop)
    known = {"id", "parsed_output"}
    for streamed, buffered in zip(final.content, whole.content, strict=True):
        assert streamed.model_dump(exclude=known) == buffered.model_dump(exclude=known)
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 8)
    kinds = [event.type for event in ant.messages.create(model="m", max_tokens=9, messages=ASK, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4


def test_anthropic_counts_and_lists(ant: anthropic.Anthropic, provider: FakeProvider) -> None:
    """count_tokens and models answer without taking an outcome from the script."""
    provider.reply("kept")
    assert ant.messages.count_tokens(model="m", messages=ASK).input_tokens > 0
    assert [model.id for model in ant.models.list()] == ["fake-small", "fake-large"]
    assert provider.unused == 1


def test_openai_lists_models() -> None:
    """With models named, others do not exist, in both dialects' words."""
    with FakeProvider(models=["a", "b"]) as provider:
        with openai.OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as oai:
            assert [model.id for model in oai.models.list()] == ["a", "b"]
            assert oai.models.retrieve("b").id == "b"
            with pytest.raises(openai.NotFoundError, match="`c` does not exist"):
                oai.models.retrieve("c")
            with pytest.raises(openai.NotFoundError) as info:
                oai.chat.completions.create(model="c", messages=ASK)
            assert info.value.code == "model_not_found"
        with (
            anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0) as ant,
            pytest.raises(anthropic.NotFoundError, match="model: c"),
        ):
            ant.messages.create(model="c", max_tokens=1, messages=ASK)


OPENAI_STATUSES: list[tuple[Any, type[openai.APIStatusError], int, str | None]] = [
    (Status(400), openai.BadRequestError, 400, None),
    (Status(401), openai.AuthenticationError, 401, "invalid_api_key"),
    (Status(403), openai.PermissionDeniedError, 403, "unsupported_country_region_territory"),
    (Status(404), openai.NotFoundError, 404, "model_not_found"),
    (Status(408), openai.APIStatusError, 408, None),
    (Status(409), openai.ConflictError, 409, None),
    (Status(413), openai.APIStatusError, 413, None),
    (Status(422), openai.UnprocessableEntityError, 422, None),
    (Status(429), openai.RateLimitError, 429, "rate_limit_exceeded"),
    (Status(500), openai.InternalServerError, 500, None),
    (Status(502), openai.InternalServerError, 502, None),
    (Status(503), openai.InternalServerError, 503, "server_is_overloaded"),
    (Status(504), openai.InternalServerError, 504, None),
    (Status(529), openai.InternalServerError, 529, None),
    (Status(599), openai.InternalServerError, 599, None),
    (Status(400, error_code="x_code", message="mine"), openai.BadRequestError, 400, "x_code"),
    (RateLimited(), openai.RateLimitError, 429, "rate_limit_exceeded"),
    (Overloaded(), openai.InternalServerError, 503, "server_is_overloaded"),
    (ServerError(), openai.InternalServerError, 500, None),
    (QuotaGone(), openai.RateLimitError, 429, "insufficient_quota"),
    (BadKey(), openai.AuthenticationError, 401, "invalid_api_key"),
    (NoSuchModel(), openai.NotFoundError, 404, "model_not_found"),
    (TooLong(), openai.BadRequestError, 400, "context_length_exceeded"),
    (Filtered(), openai.BadRequestError, 400, "content_filter"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_openai_statuses(provider: FakeProvider, oai: openai.OpenAI, stream: bool) -> None:
    """Every status is the exception that the SDK has for it, with the code of the envelope."""
    for fault, expected, status, code in OPENAI_STATUSES:
        provider.fault(fault)
        with pytest.raises(openai.APIStatusError) as info:
            oai.chat.completions.create(model="m", messages=ASK, stream=stream)
        assert type(info.value) is expected, fault
        assert (info.value.status_code, info.value.code) == (status, code), fault
        assert info.value.request_id is not None


ANTHROPIC_STATUSES: list[tuple[Any, str, int, str]] = [
    (Status(400), "BadRequestError", 400, "invalid_request_error"),
    (Status(401), "AuthenticationError", 401, "authentication_error"),
    (Status(402), "PaymentRequiredError", 402, "billing_error"),
    (Status(403), "PermissionDeniedError", 403, "permission_error"),
    (Status(404), "NotFoundError", 404, "not_found_error"),
    (Status(409), "ConflictError", 409, "invalid_request_error"),
    (Status(413), "ContentTooLargeError", 413, "request_too_large"),
    (Status(422), "UnprocessableEntityError", 422, "invalid_request_error"),
    (Status(429), "RateLimitError", 429, "rate_limit_error"),
    (Status(500), "InternalServerError", 500, "api_error"),
    (Status(503), "ServiceUnavailableError", 503, "api_error"),
    (Status(504), "GatewayTimeoutError", 504, "timeout_error"),
    (Status(529), "OverloadedError", 529, "overloaded_error"),
    (RateLimited(), "RateLimitError", 429, "rate_limit_error"),
    (Overloaded(), "OverloadedError", 529, "overloaded_error"),
    (ServerError(), "InternalServerError", 500, "api_error"),
    (QuotaGone(), "EnforcedSpendLimitReachedError", 429, "rate_limit_error"),
    (BadKey(), "AuthenticationError", 401, "authentication_error"),
    (NoSuchModel(), "NotFoundError", 404, "not_found_error"),
    (TooLong(), "BadRequestError", 400, "invalid_request_error"),
    (Filtered(), "BadRequestError", 400, "invalid_request_error"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_statuses(provider: FakeProvider, ant: anthropic.Anthropic, stream: bool) -> None:
    """Every status is the exception that the SDK has for it, with the type of the envelope."""
    for fault, expected, status, kind in ANTHROPIC_STATUSES:
        provider.fault(fault)
        with pytest.raises(anthropic.APIStatusError) as info:
            ant.messages.create(model="m", max_tokens=9, messages=ASK, stream=stream)
        assert type(info.value).__name__ == expected, fault
        assert info.value.status_code == status, fault
        assert isinstance(info.value.body, dict) and info.value.body["error"]["type"] == kind, fault
        assert info.value.request_id == info.value.body["request_id"]


def test_hints_reach_the_sdks_own_retry(provider: FakeProvider) -> None:
    """An SDK that may retry obeys `retry-after` and `x-should-retry`."""
    with openai.OpenAI(base_url=provider.base_url, api_key="k", max_retries=2) as oai:
        provider.fault(RateLimited(retry_after=0.01))
        assert oai.chat.completions.create(model="m", messages=ASK).choices[0].finish_reason == "stop"
        assert len(provider.requests) == 2
        provider.reset()
        provider.fault(Overloaded(should_retry=False), times=3)
        with pytest.raises(openai.InternalServerError):
            oai.chat.completions.create(model="m", messages=ASK)
        assert (len(provider.requests), provider.unused) == (1, 2)


def test_streams_that_die(provider: FakeProvider, oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    """What arrived before the fault is seen; error events are typed; a cut connection is an error of transport."""
    answer = Answer("one two three four")

    def openai_text() -> Iterator[str]:
        for chunk in oai.chat.completions.create(model="m", messages=ASK, stream=True):
            yield chunk.choices[0].delta.content or ""

    def anthropic_text() -> Iterator[str]:
        for event in ant.messages.create(model="m", max_tokens=9, messages=ASK, stream=True):
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text

    for reader, api_error in ((openai_text, openai.APIError), (anthropic_text, anthropic.APIError)):
        for fault in (Reset(2, answer), CutStream(2, answer), ErrorEvent(2, answer=answer)):
            provider.fault(fault)
            said: list[str] = []
            with pytest.raises(Exception) as info:  # transport errors share no class
                deque(map(said.append, reader()), maxlen=0)
            assert "".join(said) == "one two", fault
            if isinstance(fault, ErrorEvent):
                assert isinstance(info.value, api_error)
        provider.fault(CleanCut(2, answer))
        assert "".join(reader()) == "one two"
        provider.fault(SlowDrip(size=7, answer=Answer("schöne Grüße")))
        assert "".join(reader()) == "schöne Grüße"
        provider.fault(Refuse())
        with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
            list(reader())


def test_async_clients_and_async_provider() -> None:
    """Both async SDKs against a provider on the same loop, buffered and streamed."""

    async def main() -> None:
        async with FakeProvider() as provider:
            oai = openai.AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0)
            ant = anthropic.AsyncAnthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0)
            async with oai, ant:
                whole = await oai.chat.completions.create(model="m", messages=ASK)
                assert whole.choices[0].message.content == "echo: What is it?"
                stream = await oai.chat.completions.create(model="m", messages=ASK, stream=True)
                said = [chunk.choices[0].delta.content or "" async for chunk in stream]
                assert "".join(said) == "echo: What is it?"
                message = await ant.messages.create(model="m", max_tokens=9, messages=ASK)
                assert message.content[0].type == "text" and message.content[0].text == "echo: What is it?"
                async with ant.messages.stream(model="m", max_tokens=9, messages=ASK) as events:
                    assert await events.get_final_text() == "echo: What is it?"
                provider.fault(Overloaded())
                with pytest.raises(anthropic.APIStatusError) as info:
                    await ant.messages.create(model="m", max_tokens=9, messages=ASK)
                assert info.value.status_code == 529
            assert json.loads(provider.requests[0].body)["model"] == "m"

    asyncio.run(main())
