from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from headrace import dialects
from headrace.dialects.openai_chat import OPENAI_CHAT
from headrace.errors import (
    ConfigError,
    HeadraceError,
    InvalidRequest,
    Malformed,
    ProviderError,
)
from headrace.handler import Dialect, Peek, assemble, reply_events
from headrace.types import (
    Batch,
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

DIALECT: Dialect = OPENAI_CHAT


def kinds(root: type[HeadraceError]) -> set[str]:
    return {root.kind}.union(*(kinds(cls) for cls in root.__subclasses__()))


def decode(ask: dict[str, Any]) -> Chat:
    return DIALECT.decode_request(json.dumps(ask).encode())


def encode(chat: Chat) -> tuple[dict[str, Any], list[str]]:
    warnings: list[str] = []
    ask: dict[str, Any] = json.loads(DIALECT.encode_request(chat, warnings))
    return ask, warnings


def asking(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), **members}


def chat(*messages: Message, **members: Any) -> Chat:
    return msgspec.structs.replace(Chat(model="m", messages=messages), **members)


def chunk(**members: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "m", "created": 7, **members}).encode() + b"\n\n"


def saying(finish: str | None = None, **delta: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def frames(*data: bytes, hide_usage: bool = False) -> Batch:
    decoder = DIALECT.decoder(hide_usage=hide_usage)
    batch: Batch = []
    for piece in data:
        batch += decoder.feed(piece)
    return batch + decoder.close()


def events(*data: bytes) -> list[Event]:
    return [event for frame in frames(*data) for event in frame.events]


# --- names ------------------------------------------------------------------------------------------------------------


def test_dialects_are_found_by_name() -> None:
    """Each name gives the one instance of its dialect; an unknown one says which there are."""
    assert dialects.by_name("openai-chat") is OPENAI_CHAT is dialects.OPENAI_CHAT
    assert [dialects.by_name(name).name for name in dialects.NAMES] == list(dialects.NAMES)
    with pytest.raises(ConfigError, match="openai-chat"):
        dialects.by_name("telex")


# --- peek and splice --------------------------------------------------------------------------------------------------


def test_peek_reads_what_routing_needs() -> None:
    """Model, stream, the wish for usage and the output limit in either spelling."""
    assert DIALECT.peek(b'{"model":"m","messages":[{}]}') == Peek(model="m")
    ask = asking(stream=True, stream_options={"include_usage": True, "x": 1}, max_completion_tokens=9)
    assert DIALECT.peek(json.dumps(ask).encode()) == Peek(
        model="m", stream=True, wants_usage=True, max_tokens=9
    )
    both = b'{"model":"m","max_tokens":5,"max_completion_tokens":3,"stream":null,"stream_options":null}'
    assert DIALECT.peek(both) == Peek(model="m", max_tokens=5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"nonsense", None),
        (b'{"messages":[]}', "model"),
        (b'{"model":7}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":"m","stream":1}', "stream"),
        (b'{"model":"m","max_tokens":"7"}', "max_tokens"),
        (b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options.include_usage"),
        (b'{"model":"\xff"}', None),
        (b'{"model":"m","x":"\xff"}', None),
        (b'{"model":"m","x":' + b"[" * 100_000, None),
        (b'{"model":"m","messages":', None),
    ],
)
def test_peek_names_the_member_at_fault(body: bytes, param: str | None) -> None:
    """Whatever is not such a body is the caller's error, with the member where one is to blame."""
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.peek(body)
    assert caught.value.param == param


@pytest.mark.parametrize("rest", [{}, {"messages": [{"content": '"model": x'}]}, {"tools": [{"model": 1}]}])
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True, "y": 1}])
@pytest.mark.parametrize(
    "limits", [{}, {"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_tokens": None}]
)
@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 5])
def test_splice_sets_only_what_it_must(
    rest: dict[str, Any],
    options: dict[str, Any] | None,
    limits: dict[str, Any],
    include_usage: bool,
    max_tokens: int | None,
) -> None:
    """The model is exchanged, usage asked for and the limit set under the caller's own name; the rest is equal."""
    ask = {**rest, "model": "a", **limits, "temperature": 1.0}
    if options is not None:
        ask["stream_options"] = options
    body = json.dumps(ask, indent=1).encode()
    spliced = DIALECT.splice(body, model="b", include_usage=include_usage, max_tokens=max_tokens)
    expected = {**ask, "model": "b"}
    if include_usage:
        expected["stream_options"] = {**(options or {}), "include_usage": True}
    if max_tokens is not None:
        given = [name for name, value in limits.items() if value is not None]
        expected |= dict.fromkeys(given or ["max_tokens"], max_tokens)
    assert json.loads(spliced) == expected
    assert spliced.startswith(body[: body.index(b'"model": "a"')])


def test_a_limit_hidden_by_escapes_is_still_limited() -> None:
    """A name spelled with escapes is the same member to the provider, and so it is to the splice."""
    body = b'{"model":"a","max_completion_tok\\u0065ns":100000}'
    assert json.loads(DIALECT.splice(body, model="b", include_usage=False, max_tokens=5)) == {
        "model": "b",
        "max_completion_tokens": 5,
    }
    with pytest.raises(InvalidRequest, match="twice"):
        DIALECT.splice(b'{"model":"a","mod\\u0065l":"b"}', model="c", include_usage=False, max_tokens=None)


# --- requests ---------------------------------------------------------------------------------------------------------

FULL = asking(
    {"role": "system", "content": "be brief"},
    {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {
        "role": "user",
        "name": "ann",
        "content": [
            {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ==", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "format": "png"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ==", "filename": "a.pdf"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
        ],
    },
    {
        "role": "assistant",
        "content": "on it",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a" : 1.0}'}},
            {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}},
            {
                "id": "c3",
                "type": "function",
                "function": {"name": "h", "arguments": "not json", "x": 1},
                "extra_content": {"google": {"thought_signature": "s"}},
            },
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "tool", "tool_call_id": "c3", "content": [{"type": "text", "text": "a", "x": 1}]},
    {"role": "function", "name": "old", "content": "43"},
    {"role": "assistant", "content": None, "refusal": "no", "audio": {"id": "a"}},
    tools=[
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
        },
        {"type": "function", "function": {"name": "g", "x": 1}, "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "custom": {"name": "h"}},
    ],
    tool_choice={"type": "function", "function": {"name": "f"}},
    parallel_tool_calls=False,
    max_completion_tokens=100,
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    stop=["a", "b"],
    seed=1,
    n=2,
    frequency_penalty=0.1,
    presence_penalty=0.2,
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True, "x": 1},
    },
    user="u",
    stream=True,
    stream_options={"include_usage": True, "include_obfuscation": False},
    logit_bias={"5": -100},
    metadata={"k": "v"},
)


