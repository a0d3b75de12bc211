"""Anthropic Messages: bodies, answers and streams, in both directions."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from headrace.dialects import by_name
from headrace.dialects.anthropic import ANTHROPIC, DEFAULT_MAX_TOKENS
from headrace.errors import InvalidRequest, Malformed, ProviderError, ProviderOverloaded
from headrace.handler import Dialect, assemble, reply_events
from headrace.types import (
    Block,
    BlockStart,
    BlockStop,
    CacheHint,
    Chat,
    Complete,
    Delta,
    Details,
    Document,
    End,
    Event,
    Finish,
    FinishReason,
    Frame,
    Image,
    Message,
    Opaque,
    OpaqueEvent,
    Ping,
    Reasoning,
    Refusal,
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

DIALECT: Dialect = ANTHROPIC


def body(**members: Any) -> bytes:
    """A request with what every request has."""
    whole = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        **members,
    }
    return json.dumps(whole).encode()


def chat(*messages: Message, **members: Any) -> Chat:
    """A chat as it comes from another dialect."""
    said = messages or (Message(role="user", content=(Text(text="Hi"),)),)
    return Chat(**{"model": "claude-sonnet-4-5", "max_tokens": 4000, **members}, messages=said)


def user(*blocks: Block) -> Message:
    return Message(role="user", content=blocks)


def encoded(request: Chat) -> tuple[dict[str, Any], list[str]]:
    warnings: list[str] = []
    return json.loads(DIALECT.encode_request(request, warnings)), warnings


def again(raw: bytes) -> dict[str, Any]:
    """The body decoded and encoded, without a word of warning."""
    out, warnings = encoded(DIALECT.decode_request(raw))
    assert warnings == []
    return out


def plain(value: Any) -> Any:
    """JSON without nulls, which mean the same as absence."""
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items() if member is not None}
    return [plain(item) for item in value] if isinstance(value, list) else value


def as_json(value: Any) -> Any:
    """For comparing typed values: raw JSON is compared as JSON, not as bytes."""
    return json.loads(msgspec.json.encode(value))


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def frames_of(raw: bytes) -> list[Frame]:
    decoder = DIALECT.decoder(hide_usage=False)
    return decoder.feed(raw) + decoder.close()


def events_of(raw: bytes) -> list[Event]:
    return [event for frame in frames_of(raw) for event in frame.events]


def stream_of(events: list[Event]) -> bytes:
    encoder = DIALECT.encoder(include_usage=True, model="asked", id="msg_made")
    return b"".join([encoder.feed(event) for event in events] + [encoder.end()])


def sent(raw: bytes) -> list[dict[str, Any]]:
    """The data of each event, after checking that its name is its type."""
    out = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        out.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {out[-1]['type']}"
    return out


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1},
    },
}


def block_start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block_stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_delta(reason: str = "end_turn", **usage: int) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": usage or {"output_tokens": 7},
    }


STOP = {"type": "message_stop"}


# --- recorded traffic -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchanges(recordings: list[Any]) -> list[Any]:
    """What was recorded of the Messages API, and the same served by gateways."""
    return [item for item in recordings if item.path.endswith("/messages") and "/threads/" not in item.path]


def test_recorded_requests_lose_nothing(exchanges: list[Any]) -> None:
    """Every recorded request decoded and encoded again is the same JSON."""
    # The other bodies were recorded without their requests.
    bodies = [x.req_body for x in exchanges if x.host != "body-only" and b"max_tokens" in x.req_body]
    for raw in bodies:
        assert plain(again(raw)) == plain(json.loads(raw))
    assert len(bodies) >= 230


def test_recorded_answers_lose_nothing(exchanges: list[Any]) -> None:
    """Every recorded buffered answer decoded and encoded again is the same JSON."""
    answers = [x.body for x in exchanges if x.status == 200 and not x.stream]
    for raw in answers:
        warnings: list[str] = []
        assert plain(json.loads(DIALECT.encode_reply(DIALECT.decode_reply(raw), warnings))) == plain(
            json.loads(raw)
        )
        assert warnings == []
    assert len(answers) >= 134


def test_recorded_streams_survive_the_encoder(exchanges: list[Any]) -> None:
    """Every recorded stream keeps its bytes on the frames; encoded from its events it decodes to the same events."""
    errors = several = 0
    streams = [x.body for x in exchanges if x.status == 200 and x.stream]
    for raw in streams:
        try:
            frames = frames_of(raw)
        except ProviderOverloaded:
            errors += 1
            continue
        assert b"".join(frame.raw or b"" for frame in frames).rstrip() == raw.rstrip()
        if raw.count(b"event: message_start") != 1:
            several += 1  # three files hold the streams of several turns, one after the other
            continue
        events = [event for frame in frames for event in frame.events]
        second = events_of(stream_of(events))

        def said(events: list[Event]) -> list[Any]:
            return [
                as_json([type(event).__name__, event])
                for event in events
                if not isinstance(event, Ping | OpaqueEvent | UsageReport)
            ]

        assert said(second) == said(events)
        assert as_json(assemble(second)) == as_json(assemble(events))
    assert len(streams) >= 118
    assert (errors, several) == (1, 3)


def test_recorded_streams_read_as_their_text(exchanges: list[Any]) -> None:
    """Text and tool calls of every recorded stream are those that a naive reading of its JSON gives."""
    for item in exchanges:
        if item.status != 200 or not item.stream or item.body.count(b"event: message_start") != 1:
            continue
        text, calls = "", {}
        broken = False
        for line in item.body.decode().splitlines():
            if not line.startswith("data:") or "[DONE]" in line:
                continue
            event = json.loads(line[5:])
            broken |= event["type"] == "error"
            if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
                calls[event["index"]] = ""
            if event["type"] == "content_block_delta":
                text += event["delta"].get("text", "")
                if event["index"] in calls:
                    calls[event["index"]] += event["delta"]["partial_json"]
        if broken:
            continue
        reply = assemble(events_of(item.body))
        assert reply.text == text
        assert [call.arguments for call in reply.tool_calls] == [said or "{}" for said in calls.values()]


def test_any_split_gives_the_same_frames(exchanges: list[Any]) -> None:
    """A stream fed byte by byte gives the frames of the stream fed whole."""
    raw = next(
        x.body for x in exchanges if x.stream and b"input_json_delta" in x.body and len(x.body) < 20_000
    )
    decoder = DIALECT.decoder(hide_usage=False)
    frames = [frame for at in range(len(raw)) for frame in decoder.feed(raw[at : at + 1])] + decoder.close()
    assert as_json([frame.events for frame in frames]) == as_json([frame.events for frame in frames_of(raw)])


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_whole_request_is_typed() -> None:
    """Each member of a request has its place in the typed chat."""
    request = DIALECT.decode_request(
        body(
            system=[
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
            ],
            messages=[
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s=="},
                        {"type": "redacted_thinking", "data": "xyz"},
                        {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"b": 1, "a": 2}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_1",
                            "content": "20 C",
                            "is_error": True,
                        },
                        {"type": "text", "text": "Go on"},
                    ],
                },
            ],
            temperature=0.5,
            top_p=0.9,
            top_k=4,
            stop_sequences=["END"],
            stream=True,
            metadata={"user_id": "u1"},
            tools=[
                {"name": "get", "description": "d", "input_schema": {"type": "object"}, "strict": True},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
            ],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 2048},
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        )
    )
    assert request.messages == (
        Message(role="system", content=(Text(text="Be brief.", cache=CacheHint("1h")),)),
        Message(role="user", content=(Text(text="Weather?"),)),
        Message(
            role="assistant",
            content=(
                Thinking(text="hm", signature="s=="),
                Thinking(redacted="xyz"),
                ToolCall(id="toolu_1", name="get", arguments='{"b": 1, "a": 2}'),
            ),
        ),
        Message(
            role="tool",
            content=(ToolResult(call_id="toolu_1", content=(Text(text="20 C"),), is_error=True),),
        ),
        Message(role="user", content=(Text(text="Go on"),)),
    )
    assert (request.temperature, request.top_p, request.top_k) == (0.5, 0.9, 4)
    assert (request.stop, request.stream, request.user) == (("END",), True, "u1")
    assert [tool.name for tool in request.tools] == ["get", "web_search"]
    assert request.tools[0].strict is True
    assert request.tools[1].opaque is not None and request.tools[1].opaque.kind == "web_search_20250305"
    assert request.tool_choice == ToolChoice(mode="required")
    assert request.parallel_tool_calls is False
    assert request.reasoning == Reasoning(effort="low", budget_tokens=2048)
    assert request.response_format is not None and request.response_format.kind == "json_schema"
    assert request.provider_details == Details("anthropic", {})


@pytest.mark.parametrize(
    "members",
    [
        {
            "service_tier": "auto",
            "container": "c1",
            "mcp_servers": [{"type": "url", "url": "u", "name": "n"}],
        },
        {"metadata": {"user_id": "u", "team": 1}},
        {
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": "max", "task": 1},
        },
        {"thinking": {"type": "enabled", "budget_tokens": 64, "display": "omitted"}},
        {"thinking": {"type": "disabled"}},
        {"output_config": {"effort": "low"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}, "more": 1}}},
        {"output_config": {"format": {"type": "grammar", "text": "x"}}},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}},
        {"stream": False},
        {"output_format": {"type": "json_schema", "schema": {}, "more": 1}},
        {"output_format": {"type": "grammar"}},
        {"tool_choice": {"type": "later", "name": "x"}},
        {"tool_choice": {"type": "none", "more": 1}},
        {"system": "a"},
        {"system": [{"type": "text", "text": "a"}]},
        {"system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "more": [1]}]},
        {"tools": [{"type": "custom", "name": "t", "input_schema": {}, "eager": True}]},
        {"tools": [{"type": "mcp_toolset", "mcp_server_name": "m"}]},
        {
            "tools": [
                {"name": "t", "input_schema": {}, "cache_control": {"type": "ephemeral", "scope": "global"}},
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "more": {"x": 1}}]},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "system", "content": [{"type": "text", "text": "Now in Spanish."}]},
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
                        },
                        {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}},
                        {"type": "image", "source": {"type": "file", "file_id": "file_1"}, "more": 1},
                        {"type": "image", "source": {"type": "url", "url": "u", "more": 1}},
                        {
                            "type": "document",
                            "title": "T",
                            "context": "c",
                            "citations": {"enabled": True},
                            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
                        },
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "t"},
                        },
                        {"type": "document", "source": {"type": "content", "content": "t"}},
                        {"type": "search_result", "source": "s", "title": "t", "content": []},
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "a",
                            "content": [{"type": "text", "text": "x"}],
                        },
                        {"type": "tool_result", "tool_use_id": "b"},
                        {"type": "tool_result", "tool_use_id": "c", "content": ""},
                    ],
                }
            ]
        },
    ],
)
def test_the_same_dialect_loses_nothing(members: dict[str, Any]) -> None:
    """What we have no place for, and how things were spelled, comes back as it was."""
    raw = body(**members)
    assert again(raw) == json.loads(raw)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
    ],
)
def test_a_wrong_request_names_the_member(members: dict[str, Any], param: str) -> None:
    """What cannot be understood is refused with the path of the member at fault."""
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(body(**members))
    assert caught.value.param == param


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"model":"m"}', b'"x"', b"\xff"])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    """Bytes that are no request raise `InvalidRequest` and nothing else."""
    with pytest.raises(InvalidRequest):
        DIALECT.decode_request(raw)


def test_system_text_goes_to_the_top() -> None:
    """System and developer messages at the head become the top-level system; a later one is moved there with a warning."""
    out, warnings = encoded(
        chat(
            Message(role="system", content=(Text(text="a"),)),
            Message(role="developer", content=(Text(text="b"),)),
            user(Text(text="Hi")),
            Message(role="system", content=(Text(text="c"),)),
        )
    )
    assert out["system"] == [{"type": "text", "text": text} for text in "abc"]
    assert out["messages"] == [{"role": "user", "content": "Hi"}]
    assert warnings == ["anthropic: system message inside the conversation moved to its start"]


def test_system_text_alone_is_said_by_the_user() -> None:
    """A request of system text only gets the user message that the API needs, with a warning."""
    out, warnings = encoded(chat(Message(role="system", content=(Text(text="Say hi."),))))
    assert "system" not in out
    assert out["messages"] == [{"role": "user", "content": "Say hi."}]
    assert len(warnings) == 1


def test_tool_results_become_one_message() -> None:
    """The results of one turn stand first in one user message, and the user's next words follow in it."""
    out, warnings = encoded(
        chat(
            user(Text(text="Go")),
            Message(
                role="assistant",
                content=(
                    ToolCall(id="a", name="f", arguments=""),
                    ToolCall(id="b", name="f", arguments="{}"),
                ),
            ),
            Message(role="tool", content=(ToolResult(call_id="a", content=(Text(text="1"),)),)),
            Message(role="tool", content=(ToolResult(call_id="b", content=(Text(text=""),)),)),
            user(Text(text="And?")),
            user(Text(text="Well?")),
        )
    )
    assert [message["role"] for message in out["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in out["messages"][2]["content"]] == [
        "tool_result",
        "tool_result",
        "text",
        "text",
    ]
    assert out["messages"][2]["content"][1] == {"type": "tool_result", "tool_use_id": "b", "content": ""}
    assert [block["input"] for block in out["messages"][1]["content"]] == [{}, {}]
    assert warnings == []


def test_results_are_put_before_the_text_that_came_first() -> None:
    """Results that arrive after the user's text still stand first, as the API requires."""
    out, _ = encoded(
        chat(
            user(Text(text="Go")),
            Message(role="assistant", content=(ToolCall(id="a", name="f", arguments="{}"),)),
            Message(role="tool", content=(ToolResult(call_id="a"),)),
            user(Text(text="And?")),
            Message(role="tool", content=(ToolResult(call_id="b"),)),
        )
    )
    assert [block["type"] for block in out["messages"][2]["content"]] == [
        "tool_result",
        "tool_result",
        "text",
    ]


def test_ids_fit_the_pattern() -> None:
    """Characters that the API refuses in ids are exchanged, in the call and its result alike."""
    out, _ = encoded(
        chat(
            user(Text(text="Go")),
            Message(role="assistant", content=(ToolCall(id="functions.f:0", name="f", arguments="{}"),)),
            Message(role="tool", content=(ToolResult(call_id="functions.f:0"),)),
        )
    )
    assert out["messages"][1]["content"][0]["id"] == "functions_f_0"
    assert out["messages"][2]["content"][0]["tool_use_id"] == "functions_f_0"


def test_arguments_that_are_no_object_stay_readable() -> None:
    """Invalid arguments are wrapped with a warning, and unwrapped when they come back."""
    broken = Message(role="assistant", content=(ToolCall(id="a", name="f", arguments='{"x": '),))
    out, warnings = encoded(chat(user(Text(text="Go")), broken))
    assert out["messages"][1]["content"][0]["input"] == {"_invalid_json": '{"x": '}
    assert len(warnings) == 1
    assert DIALECT.decode_request(json.dumps(out).encode()).messages[1].content == broken.content


def test_the_order_of_arguments_stays() -> None:
    """The arguments are the very JSON text that the model wrote."""
    text = '{"z": 1.0, "a": {"y": 1, "b": 2}}'
    request = chat(
        user(Text(text="Go")),
        Message(role="assistant", content=(ToolCall(id="a", name="f", arguments=text),)),
    )
    raw = DIALECT.encode_request(request, [])
    assert text.encode() in raw
    call = DIALECT.decode_request(raw).messages[1].content[0]
    assert isinstance(call, ToolCall) and call.arguments == text


def test_texts_that_the_api_refuses_are_left_out() -> None:
    """Empty and blank texts of other dialects are dropped, and so is a message that has nothing else."""
    out, warnings = encoded(
        chat(
            user(Text(text=""), Text(text="Hi"), Text(text=" \n")),
            Message(role="assistant", content=(Text(text=""),)),
            user(Text(text="Still there? ")),
        )
    )
    assert [message["content"] for message in out["messages"]] == ["Hi", "Still there? "]
    assert len(warnings) == 1 and "empty assistant message" in warnings[0]


def test_media_of_other_dialects() -> None:
    """Images and documents find their source; texts in base64 go as text; a detail and a foreign file id are named."""
    out, warnings = encoded(
        chat(
            user(
                Image(data="iVBORw0KGgo=", detail="high"),
                Image(url="https://e.org/a.png", detail="auto"),
                Document(data="JVBERi0=", media_type="application/pdf", name="a.pdf"),
                Document(data="aGVsbG8=", media_type="text/csv"),
                Document(file_id="file-abc"),
            )
        )
    )
    sources = [block["source"] for block in out["messages"][0]["content"]]
    assert sources == [
        {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
        {"type": "url", "url": "https://e.org/a.png"},
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        {"type": "text", "media_type": "text/plain", "data": "hello"},
        {"type": "file", "file_id": "file-abc"},
    ]
    assert out["messages"][0]["content"][2]["title"] == "a.pdf"
    assert len(warnings) == 2


def test_what_cannot_be_carried_is_named() -> None:
    """Parameters, blocks and members of other dialects that have no place here are warned about, each once."""
    foreign = Details("openai-chat", {"logprobs": msgspec.Raw(b"true"), "store": msgspec.Raw(b"null")})
    audio = Opaque(dialect="openai-chat", kind="input_audio", raw=msgspec.Raw(b"{}"))
    search = Tool(name="web", opaque=Opaque(dialect="openai-chat", kind="web_search", raw=msgspec.Raw(b"{}")))
    out, warnings = encoded(
        chat(
            Message(role="user", name="Ann", content=(Text(text="Hi"), audio, audio)),
            Message(role="assistant", content=(Thinking(text="unsigned"), Text(text="Yes"))),
            seed=1,
            n=2,
            frequency_penalty=0.5,
            presence_penalty=0.5,
            temperature=1.5,
            tools=(search,),
            tool_choice=ToolChoice(mode="required"),
            response_format=ResponseFormat(kind="json_object"),
            stop=(" ", "END"),
            provider_details=foreign,
        )
    )
    joined = "\n".join(warnings)
    for word in (
        "logprobs", "input_audio", "name of a user", "thinking without a signature", "seed", "n dropped", "frequency_penalty",
        "presence_penalty", "temperature", "web", "tool_choice", "json_object", "stop sequences",
    ):  # fmt: skip
        assert word in joined
    assert "store" not in joined
    assert len(warnings) == len(set(warnings)) == 13
    assert (out["temperature"], out["stop_sequences"]) == (1.0, ["END"])
    assert not {"tools", "tool_choice", "seed", "n", "output_config"} & set(out)


def test_a_limit_is_required() -> None:
    """Without `max_tokens` the default goes out, with a warning."""
    out, warnings = encoded(chat(max_tokens=None))
    assert out["max_tokens"] == DEFAULT_MAX_TOKENS == 4096
    assert len(warnings) == 1


def test_tools_and_choice_of_other_dialects() -> None:
    """Functions, choice and the wish for single calls are carried."""
    tools = (
        Tool(name="f", parameters=msgspec.Raw(b'{"type":"object"}'), cache=CacheHint()),
        Tool(name="g", description="d"),
    )
    out, warnings = encoded(chat(tools=tools, parallel_tool_calls=False))
    assert out["tools"] == [
        {"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
        {"name": "g", "description": "d", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert out["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    named, _ = encoded(chat(tools=tools, tool_choice=ToolChoice(mode="tool", name="g")))
    assert named["tool_choice"] == {"type": "tool", "name": "g"}
    none, _ = encoded(chat(tools=tools, tool_choice=ToolChoice(mode="none"), parallel_tool_calls=True))
    assert none["tool_choice"] == {"type": "none"}
    assert warnings == []


@pytest.mark.parametrize(
    ("model", "wanted", "max_tokens", "thinking", "effort"),
    [
        ("claude-sonnet-4-5-20250929", Reasoning(effort="high"), 10_000, ("enabled", 8000), None),
        ("claude-3-7-sonnet-20250219", Reasoning(effort="low"), 10_000, ("enabled", 2000), None),
        ("claude-sonnet-4-20250514", Reasoning(effort="low"), 2000, ("enabled", 1024), None),
        ("claude-sonnet-4-5", Reasoning(effort="low"), 1024, None, None),
        ("claude-sonnet-4-5", Reasoning(budget_tokens=5000), 4000, ("enabled", 3999), None),
        ("claude-sonnet-4-5", Reasoning(enabled=False), 4000, ("disabled", None), None),
        ("claude-sonnet-4-5", Reasoning(effort="none"), 4000, ("disabled", None), None),
        ("claude-3-5-haiku-20241022", Reasoning(effort="high"), 4000, None, None),
        ("claude-opus-4-6", Reasoning(effort="xhigh"), 4000, ("adaptive", None), "high"),
        ("claude-opus-4-6", Reasoning(budget_tokens=2000), 4000, ("enabled", 2000), None),
        ("claude-opus-4-8", Reasoning(effort="xhigh"), 4000, ("adaptive", None), "xhigh"),
        ("claude-opus-5", Reasoning(effort="minimal"), 4000, ("adaptive", None), "low"),
        ("claude-opus-5", Reasoning(budget_tokens=2000), 4000, ("adaptive", None), None),
        ("house-model", Reasoning(effort="medium"), 4000, ("enabled", 2000), None),
    ],
)
def test_reasoning_of_other_dialects(
    model: str,
    wanted: Reasoning,
    max_tokens: int,
    thinking: tuple[str, int | None] | None,
    effort: str | None,
) -> None:
    """An effort becomes a budget below `max_tokens`, or adaptive thinking with an effort, as the generation takes it."""
    out, _ = encoded(chat(model=model, reasoning=wanted, max_tokens=max_tokens))
    got = out.get("thinking")
    assert (got and (got["type"], got.get("budget_tokens"))) == thinking
    assert out.get("output_config", {}).get("effort") == effort


def test_thinking_that_the_api_would_refuse_is_left_out() -> None:
    """No thinking with a forced tool, nor in a tool loop without signed thinking; sampling gives way to thinking."""
    tools = (Tool(name="f"),)
    wanted = Reasoning(effort="high")
    forced, warnings = encoded(chat(reasoning=wanted, tools=tools, tool_choice=ToolChoice(mode="required")))
    assert "thinking" not in forced and len(warnings) == 1
    loop = (
        user(Text(text="Go")),
        Message(role="assistant", content=(ToolCall(id="a", name="f", arguments="{}"),)),
        Message(role="tool", content=(ToolResult(call_id="a"),)),
    )
    looped, warnings = encoded(chat(*loop, reasoning=wanted, tools=tools))
    assert "thinking" not in looped and len(warnings) == 1
    after, warnings = encoded(
        chat(*loop, user(Text(text="And?")), reasoning=wanted, tools=tools, temperature=0.2)
    )
    assert "thinking" in after and "temperature" not in after and len(warnings) == 1


def test_sampling_that_the_model_refuses_is_left_out() -> None:
    """Newer models take no sampling, and none takes `top_p` beside `temperature`; the neutral values go silently."""
    out, warnings = encoded(chat(model="claude-opus-4-8", temperature=0.2, top_k=3))
    assert not {"temperature", "top_k"} & set(out) and len(warnings) == 2
    out, warnings = encoded(chat(temperature=0.2, top_p=0.5))
    assert (out["temperature"], "top_p" in out, len(warnings)) == (0.2, False, 1)
    out, warnings = encoded(chat(temperature=1.0, top_p=1.0))
    assert (out["temperature"], "top_p" in out, warnings) == (1.0, False, [])


def test_a_lowered_limit_lowers_the_budget() -> None:
    """A cap on the output never leaves a thinking budget above it, typed or spliced."""
    raw = body(max_tokens=32000, thinking={"type": "enabled", "budget_tokens": 31999, "display": "omitted"})
    lowered = msgspec.structs.replace(DIALECT.decode_request(raw), max_tokens=8000)
    out, warnings = encoded(lowered)
    assert out["thinking"] == {"type": "enabled", "budget_tokens": 7999, "display": "omitted"}
    assert len(warnings) == 1
    spliced = json.loads(DIALECT.splice(raw, model="m", include_usage=True, max_tokens=8000))
    assert spliced["thinking"] == {"type": "enabled", "budget_tokens": 7999, "display": "omitted"}
    tiny = json.loads(DIALECT.splice(raw, model="m", include_usage=True, max_tokens=500))
    assert (tiny["max_tokens"], tiny["thinking"]) == (500, {"type": "disabled"})


def test_splice_touches_the_model_only() -> None:
    """Every byte but the model's stays; `max_tokens` is set where asked for."""
    raw = b'{ "max_tokens" : 10, "model":"a",\n "messages":[{"role":"user","content":"\\u00e9 model"}] }'
    assert DIALECT.splice(raw, model="b", include_usage=True, max_tokens=None) == raw.replace(b'"a"', b'"b"')
    assert DIALECT.splice(raw, model="b", include_usage=False, max_tokens=5) == raw.replace(
        b'"a"', b'"b"'
    ).replace(b"10", b"5")


def test_peek() -> None:
    """Model, stream and limit are read without the rest; usage is always wanted."""
    seen = DIALECT.peek(body(stream=True))
    assert (seen.model, seen.stream, seen.wants_usage, seen.max_tokens) == (
        "claude-sonnet-4-5",
        True,
        True,
        100,
    )
    assert DIALECT.peek(b'{"model":"m"}').max_tokens is None


@pytest.mark.parametrize(
    ("raw", "param"), [(b"{}", "model"), (b'{"model":1}', "model"), (b'{"model":"m","stream":"x"}', "stream"), (b"<", None), (b"\xff\xff", None), (b'{"model":"m","x":"\xff"}', None)]
)  # fmt: skip
def test_peek_names_the_member(raw: bytes, param: str | None) -> None:
    """What is wrong is refused with the member at fault."""
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.peek(raw)
    assert caught.value.param == param


# --- answers ----------------------------------------------------------------------------------------------------------


def answer(**members: Any) -> bytes:
    whole = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 4},
        **members,
    }
    return json.dumps(whole).encode()


def test_usage_counts_all_of_the_input() -> None:
    """The input that Anthropic reports without its cached part is reported whole, and written back as it came."""
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 200,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
        "service_tier": "standard",
    }
    reply = DIALECT.decode_reply(answer(usage=usage))
    assert reply.usage == Usage(
        input_tokens=240,
        output_tokens=50,
        cache_read_tokens=200,
        cache_write_tokens=30,
        cache_write_1h_tokens=20,
        reasoning_tokens=40,
    )
    assert json.loads(DIALECT.encode_reply(reply, []))["usage"] == usage
    bare = msgspec.structs.replace(reply, provider_details=None)
    del usage["service_tier"]
    assert json.loads(DIALECT.encode_reply(bare, []))["usage"] == usage


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop_sequence"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "context_full"),
        ("compaction", "other"),
    ],
)
def test_finish_reasons(word: str, finish: FinishReason) -> None:
    """Each word has its reason and comes back as that word."""
    reply = DIALECT.decode_reply(answer(stop_reason=word))
    assert (reply.finish, reply.finish_raw) == (finish, word)
    assert json.loads(DIALECT.encode_reply(reply, []))["stop_reason"] == word


@pytest.mark.parametrize(
    ("finish", "raw", "word"),
    [
        ("stop", "stop", "end_turn"),
        ("length", "length", "max_tokens"),
        ("tool_calls", "tool_calls", "tool_use"),
        ("content_filter", "content_filter", "refusal"),
        ("other", None, "end_turn"),
    ],
)
def test_finish_reasons_of_other_dialects(finish: FinishReason, raw: str | None, word: str) -> None:
    """A reason from elsewhere gets the word of this dialect."""
    reply = Reply(content=(Text(text="x"),), finish=finish, finish_raw=raw)
    assert json.loads(DIALECT.encode_reply(reply, []))["stop_reason"] == word


def test_an_answer_of_another_dialect() -> None:
    """Calls without an id get one and others keep theirs; refusals are text, and `stop` with calls is `tool_use`."""
    reply = Reply(
        id="chatcmpl-1",
        model="gpt",
        content=(
            Thinking(text="hm"),
            Text(text=""),
            Refusal(text="No."),
            ToolCall(id="", name="f", arguments='{"a":1}'),
            ToolCall(id="functions.g:0", name="g", arguments=""),
            Opaque(dialect="openai-chat", kind="audio", raw=msgspec.Raw(b"{}")),
        ),
        finish="stop",
        finish_raw="stop",
        provider_details=Details(
            "openai-chat",
            {"system_fingerprint": msgspec.Raw(b'"fp"'), "citations": msgspec.Raw(b'["u"]')},
        ),
    )
    warnings: list[str] = []
    out = json.loads(DIALECT.encode_reply(reply, warnings))
    assert out == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "gpt",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "No."},
            {"type": "tool_use", "id": "toolu_chatcmpl-1_3", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "id": "functions.g:0", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    assert warnings == [
        "anthropic: openai-chat block audio dropped",
        "anthropic: answer citations of openai-chat dropped",
    ]


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b'{"id":', b"[]", b'{"id":"x"}', b'{"content":[1]}', b"\xff"]
)
def test_what_is_no_answer_is_malformed(raw: bytes) -> None:
    """HTML, cut JSON and other objects raise `Malformed` with the body kept."""
    with pytest.raises(Malformed) as caught:
        DIALECT.decode_reply(raw)
    assert (caught.value.body, caught.value.dialect) == (raw, "anthropic")


