"""The layer in the whole house: through the gateway and the library, buffered and streamed, in both dialects."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.gate import ADMIN, KEY, PAIRS, Gate, clock, config, gated

import headrace
from headrace import AsyncClient, RequestBlocked, load
from headrace.dialects import by_name
from headrace.guards import Finding, Judgement, Redactor
from headrace.handler import Body, GuardPolicy, Request
from headrace.layers.guard import Guard
from headrace.layers.guard.layer import PART, REMEMBERED, Known
from headrace.testing import Answer, CutStream, FakeProvider, ManualClock, Received

EMAIL, CARD, NOTE = "ann.o'neil@example.com", "4111 1111 1111 1111", 'EMP-"7"'
VALUES = (EMAIL, CARD, "EMP-", "o'neil")

ROUTES = r"""
[routes.to-openai]
cascade = ["openai/m"]
[routes.to-openai.guard]
redact = ["email", "card"]
patterns = { staff = 'EMP-"\d"' }
[routes.to-anthropic]
cascade = ["anthropic/m"]
[routes.to-anthropic.guard]
redact = ["email", "card"]
patterns = { staff = 'EMP-"\d"' }
[routes.calls-openai]
cascade = ["openai/m"]
[routes.calls-openai.guard]
redact = ["phone"]
patterns = { staff = 'EMP-"\d"' }
[routes.calls-anthropic]
cascade = ["anthropic/m"]
[routes.calls-anthropic.guard]
redact = ["phone"]
patterns = { staff = 'EMP-"\d"' }
[routes.anew]
cascade = ["openai/m", "openai/n"]
mid_stream = "restart"
[routes.anew.guard]
redact = ["email"]
[routes.strict]
cascade = ["openai/m"]
[routes.strict.guard]
redact = ["email"]
action = "block"
[routes.noted]
cascade = ["openai/m"]
[routes.noted.guard]
redact = ["email"]
action = "flag"
[routes.kept]
cascade = ["openai/m"]
[routes.kept.guard]
redact = ["email"]
[routes.kept.cache]
"""

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])


@pytest.fixture(scope="module")
def shared_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """One gateway for the module."""
    with FakeProvider() as provider:
        text = config(provider, more=ROUTES)
        with gated(provider, tmp_path_factory.mktemp("guard"), text) as running:
            yield running


@pytest.fixture
def gate(shared_gate: Gate) -> Gate:
    """The gateway, with nothing asked yet."""
    shared_gate.fresh()
    return shared_gate


def conversation(dialect: str) -> list[dict[str, Any]]:
    """A turn with values in every place that a text has: parts, a call's arguments, a tool's result."""
    arguments = {"to": EMAIL, EMAIL: [CARD, {"by": NOTE, "type": EMAIL}]}
    if dialect == "openai":
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "send", "arguments": json.dumps(arguments)},
        }
        return [
            {"role": "system", "content": f"You serve {EMAIL}."},
            {"role": "user", "content": [{"type": "text", "text": f"I am {EMAIL}, my card is {CARD}."}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"mail": EMAIL, "by": NOTE})},
            {"role": "user", "content": f"And {NOTE}?"},
        ]
    return [
        {"role": "user", "content": [{"type": "text", "text": f"I am {EMAIL}, my card is {CARD}."}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "send", "input": arguments}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": f"{EMAIL} by {NOTE}"}],
        },
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": f"And {NOTE}?"},
    ]


def body(dialect: str, model: str, **members: Any) -> bytes:
    """The conversation, with tools that name a value too."""
    more: dict[str, Any] = {"system": f"You serve {EMAIL}."} if dialect == "anthropic" else {}
    schema = {"type": "object", "properties": {"to": {"type": "string", "description": f"such as {EMAIL}"}}}
    tool: dict[str, Any] = {"name": "send", "input_schema": schema}
    if dialect == "openai":
        tool = {"type": "function", "function": {"name": "send", "parameters": schema}}
    asked = {"model": model, "max_tokens": 64, "messages": conversation(dialect), "tools": [tool]}
    return json.dumps(asked | more | members, indent=1).encode()


@dataclass
class Said:
    """What a client made of an answer."""

    text: str
    arguments: str


def ask(gate: Gate, dialect: str, model: str, stream: bool) -> Said:
    """The conversation through the dialect's own SDK."""
    asked = json.loads(body(dialect, model))
    if dialect == "openai":
        if not stream:
            message = gate.oai.chat.completions.create(**asked).choices[0].message
            assert message.tool_calls
            return Said(message.content or "", message.tool_calls[0].function.arguments)
        text = arguments = ""
        for chunk in gate.oai.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                for call in choice.delta.tool_calls or ():
                    arguments += (call.function and call.function.arguments) or ""
        return Said(text, arguments)
    if not stream:
        blocks = gate.ant.messages.create(**asked).content
    else:
        with gate.ant.messages.stream(**asked) as events:
            blocks = events.get_final_message().content
    return Said(
        "".join(block.text for block in blocks if block.type == "text"),
        next(json.dumps(block.input) for block in blocks if block.type == "tool_use"),
    )