def test_a_request_with_everything_loses_nothing() -> None:
    """Known and unknown members at every level come back as they went in."""
    warnings: list[str] = []
    assert json.loads(DIALECT.encode_request(decode(FULL), warnings)) == FULL
    assert warnings == []


def test_a_request_is_typed() -> None:
    """What has a typed place is there, and nothing of it is left among the details."""
    typed = decode(FULL)
    assert typed.max_tokens == 100 and typed.stop == ("a", "b") and typed.include_usage
    assert typed.tool_choice == ToolChoice(mode="tool", name="f")
    assert typed.provider_details is not None
    assert set(typed.provider_details.members) == {
        "logit_bias",
        "metadata",
        "top_k",
        "stream_options",
        "response_format",
    }
    user = typed.messages[2].content
    assert user[1] == Image(media_type="image/png", data="QQ==", detail="low")
    assert user[3] == Document(media_type="application/pdf", data="QQ==", name="a.pdf")
    assert [type(block) for block in typed.messages[3].content] == [
        Thinking,
        Text,
        ToolCall,
        Opaque,
        ToolCall,
    ]
    assert typed.messages[4] == Message(
        role="tool", content=(ToolResult(call_id="c1", content=(Text(text="42"),)),)
    )
    assert typed.messages[7].content == (Refusal(text="no"),)


@pytest.mark.parametrize(
    ("extra", "spelling"),
    [
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"max_tokens": 5, "reasoning_effort": "low"}, "max_tokens"),
        ({"max_completion_tokens": 5, "reasoning_effort": "low"}, "max_completion_tokens"),
    ],
)
def test_the_limit_keeps_its_spelling(extra: dict[str, Any], spelling: str) -> None:
    """Servers differ in which spelling they know, so the caller's is kept."""
    ask, _ = encode(decode(asking(**extra)))
    assert ask == asking(**extra)
    assert encode(chat(max_tokens=5, reasoning=Reasoning(effort="low")))[0]["max_completion_tokens"] == 5
    assert encode(chat(max_tokens=5))[0]["max_tokens"] == 5


def test_a_cache_breakpoint_is_typed_and_written_back() -> None:
    """`cache_control` on parts and tools is a hint for dialects that know it; one of an unknown form is kept as it is."""
    for control, hint in (
        ({"type": "ephemeral"}, CacheHint()),
        ({"type": "ephemeral", "ttl": "1h"}, CacheHint("1h")),
        ({"type": "ephemeral", "x": 1}, None),
    ):
        part = {"type": "text", "text": "x", "cache_control": control}
        tool = {"type": "function", "function": {"name": "f"}, "cache_control": control}
        ask = asking({"role": "user", "content": [part]}, tools=[tool])
        typed = decode(ask)
        block = typed.messages[0].content[0]
        assert isinstance(block, Text) and block.cache == typed.tools[0].cache == hint
        assert encode(typed) == (ask, [])


@pytest.mark.parametrize("word", ["any", "required"])
def test_tools_required_keeps_its_word(word: str) -> None:
    """Mistral says `any` where others say `required`."""
    ask = asking(tool_choice=word)
    assert decode(ask).tool_choice == ToolChoice(mode="required")
    assert encode(decode(ask)) == (ask, [])