def test_usage_of_an_unknown_form_is_unknown() -> None:
    """Counts that are no numbers do not cost the answer, buffered or streamed."""
    reply = DIALECT.decode_reply(answer(usage={"input_tokens": "many"}))
    assert (reply.text, reply.usage) == ("Hi", None)
    odd = {**message_delta(), "usage": {"output_tokens": [7]}}
    read = assemble(events_of(sse(START, odd, STOP)))
    assert (read.finish, read.usage) == ("stop", Usage(input_tokens=15, cache_read_tokens=5, output_tokens=1))


def test_an_error_inside_a_200_is_classified() -> None:
    """An error object in the body of a 200 raises the error that it means."""
    raw = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    with pytest.raises(ProviderOverloaded):
        DIALECT.decode_reply(raw)


# --- streams: decoding ------------------------------------------------------------------------------------------------


def test_a_stream_becomes_events() -> None:
    """The events of a plain stream, each on a frame with its bytes."""
    parts = [
        START,
        block_start(0, type="text", text=""),
        {"type": "ping"},
        piece(0, type="text_delta", text="Hel"),
        piece(0, type="text_delta", text=""),
        piece(0, type="text_delta", text="lo"),
        block_stop(0),
        message_delta(output_tokens=7),
        STOP,
    ]
    frames = frames_of(sse(*parts))
    assert [frame.raw for frame in frames] == [sse(part) for part in parts]
    assert {frame.dialect for frame in frames} == {"anthropic"}
    assert [list(frame.events) for frame in frames] == [
        [
            Start("msg_1", "claude-x"),
            UsageReport(Usage(input_tokens=15, cache_read_tokens=5, output_tokens=1)),
        ],
        [BlockStart(0, Text(text=""))],
        [Ping()],
        [Delta(0, "text", "Hel")],
        [],
        [Delta(0, "text", "lo")],
        [BlockStop(0)],
        [
            Finish("stop", "end_turn"),
            UsageReport(Usage(input_tokens=15, cache_read_tokens=5, output_tokens=7)),
        ],
        [End()],
    ]