ANSWER = Answer(
    chunks=["Dear [EMA", "IL_1], card [CARD_1", "] of [STAFF_1] or [", "EMAIL_2]."],
    tool_calls=[("send", {"to": "[EMAIL_1]", "by": "[STAFF_1]"})],
)


@pairs
@streamed
def test_nothing_leaves_and_all_comes_back(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """Upstream has none of the values, in the caller's dialect or translated; the caller has all of them, in text and arguments."""
    gate.provider.script(ANSWER)
    said = ask(gate, client, f"to-{provider}", stream)
    [received] = gate.provider.requests
    assert "[EMAIL_1]" in received.body.decode() and "[STAFF_1]" in received.body.decode()
    assert not [value for value in VALUES if value in received.body.decode()]
    assert said.text == f"Dear {EMAIL}, card {CARD} of {NOTE} or [EMAIL_2]."
    assert json.loads(said.arguments) == {"to": EMAIL, "by": NOTE}


@both
def test_only_strings_with_values_change(gate: Gate, dialect: str) -> None:
    """The rest of the body, down to its spaces and unknown members, is the caller's bytes."""
    sent = body(dialect, f"to-{dialect}", x_unknown=[1.50, {"a": None}])
    assert gate.post(dialect, sent).status == 200
    [received] = gate.provider.requests
    expected = sent.replace(f'"to-{dialect}"'.encode(), b'"m"')
    strings = {EMAIL: "[EMAIL_1]", CARD: "[CARD_1]", NOTE.replace('"', '\\"'): "[STAFF_1]"}
    nested = {NOTE.replace('"', '\\\\\\"'): "[STAFF_1]"}
    for value, placeholder in (nested | strings).items():
        expected = expected.replace(value.encode(), placeholder.encode())
    assert received.body == expected


@both
def test_a_longer_conversation_keeps_its_beginning(gate: Gate, dialect: str) -> None:
    """The next turn, with the restored answer in it and a new value, sends the same text for what was before."""
    first = [{"role": "user", "content": f"I am {EMAIL}"}, {"role": "assistant", "content": f"Hello {EMAIL}"}]
    for messages in (first[:1], [*first, {"role": "user", "content": "cc bob@example.com"}]):
        asked = json.dumps({"model": f"to-{dialect}", "max_tokens": 9, "messages": messages}).encode()
        assert gate.post(dialect, asked).status == 200
    sent = [[m["content"] for m in request.json["messages"]] for request in gate.provider.requests]
    assert sent == [["I am [EMAIL_1]"], ["I am [EMAIL_1]", "Hello [EMAIL_1]", "cc [EMAIL_2]"]]


def test_signed_thinking_is_not_touched(gate: Gate) -> None:
    """A block with a signature goes as it is; what it says as a placeholder is not taken for the caller's own."""
    thought = {"type": "thinking", "thinking": f"mail [EMAIL_1], {EMAIL}", "signature": "sig"}
    messages = [
        {"role": "user", "content": EMAIL},
        {"role": "assistant", "content": [thought, {"type": "text", "text": EMAIL}]},
        {"role": "user", "content": "and?"},
    ]
    asked = json.dumps({"model": "to-anthropic", "max_tokens": 9, "messages": messages}).encode()
    assert gate.post("anthropic", asked).status == 200
    sent = gate.provider.requests[0].json["messages"]
    assert sent[1]["content"] == [thought, {"type": "text", "text": "[EMAIL_1]"}]


def test_base64_and_addresses_of_images_are_no_text(gate: Gate) -> None:
    """What only looks like a value inside of data is left alone; a text document is read."""
    data = f"{'A' * 40}/4111111111111111/{'A' * 40}"
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": f"of {EMAIL}"}},
        {"type": "image", "source": {"type": "url", "url": f"https://example.com/?by={EMAIL}"}},
        {"type": "text", "text": CARD},
    ]
    asked = {"model": "to-anthropic", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    assert gate.post("anthropic", json.dumps(asked).encode()).status == 200
    sent = gate.provider.requests[0].json["messages"][0]["content"]
    assert sent[0] == content[0]
    assert sent[1]["source"]["data"] == "of [EMAIL_1]"
    assert sent[2] == content[2]
    assert sent[3]["text"] == "[CARD_1]"


@both
def test_what_only_its_name_or_its_decoding_shows(gate: Gate, dialect: str) -> None:
    """A number that an argument's name calls a phone number; a value that stands escaped in a result that is JSON."""
    arguments, result = {"phone": "4155552671", "id": "4155552672"}, json.dumps({"by": NOTE})
    if dialect == "openai":
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}
        messages = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": result},
        ]
    else:
        messages = [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "c", "name": "f", "input": arguments}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": result}]},
        ]
    asked = json.dumps({"model": f"calls-{dialect}", "max_tokens": 9, "messages": messages}).encode()
    assert gate.post(dialect, asked).status == 200
    sent = gate.provider.requests[0].body
    assert b"4155552671" not in sent and b"4155552672" in sent and b"EMP-" not in sent
    assert b"[PHONE_1]" in sent and b"[STAFF_1]" in sent