@pytest.mark.parametrize("member", ["reasoning", "reasoning_content"])
def test_thinking_keeps_its_spelling(member: str) -> None:
    """Thinking goes back under the member it came in."""
    ask = asking({"role": "assistant", "content": "x", member: "hm"})
    assert decode(ask).messages[0].content[0] == Thinking(
        text="hm",
        provider_details=None
        if member == "reasoning_content"
        else Details("openai-chat", {}, {"thinking": "reasoning"}),
    )
    assert encode(decode(ask)) == (ask, [])
    both = asking({"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_content": "hm"})
    assert encode(decode(both)) == (both, [])


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (asking({"content": "x"}), "messages[0].role"),
        (asking({"role": "user"}, {"role": "wizard", "content": "x"}), "messages[1].role"),
        (asking({"role": "user", "content": 7}), "messages[0].content"),
        (asking({"role": "user", "content": [{"text": "x"}]}), "messages[0].content[0].type"),
        (
            asking({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}),
            "messages[0].content[0].image_url",
        ),
        (asking({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
        (
            asking({"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}),
            "messages[0].tool_calls[0].function.name",
        ),
        (asking(temperature="hot"), "temperature"),
        (asking(tools=[{"type": "function"}]), "tools[0].function"),
        (asking(stop=7), "stop"),
        ({"model": "m"}, "messages"),
        ({"messages": []}, "model"),
    ],
)
def test_a_wrong_member_is_named(ask: dict[str, Any], param: str) -> None:
    """The error says where the request is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        decode(ask)
    assert caught.value.param == param


def test_what_cannot_be_carried_is_named() -> None:
    """Each loss on the way from another dialect is one warning, and the request stays valid."""
    foreign = Details("anthropic", {"x": Raw(b"1")})
    ask, warnings = encode(
        chat(
            Message(
                role="user",
                content=(
                    Text(text="a", cache=CacheHint(), provider_details=foreign),
                    Document(url="https://x/y.pdf"),
                    Image(file_id="file-1"),
                    Opaque(dialect="anthropic", kind="search_result", raw=Raw(b"{}")),
                ),
            ),
            Message(
                role="assistant",
                content=(
                    Thinking(text="t", signature="s"),
                    Thinking(redacted="r"),
                    ToolCall(id="c", name="f", arguments="{}"),
                    Text(text="after"),
                ),
            ),
            top_k=5,
            tools=(Tool(name="web", opaque=Opaque(dialect="anthropic", kind="web_search", raw=Raw(b"{}"))),),
            tool_choice=ToolChoice(mode="required"),
            parallel_tool_calls=True,
            reasoning=Reasoning(budget_tokens=6000),
            provider_details=foreign,
        )
    )
    assert sorted(warnings) == [
        "openai-chat: anthropic block search_result dropped",
        "openai-chat: anthropic tool web dropped",
        "openai-chat: cache hint dropped",
        "openai-chat: content after a tool call moved before it",
        "openai-chat: document by url dropped",
        "openai-chat: image by file id dropped",
        "openai-chat: redacted thinking dropped",
        "openai-chat: request x dropped",
        "openai-chat: signed thinking dropped",
        "openai-chat: text x dropped",
        "openai-chat: thinking budget of 6000 tokens sent as effort medium, which is approximate",
        "openai-chat: top_k dropped",
    ]
    assert ask == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": "after",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
        ],
        "reasoning_effort": "medium",
    }


def test_tool_results_of_a_user_message_become_tool_messages() -> None:
    """Results first, then the rest; an image inside a result follows behind the last result, with a note in its place."""
    image = Image(media_type="image/png", data="QQ==")
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}
    note = "[image: in the next user message]"
    ask, warnings = encode(
        chat(
            Message(
                role="user",
                content=(
                    ToolResult(call_id="a", content=(Text(text="1"),), is_error=True),
                    Text(text="and"),
                    ToolResult(call_id="b", content=(image,)),
                ),
            ),
            Message(role="tool", content=(ToolResult(call_id="c", content=(image,)),)),
            Message(role="tool", content=(ToolResult(call_id="d"),)),
            Message(role="assistant", content=(Text(text="ok"),)),
        )
    )
    assert ask["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": note},
        {"role": "user", "content": [part, {"type": "text", "text": "and"}]},
        {"role": "tool", "tool_call_id": "c", "content": note},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": "ok"},
    ]
    assert warnings == [
        "openai-chat: is_error of a tool result dropped",
        "openai-chat: image in a tool result moved to a user message",
    ]


@pytest.mark.parametrize(
    ("reasoning", "effort", "lossy"),
    [
        (Reasoning(effort="high"), "high", False),
        (Reasoning(enabled=False, effort="none"), "none", False),
        (Reasoning(budget_tokens=1024), "low", True),
        (Reasoning(budget_tokens=5000), "medium", True),
        (Reasoning(budget_tokens=10_000), "high", True),
        (Reasoning(enabled=False), None, True),
        (Reasoning(), None, False),
    ],
)
def test_reasoning_becomes_an_effort(reasoning: Reasoning, effort: str | None, lossy: bool) -> None:
    """Words are kept; budgets become words by thresholds, with a warning; off is said only where it came so."""
    ask, warnings = encode(chat(reasoning=reasoning))
    assert ask.get("reasoning_effort") == effort
    assert bool(warnings) == lossy


def test_unknown_forms_of_known_members_are_kept() -> None:
    """A tool choice or a format that we cannot type goes back as it came."""
    ask = asking(
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        response_format={"type": "grammar", "grammar": "root"},
    )
    assert encode(decode(ask)) == (ask, [])


# --- requests: any --------------------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
unknown = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["x_one", "x_two"]), st.sampled_from([b"1", b'"a"', b"null", b"[1.0]"]), min_size=1
    ),
).map(lambda found: None if found is None else Details("openai-chat", {k: Raw(v) for k, v in found.items()}))
texts = st.builds(lambda text, details: Text(text=text, provider_details=details), words, unknown)
base64s = st.sampled_from(["QQ==", "AAAA"])
images = st.one_of(
    st.builds(
        lambda data, detail: Image(media_type="image/png", data=data, detail=detail),
        base64s,
        st.none() | words,
    ),
    st.builds(lambda name: Image(url="https://host/" + name), words),
)
documents = st.one_of(
    st.builds(
        lambda data, name: Document(media_type="application/pdf", data=data, name=name), base64s, words
    ),
    st.builds(lambda id_: Document(file_id=id_), words),
)
audio = st.just(
    Opaque(dialect="openai-chat", kind="input_audio", raw=Raw(b'{"type":"input_audio","input_audio":{}}'))
)
calls = st.builds(
    lambda id_, name, arguments, details: ToolCall(
        id=id_, name=name, arguments=arguments, provider_details=details
    ),
    words,
    words,
    st.text(st.characters(exclude_categories=["Cs"])),
    unknown,
)
assistants = st.builds(
    lambda thought, said, refusal, called, details: Message(
        role="assistant", content=(*thought, *said, *refusal, *called), provider_details=details
    ),
    st.lists(st.builds(lambda text: Thinking(text=text), words), max_size=1),
    st.lists(texts, max_size=2),
    st.lists(st.builds(lambda text: Refusal(text=text), words), max_size=1),
    st.lists(calls, max_size=2),
    unknown,
)
messages = st.one_of(
    st.builds(
        lambda role, content, name, details: Message(
            role=role, content=tuple(content), name=name, provider_details=details
        ),
        st.sampled_from(["system", "developer"]),
        st.lists(texts, max_size=2),
        st.none() | words,
        unknown,
    ),
    st.builds(
        lambda content: Message(role="user", content=tuple(content)),
        st.lists(st.one_of(texts, images, documents, audio), max_size=3),
    ),
    assistants,
    st.builds(
        lambda id_, content: Message(role="tool", content=(ToolResult(call_id=id_, content=tuple(content)),)),
        words,
        st.lists(texts, max_size=2),
    ),
)
tools = st.builds(
    lambda name, description, parameters, strict, details: Tool(
        name=name, description=description, parameters=parameters, strict=strict, provider_details=details
    ),
    words,
    st.none() | words,
    st.none() | st.just(Raw(b'{"type":"object"}')),
    st.none() | st.booleans(),
    unknown,
)
chats = st.builds(
    Chat,
    model=words,
    messages=st.lists(messages, max_size=4).map(tuple),
    max_tokens=st.none() | st.integers(1, 1 << 40),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(words, max_size=2).map(tuple),
    seed=st.none() | st.integers(-(1 << 60), 1 << 60),
    n=st.none() | st.integers(1, 9),
    frequency_penalty=st.none() | st.floats(-2, 2),
    presence_penalty=st.none() | st.floats(-2, 2),
    tools=st.lists(tools, max_size=2).map(tuple),
    tool_choice=st.none()
    | st.builds(ToolChoice, mode=st.sampled_from(["auto", "none", "required"]))
    | st.builds(ToolChoice, mode=st.just("tool"), name=words),
    parallel_tool_calls=st.none() | st.booleans(),
    response_format=st.none()
    | st.builds(ResponseFormat, kind=st.sampled_from(["text", "json_object"]))
    | st.builds(
        ResponseFormat,
        kind=st.just("json_schema"),
        name=words,
        schema=st.just(Raw(b"{}")),
        strict=st.none() | st.booleans(),
    ),
    reasoning=st.none() | st.builds(Reasoning, effort=st.sampled_from(["low", "high"])),
    user=st.none() | words,
    stream=st.just(True),
    include_usage=st.booleans(),
    provider_details=unknown,
)


@given(chats)
def test_a_chat_survives_the_wire(asked: Chat) -> None:
    """Any request that the dialect can say is the same after encoding and decoding, without a warning."""
    warnings: list[str] = []
    assert DIALECT.decode_request(DIALECT.encode_request(asked, warnings)) == asked
    assert warnings == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | words, lambda x: st.lists(x) | st.dictionaries(words, x)
    )
)
def test_any_json_is_decoded_or_refused(value: Any) -> None:
    """Whatever stands where messages, tools or parts should, the answer is a chat or `InvalidRequest`."""
    for ask in (
        value,
        asking(value),
        asking({"role": "user", "content": value}),
        asking({"role": "user", "content": [value]}),
        asking({"role": "assistant", "tool_calls": value, "reasoning": value}),
        asking(tools=[value], tool_choice=value, response_format=value, stop=value),
    ):
        with suppress(InvalidRequest):
            DIALECT.encode_request(DIALECT.decode_request(json.dumps(ask).encode()), [])


# --- replies ----------------------------------------------------------------------------------------------------------


def answer(message: dict[str, Any], finish: str | None = "stop", **members: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 7, "model": "m", "choices": [choice], **members}
    ).encode()


def test_a_reply_is_typed() -> None:
    """Thinking, text, refusal and calls in their order; an object as arguments is kept as text; a lost id is made up."""
    reply = DIALECT.decode_reply(
        answer(
            {
                "content": "hi",
                "reasoning": "hm",
                "refusal": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                    {"function": {"name": "g", "arguments": {"y": 2}}},
                ],
            },
            "tool_calls",
            usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        )
    )
    assert reply.text == "hi" and reply.thinking == "hm"
    assert reply.tool_calls == (
        ToolCall(id="a", name="f", arguments='{"x": 1}'),
        ToolCall(id="call_3", name="g", arguments='{"y": 2}'),
    )
    assert (reply.finish, reply.finish_raw, reply.created) == ("tool_calls", "tool_calls", 7)
    assert reply.usage == Usage(input_tokens=3, output_tokens=4)


def test_mistral_thinks_in_parts() -> None:
    """Parts of type `thinking` are thinking, buffered and streamed."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "hi"},
    ]
    reply = DIALECT.decode_reply(answer({"content": parts}))
    assert (reply.thinking, reply.text) == ("hm", "hi")
    streamed = assemble(events(saying(content=parts[:1]), saying("stop", content="hi")))
    assert (streamed.thinking, streamed.text) == ("hm", "hi")


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "total_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(input_tokens=10, output_tokens=20, cache_read_tokens=4, reasoning_tokens=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11, "prompt_cache_hit_tokens": 8},
            Usage(input_tokens=10, output_tokens=1, cache_read_tokens=8),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 1,
                "total_tokens": 111,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            Usage(input_tokens=10, output_tokens=101, reasoning_tokens=100),
        ),
        (
            {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
            Usage(input_tokens=35, output_tokens=74, reasoning_tokens=62),
        ),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(input_tokens=5)),
        (
            {"prompt_tokens": 298, "completion_tokens": 14, "prompt_tokens_details": {"cached_tokens": 387}},
            Usage(input_tokens=298, output_tokens=14, cache_read_tokens=298),
        ),
        (
            {
                "prompt_tokens": 2168,
                "completion_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 2161, "cache_write_tokens": 2161},
            },
            Usage(input_tokens=2168, output_tokens=100, cache_read_tokens=2161, cache_write_tokens=7),
        ),
    ],
)
def test_usage_of_each_kind(wire: dict[str, Any], usage: Usage) -> None:
    """OpenAI, DeepSeek, xAI (thinking beside the completion), Gemini (thinking in the total only), parts beyond the whole."""
    assert DIALECT.decode_reply(answer({"content": "x"}, usage=wire)).usage == usage
    assert [e for e in events(chunk(choices=[], usage=wire)) if isinstance(e, UsageReport)] == [
        UsageReport(usage)
    ]