def test_the_later_usage_counts_where_it_says_more() -> None:
    """`message_delta` may repeat the input or leave it out; the larger count is the right one."""
    repeated = events_of(
        sse(START, message_delta(input_tokens=30, cache_read_input_tokens=5, output_tokens=9), STOP)
    )
    assert UsageReport(Usage(input_tokens=35, cache_read_tokens=5, output_tokens=9)) in repeated
    zeroed = events_of(
        sse(START, message_delta(input_tokens=0, cache_read_input_tokens=0, output_tokens=9), STOP)
    )
    assert UsageReport(Usage(input_tokens=15, cache_read_tokens=5, output_tokens=9)) in zeroed


@pytest.mark.parametrize(
    ("given", "pieces", "arguments"),
    [
        ({}, ['{"a"', ":1}"], '{"a":1}'),
        ({}, [""], "{}"),
        ({}, [], "{}"),
        ({"a": 1}, [], '{"a": 1}'),
        ({"a": 1}, [""], '{"a": 1}'),
        ({"a": 1}, ['{"b":2}'], '{"b":2}'),
    ],
)
def test_arguments_in_pieces_or_at_once(given: dict[str, int], pieces: list[str], arguments: str) -> None:
    """A call's arguments come in pieces, or with its start; an argumentless call has `{}`."""
    raw = sse(
        START,
        block_start(0, type="tool_use", id="t", name="f", input=given),
        *(piece(0, type="input_json_delta", partial_json=text) for text in pieces),
        block_stop(0),
        message_delta("tool_use"),
        STOP,
    )
    assert assemble(events_of(raw)).content == (ToolCall(id="t", name="f", arguments=arguments),)