@streamed
def test_blocked_before_anyone_is_asked(gate: Gate, stream: bool) -> None:
    """A typed refusal that names the kinds, never the value; no provider, no attempt."""
    for dialect in ("openai", "anthropic"):
        asked = {
            "model": "strict",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": EMAIL}],
            "stream": stream,
        }
        got = gate.post(dialect, json.dumps(asked).encode())
        assert got.status == 400
        assert "1 email" in got.json["error"]["message"]
        assert EMAIL.encode() not in got.body
        assert got.headers["x-should-retry"] == "false"
    assert gate.provider.requests == []


def test_flagged_and_sent(gate: Gate) -> None:
    """A warning, and the caller's own bytes."""
    asked = json.dumps({"model": "noted", "messages": [{"role": "user", "content": EMAIL}]}).encode()
    got = gate.post("openai", asked)
    assert got.headers["x-headrace-warnings"] == "guard: the request has 1 email in it"
    assert got.json["choices"][0]["message"]["content"] == f"echo: {EMAIL}"
    assert gate.provider.requests[0].body == asked.replace(b'"noted"', b'"m"')


@both
def test_an_answer_that_starts_anew(gate: Gate, dialect: str) -> None:
    """With `mid_stream = "restart"` the beginning of a placeholder in the first answer is not joined with the second."""
    gate.provider.script(
        CutStream(after=2, answer=Answer(chunks=["void [EMA", "IL_", "1]"])), Answer("[EMAIL_1] it is")
    )
    asked = {
        "model": "anew",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": EMAIL}],
        "stream": True,
    }
    got = gate.post(dialect, json.dumps(asked).encode())
    text = got.body.decode()
    before, marker, after = text.partition("restart")
    assert marker and "void [EMA" in before and EMAIL not in before
    assert EMAIL in after.replace("\\u0027", "'") and "[EMAIL_1]" not in text


def test_a_stream_that_breaks_says_all_it_had(gate: Gate) -> None:
    """What waited for the rest of a placeholder comes before the error."""
    gate.provider.script(CutStream(after=2, answer=Answer(chunks=["to [EMAIL_1] [", "EMAIL_1", "]"])))
    asked = {"model": "to-openai", "messages": [{"role": "user", "content": EMAIL}], "stream": True}
    got = gate.post("openai", json.dumps(asked).encode())
    texts = [
        json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        for line in got.body.decode().splitlines()
        if line.startswith("data: {") and "choices" in line
    ]
    assert "".join(texts) == f"to {EMAIL} [EMAIL_1"
    assert b'"error"' in got.body and b"[DONE]" not in got.body


def test_an_answer_is_kept_for_who_asks_with_the_same_value(gate: Gate) -> None:
    """The cache stands below: it holds placeholders, and a hash of what they stand for keeps askers apart."""
    for person, how in (
        ("ann@example.com", "miss"),
        ("bob@example.com", "miss"),
        ("ann@example.com", "hit-exact"),
    ):
        asked = {
            "model": "kept",
            "temperature": 0,
            "messages": [{"role": "user", "content": f"Greet {person}"}],
        }
        got = gate.post("openai", json.dumps(asked).encode())
        assert got.json["choices"][0]["message"]["content"] == f"echo: Greet {person}"
        assert got.headers["x-headrace-cache"] == how


