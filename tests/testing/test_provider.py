"""The fake provider byte by byte: every fault on a raw socket, hang-ups, keep-alive, rules, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace.testing import (
    Answer,
    BadChunk,
    CleanCut,
    CutJson,
    CutStream,
    Empty,
    ErrorEvent,
    ErrorIn200,
    FakeProvider,
    Fault,
    Garbage,
    Html,
    HugeHeader,
    ManualClock,
    Overloaded,
    RateLimited,
    Raw,
    Received,
    Refuse,
    Reset,
    Silence,
    SlowDrip,
    Stall,
    Status,
    Wire,
    WrongLength,
    until,
)

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
LONG = Answer("one two three four five")


def wire_request(
    dialect: str, *, stream: bool, model: str = "m", path: str | None = None, more: str = ""
) -> bytes:
    """A raw HTTP request in a dialect."""
    body = json.dumps(
        {
            "model": model,
            "max_tokens": 5,
            "stream": stream,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        }
    ).encode()
    version = "anthropic-version: 2023-06-01\r\n" if dialect == "anthropic" else ""
    head = f"POST {path or PATHS[dialect]} HTTP/1.1\r\nhost: x\r\n{version}{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def exchange(provider: FakeProvider, request: bytes) -> tuple[bytes, bool]:
    """Send `request`, read until the server ends the connection: the bytes, and whether it was reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    received = b""
    try:
        writer.write(request)
        while data := await reader.read(65536):
            received += data
    except ConnectionResetError:
        return received, True
    finally:
        writer.close()
    return received, False


def serve(test: Callable[[FakeProvider], Awaitable[None]]) -> None:
    """Run `test` with a provider on the same loop."""

    async def main() -> None:
        async with FakeProvider() as provider:
            await test(provider)
        assert provider.open_connections == 0

    asyncio.run(main())


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; chunks of HTTP are joined, and a missing last chunk stays visible."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split(" ")[1]), headers, body


def joined(body: bytes) -> tuple[bytes, bytes]:
    """The data of complete HTTP chunks, and what follows the last complete one (empty after a proper end)."""
    data = b""
    while body:
        size, found, rest = body.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            return data, body
        if not found or len(rest) < length + 2:
            return data, body
        data += rest[:length]
        body = rest[length + 2 :]
        if length == 0:
            return data, body
    return data, b"no last chunk"


CLOSE = "connection: close\r\n"
ENDS = {"openai": b"[DONE]", "anthropic": b"message_stop"}
FINISHES = {"openai": b'"finish_reason":"stop"', "anthropic": b"end_turn"}
BOTH = pytest.mark.parametrize("dialect", ["openai", "anthropic"])


@BOTH
@pytest.mark.parametrize(
    ("fault", "reset", "proper"),
    [
        (Reset(2, LONG), True, False),
        (CutStream(2, LONG), False, False),
        (CleanCut(2, LONG), False, True),
        (BadChunk(2, LONG), False, False),
        (ErrorEvent(2, answer=LONG), False, True),
    ],
)
def test_streams_cut_after_two(dialect: str, fault: Fault, reset: bool, proper: bool) -> None:
    """Exactly two content chunks arrive, no finish and no terminator, and the connection ends as the fault says."""

    async def test(provider: FakeProvider) -> None:
        provider.fault(fault)
        answer, was_reset = await exchange(provider, wire_request(dialect, stream=True, more=CLOSE))
        status, headers, body = split(answer)
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        data, left = joined(body)
        assert b'"one"' in data and b'" two"' in data and b'" three"' not in data
        assert ENDS[dialect] not in data and FINISHES[dialect] not in data
        assert was_reset is reset
        assert (left == b"") is proper
        if isinstance(fault, BadChunk):
            assert left.startswith(b"ZZ\r\n")
        if isinstance(fault, ErrorEvent):
            last = data.split(b"\n\n")[-2]
            assert (b"event: error\n" in last) is (dialect == "anthropic")
            assert b"verloaded" in last

    serve(test)