def test_a_reply_keeps_what_it_does_not_know() -> None:
    """Members at each level, further choices and a cost come back in the same dialect, and are named for another."""
    raw = answer(
        {"content": "x", "annotations": [{"type": "url_citation"}]},
        usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.25},
        service_tier="default",
    )
    body = json.loads(raw)
    body["choices"][0]["logprobs"] = {"content": []}
    body["choices"].append(
        {"index": 1, "message": {"role": "assistant", "content": "y"}, "finish_reason": "stop"}
    )
    reply = DIALECT.decode_reply(json.dumps(body).encode())
    again = json.loads(DIALECT.encode_reply(reply, []))
    again["choices"][0]["message"].pop("refusal")
    for details in ("prompt_tokens_details", "completion_tokens_details"):
        again["usage"].pop(details)
    assert again == body
    warnings: list[str] = []
    foreign = msgspec.structs.replace(reply, provider_details=Details("anthropic", {"x": Raw(b"1")}))
    DIALECT.encode_reply(foreign, warnings)
    assert warnings == ["openai-chat: reply x dropped"]


CLAUDE = "anthropic-claude-v1"


def test_signed_thinking_leaves_in_reasoning_details() -> None:
    """Signatures and redacted thinking are handed out as OpenRouter does."""
    reply = Reply(
        id="c",
        model="m",
        content=(Thinking(text="t", signature="s"), Thinking(redacted="r"), Text(text="x")),
        usage=None,
    )
    warnings: list[str] = []
    message = json.loads(DIALECT.encode_reply(reply, warnings))["choices"][0]["message"]
    assert message["reasoning_content"] == "t" and message["content"] == "x"
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "text": "t", "signature": "s", "format": CLAUDE, "index": 0},
        {"type": "reasoning.encrypted", "data": "r", "format": CLAUDE, "index": 1},
    ]
    assert warnings == []
    pieces = spell(reply_events(reply)).split(b"\n\n")[:-2]
    deltas = [json.loads(piece[6:])["choices"][0]["delta"] for piece in pieces]
    streamed = [detail for delta in deltas for detail in delta.get("reasoning_details", [])]
    assert streamed == message["reasoning_details"]


def test_content_of_an_answer_is_a_string() -> None:
    """Several texts are one, as the API answers; parts that are not plain text stay parts."""
    texts = (Text(text="a"), Text(text="b\n"))
    message = json.loads(DIALECT.encode_reply(Reply(content=texts), []))["choices"][0]["message"]
    assert message["content"] == "ab\n"
    thought = Thinking(text="t", provider_details=Details("openai-chat", {}, {"thinking": "part"}))
    message = json.loads(DIALECT.encode_reply(Reply(content=(thought, *texts)), []))["choices"][0]["message"]
    assert [part["type"] for part in message["content"]] == ["thinking", "text", "text"]


