"""The official SDKs through the gateway: all four pairs of the client's and the provider's dialect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.gate import KEY, OTHER, PAIRS, UPSTREAM, Gate

from headrace.testing import (
    Answer,
    BadKey,
    Fault,
    NoSuchModel,
    Overloaded,
    RateLimited,
    ServerError,
    Silence,
    Status,
    TooLong,
)

HI: Any = [{"role": "user", "content": "hi"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: dict[str, Any] = {
    "openai": [
        {"type": "function", "function": {"name": name, "description": "Says it.", "parameters": SCHEMA}}
        for name in ("weather", "time")
    ],
    "anthropic": [
        {"name": name, "description": "Says it.", "input_schema": SCHEMA} for name in ("weather", "time")
    ],
}
CALLS = [("weather", {"city": "Zürich"}), ("time", {"city": 'New York, "NY"\n'})]

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])


class Said:
    """What an SDK made of an answer, in words that do not depend on the dialect."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.calls: list[tuple[str, str, Any]] = []
        self.finish: str | None = None
        self.usage: tuple[int, int] | None = None


def say(
    gate: Gate, client: str, model: str, *, stream: bool = False, messages: Any = HI, **more: Any
) -> Said:
    """Asks through `client`'s SDK."""
    said = Said()
    if client == "openai":
        if not stream:
            return _openai(gate.oai.chat.completions.create(model=model, messages=messages, **more))
        arguments: dict[int, list[str]] = {}
        options: Any = {"include_usage": True}
        for chunk in gate.oai.chat.completions.create(
            model=model, messages=messages, stream=True, stream_options=options, **more
        ):
            if chunk.usage is not None:
                said.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
            for choice in chunk.choices:
                said.text += choice.delta.content or ""
                said.thinking += getattr(choice.delta, "reasoning_content", None) or ""
                said.finish = choice.finish_reason or said.finish
                for call in choice.delta.tool_calls or ():
                    assert call.function is not None
                    if call.id:
                        arguments[call.index] = [call.id, call.function.name or "", ""]
                    arguments[call.index][2] += call.function.arguments or ""
        said.calls = [(id_, name, json.loads(text)) for id_, name, text in arguments.values()]
        return said
    more = {"max_tokens": 64} | more
    if not stream:
        return _anthropic(gate.ant.messages.create(model=model, messages=messages, **more))
    with gate.ant.messages.stream(model=model, messages=messages, **more) as events:
        said.text = "".join(events.text_stream)
        final = _anthropic(events.get_final_message())
        assert final.text == said.text
    return final


def _openai(answer: Any) -> Said:
    said = Said()
    message = answer.choices[0].message
    said.text = message.content or ""
    said.thinking = getattr(message, "reasoning_content", None) or ""
    said.calls = [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or ()
    ]
    said.finish = answer.choices[0].finish_reason
    said.usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return said


def _anthropic(message: Any) -> Said:
    said = Said()
    said.text = "".join(block.text for block in message.content if block.type == "text")
    said.thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
    said.calls = [
        (block.id, block.name, block.input) for block in message.content if block.type == "tool_use"
    ]
    said.finish = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length"}.get(
        message.stop_reason, message.stop_reason
    )
    said.usage = (message.usage.input_tokens, message.usage.output_tokens)
    return said


# --- answers ----------------------------------------------------------------------------------------------------------


