"""Streams through the gateway: who hangs up, who dies, who reads slowly, and what stands at the end."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.gate import KEY, PAIRS, PATHS, Gate, ask, clock, wait_for

from headrace.testing import (
    Answer,
    BadChunk,
    CleanCut,
    CutStream,
    ErrorEvent,
    Fault,
    Garbage,
    RateLimited,
    Raw,
    Reset,
    Silence,
    SlowDrip,
    Stall,
    Wire,
)

pytestmark = pytest.mark.parametrize("running", ["uvloop", "asyncio"], indirect=True)
pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)

LAST = {"openai": b"data: [DONE]\n\n", "anthropic": b"event: message_stop\n"}
ONE_TWO = Answer(chunks=["one ", "two ", "three ", "four"], usage=(7, 4))


@contextmanager
def asking(gate: Gate, client: str, body: bytes) -> Iterator[socket.socket]:
    """A connection on which `body` has been sent to the endpoint of `client`."""
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.connect(("127.0.0.1", gate.port))
        head = (
            f"POST {PATHS[client]} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            f"content-length: {len(body)}\r\nanthropic-version: 2023-06-01\r\n\r\n"
        )
        sock.sendall(head.encode() + body)
        yield sock


def read_until(sock: socket.socket, what: bytes) -> bytes:
    """Everything up to and with the packet that has `what`."""
    data = b""
    while what not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def request_id(data: bytes) -> str:
    """From the answer's headers."""
    found = re.search(rb"x-request-id: (\S+)", data)
    assert found is not None
    return found[1].decode()


def receipt(body: bytes) -> Any:
    """The comment that stands directly before the last event, which has no other place."""
    lines = [event for event in body.split(b"\n\n") if event.startswith(b": headrace ")]
    assert len(lines) == 1
    return json.loads(lines[0].removeprefix(b": headrace "))


# --- the client leaves ------------------------------------------------------------------------------------------------


@pairs
def test_a_client_that_leaves_in_the_middle(gate: Gate, client: str, provider: str) -> None:
    """The provider's connection is closed within a second, the attempt is booked as cancelled, nothing stays open."""
    gate.provider.fault(Stall(after=2, answer=ONE_TWO))
    with asking(gate, client, ask(client, f"{provider}/m", stream=True)) as sock:
        data = read_until(sock, b"two ")
        left = clock.now()
    received = gate.provider.requests[0]
    wait_for(lambda: received.hung_up_at, 1.0)
    assert received.hung_up_at is not None and received.hung_up_at - left < 1.0
    gate.settled()
    report = gate.report(request_id(data))
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["cancelled"]
    assert report["status"] == 499
    assert gate.on_loop(lambda: len(gate.gateway.server.connections)) == 0