@BOTH
@pytest.mark.parametrize(("after", "text", "begun"), [(0, b"", True), (99, b'" five"', True)])
def test_after_zero_and_after_all(dialect: str, after: int, text: bytes, begun: bool) -> None:
    """0: begun and nothing said. More than there is: all said, the finish missing."""

    async def test(provider: FakeProvider) -> None:
        provider.fault(CutStream(after, LONG))
        answer, _ = await exchange(provider, wire_request(dialect, stream=True))
        data, _ = joined(split(answer)[2])
        assert (b"message_start" in data or b'"role":"assistant"' in data) is begun
        assert (b'"one"' in data) is (after > 0) and text in data
        assert FINISHES[dialect] not in data and ENDS[dialect] not in data

    serve(test)


@BOTH
@pytest.mark.parametrize(
    "fault", [Reset(), CutStream(), CleanCut(), BadChunk(), CutJson(), Garbage(), WrongLength()]
)
def test_buffered_bodies_are_not_whole(dialect: str, fault: Fault) -> None:
    """In a buffered answer the same faults leave a body that is no JSON, or shorter than it said."""

    async def test(provider: FakeProvider) -> None:
        provider.default = LONG
        provider.fault(fault)
        answer, reset = await exchange(provider, wire_request(dialect, stream=False, more=CLOSE))
        status, headers, body = split(answer)
        assert status == 200
        assert reset is isinstance(fault, Reset)
        if isinstance(fault, Reset | CutStream | WrongLength):
            assert len(body) < int(headers["content-length"])
        elif not isinstance(fault, BadChunk):
            assert len(body) == int(headers["content-length"])
        if not isinstance(fault, WrongLength):
            with pytest.raises(ValueError):
                json.loads(body)

    serve(test)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_bodies_that_are_wrong(dialect: str, stream: bool) -> None:
    """HTML, nothing, an error under 200, a short length: each as its docstring says."""

    async def test(provider: FakeProvider) -> None:
        async def ask(fault: Fault) -> tuple[int, dict[str, str], bytes]:
            provider.fault(fault)
            return split((await exchange(provider, wire_request(dialect, stream=stream, more=CLOSE)))[0])

        status, headers, body = await ask(Html())
        assert (status, headers["content-type"]) == (502, "text/html; charset=UTF-8") and b"<html>" in body
        assert (await ask(Html(200)))[0] == 200
        status, headers, body = await ask(Empty())
        assert (status, body, headers["content-length"]) == (200, b"", "0")
        status, headers, body = await ask(ErrorIn200("rate_limited", "slow"))
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body)["error"]["message"] == "slow"
        status, headers, body = await ask(WrongLength(-5))
        assert int(headers["content-length"]) == len(body) - 5
        status, headers, body = await ask(HugeHeader(size=100_000))
        assert len(headers["x-huge"]) == 100_000
        status, _, body = await ask(Raw(b"HTTP/1.1 299 Odd\r\nx: y\r\n\r\nrest"))
        assert (status, body) == (299, b"rest")

    serve(test)


@BOTH
def test_garbage_and_cut_json_in_streams(dialect: str) -> None:
    """Garbage comes between good events, and the stream goes on to its end; cut JSON ends HTTP in order."""

    async def test(provider: FakeProvider) -> None:
        provider.script(Garbage(1, LONG), CutJson(LONG))
        data, left = joined(
            split((await exchange(provider, wire_request(dialect, stream=True, more=CLOSE)))[0])[2]
        )
        bad = next(at for at, event in enumerate(data.split(b"\n\n")) if b"\xff\xfe" in event)
        assert b'" two"' in data.split(b"\n\n")[bad + 1]
        assert ENDS[dialect] in data and left == b""
        data, left = joined(
            split((await exchange(provider, wire_request(dialect, stream=True, more=CLOSE)))[0])[2]
        )
        with pytest.raises(ValueError):
            json.loads(data.split(b"data: ")[-1])
        assert left == b"" and ENDS[dialect] not in data

    serve(test)