def test_an_old_function_call_is_a_call_in_a_whole_answer_too() -> None:
    """It is named by its function, as its result will be, and comes back in the same form; an empty one is none."""
    said = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    reply = DIALECT.decode_reply(answer(said))
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("f", "f", "{}")]
    again = json.loads(DIALECT.encode_reply(reply, []))["choices"][0]["message"]
    assert again == {**said, "refusal": None}
    history = asking(
        {"role": "user", "content": "x"}, said, {"role": "function", "name": "f", "content": "1"}
    )
    assert encode(decode(history)) == (history, [])
    empty = {"content": "4", "function_call": {"name": "", "arguments": ""}}
    assert DIALECT.decode_reply(answer(empty)).tool_calls == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"id":"c"}',
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        answer({"content": "x"})[:-9],
    ],
)
def test_what_is_no_reply(body: bytes) -> None:
    """Anything else in a 200 is `Malformed`, with the bytes kept."""
    with pytest.raises(Malformed) as caught:
        DIALECT.decode_reply(body)
    assert caught.value.body == body


def test_an_error_in_a_good_answer() -> None:
    """An error object in the body of a 200 is raised as the classified error."""
    with pytest.raises(ProviderError, match="slow down") as caught:
        DIALECT.decode_reply(b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}')
    assert caught.value.kind == "rate_limited"


def test_a_filtered_answer_without_a_message() -> None:
    """Azure leaves the message out when its filter withheld the answer."""
    reply = DIALECT.decode_reply(b'{"id":"c","choices":[{"index":0,"finish_reason":"content_filter"}]}')
    assert (reply.content, reply.finish) == ((), "content_filter")


@pytest.mark.parametrize(
    ("reason", "raw", "word"),
    [
        ("stop", "end_turn", "stop"),
        ("stop_sequence", "stop_sequence", "stop"),
        ("tool_calls", "function_call", "function_call"),
        ("tool_calls", "tool_use", "tool_calls"),
        ("refusal", "refusal", "content_filter"),
        ("context_full", None, "length"),
        ("pause", "pause_turn", "stop"),
        ("other", "insufficient_system_resource", "insufficient_system_resource"),
        ("other", None, "stop"),
    ],
)
def test_finish_words(reason: Any, raw: str | None, word: str) -> None:
    """Other dialects' reasons become the nearest word; this dialect's own word is kept, buffered and streamed."""
    reply = Reply(content=(Text(text="x"),), finish=reason, finish_raw=raw)
    assert json.loads(DIALECT.encode_reply(reply, []))["choices"][0]["finish_reason"] == word
    encoder = DIALECT.encoder(include_usage=False, model="m", id="c")
    streamed = json.loads(encoder.feed(Finish(reason, raw))[6:])
    assert streamed["choices"][0]["finish_reason"] == word


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_of_text() -> None:
    """A role is no content; the block ends with the finish; usage and the marker follow; every frame keeps its bytes."""
    data = [
        saying(role="assistant", content=""),
        saying(content="a"),
        saying(content="b"),
        saying("stop"),
        chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2}),
        b"data: [DONE]\n\n",
    ]
    got = frames(*data)
    assert [frame.events for frame in got] == [
        (Start("c", "m", 7),),
        (BlockStart(0, Text(text="")), Delta(0, "text", "a")),
        (Delta(0, "text", "b"),),
        (BlockStop(0), Finish("stop", "stop")),
        (UsageReport(Usage(input_tokens=1, output_tokens=2)),),
        (End(),),
    ]
    assert [frame.raw for frame in got] == data
    assert {frame.dialect for frame in got} == {"openai-chat"}


def test_only_a_usage_chunk_is_hidden() -> None:
    """What the caller did not ask for is marked; usage on a chunk with choices stays, and so does an empty chunk."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    data = [
        chunk(choices=[], prompt_filter_results=[]),
        chunk(choices=[{"index": 0, "delta": {"content": "x"}}], usage=usage),
        chunk(choices=[], usage=usage),
    ]
    assert [frame.hidden for frame in frames(*data, hide_usage=True)] == [False, False, True]
    assert [frame.hidden for frame in frames(*data)] == [False, False, False]


def test_usage_in_every_chunk_and_of_groq() -> None:
    """Each report replaces the one before; Groq's is found in its own member; a null or odd one is none."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    data = [
        chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1}),
        chunk(choices=[], usage=None),
        chunk(choices=[], usage={"prompt_tokens": "many"}),
        chunk(choices=[], x_groq={"id": "r"}),
        chunk(choices=[], x_groq={"usage": usage}),
    ]
    assert events(*data) == [
        UsageReport(Usage(input_tokens=1, output_tokens=1)),
        UsageReport(Usage(input_tokens=1, output_tokens=2)),
    ]


def test_thinking_text_and_refusal_follow_one_another() -> None:
    """A block is closed when the next begins."""
    got = events(
        saying(reasoning_content="t"), saying(reasoning="u"), saying(content="x"), saying("stop", refusal="n")
    )
    assert got[1:] == [
        BlockStart(0, Thinking()),
        Delta(0, "thinking", "t"),
        Delta(0, "thinking", "u"),
        BlockStop(0),
        BlockStart(1, Text(text="")),
        Delta(1, "text", "x"),
        BlockStop(1),
        BlockStart(2, Refusal(text="")),
        Delta(2, "refusal", "n"),
        BlockStop(2),
        Finish("stop", "stop"),
    ]


def call(index: int | None, id_: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if id_ is not None:
        piece["id"] = id_
    return piece


A, B = ToolCall(id="a", name="f", arguments="12"), ToolCall(id="b", name="g", arguments="34")


@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, "a", "f", ""), call(0, None, None, "12"), call(1, "b", "g", ""), call(1, None, None, "34")],
        [call(0, "a", "f", "1"), call(1, "b", "g", "3"), call(0, None, None, "2"), call(1, None, None, "4")],
        [call(0, "a", "f", "1"), call(0, "a", "f", "2"), call(1, "b", "g", "3"), call(1, "b", "g", "4")],
        [
            call(None, "a", "f", "1"),
            call(None, None, None, "2"),
            call(None, "b", "g", "3"),
            call(None, "b", None, "4"),
        ],
        [call(0, "a", "f", "12"), call(0, "b", "g", "3"), call(0, None, None, "4")],
        [call(0, "a", "f", 12), call(1, "b", "g", None), call(1, None, None, 34)],
    ],
    ids=["in order", "interleaved", "repeated ids", "no index", "index always 0", "arguments as JSON"],
)
@pytest.mark.parametrize("together", [False, True])
def test_parallel_tool_calls(pieces: list[dict[str, Any]], together: bool) -> None:
    """Two calls come out whole, however a server cuts and numbers them."""
    data = [saying(tool_calls=pieces)] if together else [saying(tool_calls=[piece]) for piece in pieces]
    got = events(saying(content="x"), *data, saying("tool_calls"))
    assert assemble(got).content == (Text(text="x"), A, B)
    opened = [event.index for event in got if isinstance(event, BlockStart)]
    assert opened == [0, 1, 2]
    assert sorted(event.index for event in got if isinstance(event, BlockStop)) == opened


