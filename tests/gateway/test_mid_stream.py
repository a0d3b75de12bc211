"""The mid-stream contract on the wire: what the official SDKs make of a held and of a restarted answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.gateway.gate import PAIRS, Gate, ask, config, gated

from headrace.testing import Answer, CutStream, FakeProvider

ROUTES = """
[routes.{mode}-openai]
cascade = ["openai/first", "openai/second"]
mid_stream = "{mode}"
[routes.{mode}-anthropic]
cascade = ["anthropic/first", "anthropic/second"]
mid_stream = "{mode}"
"""
FILLED = """
[routes.filled-{provider}]
cascade = ["{provider}/first", "{provider}/filled"]
mid_stream = "continue"
[prices."{provider}/filled"]
prefill = true
"""
WHOLE = """
[routes.whole-{provider}]
cascade = ["{provider}/first", "{provider}/second"]
tool_calls = "whole"
"""
FIRST = Answer(chunks=[f"first{n} " for n in range(8)], thinking="hm")
SECOND = Answer(chunks=[f"second{n} " for n in range(8)], tool_calls=[("look", {"at": "it"})], usage=(7, 9))
TEXT = "".join(f"second{n} " for n in range(8))
HI: Any = [{"role": "user", "content": "hi"}]

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway with a route of each mode."""
    with FakeProvider() as provider:
        more = "".join(ROUTES.format(mode=mode) for mode in ("hold", "restart", "continue"))
        more += FILLED.format(provider="openai") + FILLED.format(provider="anthropic")
        more += WHOLE.format(provider="openai") + WHOLE.format(provider="anthropic")
        with gated(provider, tmp_path_factory.mktemp("gateway"), config(provider, more=more)) as gate:
            yield gate
            gate.settled()


def script(gate: Gate) -> None:
    """The first target dies in the middle, the second answers."""
    gate.provider.reset()
    gate.provider.on("first", always=CutStream(after=4, answer=FIRST))
    gate.provider.on("second", always=SECOND)


@pairs
def test_a_held_answer_is_as_any_other(gate: Gate, client: str, provider: str) -> None:
    """The bytes of the second target and nothing of the first; the report has both."""
    script(gate)
    got = gate.post(client, ask(client, f"hold-{provider}", stream=True))
    assert b"first0" not in got.body and b"second7" in got.body
    assert got.headers["x-headrace-target"] == f"{provider}/second"
    report = gate.report(got.headers["x-request-id"])
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["broken", "ok"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_openais_sdk_reads_a_restart(gate: Gate, provider: str) -> None:
    """The marker is a chunk without choices that has a member `headrace`; tool calls are numbered on."""
    script(gate)
    chunks = list(
        gate.oai.chat.completions.create(
            model=f"restart-{provider}",
            messages=HI,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    (place,) = [at for at, chunk in enumerate(chunks) if "headrace" in (chunk.model_extra or {})]
    marker = chunks[place]
    assert marker.choices == []
    assert (marker.model_extra or {})["headrace"] == {
        "restart": {"target": f"{provider}/second", "cause": "malformed"}
    }

    def said(part: list[object]) -> str:
        return "".join(c.choices[0].delta.content or "" for c in part if c.choices)  # type: ignore[attr-defined]

    assert said(list(chunks[:place])).startswith("first0")
    assert said(list(chunks[place:])) == TEXT
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 9
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


def test_openais_accumulating_sdk_survives_a_restart(gate: Gate) -> None:
    """Its `stream` helper reads to the end without complaint; it joins both answers, which is why the marker is there."""
    script(gate)
    with gate.oai.chat.completions.stream(model="restart-openai", messages=HI) as stream:
        for _ in stream:
            pass
        whole = stream.get_final_completion()
    assert (whole.choices[0].message.content or "").endswith(TEXT)
    assert whole.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_anthropics_sdk_reads_a_restart(gate: Gate, provider: str) -> None:
    """It skips the marker, whose event it does not know, and has the second answer in blocks of its own."""
    script(gate)
    with gate.ant.messages.stream(model=f"restart-{provider}", max_tokens=99, messages=HI) as stream:
        message = stream.get_final_message()
    texts = [block.text for block in message.content if block.type == "text"]
    assert texts[-1] == TEXT
    assert texts[0].startswith("first0") and "second" not in texts[0]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"at": "it"}]
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_anthropics_marker_on_the_wire(gate: Gate, provider: str) -> None:
    """One start, one end; every block that began is closed before the marker; indices go on."""
    script(gate)
    body = gate.post("anthropic", ask("anthropic", f"restart-{provider}", stream=True)).body
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    kinds = [event["type"] for event in events]
    assert kinds.count("message_start") == kinds.count("message_stop") == kinds.count("headrace_restart") == 1
    marker = kinds.index("headrace_restart")
    assert events[marker] == {
        "type": "headrace_restart",
        "target": f"{provider}/second",
        "cause": "malformed",
    }
    begun = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert begun == list(range(len(begun)))
    before = [event for event in events[:marker] if event["type"].startswith("content_block_st")]
    assert sorted(e["index"] for e in before if e["type"].endswith("start")) == sorted(
        e["index"] for e in before if e["type"].endswith("stop")
    )


@pairs
def test_a_restart_that_finds_nobody(gate: Gate, client: str, provider: str) -> None:
    """Both targets die: one error event, no terminator."""
    gate.provider.reset()
    gate.provider.default = CutStream(after=2, answer=FIRST)
    body = gate.post(client, ask(client, f"restart-{provider}", stream=True)).body
    assert b"[DONE]" not in body and b"message_stop" not in body
    assert body.count(b"stream_broken") + body.count(b'"type":"error"') >= 1


CALLING = Answer(chunks=["Let me look."], tool_calls=[("look", {"at": "a", "long": "x" * 200})])


@pairs
def test_half_a_call_is_never_on_the_wire(gate: Gate, client: str, provider: str) -> None:
    """The provider dies in the arguments: the text and one error arrive, and nothing of the call."""
    gate.fresh()
    gate.provider.on("first", always=CutStream(after=6, answer=CALLING))
    got = gate.post(client, ask(client, f"whole-{provider}", stream=True))
    assert b"Let me look." in got.body
    assert b'"look"' not in got.body and b"xxxx" not in got.body
    assert b"stream_broken" in got.body or b"api_error" in got.body
    assert b"[DONE]" not in got.body and b"message_stop" not in got.body
    gate.fresh()
    only = Answer(tool_calls=CALLING.tool_calls)
    gate.provider.on("first", always=CutStream(after=4, answer=only))
    gate.provider.on("second", always=only)
    got = gate.post(client, ask(client, f"whole-{provider}", stream=True))
    assert got.headers["x-headrace-target"] == f"{provider}/second"
    assert got.body.count(b'"look"') == 1


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_whole_calls_are_the_providers_bytes(gate: Gate, name: str) -> None:
    """What is released is what was kept back, byte for byte."""
    gate.fresh()
    gate.provider.on("first", always=CALLING)
    bodies = [
        re.sub(rb'"(id|created|system_fingerprint)":("[^"]*"|[0-9]+)|: headrace .*\n', b"", got.body)
        for route in (f"whole-{name}", f"{name}/first")
        if (got := gate.post(name, ask(name, route, stream=True))).status == 200
    ]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]


