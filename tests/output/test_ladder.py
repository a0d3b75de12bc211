"""Structured output end to end: library and real sockets, both dialects, buffered and streamed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

import headrace
from headrace.testing import Answer, FakeProvider, Overloaded, Received, Status


class City(pydantic.BaseModel):
    """A city."""

    name: str
    population: int


@dataclasses.dataclass
class Town:
    name: str
    population: int


class Village(TypedDict):
    name: str
    population: int
    river: NotRequired[str]


class Hamlet(msgspec.Struct):
    name: str
    population: int


TOKYO = {"name": "Tokyo", "population": 37_000_000}
GOOD = json.dumps(TOKYO)
CITY = City.model_validate(TOKYO)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "population": {"type": "integer", "minimum": 1}},
    "required": ["name", "population"],
    "additionalProperties": False,
}


def settings(tmp_path: Path, provider: FakeProvider, more: str = "") -> headrace.Settings:
    """`native` speaks OpenAI's dialect, `forced` Anthropic's; the route `both` asks one after the other."""
    (tmp_path / "headrace.toml").write_text(f"""
[providers.native]
dialect = "openai-chat"
base_url = "{provider.base_url}"
[providers.forced]
dialect = "anthropic"
base_url = "{provider.anthropic_url}"
[providers.anthropic]
base_url = "{provider.anthropic_url}"
api_key = "k"
[routes.one]
cascade = ["native/m"]
[routes.both]
cascade = ["native/a", "native/b"]
{more}
""")
    return headrace.load(tmp_path / "headrace.toml", environ={})


@pytest.mark.parametrize(
    "kind", [City, Town, Hamlet, Village, SCHEMA], ids=lambda k: getattr(k, "__name__", "schema")
)
def test_a_value_of_every_kind(tmp_path: Path, kind: Any) -> None:
    """Each kind of type is asked for natively and comes back as itself."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.reply(GOOD)
        answer = llm.chat("one", "Largest city?", output=kind)
        value = answer.value
        assert (
            value if isinstance(value, dict) else {"name": value.name, "population": value.population}
        ) == TOKYO
        if isinstance(kind, type) and kind is not Village:
            assert type(value) is kind
        sent = provider.requests[0].json["response_format"]["json_schema"]
        assert sent["strict"] is True
        assert sent["schema"]["additionalProperties"] is False
        assert set(sent["schema"]["required"]) == set(sent["schema"]["properties"])
        assert not answer.warnings


def test_a_list_is_asked_for_inside_an_object(tmp_path: Path) -> None:
    """Providers take objects only: the list is wrapped on the way out and unwrapped on the way back."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.reply(json.dumps({"value": [TOKYO]}))
        answer = llm.chat("one", "Cities?", output=list[City])
        assert answer.value == [CITY]
        assert json.loads(answer.text) == [TOKYO]


def test_the_modes_of_targets(tmp_path: Path) -> None:
    """Anthropic's own models are asked with output_config, unknown ones of its dialect by a forced tool."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.reply(GOOD)
        llm.chat("anthropic/claude-sonnet-4-5", "?", output=City)
        assert provider.requests[-1].json["output_config"]["format"]["type"] == "json_schema"
        provider.reply(tool_calls=[("answer", TOKYO)])
        answer = llm.chat("forced/m", "?", output=City)
        sent = provider.requests[-1].json
        assert sent["tool_choice"] == {"type": "tool", "name": "answer"}
        assert answer.value == CITY
        assert answer.text == json.dumps(TOKYO, separators=(",", ":")) or json.loads(answer.text) == TOKYO
        assert answer.finish == "stop" and not answer.tool_calls


def test_a_rejected_mode_is_not_asked_again(tmp_path: Path) -> None:
    """A server without response_format says 400: it is asked by tool, and from then on at once."""
    no = Status(400, message="Unknown parameter: 'response_format'")
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(no, Answer(tool_calls=[("answer", TOKYO)]), Answer(tool_calls=[("answer", TOKYO)]))
        assert llm.chat("one", "?", output=City).value.population == 37_000_000
        assert llm.chat("one", "?", output=City).value.name == "Tokyo"
        assert ["response_format" in r.json for r in provider.requests] == [True, False, False]