def test_an_old_function_call_and_a_call_without_id() -> None:
    """The legacy member is a call; a missing id is made up from the block's place."""
    got = assemble(
        events(
            saying(function_call={"name": "f", "arguments": "1"}),
            saying("function_call", function_call={"arguments": "2"}),
        )
    )
    assert got.content == (ToolCall(id="call_0", name="f", arguments="12"),)
    assert (got.finish, got.finish_raw) == ("tool_calls", "function_call")


def test_only_the_first_choice_becomes_events() -> None:
    """Other choices stay in the bytes."""
    data = [
        chunk(choices=[{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]),
        chunk(choices=[{"index": 1, "delta": {"content": "no"}}]),
    ]
    assert assemble(events(*data)).text == "yes"
    assert frames(*data)[1].events == ()


def test_signs_of_life() -> None:
    """Comments and empty events are pings with their bytes; an object that is no chunk is opaque."""
    got = frames(b": OPENROUTER PROCESSING\n\n", b"data:\n\n", b'data: {"type":"ping"}\n\n')
    assert [frame.events for frame in got] == [(Ping(),), (Ping(),), (OpaqueEvent("openai-chat", "ping"),)]
    assert got[0].raw == b": OPENROUTER PROCESSING\n\n"


@pytest.mark.parametrize(
    "bad",
    [
        b'data: {"error":{"message":"overloaded","type":"server_error","code":503}}\n\n',
        b'event: error\ndata: {"message":"overloaded"}\n\n',
        b'data: {"object":"error","message":"overloaded"}\n\n',
        b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"error"}],"error":{"message":"overloaded"}}\n\n',
        b"data: <html>\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b'data: {"choices":7}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_an_error_inside_a_stream(bad: bytes) -> None:
    """An error event, or what is no chunk, is raised with the frames before it on the error."""
    decoder = DIALECT.decoder(hide_usage=False)
    with pytest.raises(ProviderError) as caught:
        decoder.feed(saying(content="x") + bad + saying(content="y"))
    assert assemble([e for frame in caught.value.frames for e in frame.events]).text == "x"
    assert ("overloaded" in caught.value.message) == (b"overloaded" in bad)


def test_null_errors_are_none() -> None:
    """`"error": null` on a chunk means nothing."""
    assert events(chunk(choices=[{"index": 0, "delta": {"content": "x"}}], error=None))[-1] == Delta(
        0, "text", "x"
    )


def test_a_marker_without_a_reason_is_a_clean_end() -> None:
    """Servers that send `[DONE]` and never a reason have finished; nothing after the marker counts."""
    got = events(saying(content="x"), b"data: [DONE]\n\n", saying(content="late"))
    assert got[-3:] == [BlockStop(0), Finish("other"), End()]
    assert events(saying(tool_calls=[call(0, "a", "f", "12")]), b"data: [DONE]\n\n")[-2] == Finish(
        "tool_calls"
    )
    assert events(b"data: [DONE]\n\n") == [End()]


def test_a_cut_stream_has_no_end() -> None:
    """Bytes that stop without reason and marker give neither."""
    assert not any(isinstance(event, Finish | End) for event in events(saying(content="x")))


# --- streams: encoding ------------------------------------------------------------------------------------------------


def spell(said: list[Event], *, include_usage: bool = False) -> bytes:
    encoder = DIALECT.encoder(include_usage=include_usage, model="m", id="c")
    return b"".join(encoder.feed(event) for event in said) + encoder.end()


def test_a_stream_is_spelled_as_openai_does() -> None:
    """Role first, then pieces, the finish, the usage chunk when asked for, the marker."""
    reply = Reply(
        id="other",
        model="other",
        created=7,
        content=(Text(text="hi"), A),
        finish="tool_calls",
        usage=Usage(input_tokens=3, output_tokens=4, cache_read_tokens=1, reasoning_tokens=2),
    )
    data = spell(reply_events(reply), include_usage=True).split(b"\n\n")
    assert data[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(piece[6:]) for piece in data[:-2]]
    assert {(c["id"], c["model"], c["object"], c["created"]) for c in chunks} == {
        ("c", "m", "chat.completion.chunk", 7)
    }
    assert [c["choices"][0]["delta"] if c["choices"] else None for c in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "hi"},
        {
            "tool_calls": [
                {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "12"}}]},
        {},
        None,
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * 4 + ["tool_calls"]
    assert [c["usage"] for c in chunks] == [None] * 5 + [
        {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
    ]
    assert b'"usage"' not in spell(reply_events(reply))
    assert spell([Complete(reply)]) == spell(reply_events(reply))
    assert DIALECT.encoder(include_usage=True, model="m", id="c").end() == b"data: [DONE]\n\n"


blocks = st.lists(
    st.one_of(
        st.builds(lambda text: Text(text=text), words),
        st.builds(lambda text: Thinking(text=text), words),
        st.builds(lambda text: Refusal(text=text), words),
        st.builds(lambda id_, args: ToolCall(id=id_, name="f", arguments=args), words, words),
    ),
    max_size=5,
).filter(lambda found: all(type(a) is not type(b) or type(a) is ToolCall for a, b in pairwise(found)))
replies = st.builds(
    lambda content, finish, usage: Reply(
        id="c",
        model="m",
        created=7,
        content=tuple(content),
        finish=finish[0],
        finish_raw=finish[1],
        usage=usage,
    ),
    blocks,
    st.sampled_from(
        [
            ("stop", "stop"),
            ("length", "length"),
            ("tool_calls", "tool_calls"),
            ("content_filter", "content_filter"),
        ]
    ),
    st.none()
    | st.builds(
        Usage,
        input_tokens=st.integers(3, 9),
        output_tokens=st.integers(5, 9),
        cache_read_tokens=st.integers(0, 3),
        reasoning_tokens=st.integers(0, 5),
    ),
)


@given(replies, st.lists(st.integers(0, 3000)))
def test_a_reply_survives_a_stream_cut_anywhere(reply: Reply, cuts: list[int]) -> None:
    """A streamed reply is assembled to the same reply, and the frames do not depend on how the reads fall."""
    data = spell(reply_events(reply), include_usage=True)
    whole = frames(data)
    assert assemble([event for frame in whole for event in frame.events]) == reply
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert frames(*[data[a:b] for a, b in pairwise(at)]) == whole
    assert frames(*[data[i : i + 1] for i in range(len(data))]) == whole


@given(replies)
def test_a_reply_survives_a_body(reply: Reply) -> None:
    """A buffered reply in the dialect's own order of blocks decodes to the same reply, and to what its stream spells."""
    order = [Thinking, Text, Refusal, ToolCall]
    kept: list[Block] = []
    for kind in order:
        found = [block for block in reply.content if isinstance(block, kind)]
        kept += found if kind in (ToolCall, Text) else found[:1]
    texts_joined = (
        [b for b in kept if not isinstance(b, Text)] if sum(isinstance(b, Text) for b in kept) > 1 else kept
    )
    reply = msgspec.structs.replace(reply, content=tuple(texts_joined))
    warnings: list[str] = []
    body = DIALECT.encode_reply(reply, warnings)
    assert DIALECT.decode_reply(body) == reply
    assert assemble(events(spell(reply_events(reply), include_usage=True))) == DIALECT.decode_reply(body)
    assert warnings == []


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(kinds(HeadraceError)))
def test_errors_have_the_envelope(kind: str) -> None:
    """Every kind of error is an OpenAI error object with a type and the id of the request; a stream's is one data event."""
    body = DIALECT.encode_error(kind, 'no "good"', status=400, request_id="r1")
    error = json.loads(body)["error"]
    assert error["message"] == 'no "good"' and error["request_id"] == "r1"
    assert set(error) == {"message", "type", "param", "code", "request_id"} and error["type"]
    assert DIALECT.encode_stream_error(kind, 'no "good"', status=400, request_id="r1") == (
        b"data: " + body + b"\n\n"
    )