TOLD = (
    "The river rises in the high moor, where rain falls on two days of three. "
    "From there it runs south, past a mill that has been grinding corn since 1742."
)
WHOLE_TEXT = Answer(chunks=[f"{word} " for word in TOLD.split()], usage=(7, 33))


@pytest.mark.parametrize("bad", [False, True], ids=["goes on", "says something else"])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_sdks_read_a_continued_answer_as_one(gate: Gate, provider: str, bad: bool) -> None:
    """Both SDKs have one text and the sum of the usage; or their error, where what came did not fit."""
    gate.provider.reset()
    gate.provider.on("first", always=CutStream(after=9, answer=WHOLE_TEXT))
    gate.provider.on("second", always=Answer(chunks=["Sure! Rivers are great."]) if bad else WHOLE_TEXT)

    def openai() -> tuple[str, int]:
        chunks = list(
            gate.oai.chat.completions.create(
                model=f"continue-{provider}", messages=HI, stream=True, stream_options={"include_usage": True}
            )
        )
        assert len({chunk.id for chunk in chunks}) == 1
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
            "stop"
        ]
        assert chunks[-1].usage is not None
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[
            -1
        ].usage.completion_tokens

    def anthropic() -> tuple[str, int]:
        with gate.ant.messages.stream(model=f"continue-{provider}", max_tokens=999, messages=HI) as stream:
            message = stream.get_final_message()
        (block,) = message.content
        assert block.type == "text" and message.stop_reason == "end_turn"
        return block.text, message.usage.output_tokens

    for ask_it in (openai, anthropic):
        if bad:
            with pytest.raises(Exception, match="died after the answer had begun"):
                ask_it()
            continue
        text, output = ask_it()
        assert text.strip() == TOLD
        assert 33 < output < 66
    roles = [message["role"] for message in json.loads(gate.provider.requests[-1].body)["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert b"was cut off" in gate.provider.requests[-1].body


@pairs
def test_words_that_do_not_fit_bought_nothing(gate: Gate, client: str, provider: str) -> None:
    """A short answer has come to its end before it is judged: it is a failed attempt all the same, and its cost wasted."""
    gate.provider.reset()
    gate.provider.on("first", always=CutStream(after=9, answer=WHOLE_TEXT))
    gate.provider.on("second", always=Answer("Sure! Rivers are great.", usage=(9, 4)))
    got = gate.post(client, ask(client, f"continue-{provider}", stream=True))
    assert b"Rivers" not in got.body
    _, bad = gate.report(got.headers["x-request-id"])["attempts"]
    assert (bad["outcome"], bad["reason"], bad["purpose"]) == ("error", "invalid_output", "continue")
    assert bad["tokens"]["output"] == 4 and bad["wasted_usd"] == bad["cost_usd"]


@pairs
def test_a_model_that_takes_a_prefill_is_sent_one(gate: Gate, client: str, provider: str) -> None:
    """Its last message is the text so far, without white space at the end; the answer ends as any other."""
    gate.provider.reset()
    gate.provider.on("first", always=CutStream(after=9, answer=WHOLE_TEXT))
    gate.provider.on("filled", always=Answer(chunks=[f" {word}" for word in TOLD.split()[9:]]))
    got = gate.post(client, ask(client, f"filled-{provider}", stream=True))
    last = json.loads(gate.provider.requests[-1].body)["messages"][-1]
    assert last["role"] == "assistant"
    said = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    assert said == " ".join(TOLD.split()[: len(said.split())]) and len(said.split()) > 6
    report = gate.report(got.headers["x-request-id"])
    assert [attempt["outcome"] for attempt in report["attempts"]] == ["broken", "ok"]
    assert got.body.count(b"[DONE]" if client == "openai" else b"event: message_stop") == 1
    assert got.body.count(b"message_start\ndata") == (client == "anthropic")