@pairs
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_a_client_that_leaves_before_the_answer(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """So it is while the answer is still waited for, whole or streamed; no other attempt is made."""
    gate.provider.default = Silence()
    with asking(gate, client, ask(client, f"{provider}/m", stream=stream)):
        wait_for(lambda: gate.provider.requests)
    received = gate.provider.requests[0]
    wait_for(lambda: received.hung_up_at, 1.0)
    gate.settled()
    recent = gate.run(gate.engine.store.recent(1))[0]
    assert recent.status == 499
    assert [attempt.outcome for attempt in recent.attempts] == ["cancelled"]
    assert len(gate.provider.requests) == 1


def test_a_client_that_leaves_while_a_retry_waits(gate: Gate) -> None:
    """Nobody asks again for someone who is gone."""
    gate.provider.fault(RateLimited(retry_after=0.3))
    with asking(gate, "openai", ask("openai", "openai/m")):
        wait_for(lambda: gate.provider.requests and gate.provider.requests[0].answered_at)
    gate.settled()
    assert len(gate.provider.requests) == 1


@pairs
def test_a_finished_stream_leaves_its_connection_to_the_next(gate: Gate, client: str, provider: str) -> None:
    """Ten streams one after another take one connection to the provider."""
    before = gate.provider.connections
    for _ in range(10):
        assert LAST[client] in gate.post(client, ask(client, f"{provider}/m", stream=True)).body
    assert gate.provider.connections - before <= 1


# --- the provider dies ------------------------------------------------------------------------------------------------

DEATHS: dict[str, Fault] = {
    "reset": Reset(after=2, answer=ONE_TWO),
    "cut": CutStream(after=2, answer=ONE_TWO),
    "cut, clean": CleanCut(after=2, answer=ONE_TWO),
    "cut before the finish": CleanCut(after=99, answer=ONE_TWO),
    "garbage": Garbage(after=2, answer=ONE_TWO),
    "bad chunk": BadChunk(after=2, answer=ONE_TWO),
    "error": ErrorEvent(after=2, answer=ONE_TWO),
    "error, then done": ErrorEvent(after=2, done=True, answer=ONE_TWO),
    "cut in a call": CleanCut(after=2, answer=Answer(tool_calls=[("f", {"one ": "two " * 20})])),
    "silence": Stall(after=2, answer=ONE_TWO),
}


@pairs
@pytest.mark.parametrize("fault", DEATHS.values(), ids=DEATHS)
def test_a_provider_that_dies_in_the_middle(gate: Gate, client: str, provider: str, fault: Fault) -> None:
    """What was said arrives, then an error in the dialect; never a clean end, and both SDKs raise."""
    gate.provider.script(fault, fault)
    headers = {"x-headrace-timeout": "0.2"} if isinstance(fault, Stall) else {}
    body = ask(client, f"{provider}/m", stream=True)
    got = gate.post(client, body, headers)
    assert got.status == 200
    assert b"one " in got.body
    assert LAST[client] not in got.body and b"[DONE]" not in got.body and b"message_stop" not in got.body
    last = [event for event in got.body.split(b"\n\n") if event][-1]
    error = json.loads(last.partition(b"data: ")[2])
    assert error["error"]["message"]
    report = gate.report(got.headers["x-request-id"])
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["broken"]
    assert report["status"] == 502
    said = receipt(got.body)
    assert said["request_id"] == report["id"] and said["attempts"] == 1

    seen: list[str] = []
    module: Any = openai if client == "openai" else anthropic
    with pytest.raises(module.APIError):
        read_with_sdk(gate, client, f"{provider}/m", headers, seen)
    assert len(gate.provider.requests) == 2  # what has begun is not begun again, by nobody
    if fault is not DEATHS["cut in a call"]:
        assert "".join(seen).startswith("one ")


def read_with_sdk(gate: Gate, client: str, model: str, headers: dict[str, str], seen: list[str]) -> None:
    """Streams with `client`'s SDK and puts the text into `seen`."""
    arguments: Any = {
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "extra_headers": headers,
    }
    if client == "openai":
        for chunk in gate.oai.chat.completions.create(stream=True, **arguments):
            seen += [choice.delta.content or "" for choice in chunk.choices]
    else:
        with gate.ant.messages.stream(max_tokens=9, **arguments) as events:
            for text in events.text_stream:
                seen.append(text)


CHUNK = b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[%b]}\n\n'
NO_DONE = {
    "openai": CHUNK % b'{"index":0,"delta":{"role":"assistant","content":"whole"},"finish_reason":null}'
    + CHUNK % b'{"index":0,"delta":{},"finish_reason":"stop"}',
    "anthropic": b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"whole"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":2}}\n\n',
}