@pairs
@streamed
def test_text(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """Text, finish and usage are the same in every pair, buffered and streamed."""
    gate.provider.reply("Grüße, 世界 👋.\n\nBye", usage=(12, 5), finish="length")
    said = say(gate, client, f"{provider}/m", stream=stream)
    assert said.text == "Grüße, 世界 👋.\n\nBye"
    assert said.finish == "length"
    assert said.usage == (12, 5)
    received = gate.provider.requests[0]
    assert received.model == "m" and received.text == "hi" and received.stream is stream
    assert received.path == {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[provider]


@pairs
@streamed
def test_tools(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """Two parallel calls arrive whole, and their results go back under the same ids."""
    gate.provider.script(Answer("Let me look.", tool_calls=CALLS), Answer("Done."))
    said = say(gate, client, f"{provider}/m", stream=stream, tools=TOOLS[client])
    assert said.text == "Let me look."
    assert [(name, arguments) for _, name, arguments in said.calls] == CALLS
    assert said.finish == "tool_calls"
    first, second = (id_ for id_, _, _ in said.calls)
    assert first and second and first != second

    sent = gate.provider.requests[0].json["tools"]
    assert [tool.get("name") or tool["function"]["name"] for tool in sent] == ["weather", "time"]
    assert [tool.get("input_schema") or tool["function"]["parameters"] for tool in sent] == [SCHEMA, SCHEMA]

    turn: Any
    if client == "openai":
        turn = [
            {
                "role": "assistant",
                "content": said.text,
                "tool_calls": [
                    {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
                    for id_, name, args in said.calls
                ],
            },
            {"role": "tool", "tool_call_id": first, "content": "21 °C"},
            {"role": "tool", "tool_call_id": second, "content": "noon"},
        ]
    else:
        turn = [
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": said.text},
                    *(
                        {"type": "tool_use", "id": id_, "name": name, "input": args}
                        for id_, name, args in said.calls
                    ),
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": first, "content": "21 °C"},
                    {
                        "type": "tool_result",
                        "tool_use_id": second,
                        "content": [{"type": "text", "text": "noon"}],
                    },
                ],
            },
        ]
    again = say(gate, client, f"{provider}/m", stream=stream, tools=TOOLS[client], messages=[*HI, *turn])
    assert again.text == "Done."
    messages = gate.provider.requests[1].json["messages"]
    if provider == "openai":
        made = [call for message in messages for call in message.get("tool_calls", ())]
        assert [
            (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in made
        ] == said.calls
        results = [(m["tool_call_id"], _flat(m["content"])) for m in messages if m["role"] == "tool"]
    else:
        blocks = [b for m in messages if isinstance(m["content"], list) for b in m["content"]]
        assert [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"] == said.calls
        results = [(b["tool_use_id"], _flat(b["content"])) for b in blocks if b["type"] == "tool_result"]
    assert results == [(first, "21 °C"), (second, "noon")]


def _flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pairs
def test_images(gate: Gate, client: str, provider: str) -> None:
    """An image's bytes and its type arrive at the provider as its dialect writes them."""
    part: Any = {
        "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        "anthropic": {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
        },
    }
    content = [{"type": "text", "text": "What is it?"}, part[client]]
    say(gate, client, f"{provider}/m", messages=[{"role": "user", "content": content}])
    assert gate.provider.requests[0].json["messages"][-1]["content"][1] == part[provider]


@pairs
def test_system_and_sampling(gate: Gate, client: str, provider: str) -> None:
    """System text and the common parameters cross."""
    more: dict[str, Any] = {"temperature": 0.25}
    messages = HI
    if client == "openai":
        messages = [{"role": "system", "content": "Be kind."}, *HI]
        more |= {"max_tokens": 77, "stop": ["END"]}
    else:
        more |= {"system": "Be kind.", "max_tokens": 77, "stop_sequences": ["END"]}
    # As members that the SDK does not know, since a deprecated one makes it warn.
    say(gate, client, f"{provider}/m", messages=messages, extra_body=more)
    sent = gate.provider.requests[0].json
    assert sent["temperature"] == 0.25
    assert sent.get("max_tokens", sent.get("max_completion_tokens")) == 77
    if provider == "openai":
        assert sent["messages"][0]["role"] == "system" and _flat(sent["messages"][0]["content"]) == "Be kind."
        assert sent["stop"] in ("END", ["END"])
    else:
        assert _flat(sent["system"]) == "Be kind."
        assert sent["stop_sequences"] == ["END"]


@streamed
def test_thinking_keeps_its_signature(gate: Gate, stream: bool) -> None:
    """From Anthropic to Anthropic a thinking block comes and goes back byte for byte."""
    signature = "EqQBCkYIBxgCKkDsig+/natüre==\\u00e9"
    gate.provider.script(Answer("4.", thinking="2 + 2, »hmm«", signature=signature), Answer("Sure."))
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    more: Any = {"max_tokens": 2048, "thinking": thinking}
    if stream:
        with gate.ant.messages.stream(model="anthropic/m", messages=HI, **more) as events:
            message: Any = events.get_final_message()
    else:
        message = gate.ant.messages.create(model="anthropic/m", messages=HI, **more)
    block = message.content[0]
    assert (block.type, block.thinking, block.signature) == ("thinking", "2 + 2, »hmm«", signature)

    messages = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": "Sure?"}]
    gate.ant.messages.create(model="anthropic/m", messages=messages, **more)
    sent = gate.provider.requests[1]
    assert sent.json["messages"][1]["content"][0] == {
        "type": "thinking",
        "thinking": "2 + 2, »hmm«",
        "signature": signature,
    }
    assert sent.json["thinking"] == thinking


@streamed
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_thinking_is_reasoning_content_for_openai(gate: Gate, provider: str, stream: bool) -> None:
    """Whoever thought, an OpenAI client sees it where that dialect's servers put it."""
    gate.provider.reply("4.", thinking="Two and two.")
    said = say(gate, "openai", f"{provider}/m", stream=stream)
    assert (said.thinking, said.text) == ("Two and two.", "4.")


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_asynchronous_clients(gate: Gate, client: str) -> None:
    """Ten at once, half of them streamed, in both pairs of dialects."""

    async def one(sdk: Any, number: int) -> str:
        model, content = f"{('openai', 'anthropic')[number % 2]}/m", f"number {number}"
        messages = [{"role": "user", "content": content}]
        if client == "openai":
            if number < 5:
                return (await sdk.chat.completions.create(model=model, messages=messages)).choices[
                    0
                ].message.content or ""
            chunks = await sdk.chat.completions.create(model=model, messages=messages, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
        if number < 5:
            return str(
                (await sdk.messages.create(model=model, max_tokens=9, messages=messages)).content[0].text
            )
        async with sdk.messages.stream(model=model, max_tokens=9, messages=messages) as events:
            return "".join([text async for text in events.text_stream])

    async def main() -> None:
        make: Any = openai.AsyncOpenAI if client == "openai" else anthropic.AsyncAnthropic
        base = f"{gate.url}/v1" if client == "openai" else gate.url
        async with make(base_url=base, api_key=KEY, max_retries=0) as sdk:
            said = await asyncio.gather(*(one(sdk, number) for number in range(10)))
        assert said == [f"echo: number {number}" for number in range(10)]

    asyncio.run(main())


@pairs
@streamed
def test_a_cascade_hides_the_failures_above(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """A failing first level costs the client nothing; the ledger has every attempt."""
    gate.provider.on("first", Overloaded(), ServerError())
    said = say(gate, client, "both", stream=stream)
    assert said.text == "echo: hi"
    assert [request.model for request in gate.provider.requests] == ["first", "first", "second"]


def test_answer_headers(gate: Gate) -> None:
    """Who answered, after how many attempts, under which id; the SDKs show the id as theirs."""
    gate.provider.on("first", Overloaded())
    raw = gate.oai.chat.completions.with_raw_response.create(model="both", messages=HI)
    assert raw.headers["x-headrace-target"] == "openai/first"
    assert raw.headers["x-headrace-attempts"] == "2"
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    message = gate.ant.messages.create(model="both", messages=HI, max_tokens=9)
    assert message._request_id is not None and message._request_id.startswith("req_")
    report = gate.report(raw.headers["x-request-id"])
    assert [attempt["reason"] for attempt in report["attempts"]] == ["overloaded", None]


def test_count_tokens(gate: Gate) -> None:
    """The provider counts where it can; elsewhere an upper bound is given and called one."""
    counted = gate.ant.messages.count_tokens(model="anthropic/m", messages=HI)
    assert counted.input_tokens > 0
    assert gate.provider.requests[0].path == "/v1/messages/count_tokens"
    raw = gate.ant.messages.with_raw_response.count_tokens(model="openai/m", messages=HI)
    assert "estimate" in raw.headers["x-headrace-warnings"]
    assert raw.parse().input_tokens > 0
    assert len(gate.provider.requests) == 1


def test_models(gate: Gate) -> None:
    """Both SDKs list the routes in their own shape; a key with a list of routes sees those only."""
    assert {"both", "quick"} <= {model.id for model in gate.oai.models.list()}
    assert {"both", "quick"} <= {model.id for model in gate.ant.models.list()}
    assert gate.oai.models.retrieve("both").id == "both"
    assert gate.ant.models.retrieve("both").id == "both"
    other = gate.oai.with_options(api_key=OTHER)
    assert [model.id for model in other.models.list()] == ["both"]


# --- errors -----------------------------------------------------------------------------------------------------------

NESTED = json.loads("[" * 300 + "]" * 300)

ERRORS: list[tuple[str, Fault | None, int, str, str, int]] = [
    # what happens: outcome of every attempt, status, OpenAI's class, Anthropic's class, requests that the provider sees
    ("bad request", Status(400, message="No such thing."), 400, "BadRequestError", "BadRequestError", 1),
    ("too long", TooLong(), 400, "BadRequestError", "BadRequestError", 1),
    ("rate limited", RateLimited(), 429, "RateLimitError", "RateLimitError", 3),
    ("overloaded", Overloaded(), 503, "InternalServerError", "ServiceUnavailableError", 3),
    ("server error", ServerError(), 503, "InternalServerError", "ServiceUnavailableError", 3),
    ("no such model", NoSuchModel(), 404, "NotFoundError", "NotFoundError", 1),
    ("silence", Silence(), 504, "InternalServerError", "DeadlineExceededError", 1),
    ("nested", None, 413, "APIStatusError", "RequestTooLargeError", 0),
    ("unauthorized", None, 401, "AuthenticationError", "AuthenticationError", 0),
    ("forbidden", None, 403, "PermissionDeniedError", "PermissionDeniedError", 0),
    ("unknown", None, 404, "NotFoundError", "NotFoundError", 0),
]


@pairs
@streamed
@pytest.mark.parametrize("case", ERRORS, ids=[case[0] for case in ERRORS])
def test_errors_are_typed_and_final(gate: Gate, client: str, provider: str, stream: bool, case: Any) -> None:
    """Every error is the class that the SDK's users catch, and SDKs with their default retries do not multiply attempts."""
    what, fault, status, openais, anthropics, seen = case
    gate.provider.default = fault or Answer("never")
    module: Any = openai if client == "openai" else anthropic
    sdk: Any = gate.oai if client == "openai" else gate.ant
    model, more = f"{provider}/m", dict[str, Any]()
    match what:
        case "silence":
            more["extra_headers"] = {"x-headrace-timeout": "0.05"}
        case "nested":
            more["extra_body"] = {"nested": NESTED}
        case "unauthorized":
            sdk = sdk.with_options(api_key="hr-canary-nobody-knows-this")
        case "forbidden":
            sdk = sdk.with_options(api_key=OTHER)
        case "unknown":
            model = "nowhere/m"
    create = sdk.chat.completions.create if client == "openai" else sdk.messages.create
    if client == "anthropic":
        more["max_tokens"] = 9
    with pytest.raises(module.APIStatusError) as caught:
        create(model=model, messages=HI, stream=stream, **more)
    error = caught.value
    assert error.status_code == status, error
    assert isinstance(error, getattr(module, openais if client == "openai" else anthropics))
    assert type(error.body) is dict and error.body
    envelope = error.body if client == "openai" else error.body["error"]
    assert envelope["message"] and envelope["type"]
    assert "canary" not in str(error) + repr(error.body)
    assert len(gate.provider.requests) == seen
    assert error.response.headers["x-should-retry"] == "false"


@pairs
def test_a_provider_that_does_not_take_our_key(gate: Gate, client: str, provider: str) -> None:
    """Our key at the provider is not the client's: it reads what failed and a header says that it is not its own, without any part of
    a key, after one attempt."""
    module: Any = openai if client == "openai" else anthropic
    for status in (401, 403):
        gate.fresh()
        gate.provider.default = Status(
            status, body={"error": {"message": f"Incorrect API key provided: {UPSTREAM}", "type": "x"}}
        )
        with pytest.raises(module.APIStatusError) as caught:
            say(gate, client, f"{provider}/m")
        assert caught.value.status_code == status
        assert caught.value.response.headers["x-headrace-error"] == "all_targets_failed"
        assert "credentials_invalid" in str(caught.value)
        assert "canary" not in str(caught.value) + repr(caught.value.body) + repr(
            caught.value.response.headers
        )
        assert len(gate.provider.requests) == 1
    gate.provider.default = BadKey()
    with pytest.raises(module.APIStatusError):
        say(gate, client, f"{provider}/m")


@pairs
def test_the_shortest_wait_is_told(gate: Gate, client: str, provider: str) -> None:
    """When a rate limit cannot be waited for, the client is told how long it lasts."""
    gate.provider.default = RateLimited(retry_after=90)
    module: Any = openai if client == "openai" else anthropic
    sdk: Any = (gate.oai if client == "openai" else gate.ant).with_options(max_retries=0)
    create: Any = sdk.chat.completions.create if client == "openai" else sdk.messages.create
    more = {"max_tokens": 9} if client == "anthropic" else {}
    with pytest.raises(module.RateLimitError) as caught:
        create(model=f"{provider}/m", messages=HI, extra_headers={"x-headrace-timeout": "5"}, **more)
    assert caught.value.response.headers["retry-after"] == "90"
    assert len(gate.provider.requests) == 1