def test_refuse_at_accept_and_on_a_kept_connection() -> None:
    """A queued refusal strikes at accept without a request being read; on a kept connection, and by model, after it."""

    async def test(provider: FakeProvider) -> None:
        provider.script(Refuse(reset=False))
        answer, _ = await exchange(provider, b"")
        assert answer == b"" and provider.requests == [] and provider.unused == 0
        provider.on("bad", Refuse())
        answer, reset = await exchange(provider, wire_request("openai", stream=False, model="bad"))
        assert answer == b"" and reset and len(provider.requests) == 1

        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(wire_request("openai", stream=False))
        await reader.readuntil(b"\r\n\r\n")
        provider.script(Refuse(reset=False))
        writer.write(wire_request("openai", stream=False))
        rest = await reader.read()
        assert rest.count(b"HTTP/1.1") == 0
        writer.close()

    serve(test)


@pytest.mark.parametrize(
    "fault", [Silence(), Stall(1, answer=LONG), Raw(b"HTTP/1.1 200 OK\r\n", then="hang")]
)
def test_hang_ups_are_noticed(fault: Fault) -> None:
    """A client that gives up is recorded with the time, and the fault's task ends."""

    async def test(provider: FakeProvider) -> None:
        provider.fault(fault)
        _, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(wire_request("openai", stream=True))
        await until(lambda: provider.requests)
        request = provider.requests[0]
        assert request.hung_up_at is None
        writer.close()
        await until(lambda: request.hung_up_at)
        assert request.hung_up_at is not None
        assert request.hung_up_at >= request.t and request.answered_at is None

    serve(test)


def test_an_answered_request_did_not_hang_up() -> None:
    """Closing after the whole answer is no hang-up."""

    async def test(provider: FakeProvider) -> None:
        await exchange(provider, wire_request("openai", stream=True, more=CLOSE))
        assert provider.requests[0].hung_up_at is None
        assert provider.requests[0].answered_at is not None

    serve(test)


def test_delays_wait_on_the_clock() -> None:
    """On a manual clock a stall, a silence and the pace of chunks pass only when the test says so."""

    async def main() -> None:
        clock = ManualClock()
        async with FakeProvider(clock=clock) as provider:
            provider.script(Answer(chunks=["a", "b", "c"], first_delay_s=1, delay_s=10), Silence(5))
            reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
            writer.write(wire_request("openai", stream=True))
            await until(lambda: clock.waiting)
            clock.advance(1)
            await reader.readuntil(b'"content":"a"')
            await until(lambda: clock.waiting)
            clock.advance(10)
            await reader.readuntil(b'"content":"b"')
            await until(lambda: clock.waiting)
            clock.advance(10)
            await reader.readuntil(b"0\r\n\r\n")
            writer.write(wire_request("openai", stream=False))
            await until(lambda: clock.waiting)
            clock.advance(5)
            await reader.readuntil(b"echo: Hi")
            writer.close()
            assert clock.sleeps == [1, 10, 10, 5]

    asyncio.run(main())


def test_stall_goes_on() -> None:
    """After a stall the rest of the same answer comes, buffered and streamed."""

    async def test(provider: FakeProvider) -> None:
        for stream in (False, True):
            provider.fault(Stall(2, seconds=0.01, answer=LONG))
            answer, _ = await exchange(provider, wire_request("openai", stream=stream, more=CLOSE))
            body = split(answer)[2]
            if stream:
                data, left = joined(body)
                assert (
                    data.endswith(b"data: [DONE]\n\n")
                    and left == b""
                    and data.count(b'"content":" three"') == 1
                )
            else:
                assert json.loads(body)["choices"][0]["message"]["content"] == LONG.text

    serve(test)