def test_thinking_in_pieces() -> None:
    """Thinking grows by text and signature; redacted thinking comes whole."""
    raw = sse(
        START,
        block_start(0, type="thinking", thinking="", signature=""),
        piece(0, type="thinking_delta", thinking="hm"),
        piece(0, type="signature_delta", signature="s1"),
        block_stop(0),
        block_start(1, type="redacted_thinking", data="xyz"),
        block_stop(1),
        message_delta(),
        STOP,
    )
    assert assemble(events_of(raw)).content == (Thinking(text="hm", signature="s1"), Thinking(redacted="xyz"))


def test_a_server_tool_is_given_out_whole() -> None:
    """A block that only this dialect knows appears once, complete, with its input put together; and survives encoding."""
    raw = sse(
        START,
        block_start(0, type="server_tool_use", id="s", name="web_search", input={}),
        piece(0, type="input_json_delta", partial_json='{"query"'),
        piece(0, type="input_json_delta", partial_json=':"x"}'),
        block_stop(0),
        block_start(1, type="compaction", content=None),
        piece(1, type="compaction_delta", content="all of it"),
        block_stop(1),
        block_start(2, type="text", text="", citations=[]),
        piece(2, type="citations_delta", citation={"url": "u"}),
        piece(2, type="text_delta", text="So"),
        block_stop(2),
        message_delta(),
        STOP,
    )
    events = events_of(raw)
    whole = [
        json.loads(bytes(event.block.raw))
        for event in events
        if isinstance(event, BlockStart) and isinstance(event.block, Opaque)
    ]
    assert whole == [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "compaction", "content": "all of it"},
    ]
    cited = [event for event in events if isinstance(event, Delta) and event.kind == "opaque"]
    assert [json.loads(event.text) for event in cited] == [
        {"type": "citations_delta", "citation": {"url": "u"}}
    ]
    out = sent(stream_of(events))
    assert out[1]["content_block"]["input"] == {}
    assert json.loads(out[2]["delta"]["partial_json"]) == {"query": "x"}
    assert as_json(events_of(stream_of(events))[2:-3]) == as_json(events[2:-3])


