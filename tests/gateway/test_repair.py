"""A route with `repair` holds answers to the caller's own JSON Schema; a route without passes them on as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.gate import PAIRS, Gate, ask, config, gated

from headrace.testing import Answer, CutStream, FakeProvider, Stall

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "openai": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
        }
    },
    "anthropic": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
BROKEN = "Here: {'n': 7,}"

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway with a repairing route for each provider's dialect."""
    more = "".join(
        f'[routes.fix-{name}]\ncascade = ["{name}/{model}"]\nrepair = true\n'
        for name, model in (("openai", "gpt-5"), ("anthropic", "claude-sonnet-4-5"))
    )
    with (
        FakeProvider() as provider,
        gated(provider, tmp_path_factory.mktemp("held"), config(provider, more=more)) as gate,
    ):
        yield gate


@pytest.fixture
def gate(held: Gate) -> Gate:
    held.fresh()
    return held


def said(gate: Gate, client: str, model: str, *, stream: bool) -> str:
    """The text that `client`'s official SDK makes of the answer."""
    messages: Any = [{"role": "user", "content": "hi"}]
    if client == "openai":
        made: Any = gate.oai.chat.completions.create(
            model=model, messages=messages, stream=stream, **FORMS["openai"]
        )
        if not stream:
            return str(made.choices[0].message.content)
        return "".join(c.choices[0].delta.content or "" for c in made if c.choices)
    made = gate.ant.messages.create(
        model=model, messages=messages, max_tokens=64, stream=stream, **FORMS["anthropic"]
    )
    if not stream:
        return "".join(block.text for block in made.content)
    return "".join(e.delta.text for e in made if e.type == "content_block_delta")


@pairs
@streamed
def test_a_broken_answer_is_repaired(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """The SDK gets the valid object and nothing of what was around it, in every pair of dialects."""
    gate.provider.reply(BROKEN)
    assert json.loads(said(gate, client, f"fix-{provider}", stream=stream)) == {"n": 7}
    assert len(gate.provider.requests) == 1


@pairs
@streamed
def test_a_wrong_answer_is_asked_for_again(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """Nothing of the first answer is released, streamed or not."""
    gate.provider.script(Answer('{"n": "seven"}'), Answer('{"n": 7}'))
    assert json.loads(said(gate, client, f"fix-{provider}", stream=stream)) == {"n": 7}
    assert "seven" in json.dumps(gate.provider.requests[1].json["messages"])


def test_a_stream_that_breaks_is_asked_for_again(gate: Gate) -> None:
    """Held answers have not been committed, so that a cut in the middle is cured."""
    gate.provider.script(CutStream(2, answer=Answer('{"n": 1234567, "m": 8}')), Answer('{"n": 7}'))
    assert json.loads(said(gate, "openai", "fix-openai", stream=True)) == {"n": 7}


def test_twice_wrong_is_an_error_in_the_dialect(gate: Gate) -> None:
    """Status 502 with its kind, and the SDK is told not to ask again."""
    gate.provider.default = Answer("no")
    got = gate.post("openai", ask("openai", "fix-openai", **FORMS["openai"]))
    assert got.status == 502
    assert "did not give what was asked for" in got.json["error"]["message"]
    assert got.headers["x-should-retry"] == "false"
    assert len(gate.provider.requests) == 2


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_valid_answer_keeps_its_bytes(gate: Gate, dialect: str) -> None:
    """In one dialect the caller's body and the provider's answer cross as they are, but for the model's name."""
    body = ask(dialect, f"fix-{dialect}", unknown_member={"a": [1, 2.50]}, **FORMS[dialect])
    gate.provider.reply('{"n": 7}')
    got = gate.post(dialect, body)
    sent = gate.provider.requests[0]
    assert sent.body == body.replace(f"fix-{dialect}".encode(), sent.model.encode())
    assert '{"n": 7}' in json.dumps(got.json).replace("\\", "")
    assert "x-headrace-warnings" not in got.headers


def test_without_repair_nothing_is_touched(gate: Gate) -> None:
    """A target by its own name: the broken answer is the caller's."""
    gate.provider.reply(BROKEN)
    assert said(gate, "openai", "openai/gpt-5", stream=False) == BROKEN


def test_without_a_schema_nothing_is_held(gate: Gate) -> None:
    """On a repairing route a plain question streams at once."""
    gate.provider.script(Stall(1, 0.0, answer=Answer("plain words")))
    got = gate.post("openai", ask("openai", "fix-openai", stream=True))
    assert b"plain" in got.body and got.status == 200


def test_what_cannot_be_judged_is_passed_on_and_named(gate: Gate, tmp_path: Path) -> None:
    """A schema with an unknown assertion, and several answers at once, are the provider's business; a warning says so."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"unevaluatedProperties": False}}}
    gate.provider.script(Answer("a"), Answer("b"))
    got = gate.post("openai", ask("openai", "fix-openai", response_format=form))
    assert got.status == 200 and "unevaluatedProperties" in got.headers["x-headrace-warnings"]
    got = gate.post("openai", ask("openai", "fix-openai", n=2, **FORMS["openai"]))
    assert got.status == 200 and "2 answers" in got.headers["x-headrace-warnings"]


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)*$", "^([a-z]+)*$"])
def test_a_pattern_that_could_run_for_years_is_not_run(gate: Gate, pattern: str) -> None:
    """A caller's schema cannot keep a worker busy: the answer is passed on unjudged, at once."""
    schema = {
        "type": "object",
        "properties": {"w": {"type": "string", "pattern": pattern}},
        "required": ["w"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}
    gate.provider.reply(json.dumps({"w": "a" * 60 + "!"}))
    got = gate.post("openai", ask("openai", "fix-openai", response_format=form))
    assert got.status == 200 and "could run for long" in got.headers["x-headrace-warnings"]


def test_ordinary_patterns_are_judged(gate: Gate) -> None:
    """A repeat or two are no danger: what does not match is asked for again."""
    schema = {
        "type": "object",
        "properties": {"mail": {"type": "string", "pattern": "^[a-z.]+@[a-z.]+$"}},
        "required": ["mail"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "m", "schema": schema}}
    gate.provider.script(Answer('{"mail": "ann"}'), Answer('{"mail": "ann@x.org"}'))
    got = gate.post("openai", ask("openai", "fix-openai", response_format=form))
    assert json.loads(got.json["choices"][0]["message"]["content"]) == {"mail": "ann@x.org"}
