"""What goes in comes out: the bytes of a body and of an answer in one dialect, and the objects that a layer has no business with."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from tests.gateway.gate import Gate

from headrace import config, dialects, engine
from headrace.handler import Body, Handler, Layer, OneBatch, Request, Stream, stack
from headrace.testing import ManualClock, Raw
from headrace.types import Complete, Frame, Reply

both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])

USAGE = b',"stream_options":{"include_usage":true}'

BODIES: dict[str, bytes] = {
    "unknown members": b'{"model":"M","max_tokens":5,"messages":[{"role":"user","content":"hi","x":{"y":[1]}}],"new":null,"_":{}S}',
    "spacing": b'  {\t"model"\r\n:  "M" ,\n "max_tokens" :5 , "messages" : [ {"role":"user" , "content" : "hi" } ]  S }\n\n',
    "numbers": b'{"model":"M","max_tokens":5,"temperature":1.0,"top_p":1e0,"x":[1e2,1E+2,-0,0.10,100000000000000000000001],'
    b'"messages":[{"role":"user","content":"hi"}]S}',
    "escapes": b'{"model":"M","max_tokens":5,"messages":[{"role":"user","content":"\\u0068\\u0069 \\u00fc \\/ \\ud83d\\ude00"}]S}',
    "unicode": '{"model":"M","max_tokens":5,"messages":[{"role":"user","content":"ü 世界 👋 \u2028"}],"é":1S}'.encode(),
    "order": b'{"tools":[],"messages":[{"content":"hi","role":"user"}]S,"max_tokens":5,"z":1,"model":"M","a":2}',
    "decoys": b'{"messages":[{"role":"user","content":"\\"model\\": \\"x\\" {\\"model\\":1}"}],"metadata":{"model":"x","stream":1},'
    b'"max_tokens":5S,"model":"M"}',
    "same member twice": b'{"model":"M","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"x":1,"x":2S}',
    "cache marks": b'{"model":"M","max_tokens":5,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral","ttl":"1h"}}],'
    b'"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}]S}',
    "signatures": b'{"model":"M","max_tokens":5,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":'
    b'[{"type":"thinking","thinking":"\\u0041 ","signature":"Eq+/=\\u003d"},{"type":"redacted_thinking","data":"x=="},'
    b'{"type":"text","text":"a"}]},{"role":"user","content":"b"}]S}',
}


@both
@streamed
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_arrive_byte_for_byte(gate: Gate, dialect: str, stream: bool, body: bytes) -> None:
    """The provider gets the caller's bytes but for the model's name, and what asks for usage at the end of the body."""
    sent = body.replace(b"S", b', "stream" : true' if stream else b"").replace(
        b'"M"', f'"{dialect}/m"'.encode(), 1
    )
    assert gate.post(dialect, sent).status == 200
    got = gate.provider.requests[0].body
    if stream and dialect == "openai":
        assert got.count(USAGE) == 1
        assert got[got.index(USAGE) + len(USAGE) :].strip() == b"}"
        got = got.replace(USAGE, b"")
    assert got == sent.replace(f'"{dialect}/m"'.encode(), b'"m"', 1)


@both
def test_options_of_the_caller_are_added_to(gate: Gate, dialect: str) -> None:
    """Other stream options stay, as they are spelled."""
    body = (
        b'{"model":"M","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"stream":true,'
        b'"stream_options": { "include_obfuscation" :false, "new":[1.0] }}'
    ).replace(b"M", f"{dialect}/m".encode())
    assert gate.post(dialect, body).status == 200
    got = gate.provider.requests[0]
    if dialect == "openai":
        assert got.json["stream_options"] == {
            "include_obfuscation": False,
            "new": [1.0],
            "include_usage": True,
        }
        assert b'"include_obfuscation" :false, "new":[1.0]' in got.body
    else:
        assert got.body == body.replace(b"anthropic/m", b"m")


ANSWERS = {
    "openai": b'{ "id":"c1" ,"object":"chat.completion","created":1.0e9,"model":"m","new":{"a":[1,{}]},"choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"\\u0068i","new":1},"finish_reason":"stop","logprobs":null}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"new":0.10}}\n ',
    "anthropic": b'{"type":"message", "id":"m1","role":"assistant","model":"m","content":[{"type":"new_block","x":[1.0]},{"type":"text",'
    b'"text":"\\u0068i","citations":null}],"stop_reason":"end_turn","stop_sequence":null,'
    b'"usage":{"input_tokens":1,"output_tokens":2,"new":1e2}}\n',
}
STREAMS = {
    "openai": b': a comment\n\ndata:{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","x":1.0,"choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":"\\u0068i","new":1},"finish_reason":null}]}\n\n'
    b'event: chunk\nid: 7\ndata: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},'
    b'"finish_reason":"stop"}]}\r\n\r\n',
    "anthropic": b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1},"x":1.0}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"new_block","y":[ ]}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"new_delta","z":"\\u0041"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: new_event\ndata: {"type":"new_event","q":1e2}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null,"k":1},'
    b'"usage":{"output_tokens":2}}\n\n',
}
END = {
    "openai": b"data: [DONE]\n\n",
    "anthropic": b'event: message_stop\ndata: {"type": "message_stop", "x":1}\n\n',
}


@both
def test_answers_arrive_byte_for_byte(gate: Gate, dialect: str) -> None:
    """Whole answers with members, blocks and spellings that nobody has heard of."""
    data = ANSWERS[dialect]
    gate.provider.script(
        Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(data), data)
        )
    )
    body = b'{"model":"%b/m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}' % dialect.encode()
    assert gate.post(dialect, body).body == data


@both
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_streams_arrive_byte_for_byte(gate: Gate, dialect: str, size: int) -> None:
    """Events and members that nobody has heard of, comments and all; our receipt stands before the last event."""
    data = STREAMS[dialect] + END[dialect]
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for at in range(0, len(data), size)
        if (piece := data[at : at + size])
    )
    gate.provider.script(
        Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            + chunks
            + b"0\r\n\r\n"
        )
    )
    body = (
        b'{"model":"%b/m","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"stream":true}'
        % dialect.encode()
    )
    got = gate.post(dialect, body).body
    start = got.index(b": headrace ")
    end = got.index(b"\n\n", start) + 2
    assert got[:start] + got[end:] == data
    assert got[end:] == END[dialect]


# --- layer by layer ---------------------------------------------------------------------------------------------------


OWN: dict[str, set[str]] = {
    # The members of a request that a layer sets; it leaves every other one as it is, and a layer that is not here all of them.
    "deadline": {"deadline"},
    "cascade": {"target", "last_level", "commit_by"},
    "retry": {"attempt"},
}


@both
@streamed
def test_a_layer_leaves_alone_what_is_not_its_own(
    dialect: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two layers of the engine's own stack: the body is the caller's very object, the stream the provider's, and the
    request the very one from above, or differs from it in the layer's own members only."""
    seen: list[tuple[str, Request, Stream]] = []
    answer = OneBatch([Frame((Complete(Reply()),), b"{ }", dialect)])

    def spy(name: str) -> Layer:
        def layer(inner: Handler) -> Handler:
            async def handle(request: Request) -> Stream:
                stream = await inner(request)
                seen.append((name, request, stream))
                return stream

            return handle

        return layer

    async def provider(request: Request) -> Stream:
        return answer

    def watched(*layers: Layer, handler: Handler) -> Handler:
        between = [
            part
            for note, layer in zip(engine.LAYERS, layers, strict=False)
            for part in (layer, spy(note.name))
        ]
        return stack(spy("caller"), *between, handler=provider)

    async def main() -> Stream:
        monkeypatch.setattr(engine, "stack", watched)
        environ = {"HOME": str(tmp_path), "OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"}
        made = engine.Engine(config.load(environ=environ, cwd=tmp_path), clock=ManualClock())
        try:
            request = Request(body=body, route=made.route("anthropic/m"), call=made.new_call(), stream=stream)
            return await made.handle(request)
        finally:
            await made.aclose()

    wire = {"openai": "openai-chat", "anthropic": "anthropic"}[dialect]
    body = Body(wire=BODIES["numbers"].replace(b"S", b""), dialect=dialects.by_name(wire))
    assert asyncio.run(main()) is answer
    names = [note.name for note in engine.LAYERS[:-1]]
    seen.reverse()  # outermost first
    assert [where for where, _, _ in seen] == ["caller", *names]
    for (_, above, _), (name, below, got) in itertools.pairwise(seen):
        assert below.body is body, name
        assert got is answer, name
        changed = {
            field for field in Request.__struct_fields__ if getattr(below, field) is not getattr(above, field)
        }
        assert changed <= OWN.get(name, set()), name
        assert below is above or changed, f"{name} made a copy for nothing"