def test_citations_of_a_stream_are_in_the_whole_answer() -> None:
    """A text's citations, which come after its start, stand in the assembled answer as in a buffered one."""
    cited = [{"type": "char_location", "cited_text": "a"}, {"type": "char_location", "cited_text": "ü"}]
    raw = sse(
        START,
        block_start(0, type="text", text="", citations=[]),
        *(piece(0, type="citations_delta", citation=citation) for citation in cited),
        piece(0, type="text_delta", text="x"),
        block_stop(0),
        block_start(1, type="text", text=""),
        piece(1, type="text_delta", text="y"),
        block_stop(1),
        message_delta(),
        STOP,
    )
    events = events_of(raw)
    whole = json.loads(DIALECT.encode_reply(assemble(events), []))
    assert whole["content"] == [
        {"type": "text", "text": "x", "citations": cited},
        {"type": "text", "text": "y"},
    ]
    assert assemble(reply_events(assemble(events))) == assemble(events)
    assert assemble(events_of(stream_of(events))).content == assemble(events).content
    warnings: list[str] = []
    by_name("openai-chat").encode_reply(assemble(events), warnings)
    assert warnings == ["openai-chat: text citations dropped"]


def test_an_unknown_block_with_unknown_pieces_passes() -> None:
    """Pieces that we cannot put together go out as they came."""
    raw = sse(
        START,
        block_start(0, type="hologram", data=""),
        piece(0, type="hologram_delta", data="a"),
        block_stop(0),
        message_delta(),
        STOP,
    )
    out = sent(stream_of(events_of(raw)))
    assert out[1:4] == [
        block_start(0, type="hologram", data=""),
        piece(0, type="hologram_delta", data="a"),
        block_stop(0),
    ]