def test_error_codes_that_clients_act_on() -> None:
    """The codes that OpenAI's own clients and their users look for."""
    codes = {
        kind: json.loads(DIALECT.encode_error(kind, "x", status=status, request_id="r"))["error"]["code"]
        for kind, status in [
            ("rate_limited", 429),
            ("budget_exceeded", 402),
            ("context_too_long", 400),
            ("unauthorized", 401),
            ("model_not_found", 404),
            ("content_filtered", 400),
        ]
    }
    assert codes == {
        "rate_limited": "rate_limit_exceeded",
        "budget_exceeded": "insufficient_quota",
        "context_too_long": "context_length_exceeded",
        "unauthorized": "invalid_api_key",
        "model_not_found": "model_not_found",
        "content_filtered": "content_filter",
    }


# --- the official client ----------------------------------------------------------------------------------------------


def client(body: bytes, content_type: str, status: int = 200) -> openai.OpenAI:
    """The official client, answered with `body`."""
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(status, content=body, headers={"content-type": content_type})
    )
    return openai.OpenAI(
        api_key="k", base_url="http://x/v1", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


SPOKEN = Reply(
    id="c",
    model="m",
    created=7,
    content=(Thinking(text="hm"), Text(text="hi \u4e16"), A, B),
    finish="tool_calls",
    finish_raw="tool_calls",
    usage=Usage(input_tokens=3, output_tokens=4, cache_read_tokens=1, reasoning_tokens=2),
)


def test_the_official_client_reads_our_answers() -> None:
    """A buffered answer passes the client's own strict models."""
    body = DIALECT.encode_reply(SPOKEN, [])
    with client(body, "application/json") as sdk:
        made = sdk.chat.completions.create(model="m", messages=[])
    type(made).model_validate_json(body, strict=True)
    message = made.choices[0].message
    assert message.content == "hi \u4e16" and made.choices[0].finish_reason == "tool_calls"
    assert [
        (c.id, c.function.name, c.function.arguments)
        for c in message.tool_calls or ()
        if c.type == "function"
    ] == [
        ("a", "f", "12"),
        ("b", "g", "34"),
    ]
    assert made.usage is not None and made.usage.total_tokens == 7


def test_the_official_client_reads_our_streams() -> None:
    """The client's own assembler makes the same answer of our chunks."""
    with (
        client(spell(reply_events(SPOKEN), include_usage=True), "text/event-stream") as sdk,
        sdk.chat.completions.stream(model="m", messages=[]) as stream,
    ):
        made = stream.get_final_completion()
    message = made.choices[0].message
    assert message.content == "hi \u4e16" and made.choices[0].finish_reason == "tool_calls"
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()] == [
        ("a", "f", "12"),
        ("b", "g", "34"),
    ]
    assert made.usage is not None and made.usage.total_tokens == 7


def test_the_official_client_raises_our_errors() -> None:
    """An error body is the client's typed error; an error inside a stream is raised after what came before it."""
    body = DIALECT.encode_error("rate_limited", "slow down", status=429, request_id="r")
    with client(body, "application/json", 429) as sdk, pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(model="m", messages=[])
    assert caught.value.code == "rate_limit_exceeded"
    broken = saying(content="x") + DIALECT.encode_stream_error(
        "stream_broken", "cut off", status=502, request_id="r"
    )
    with (
        client(broken, "text/event-stream") as sdk,
        sdk.chat.completions.create(model="m", messages=[], stream=True) as stream,
    ):
        assert next(stream).choices[0].delta.content == "x"
        with pytest.raises(openai.APIError, match="cut off"):
            next(stream)


USUAL: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1795514400,
    "model": "gpt-4o-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "é", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 118,
        "completion_tokens": 96,
        "total_tokens": 214,
        "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}
odd = st.sampled_from(
    ["", "word", "error", "length", 0, 3, -1, 1.5, 1e300, 2**70, True, None, [], [None], [3], {}, {"a": 1}]
)
edits = st.lists(
    st.tuples(
        st.sampled_from(
            [
                (),
                ("usage",),
                ("usage", "prompt_tokens_details"),
                ("choices",),
                ("choices", 0),
                ("choices", 0, "message"),
            ]
        ),
        st.integers(0, 9),
        st.sampled_from(["other", "change", "remove"]),
        odd,
    ),
    max_size=3,
)