def test_counting_tokens_sends_no_value(gate: Gate) -> None:
    """The endpoint beside the chat goes to the provider too."""
    asked = json.dumps({"model": "to-anthropic", "messages": [{"role": "user", "content": EMAIL}]}).encode()
    assert gate.http("POST", "/v1/messages/count_tokens", asked).status == 200
    [received] = gate.provider.requests
    assert b"[EMAIL_1]" in received.body and EMAIL.encode() not in received.body


def test_embeddings_have_placeholders_of_their_own(gate: Gate) -> None:
    """Each text is numbered alone: its vector is the same whatever was sent beside it."""
    texts = [f"about {EMAIL}", "about bob@example.com", f"{CARD} of bob@example.com and {EMAIL}"]
    asked = json.dumps({"model": "to-openai", "input": texts}).encode()
    assert gate.http("POST", "/v1/embeddings", asked).status == 200
    assert gate.provider.requests[0].json["input"] == [
        "about [EMAIL_1]",
        "about [EMAIL_1]",
        "[CARD_1] of [EMAIL_1] and [EMAIL_2]",
    ]


def test_several_answers_are_named(gate: Gate) -> None:
    """Whole they all have their values; in a stream only the first, and the caller is told."""
    asked = {"model": "to-openai", "n": 2, "messages": [{"role": "user", "content": EMAIL}]}
    got = gate.post("openai", json.dumps(asked).encode())
    assert "only the first" not in got.headers["x-headrace-warnings"]
    got = gate.post("openai", json.dumps(asked | {"stream": True}).encode())
    assert "only the first answer" in got.headers["x-headrace-warnings"]


def test_where_values_are_is_remembered_without_them() -> None:
    """A text is searched once; what is kept of it is places, kinds and a hash."""
    searched: list[str] = []

    class Counting(Redactor):
        def find(self, text: str) -> list[Finding]:
            searched.append(text)
            return super().find(text)

    known = Known(Counting(("email",)))
    texts = [f"turn {number}: {EMAIL} " + "and so on " * 30 for number in range(3)]
    for _ in range(3):
        values = known.redactor.values([*texts, EMAIL], find=known.find)
        assert values == {"[EMAIL_1]": EMAIL}
    assert searched == [*texts, EMAIL, EMAIL, EMAIL]
    kept = repr(known._found)
    assert EMAIL not in kept and "turn" not in kept
    for number in range(REMEMBERED + 10):
        known.find(f"{number} " * 100)
    assert len(known._found) == REMEMBERED