def test_oddities_of_gateways() -> None:
    """Events without a name or a type, `[DONE]`, comments and unknown events are understood or passed on."""
    raw = (
        b": hello\n\n"
        b"data: " + json.dumps(START).encode() + b"\n\n"
        b'event: content_block_start\ndata: {"index":0,"content_block":{"type":"text","text":"He"}}\n\n'
        b'event: message_rated\ndata: {"type":"message_rated","stars":5}\n\n'
        b'data: {"stars":5}\n\n'
        + sse(piece(0, type="text_delta", text="y"), block_stop(0), message_delta(), STOP)
        + b"event: data\ndata: [DONE]\n\n"
    )
    frames = frames_of(raw)
    events = [event for frame in frames for event in frame.events]
    assert events[0] == Ping()
    assert [event for event in events if isinstance(event, OpaqueEvent)] == [
        OpaqueEvent("anthropic", "message_rated"),
        OpaqueEvent("anthropic", ""),
    ]
    assert assemble(events).text == "Hey"
    assert (frames[-1].events, frames[-1].hidden) == ((), True)
    assert not any(frame.hidden for frame in frames[:-1])


def test_an_error_event_raises_after_its_frames() -> None:
    """An error inside a stream raises the classified error, which has the frames before it."""
    raw = sse(START, block_start(0, type="text", text=""), {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})  # fmt: skip
    with pytest.raises(ProviderOverloaded) as caught:
        frames_of(raw)
    assert [frame.raw for frame in caught.value.frames] == [
        sse(START),
        sse(block_start(0, type="text", text="")),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"data: <html>\n\n",
        b"data: [1]\n\n",
        b"event: message_start\ndata: {}x\n\n",
        sse(piece(0, type="text_delta", text="x")),
        sse(piece(0, type="citations_delta", citation={})),
        sse(block_stop(0)),
        sse(block_start(0, type="text", text=3)),
        sse({"type": "content_block_delta", "index": "x", "delta": {}}),
        sse({"type": "message_start", "message": 5}),
    ],
)
def test_what_is_no_stream_is_malformed(raw: bytes) -> None:
    """Events that break the protocol raise `Malformed`."""
    with pytest.raises(Malformed):
        frames_of(raw)