def test_another_bad_request_is_final(tmp_path: Path) -> None:
    """A rejection that is not about the mode is the caller's to see, at once."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.fault(Status(400, message="temperature is too hot"))
        with pytest.raises(headrace.ProviderError, match="too hot"):
            llm.chat("one", "?", output=City)
        assert len(provider.requests) == 1


def test_an_answer_is_repaired_and_the_repair_is_named(tmp_path: Path) -> None:
    """Fence, comment, quotes and comma: one request, the value, and a warning."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.reply("Sure!\n```json\n{'name': 'Tokyo', // big\n 'population': 37000000,}\n```")
        answer = llm.chat("one", "?", output=City)
        assert answer.value == CITY
        assert len(provider.requests) == 1
        assert answer.warnings == [
            "the answer of native/m was repaired: extra text, quotes, comment, trailing comma"
        ]


@pytest.mark.parametrize("target", ["native/m", "forced/m"])
def test_a_wrong_answer_is_asked_for_once_more(tmp_path: Path, target: str) -> None:
    """The same target hears the validator's words; the ledger has both attempts, the second as a re-ask."""
    wrong = {"name": "Tokyo", "population": "about 37 million"}

    def say(value: object) -> Answer:
        return (
            Answer(json.dumps(value))
            if target == "native/m"
            else Answer(tool_calls=[("answer", json.dumps(value))])
        )

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(say(wrong), say(TOKYO))
        answer = llm.chat(target, "?", output=City)
        assert answer.value == CITY
        assert [(a.outcome, a.purpose) for a in answer.attempts] == [("error", ""), ("ok", "reask")]
        assert answer.attempts[0].error_kind == "invalid_output"
        assert "valid integer" in json.dumps(provider.requests[1].json["messages"])
        assert "about 37 million" in json.dumps(provider.requests[1].json["messages"])

        async def ledger() -> list[str]:
            await llm.client.engine.store.flush()
            stored = await llm.client.engine.store.request(answer.id, None)
            assert stored is not None
            return [row.purpose for row in stored.attempts]

        assert llm.portal.run(ledger()) == ["answer", "reask"]


def test_the_next_target_and_the_typed_error(tmp_path: Path) -> None:
    """Twice wrong sends the cascade on; wrong everywhere is `InvalidOutput` with the raw text."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.on("a", always=Answer("no idea"))
        provider.on("b", Answer(GOOD), always=Answer("none either"))
        answer = llm.chat("both", "?", output=City)
        assert answer.value.name == "Tokyo"
        assert [str(a.target) for a in answer.attempts] == ["native/a", "native/a", "native/b"]
        with pytest.raises(headrace.InvalidOutput) as caught:
            llm.chat("both", "?", output=City)
        assert caught.value.received == "none either"
        assert caught.value.target == "native/b"


def test_what_is_cut_is_never_completed(tmp_path: Path) -> None:
    """A number or text cut at the limit is asked for again, not closed."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        for text in ('{"name": "Tokyo", "population": 37', '{"population": 1, "name": "Tok', "37"):
            kind: Any = int if text == "37" else City
            provider.script(Answer(text, finish="length"), Answer("37000000" if kind is int else GOOD))
            answer = llm.chat("one", "?", output=kind)
            assert (answer.value if kind is int else answer.value.population) == 37_000_000
            assert len(answer.attempts) == 2


def test_a_refusal_is_a_refusal(tmp_path: Path) -> None:
    """A model that declines is not asked to correct its JSON."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.reply(refusal="I will not.")
        with pytest.raises(headrace.ProviderError, match="declined"):
            llm.chat("one", "?", output=City)
        assert len(provider.requests) == 1


def test_overload_below_the_ladder(tmp_path: Path) -> None:
    """The retry layer works underneath: an overload is not a wrong answer."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(Overloaded(), Answer(GOOD))
        assert llm.chat([("native/m", 2)], "?", output=City).value.name == "Tokyo"