def test_a_large_request_gives_others_their_turns() -> None:
    """It is looked through in parts; what was found is the same as at once."""
    turns = [f"turn {number} of {EMAIL} " + "and so on " * 400 for number in range(20)]
    asked = {"model": "m", "messages": [{"role": "user", "content": turn} for turn in turns]}
    body = Body(wire=json.dumps(asked).encode(), dialect=by_name("openai-chat"))
    policy, manual = GuardPolicy(redact=("email",)), ManualClock()
    slept: list[float] = []

    class Noting(ManualClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    async def nobody(name: str, side: str, text: str, request: Request) -> Judgement:
        raise AssertionError(name)

    guard, at_once = Guard(Noting(), {}, nobody), Guard(manual, {}, nobody)
    asyncio.run(guard._search(body, policy))
    assert PART == 16_384 and slept == [0.0] * 4  # after every fifth of the 20 turns of 4 kB
    assert guard.redacted(body, policy)[0].wire == at_once.redacted(body, policy)[0].wire


def test_what_was_done_is_counted(gate: Gate) -> None:
    """By route, deed and kind, for whoever watches many routes."""
    for model in ("to-openai", "strict", "noted"):
        gate.post(
            "openai", json.dumps({"model": model, "messages": [{"role": "user", "content": EMAIL}]}).encode()
        )
    text = gate.http("GET", "/metrics", key=ADMIN).body.decode()
    for action, route in (("redact", "to-openai"), ("block", "strict"), ("flag", "noted")):
        assert f'headrace_guard_findings_total{{action="{action}",kind="email",route="{route}"}}' in text


def test_values_reach_neither_log_nor_store(
    gate: Gate, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Every file of the store, every log line, every report: only counts by kind."""
    caplog.set_level(logging.DEBUG)
    gate.provider.script(ANSWER)
    got = gate.post("openai", body("openai", "to-openai"))
    assert got.headers["x-headrace-warnings"] == "guard: redacted 1 email, 1 card, 1 staff"
    report = gate.report(got.headers["x-request-id"])
    admin = gate.http("GET", "/metrics", key=ADMIN).body
    kept = b"".join(path.read_bytes() for path in gate.folder.glob("headrace.db*"))
    for value in VALUES:
        assert value not in caplog.text and value not in json.dumps(report)
        assert value.encode() not in kept and value.encode() not in admin


def answering(request: Received) -> Answer:
    """As a model that repeats what it was told, one character at a time."""
    text = request.json["messages"][-1]["content"]
    return Answer(chunks=list(f"You said {text}"))


def test_the_library(tmp_path: Path) -> None:
    """`chat` and `stream` of a guarded route, a list of routes, and a direct model under `[guard]`."""
    with FakeProvider() as provider:
        provider.default = answering
        (tmp_path / "headrace.toml").write_text(
            config(provider, more=ROUTES + '[guard]\nredact = ["email"]\n')
        )
        settings = load(tmp_path / "headrace.toml", environ={})

        async def main() -> None:
            async with AsyncClient(settings) as llm:
                for model in ("to-openai", "to-anthropic", ["openai/x", "to-openai"], "openai/y", "quick"):
                    answer = await llm.chat(model, f"I am {EMAIL}")
                    assert answer.text == f"You said I am {EMAIL}"
                    async with llm.stream(model, f"I am {EMAIL}") as stream:
                        assert "".join([piece async for piece in stream]) == f"You said I am {EMAIL}"
                    assert stream.final.text == f"You said I am {EMAIL}"
                with pytest.raises(RequestBlocked, match="1 email") as caught:
                    await llm.chat("strict", EMAIL)
                assert (caught.value.reason, caught.value.found) == ("personal", ("email",))

        asyncio.run(main())
        assert not [request for request in provider.requests if EMAIL.encode() in request.body]
        assert len(provider.requests) == 10


def test_a_structured_answer_has_its_values(tmp_path: Path) -> None:
    """`output=`: the value and the partial values are restored, as JSON where they need it; upstream judged placeholders."""
    with FakeProvider() as provider:
        provider.default = Answer(chunks=['{"who": "[EM', 'AIL_1]", "by"', ': "[STAFF_1]"}'])
        (tmp_path / "headrace.toml").write_text(config(provider, more=ROUTES))
        shape = {
            "type": "object",
            "properties": {"who": {"type": "string"}, "by": {"type": "string"}},
            "required": ["who", "by"],
        }

        async def main() -> None:
            async with AsyncClient(load(tmp_path / "headrace.toml", environ={})) as llm:
                answer = await llm.chat("to-openai", f"{EMAIL} {NOTE}", output=shape)
                assert answer.value == {"who": EMAIL, "by": NOTE}
                async with llm.stream("to-openai", f"{EMAIL} {NOTE}", output=shape) as stream:
                    partials = [value async for value in stream.partials()]
                assert partials[-1] == {"who": EMAIL, "by": NOTE}
                assert not any("[EM" in str(value) for value in partials)

        asyncio.run(main())


def test_leaving_early_closes_what_is_below(tmp_path: Path) -> None:
    """A stream that is left, or whose reader is cancelled, gives the provider's connection back."""
    with FakeProvider() as provider:
        provider.default = Answer(chunks=["[EMAIL_1] "] * 50, delay_s=0.05)
        (tmp_path / "headrace.toml").write_text(config(provider, more=ROUTES))

        async def main() -> None:
            async with AsyncClient(load(tmp_path / "headrace.toml", environ={})) as llm:
                async with llm.stream("to-openai", EMAIL) as stream:
                    assert await anext(stream) == f"{EMAIL} "

                async def read() -> None:
                    async with llm.stream("to-openai", EMAIL) as stream:
                        async for _ in stream:
                            pass

                task = asyncio.create_task(read())
                while len(provider.requests) < 2:
                    await clock.sleep(0.001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                transport: Any = llm.engine.transport
                assert transport.open_connections == transport.idle_connections == 0

        asyncio.run(main())


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            'redact = ["emails"]',
            'routes.r.guard.redact[0] = "emails": must be one of secret, iban, card, email, ip, phone',
        ),
        ("patterns = { x = '(a+)+' }", "routes.r.guard.patterns.x"),
        ('redact = ["email"]\naction = "drop"', "must be one of redact, block, flag"),
        ("", "guards nothing"),
        ('redact = ["email"]\nkind = "x"', "unknown key"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, written: str, says: str) -> None:
    """With the line, the value and what may stand there."""
    path = tmp_path / "headrace.toml"
    path.write_text(f'[routes.r]\ncascade = ["openai/m"]\n[routes.r.guard]\n{written}\n')
    with pytest.raises(headrace.ConfigError) as caught:
        load(path, environ={"OPENAI_API_KEY": KEY})
    assert says in str(caught.value)