def test_slow_drip_is_the_same_answer() -> None:
    """Dripped byte by byte an answer is, but for the packets, the same."""

    async def test(provider: FakeProvider) -> None:
        provider.default = Answer("für alle", model="m")
        whole, _ = await exchange(provider, wire_request("anthropic", stream=True, more=CLOSE))
        provider.fault(SlowDrip())
        dripped, _ = await exchange(provider, wire_request("anthropic", stream=True, more=CLOSE))
        mask = [(b"00000001", b"N"), (b"00000002", b"N")]
        for number, letter in mask:
            whole, dripped = whole.replace(number, letter), dripped.replace(number, letter)
        assert dripped == whole

    serve(test)


def test_statuses_bodies_and_hints() -> None:
    """Bodies given as mapping, text or bytes go out as they are; hints are headers; numbers are short."""

    async def test(provider: FakeProvider) -> None:
        async def ask(fault: Fault) -> tuple[int, dict[str, str], bytes]:
            provider.fault(fault)
            return split((await exchange(provider, wire_request("openai", stream=False, more=CLOSE)))[0])

        status, headers, body = await ask(Status(429, {"a": 1}, retry_after=1, headers={"x-a": "b"}))
        assert (status, headers["retry-after"], headers["x-a"], body) == (429, "1", "b", b'{"a":1}')
        assert (await ask(Status(418, "text")))[2] == b"text"
        assert (await ask(Status(500, b"\xff")))[2] == b"\xff"
        _, headers, body = await ask(RateLimited("mine", retry_after="soon", should_retry=True))
        assert (headers["retry-after"], headers["x-should-retry"]) == ("soon", "true")
        assert json.loads(body)["error"]["message"] == "mine"

    serve(test)


def test_rules_by_model_come_first() -> None:
    """A model's queue, then its `always`; other models take the common queue, then the default."""

    async def test(provider: FakeProvider) -> None:
        async def said(model: str) -> str:
            answer, _ = await exchange(
                provider, wire_request("openai", stream=False, model=model, more=CLOSE)
            )
            body = json.loads(split(answer)[2])
            return (
                str(body["choices"][0]["message"]["content"]) if "choices" in body else body["error"]["code"]
            )

        provider.on("m1", Answer("first"), always=Overloaded())
        provider.reply("common")
        assert provider.unused == 2
        assert await said("m1") == "first"
        assert await said("m1") == "server_is_overloaded"
        assert await said("m2") == "common"
        assert await said("m2") == "echo: Hi"
        provider.default = lambda request: Answer(f"{request.model} {request.text} {request.stream}")
        assert await said("m3") == "m3 Hi False"
        provider.reset()
        assert provider.requests == [] and await said("m1") == "echo: Hi"

    serve(test)


def test_pipelined_and_kept_connections() -> None:
    """Requests on one connection are answered in their order, one connection in all."""

    async def test(provider: FakeProvider) -> None:
        provider.script(Answer("slow", first_delay_s=0.01), Answer("fast"))
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(wire_request("openai", stream=False) + wire_request("openai", stream=False))
        await reader.readuntil(b"slow")
        await reader.readuntil(b"fast")
        writer.close()
        assert [request.connection for request in provider.requests] == [1, 1]
        assert provider.connections == 1

    serve(test)


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 3\r\n\r\n{a}",
            400,
            b"could not parse the JSON",
        ),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", 400, b"model"),
        (b'POST /v1/messages HTTP/1.1\r\ncontent-length: 13\r\n\r\n{"model":"m"}', 400, b"messages"),
        (
            wire_request("anthropic", stream=False).replace(b"anthropic-version", b"x-other"),
            400,
            b"anthropic-version",
        ),
        (wire_request("anthropic", stream=False).replace(b"max_tokens", b"max_tokenz"), 400, b"max_tokens"),
        (b"GET /v1/chat/completions HTTP/1.1\r\n\r\n", 405, b"GET"),
        (b"POST /v1/nothing HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 404, b"/v1/nothing"),
        (b"nonsense\r\n\r\n", 400, b""),
    ],
)
def test_what_the_services_reject_is_rejected(request_: bytes, status: int, words: bytes) -> None:
    """Mistakes that the real services answer with 4xx get one here, and take nothing from the script."""

    async def test(provider: FakeProvider) -> None:
        provider.reply("kept")
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(request_)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.close()
        assert split(head)[0] == status and words in body
        assert provider.unused == 1

    serve(test)


