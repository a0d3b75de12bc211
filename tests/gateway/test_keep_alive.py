"""Comments in silent streams: they keep the connection, and everything that comes after them still arrives in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.gate import Gate, ask, config, gated

from headrace.testing import Answer, FakeProvider, Filtered, Overloaded, Stall

COMMENT = b": keep-alive\n\n"
LATE = Answer(chunks=["one ", "two"], first_delay_s=0.35, usage=(7, 4))

ROUTES = """
[routes.late]
cascade = ["openai/dead", "openai/late", "anthropic/late"]
deadline = "5s"
[routes.gone]
cascade = ["openai/late-failure"]
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway that speaks after 100 ms of silence."""
    with FakeProvider() as provider:
        text = config(provider, gateway='keep_alive = "100ms"', more=ROUTES)
        with gated(provider, tmp_path_factory.mktemp("gateway"), text) as gate:
            yield gate
            gate.settled()


def comments(body: bytes) -> list[Any]:
    """What the receipts say."""
    lines = [event for event in body.split(b"\n\n") if event.startswith(b": headrace ")]
    return [json.loads(line.removeprefix(b": headrace ")) for line in lines]


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_a_late_answer_is_preceded_by_comments(gate: Gate, client: str) -> None:
    """The response is opened without knowing who will answer; the receipt says it at the end."""
    gate.provider.reset()
    gate.provider.on("dead", Overloaded(should_retry=False))
    gate.provider.on("late", always=LATE)
    got = gate.post(client, ask(client, "late", stream=True))
    assert got.status == 200
    assert got.body.startswith(COMMENT)
    assert 2 <= got.body.count(COMMENT) <= 4
    assert "x-headrace-target" not in got.headers
    (receipt,) = comments(got.body)
    assert receipt["target"] == "openai/late"
    assert receipt["request_id"] == got.headers["x-request-id"]


def test_a_prompt_answer_has_none(gate: Gate) -> None:
    """Who answers at once is relayed byte for byte, and the headers say who it was."""
    gate.provider.reset()
    gate.provider.reply("at once")
    got = gate.post("openai", ask("openai", "openai/m", stream=True))
    assert COMMENT not in got.body
    assert got.headers["x-headrace-target"] == "openai/m"


def test_a_silent_middle_has_them_too(gate: Gate) -> None:
    """Between two pieces of a stream as well, never inside an event."""
    gate.provider.reset()
    gate.provider.script(Stall(after=1, seconds=0.25, answer=Answer(chunks=["one ", "two"])))
    got = gate.post("openai", ask("openai", "openai/m", stream=True))
    events = got.body.split(b"\n\n")
    assert b": keep-alive" in events
    text = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in text) == "one two"
    assert got.body.endswith(b"data: [DONE]\n\n")


def test_both_sdks_read_past_comments(gate: Gate) -> None:
    """The official clients see the answer and nothing else."""
    gate.provider.reset()
    gate.provider.on("late", always=LATE)
    gate.provider.on("dead", always=Overloaded(should_retry=False))
    chunks = gate.oai.chat.completions.create(
        model="late", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "one two"
    with gate.ant.messages.stream(
        model="late", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        assert "".join(stream.text_stream) == "one two"


def test_a_late_error_comes_as_an_event(gate: Gate) -> None:
    """Once opened, the response ends in the dialect's error event, which both SDKs raise; and no terminator follows."""
    gate.provider.reset()
    gate.provider.on("late-failure", always=_LateFailure())
    body = gate.post("openai", ask("openai", "gone", stream=True)).body
    assert body.startswith(COMMENT) and b"[DONE]" not in body
    assert comments(body)[0]["attempts"] == 1
    with pytest.raises(openai.APIError, match=r"blocked|policy|filter"):
        list(
            gate.oai.chat.completions.create(
                model="gone", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        )
    with (
        pytest.raises(anthropic.APIStatusError),
        gate.ant.messages.stream(
            model="gone", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as stream,
    ):
        list(stream.text_stream)


class _LateFailure(Filtered):
    """A final error, after 250 ms."""

    __slots__ = ()

    async def act(self, wire: Any) -> None:
        await wire.sleep(0.25)
        await super().act(wire)