def edited(places: list[tuple[tuple[Any, ...], int, str, Any]]) -> dict[str, Any]:
    """The usual answer with members put in, exchanged or taken out."""
    answer: Any = json.loads(json.dumps(USUAL))
    for path, number, deed, put in places:
        at, value = answer, json.loads(json.dumps(put))
        with suppress(LookupError, TypeError):
            for step in path:
                at = at[step]
            if isinstance(at, list):
                at.append(value)
            elif deed == "other":
                at["other"] = value
            elif deed == "change":
                at[list(at)[number % max(1, len(at))]] = value
            else:
                del at[list(at)[number % max(1, len(at))]]
    made: dict[str, Any] = answer
    return made


@given(edits)
def test_the_usual_answer_is_read_as_any_other(places: list[tuple[tuple[Any, ...], int, str, Any]]) -> None:
    """An empty member that nobody knows, for which an answer is read member by member, changes neither the reply nor the error."""

    def read(body: dict[str, Any]) -> object:
        try:
            reply = DIALECT.decode_reply(json.dumps(body).encode())
        except ProviderError as error:
            return f"{type(error)} {error}"
        details = reply.provider_details
        told = () if details is None else sorted((name, bytes(raw)) for name, raw in details.members.items())
        return msgspec.structs.replace(reply, provider_details=None), told

    answer = edited(places)
    assert read(answer) == read({**answer, "nobody knows": None})


# --- recorded traffic -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchanges(recordings: list[Any]) -> list[Any]:
    """What was recorded of chat completions, of OpenAI and of 16 compatible providers."""
    return [item for item in recordings if item.path.endswith("/chat/completions")]


def plain(value: Any, path: str = "") -> Any:
    """`value` in the one spelling where the dialect has two: nothing for null and empty, a string for one text part."""
    if isinstance(value, list):
        if path.endswith(".content") and len(value) == 1 and value[0].keys() == {"type", "text"}:
            return value[0]["text"]
        return [plain(item, path) for item in value]
    if isinstance(value, dict):
        kept = {name: plain(item, f"{path}.{name}") for name, item in value.items()}
        return {name: item for name, item in kept.items() if item not in (None, [], {}, "")}
    return value


def test_recorded_requests_lose_nothing(exchanges: list[Any]) -> None:
    """Every recorded request decoded and encoded again is the same JSON, but for defaults that were spelled out."""
    count = 0
    for item in exchanges:
        if not item.req_body.lstrip().startswith(b"{") or b'"model"' not in item.req_body:
            continue
        ask = json.loads(item.req_body)
        if ask.get("model") is None:
            continue
        for message in ask["messages"]:
            for made in message.get("tool_calls") or ():
                made.pop("index", None)
        for tool in ask.get("tools") or ():
            tool.setdefault("type", "function")
        if isinstance(ask.get("tool_choice"), dict):
            ask["tool_choice"].setdefault("type", "function")
        if ask.get("stream") is False:
            del ask["stream"]
        warnings: list[str] = []
        typed = DIALECT.decode_request(item.req_body)
        wire = DIALECT.encode_request(typed, warnings)
        assert plain(json.loads(wire)) == plain(ask)
        assert DIALECT.decode_request(wire) == typed
        assert warnings == []
        spliced = DIALECT.splice(item.req_body, model="other", include_usage=False, max_tokens=None)
        assert json.loads(spliced) == {**json.loads(item.req_body), "model": "other"}
        count += 1
    assert count >= 830


def test_recorded_answers_lose_nothing(exchanges: list[Any]) -> None:
    """Every recorded buffered answer decoded and encoded again is the same JSON, its counts of tokens apart."""
    count = errors = 0
    for item in exchanges:
        if item.status != 200 or item.stream:
            continue
        try:
            reply = DIALECT.decode_reply(item.body)
        except ProviderError as error:
            errors += b'"error"' in item.body and not isinstance(error, Malformed)
            continue
        count += 1
        before, after = json.loads(item.body), json.loads(DIALECT.encode_reply(reply, []))
        for body in (before, after):
            counts = body.pop("usage", None)
            if body is before and counts:
                assert reply.usage is not None
                assert reply.usage.input_tokens == counts["prompt_tokens"]
                assert reply.usage.total_tokens == counts["total_tokens"]
            for made in body["choices"][0].get("message", {}).get("tool_calls") or ():
                made.pop("index", None)
                made.setdefault("type", "function")
                if body is after and made["id"].startswith("call_") and len(made["id"]) == 6:
                    made["id"] = ""
            for part in body["choices"][0].get("message", {}).get("content") or ():
                if isinstance(part, dict):
                    part.pop("closed", None)
            body["choices"][0].setdefault("message", {})["role"] = "assistant"
            if not body["choices"][0].get("finish_reason"):
                body["choices"][0]["finish_reason"] = "stop"
            body.setdefault("created", 0)
            body.setdefault("object", "chat.completion")
        assert plain(after) == plain(before)
    assert (count, errors, count + errors) == (399, 5, 404)


def test_recorded_streams_are_whole(exchanges: list[Any]) -> None:
    """Every recorded stream has one start, one reason and matching blocks, keeps its bytes, and is equal after encoding."""
    count = errors = 0
    for item in exchanges:
        if item.status != 200 or not item.stream:
            continue
        try:
            got = frames(item.body, hide_usage=True)
        except ProviderError as error:
            errors += b'"error"' in item.body and not isinstance(error, Malformed)
            continue
        count += 1
        said = [event for frame in got for event in frame.events]
        types = [type(event) for event in said]
        assert types.count(Start) == types.count(Finish) == 1
        assert [e.index for e in said if isinstance(e, BlockStart)] == sorted(
            e.index for e in said if isinstance(e, BlockStop)
        )
        assert b"".join(frame.raw or b"" for frame in got).strip() == item.body.strip()
        reply = assemble(said)
        again = assemble(events(spell(said, include_usage=True)))
        assert (again.content, again.usage) == (reply.content, reply.usage)
        if reply.finish_raw is not None:
            assert (again.finish, again.finish_raw) == (reply.finish, reply.finish_raw)
    assert (count, errors, count + errors) == (297, 3, 300)


def test_recorded_streams_do_not_depend_on_the_reads(exchanges: list[Any]) -> None:
    """Streams of each provider, cut into pieces of several sizes, give the same frames."""
    seen: dict[str, int] = {}
    for item in exchanges:
        seen[item.provider] = seen.get(item.provider, 0) + 1
        if item.status != 200 or not item.stream or seen[item.provider] > 6 or b'"error"' in item.body:
            continue
        whole = frames(item.body)
        for size in (1, 7, 1000):
            if len(item.body) // size < 40_000:
                pieces = [item.body[i : i + size] for i in range(0, len(item.body), size)]
                assert frames(*pieces) == whole
    assert len(seen) >= 15