def test_an_error_without_json_is_still_an_error() -> None:
    """An `error` event whose data is text raises a provider's error."""
    with pytest.raises(ProviderError):
        frames_of(b"event: error\ndata: upstream gone\n\n")


# --- streams: encoding ------------------------------------------------------------------------------------------------


def test_the_sequence_of_a_stream() -> None:
    """Usage that comes last is in `message_delta` with the input; `message_start` and the blocks stand in their order."""
    usage = Usage(input_tokens=20, output_tokens=3, cache_read_tokens=5)
    out = sent(
        stream_of(
            [
                Ping(),
                Start("chatcmpl-1", "gpt"),
                BlockStart(0, Text(text="")),
                Ping(),
                Delta(0, "text", "Hi"),
                BlockStop(0),
                Finish("stop", "stop"),
                UsageReport(usage),
                End(),
            ]
        )
    )
    assert [event["type"] for event in out] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message = out[0]["message"]
    assert (message["id"], message["model"], message["content"]) == ("chatcmpl-1", "gpt", [])
    assert message["usage"]["input_tokens"] == 0
    assert out[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 15,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 5,
            "output_tokens": 3,
        },
    }


def test_usage_known_at_the_start_is_in_the_start() -> None:
    """Input tokens that came before the content stand in `message_start`."""
    out = sent(stream_of([Start("a", "m"), UsageReport(Usage(input_tokens=9)), Finish("stop")]))
    assert out[0]["message"]["usage"]["input_tokens"] == 9
    assert [event["type"] for event in out] == ["message_start", "message_delta", "message_stop"]