@pairs
@pytest.mark.parametrize("framing", ["chunked", "closed"])
def test_an_end_without_its_marker(gate: Gate, client: str, provider: str, framing: str) -> None:
    """After a finish reason the answer is whole, whatever the provider leaves out; the client gets its marker once."""
    data = NO_DONE[provider]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    raw = (
        head + b"connection: close\r\n\r\n" + data
        if framing == "closed"
        else head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    )
    gate.provider.script(Raw(raw), Raw(raw))
    got = gate.post(client, ask(client, f"{provider}/m", stream=True))
    assert got.body.count(LAST[client]) == 1
    assert gate.report(got.headers["x-request-id"])["attempts"][0]["outcome"] == "ok"
    messages: Any = [{"role": "user", "content": "hi"}]
    if client == "openai":
        chunks = list(gate.oai.chat.completions.create(model=f"{provider}/m", messages=messages, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "whole"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    else:
        with gate.ant.messages.stream(model=f"{provider}/m", max_tokens=9, messages=messages) as events:
            message: Any = events.get_final_message()
        assert (message.content[0].text, message.stop_reason) == ("whole", "end_turn")


@pairs
def test_any_cut_of_the_bytes_gives_the_same_stream(gate: Gate, client: str, provider: str) -> None:
    """Byte by byte from the provider, or all at once: the client reads the same."""
    answer = Answer("Grüße, 世界 👋.", tool_calls=[("f", {"ü": [1, "\n"]})], usage=(5, 6))
    gate.provider.script(answer, SlowDrip(answer=answer))
    got = [gate.post(client, ask(client, f"{provider}/m", stream=True)).body for _ in range(2)]

    def plain(body: bytes) -> list[Any]:
        events = [event.partition(b"data: ")[2] for event in body.split(b"\n\n")]
        return [
            re.sub(rb'"(id|tool_call_id)":"[^"]*"|"created":\d+', b'"x":0', event)
            for event in events
            if event
        ]

    assert plain(got[0]) == plain(got[1])
    assert LAST[client] in got[1]


# --- what stands in a stream ------------------------------------------------------------------------------------------


@pairs
def test_the_receipt(gate: Gate, client: str, provider: str) -> None:
    """The last thing before the end says what headers could not, and agrees with the ledger."""
    gate.provider.script(ONE_TWO)
    got = gate.post(client, ask(client, f"{provider}/m", stream=True))
    events = [event for event in got.body.split(b"\n\n") if event]
    assert got.body.index(b": headrace ") < got.body.index(LAST[client])
    assert events[-1].startswith(LAST[client].strip())
    said, report = receipt(got.body), gate.report(got.headers["x-request-id"])
    assert said == {
        "request_id": report["id"],
        "target": f"{provider}/m",
        "attempts": len(report["attempts"]),
        "cost_usd": report["cost_usd"],
    }
    assert report["attempts"][0]["tokens"]["input"] == 7 and report["attempts"][0]["tokens"]["output"] == 4


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("asked", [None, False, True])
def test_usage_only_for_those_who_ask(gate: Gate, provider: str, asked: bool | None) -> None:
    """We always ask the provider, for the ledger; the client sees the usage chunk only if it asked itself."""
    gate.provider.script(ONE_TWO)
    more: Any = {} if asked is None else {"stream_options": {"include_usage": asked}}
    got = gate.post("openai", ask("openai", f"{provider}/m", stream=True, **more))
    chunks = [
        json.loads(event.removeprefix(b"data: "))
        for event in got.body.split(b"\n\n")
        if event.startswith(b"data: {")
    ]
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    if asked:
        assert [chunk["usage"]["total_tokens"] for chunk in with_usage] == [11]
        assert with_usage == chunks[-1:] and with_usage[0]["choices"] == []
    else:
        assert with_usage == [] and all(chunk["choices"] for chunk in chunks)
    if provider == "openai":
        assert gate.provider.requests[0].json["stream_options"]["include_usage"] is True
    tokens = gate.report(got.headers["x-request-id"])["attempts"][0]["tokens"]
    assert (tokens["input"], tokens["output"]) == (7, 4)


# --- slow readers -----------------------------------------------------------------------------------------------------


PIECE = json.dumps("x" * 65536).encode()
DELTA = {
    "openai": CHUNK % (b'{"index":0,"delta":{"content":%b},"finish_reason":null}' % PIECE),
    "anthropic": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n' % PIECE,
}


@dataclass(frozen=True, slots=True)
class Flood(Fault):
    """Says 31 MB as fast as they are taken, and counts what it got rid of."""

    sent: list[int] = field(default_factory=list)

    async def act(self, wire: Wire) -> None:
        dialect = "anthropic" if wire.voice.name == "anthropic" else "openai"
        events = NO_DONE[dialect].split(b"\n\n")
        middle = 3 if dialect == "anthropic" else 1
        wire.write(wire.stream_head() + wire.chunk(b"".join(event + b"\n\n" for event in events[:middle])))
        for _ in range(480):
            wire.write(wire.chunk(DELTA[dialect]))
            await wire.flush()
            self.sent.append(len(DELTA[dialect]))
        wire.write(wire.chunk(b"\n\n".join(events[middle:])) + b"0\r\n\r\n")
        wire.finish()


@pairs
def test_a_slow_reader_holds_the_provider_back(gate: Gate, client: str, provider: str) -> None:
    """While a client does not read, the provider is not read either: what is held is a few buffers, not the answer."""
    flood = Flood()
    gate.provider.fault(flood)
    with asking(gate, client, ask(client, f"{provider}/m", stream=True)) as sock:
        wait_for(lambda: flood.sent)
        still, since = len(flood.sent), clock.now()
        while clock.now() - since < 0.15:
            if len(flood.sent) != still:
                still, since = len(flood.sent), clock.now()
            held = gate.on_loop(
                lambda: [
                    c._transport.get_write_buffer_size()
                    for c in gate.gateway.server.connections
                    if c._transport
                ]
            )
            assert sum(held) < 1_000_000
        # The kernel alone takes some ten: 4 MB for the provider's sending and 6 MB for our receiving.
        assert sum(flood.sent) < 16_000_000
        length, tail = 0, b""
        while LAST[client] not in tail:
            piece = sock.recv(1 << 20)
            assert piece, tail
            length += len(piece)
            tail = (tail + piece)[-500:]
    assert length > 480 * 65536
    assert len(flood.sent) == 480