def test_keys_are_checked_when_one_is_set() -> None:
    """With `api_key` both headers are read and anything else is 401 in the dialect."""

    async def main() -> None:
        async with FakeProvider(api_key="good") as provider:
            for more, status in (
                ("authorization: Bearer good\r\n", 200),
                ("x-api-key: good\r\n", 200),
                ("authorization: Bearer bad\r\n", 401),
                ("", 401),
            ):
                request = wire_request("anthropic", stream=False, more=more + CLOSE)
                answer, _ = await exchange(provider, request)
                assert split(answer)[0] == status
            assert json.loads(split(answer)[2])["error"]["type"] == "authentication_error"

    asyncio.run(main())


def test_a_broken_script_is_the_tests_error() -> None:
    """A function of the test that raises gives the client a 500 and the test its own exception."""

    def broken(request: Received) -> Answer:
        raise LookupError(request.model)

    class Wrong(Fault):
        """A fault of the test that raises."""

        async def act(self, wire: Wire) -> None:
            raise LookupError("fault")

    async def main(outcome: Any) -> bytes:
        async with FakeProvider() as provider:
            provider.script(outcome)
            return (await exchange(provider, wire_request("openai", stream=False, more=CLOSE)))[0]

    for outcome in (broken, Wrong()):
        with pytest.raises(LookupError):
            asyncio.run(main(outcome))


def test_a_fault_of_ones_own() -> None:
    """A subclass of Fault with an act is a fault."""

    class Teapot(Fault):
        """418 on the first try."""

        async def act(self, wire: Wire) -> None:
            wire.whole(b"short and stout", status=418, content_type="text/plain")

    async def test(provider: FakeProvider) -> None:
        provider.fault(Teapot())
        answer, _ = await exchange(provider, wire_request("openai", stream=False, more=CLOSE))
        assert split(answer)[0] == 418 and answer.endswith(b"short and stout")

    serve(test)


def test_a_slow_reader_is_waited_for() -> None:
    """A client that does not read stops the writer, and gets everything once it does."""

    async def test(provider: FakeProvider) -> None:
        text = "x" * 100_000
        provider.script(Answer(chunks=[text] * 100, delay_s=1e-6))
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port, limit=1024)
        writer.write(wire_request("openai", stream=True, more=CLOSE))
        await until(lambda: provider.requests)
        for _ in range(20):
            await asyncio.sleep(0.001)  # noqa: TID251
        assert provider.requests[0].answered_at is None
        received = 0
        while data := await reader.read(1 << 20):
            received += len(data)
        assert received > 10_000_000 and provider.requests[0].answered_at is not None
        writer.close()

    serve(test)


def test_down_and_up_again() -> None:
    """Between stop and start connections are refused; afterwards it is at the same port, its script kept."""

    async def main() -> None:
        provider = FakeProvider()
        await provider.start()
        provider.reply("back")
        port = provider.port
        await provider.stop()
        await provider.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await provider.start()
        assert provider.port == port
        answer, _ = await exchange(provider, wire_request("openai", stream=False, more=CLOSE))
        assert b"back" in answer
        await provider.stop()

    asyncio.run(main())


def test_a_taken_port_is_an_error_in_the_thread_too() -> None:
    """`with FakeProvider(port=...)` raises what binding raises."""
    with FakeProvider() as provider, pytest.raises(OSError), FakeProvider(port=provider.port):
        pass


def test_answers_say_one_thing() -> None:
    """Text and chunks that differ are refused; chunks give the text."""
    assert Answer(chunks=["a", "b"]).text == "ab"
    with pytest.raises(ValueError, match="different"):
        Answer("x", chunks=["a"])