def test_parallel_calls_become_one_after_the_other() -> None:
    """Pieces of a block that began while another is open wait for their turn; no piece is lost or misplaced."""
    events: list[Event] = [
        Start("m1", "gpt"),
        BlockStart(0, ToolCall(id="a", name="f", arguments="")),
        BlockStart(1, ToolCall(id="", name="g", arguments="")),
        Delta(1, "arguments", '{"y"'),
        Delta(0, "arguments", '{"x"'),
        BlockStart(2, ToolCall(id="c", name="h", arguments='{"z":')),
        Delta(1, "arguments", ":2}"),
        Delta(0, "arguments", ":1}"),
        BlockStop(1),
        BlockStop(0),
        Delta(2, "arguments", "3}"),
        BlockStop(2),
        Finish("tool_calls", "tool_calls"),
    ]
    raw = stream_of(events)
    order = [event["index"] for event in sent(raw) if "index" in event]
    assert order == sorted(order)
    assert assemble(events_of(raw)).content == (
        ToolCall(id="a", name="f", arguments='{"x":1}'),
        ToolCall(id="toolu_m1_1", name="g", arguments='{"y":2}'),
        ToolCall(id="c", name="h", arguments='{"z":3}'),
    )


def test_blocks_left_open_are_closed_at_the_end() -> None:
    """Blocks that the source never closed are closed before `message_delta`, the waiting ones too."""
    raw = stream_of(
        [
            Start("m1", "gpt"),
            BlockStart(0, ToolCall(id="a", name="f", arguments="")),
            BlockStart(1, ToolCall(id="b", name="g", arguments="")),
            Delta(1, "arguments", "{}"),
            Delta(0, "arguments", "{}"),
            Finish("stop", "stop"),
        ]
    )
    kinds = [event["type"].removeprefix("content_block_") for event in sent(raw)]
    assert kinds == [
        "message_start",
        "start",
        "delta",
        "stop",
        "start",
        "delta",
        "stop",
        "message_delta",
        "message_stop",
    ]
    assert sent(raw)[-2]["delta"]["stop_reason"] == "tool_use"


def test_blocks_of_other_dialects_leave_no_gap() -> None:
    """A block that cannot be carried is skipped with its pieces, and the numbers stay consecutive."""
    out = sent(
        stream_of(
            [
                BlockStart(0, Opaque(dialect="openai-chat", kind="audio", raw=msgspec.Raw(b"{}"))),
                Delta(0, "opaque", "{}"),
                BlockStop(0),
                BlockStart(1, Refusal(text="")),
                Delta(1, "refusal", "No."),
                BlockStop(1),
                Finish("refusal"),
            ]
        )
    )
    assert [event.get("index") for event in out] == [None, 0, 0, 0, None, None]
    assert out[2]["delta"] == {"type": "text_delta", "text": "No."}
    assert (out[0]["message"]["id"], out[0]["message"]["model"]) == ("msg_made", "asked")


def test_a_whole_answer_becomes_a_whole_stream() -> None:
    """A buffered answer streams as the events that spell it, up to the terminal marker."""
    reply = Reply(
        id="msg_9",
        model="claude-x",
        content=(
            Thinking(text="hm", signature="s"),
            Text(text="Hi"),
            ToolCall(id="a", name="f", arguments='{"x":1}'),
            Opaque(dialect="anthropic", kind="odd", raw=msgspec.Raw(b'{"type": "odd",\n "x": [1,\r\n2]}')),
        ),
        finish="tool_calls",
        finish_raw="tool_use",
        usage=Usage(input_tokens=3, output_tokens=4),
    )
    encoder = DIALECT.encoder(include_usage=False, model="", id="")
    raw = encoder.feed(Complete(reply))
    assert b"message_stop" not in raw
    raw += encoder.end()
    assert as_json(assemble(events_of(raw))) == as_json(reply)
    assert raw == stream_of(reply_events(reply))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "word"),
    [
        ("invalid_request", 400, "invalid_request_error"),
        ("unauthorized", 401, "authentication_error"),
        ("budget_exceeded", 402, "billing_error"),
        ("forbidden", 403, "permission_error"),
        ("model_not_found", 404, "not_found_error"),
        ("request_too_large", 413, "request_too_large"),
        ("rate_limited", 429, "rate_limit_error"),
        ("internal_error", 500, "api_error"),
        ("credentials_invalid", 502, "api_error"),
        ("overloaded", 503, "overloaded_error"),
        ("deadline_exceeded", 504, "timeout_error"),
        ("all_targets_failed", 429, "rate_limit_error"),
        ("all_targets_failed", 529, "overloaded_error"),
        ("something_new", 418, "invalid_request_error"),
    ],
)
def test_errors_in_the_envelope(kind: str, status: int, word: str) -> None:
    """An error has the envelope of the dialect and the type that its kind, or else its status, means."""
    expected = {"type": "error", "error": {"type": word, "message": "why"}, "request_id": "r1"}
    assert json.loads(DIALECT.encode_error(kind, "why", status=status, request_id="r1")) == expected
    raw = DIALECT.encode_stream_error(kind, "why", status=status, request_id="r1")
    assert sent(raw) == [expected]
    with pytest.raises(ProviderError):
        frames_of(raw)