def test_partials_grow_and_end_valid(tmp_path: Path) -> None:
    """The provisional values grow to the valid one; the text comes only then; a re-ask begins anew."""

    async def main() -> None:
        async with FakeProvider() as provider, headrace.AsyncClient(settings(tmp_path, provider)) as llm:
            provider.script(
                Answer(chunks=['{"name": "Kyo', 'to", "popul', 'ation": "many"}']),
                Answer(chunks=['{"name": "Tok', 'yo", "population": 37', "000000}"]),
            )
            async with llm.stream("one", "?", output=City) as stream:
                seen = [partial async for partial in stream.partials()]
            assert seen[0] == {"name": "Kyo"}
            assert {"name": "Tok"} in seen
            assert {"name": "Tokyo", "population": 37} not in seen
            assert seen[-1] == TOKYO
            assert stream.final.value == CITY
            provider.reply(GOOD)
            assert [p async for p in llm.stream("one", "?", output=City).partials()][-1] == TOKYO
            provider.reply(GOOD)
            async with llm.stream("one", "?", output=City) as stream:
                assert "".join([text async for text in stream]) == GOOD
            provider.script(Answer("never"), Answer("never"))
            with pytest.raises(headrace.InvalidOutput):
                async with llm.stream("one", "?", output=City) as stream:
                    [_ async for _ in stream]
            assert provider.open_connections <= 1

    asyncio.run(main())


def test_leaving_a_structured_stream_early_closes_it(tmp_path: Path) -> None:
    """Who stops reading partials stops the request."""

    async def main() -> None:
        async with FakeProvider() as provider, headrace.AsyncClient(settings(tmp_path, provider)) as llm:
            provider.reply(chunks=['{"name": "Tok', 'yo"}'], delay_s=30)
            async with llm.stream("one", "?", output=City) as stream:
                async for _ in stream.partials():
                    break
            from headrace.testing import until

            await until(lambda: provider.requests[0].hung_up_at is not None)

    asyncio.run(main())


def test_the_synchronous_partials(tmp_path: Path) -> None:
    """The same through `Client`."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.reply(GOOD)
        with llm.stream("one", "?", output=City) as stream:
            assert [*stream.partials()][-1] == TOKYO
        assert stream.final.value == CITY


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    """Types without a JSON form, schemas that cannot be judged, and two forms at once are told before anything is sent."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        calls: list[Callable[[], object]] = [
            lambda: llm.chat("one", "?", output=Callable),  # type: ignore[arg-type]
            lambda: llm.chat("one", "?", output={"unevaluatedProperties": False}),
            lambda: llm.chat("one", "?", output={"type": "object", "properties": []}),
            lambda: llm.chat("one", "?", output={"type": "string", "pattern": r"^\p{L}+$"}),
            lambda: llm.chat("one", "?", output={"type": "integer", "minimum": "1"}),
            lambda: llm.chat("one", "?", output={"$ref": "#/$defs/none"}),
            lambda: llm.chat(
                "one", "?", output=City, response_format=headrace.ResponseFormat(kind="json_object")
            ),
        ]
        for call in calls:
            with pytest.raises(headrace.InvalidRequest):
                call()
        assert not provider.requests


def test_no_value_without_output(tmp_path: Path) -> None:
    """An answer to a plain question has no value, and says so."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        answer = llm.chat("one", "?")
    with pytest.raises(RuntimeError, match="output="):
        _ = answer.value


def test_words_as_the_last_mode(tmp_path: Path) -> None:
    """A target that takes neither schema nor tools is told in words."""

    def picky(request: Received) -> Answer | Status:
        body = request.json
        if "response_format" in body or "tools" in body:
            return Status(400, message="tools and response_format are not supported")
        assert "JSON Schema" in body["messages"][0]["content"]
        return Answer(f"```\n{GOOD}\n```")

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.default = picky
        assert llm.chat("one", "?", output=City).value == CITY
        assert len(provider.requests) == 3
