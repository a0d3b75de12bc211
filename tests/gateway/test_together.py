"""Everything on at once: guard, cache, context, budgets, limits, hedging, deployments, held streams; both dialects, buffered and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.gate import ADMIN, Gate, ask, config, gated, wait_for
from tests.gateway.test_sdks import TOOLS, say

import headrace
from headrace.layers.hedging import ENOUGH
from headrace.testing import Answer, CutStream, FakeProvider, Overloaded, Received

ROUTE = """
[routes.NAME]
cascade = [{ target = "openai/gpt-4o-mini", attempts = 2 }, "anthropic/claude-3-5-haiku-20241022"]
max_cost_usd = "0.50"
on_limit = "downgrade"
budget = { usd = "100", window = "month" }
limits = { rpm = 100000, tpm = 1000000000 }
priority = "high"
mid_stream = "restart"
tool_calls = "whole"
repair = true
max_output_tokens = 500
[routes.NAME.cache]
semantic = true
max_wrong = 0.05
[routes.NAME.context]
budget = 2000
pins = 1
[routes.NAME.guard]
redact = ["email", "card"]
[routes.NAME.guard.answer]
secrets = true
"""
EVERYTHING = """
[deployments.a]
target = "openai/gpt-4o-mini"
concurrency = 4
[deployments.b]
target = "openai/gpt-4o-mini"
api_key = "sk-canary-second-0123456789"
concurrency = 4
[routes.auto]
cascade = ["openai/gpt-4o"]
rules = [{ tag = "task=all", use = "all" }]
[limits.users]
"few" = { rpm = 2 }
[budgets]
total = { usd = "1000", window = "month" }
users = { "poor" = { usd = "0.0004", window = "month" } }
tags = { "project=*" = { usd = "10", window = "month" } }
"""
EVERYTHING += ROUTE.replace("NAME", "all")
# A route of its own: a hedge, however rare, would be one request more in all other tests.
EVERYTHING += ROUTE.replace("NAME", "hedged").replace("priority", "hedge = { max_extra = 0.5 }\npriority")
DIALECTS = pytest.mark.parametrize("client", ["openai", "anthropic"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
MAIL = "ann@example.com"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("together")
    with FakeProvider() as provider, gated(provider, folder, config(provider, more=EVERYTHING)) as gate:
        yield gate
        gate.settled()


@pytest.fixture
def gate(house: Gate) -> Gate:
    """With an empty cache."""
    house.fresh()
    assert house.http("DELETE", "/admin/cache", key=ADMIN).status == 200
    return house


def said_to(received: Received) -> str:
    return received.body.decode()


def turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def spent(gate: Gate, budget: str) -> tuple[str, str]:
    rows = gate.http("GET", "/admin/budgets", key=ADMIN).json["budgets"]
    return next((row["spent"], row["unsettled"]) for row in rows if row["budget"] == budget)


@DIALECTS
@STREAMED
def test_a_hit_has_its_own_values_and_costs_nothing(gate: Gate, client: str, stream: bool) -> None:
    """Guard over cache over budget: the provider sees a placeholder, the second answer comes from the cache with the value, and no
    budget moves; somebody with another value asks anew."""
    gate.provider.default = lambda seen: Answer(
        f"Sent to {'[EMAIL_1]' if '[EMAIL_1]' in said_to(seen) else '?'}."
    )
    question = f"Write a letter to {MAIL} about the {client} {stream} invoice"
    assert say(gate, client, "all", stream=stream, messages=turn(question)).text == f"Sent to {MAIL}."
    before = spent(gate, "route all")
    again = say(gate, client, "all", stream=not stream, messages=turn(question))
    assert again.text == f"Sent to {MAIL}."
    assert len(gate.provider.requests) == 1 and spent(gate, "route all") == before
    assert MAIL not in said_to(gate.provider.requests[0])
    other = question.replace(MAIL, "bob@example.com")
    assert say(gate, client, "all", stream=stream, messages=turn(other)).text == "Sent to bob@example.com."
    assert len(gate.provider.requests) == 2


@DIALECTS
@STREAMED
def test_tools_get_values_back_and_are_never_cached(gate: Gate, client: str, stream: bool) -> None:
    """Guard, whole calls, context and cache: arguments have the caller's value, each time from the provider."""
    gate.provider.default = Answer("Wait.", tool_calls=[("weather", {"city": "home of [EMAIL_1]"})])
    question = turn(f"What is the weather where {MAIL} lives?")
    for asked in (1, 2):
        said = say(gate, client, "all", stream=stream, messages=question, tools=TOOLS[client])
        assert [(name, arguments) for _, name, arguments in said.calls] == [
            ("weather", {"city": f"home of {MAIL}"})
        ]
        assert len(gate.provider.requests) == asked
        assert MAIL not in said_to(gate.provider.requests[-1])


@DIALECTS
@STREAMED
def test_a_long_talk_is_packed_guarded_and_kept(gate: Gate, client: str, stream: bool) -> None:
    """Context below cache below guard: what is sent fits and has no address; the whole talk asked again is a hit; another early turn is not."""
    talk: list[dict[str, Any]] = [{"role": "user", "content": f"I am {MAIL}, remember it."}]
    for number in range(80):
        talk.append({"role": "assistant", "content": f"Noted {number}."})
        talk.append(
            {"role": "user", "content": f"Point {number} is about things that take {number} words. " * 3}
        )
    gate.provider.default = Answer("You are [EMAIL_1].")
    first = say(gate, client, "all", stream=stream, messages=talk)
    assert first.text == f"You are {MAIL}."
    sent = said_to(gate.provider.requests[0])
    assert MAIL not in sent and "[EMAIL_1]" in sent and len(sent) < len(json.dumps(talk)) * 0.8
    assert say(gate, client, "all", stream=stream, messages=talk).text == first.text
    assert len(gate.provider.requests) == 1
    talk[2] = {"role": "user", "content": "Something else."}
    say(gate, client, "all", stream=stream, messages=talk)
    assert len(gate.provider.requests) == 2


@DIALECTS
@STREAMED
def test_a_withheld_answer_is_not_kept(gate: Gate, client: str, stream: bool) -> None:
    """Answer guard over cache: a secret is withheld each time, whether it comes from the provider or from what was kept."""
    secret = "sk-ant-api03-" + "A1b2C3d4" * 11 + "-abcdefAA"
    gate.provider.default = Answer(f"The key is {secret} of course.")
    for _ in range(2):
        with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
            say(gate, client, "all", stream=stream, messages=turn("Which key does the cook use?"))
        assert secret not in str(caught.value)


def test_a_budget_that_is_used_up_still_gives_hits(gate: Gate) -> None:
    """The cache stands above budgets: what costs nothing is not refused; what would cost is."""
    poor = {"x-headrace-user": "poor"}
    gate.provider.default = Answer("Paris.", usage=(100, 500))
    body = json.dumps({"model": "all", "messages": turn("What is the capital of France?")}).encode()
    assert gate.post("openai", body, poor).status == 200
    other = json.dumps({"model": "all", "messages": turn("Name the river in the middle of London.")}).encode()
    refused = gate.post("openai", other, poor)
    assert refused.status == 402 and "user poor" in refused.json["error"]["message"]
    hit = gate.post("openai", body, poor)
    assert (hit.status, hit.headers["x-headrace-cache"]) == (200, "hit-exact")
    assert len(gate.provider.requests) == 1


def test_limits_hold_for_hits_too(gate: Gate) -> None:
    """The rate limit stands above the cache."""
    few = {"x-headrace-user": "few"}
    body = json.dumps({"model": "all", "messages": turn("How many legs has a spider?")}).encode()
    got = [gate.post("openai", body, few) for _ in range(3)]
    assert [one.status for one in got] == [200, 200, 429]
    assert got[1].headers["x-headrace-cache"] == "hit-exact"
    assert got[1].headers["x-ratelimit-limit-requests"] == "2"


@STREAMED
def test_many_who_ask_the_same_are_one_request(gate: Gate, stream: bool) -> None:
    """Single-flight under limits and concurrency: twelve callers, one attempt in one slot, each with an id of his own, the cost booked once."""
    gate.provider.default = Answer("Slowly but surely, [EMAIL_1].", first_delay_s=0.3)
    question = turn(f"Tell {MAIL} how a bill becomes a law ({stream}).")
    body = json.dumps({"model": "all", "stream": stream, "messages": question}).encode()
    tags = {"x-headrace-tags": f"project={stream}"}
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda _: gate.post("openai", body, tags), range(12)))
    assert {one.status for one in got} == {200} and len(gate.provider.requests) == 1
    assert len({one.headers["x-request-id"] for one in got}) == 12
    assert all(b"[EMAIL_1]" not in one.body and b"ann" in one.body for one in got)
    reports = [gate.report(one.headers["x-request-id"]) for one in got]
    costs = [sum(float(attempt["cost_usd"]) for attempt in report["attempts"]) for report in reports]
    assert sum(cost > 0 for cost in costs) == 1
    assert float(spent(gate, f"tag project={stream}")[0]) == pytest.approx(sum(costs))


@DIALECTS
@STREAMED
def test_a_failing_place_is_made_good(gate: Gate, client: str, stream: bool) -> None:
    """Retry, deployments and budget: the other key answers; what failed costs nothing."""
    gate.provider.script(Overloaded(), Answer("Here."))
    before = spent(gate, "route all")[1]
    said = say(
        gate, client, "all", stream=stream, messages=turn(f"Where is the key of the {client} {stream} house?")
    )
    assert said.text == "Here."
    keys = {seen.headers.get("authorization") for seen in gate.provider.requests}
    assert len(keys) == 2
    assert spent(gate, "route all")[1] == before


@DIALECTS
def test_a_stream_that_dies_starts_anew_and_only_the_whole_is_kept(gate: Gate, client: str) -> None:
    """Restart, guard and cache: the caller gets an answer with its values; a hit is the whole of it."""
    question = turn(f"Write a long letter to {MAIL} by the {client} way.")
    gate.provider.script(
        CutStream(
            after=3,
            answer=Answer(chunks=["Dear ", "[EMA", "IL_1], I", " begin"]),
        )
    )
    gate.provider.default = Answer("Dear [EMAIL_1], all is well.")
    said = say(gate, client, "all", stream=True, messages=question)
    # The SDK joins what came before the restart's marker and after it.
    assert said.text == f"Dear {MAIL}, IDear {MAIL}, all is well."
    assert say(gate, client, "all", stream=False, messages=question).text == f"Dear {MAIL}, all is well."
    assert len(gate.provider.requests) == 2


@DIALECTS
@STREAMED
def test_a_hedged_answer_is_booked_and_kept_once(gate: Gate, client: str, stream: bool) -> None:
    """Hedge, budget and cache: the slow one is left and booked, nothing stays reserved, and the answer is a hit the next time."""
    gate.provider.on("gpt-4o-mini", always=Answer("First.", usage=(7, 3)))
    gate.provider.on("claude-3-5-haiku-20241022", always=Answer("Second.", usage=(7, 3)))
    for number in range(ENOUGH + 1):
        say(
            gate,
            client,
            "hedged",
            stream=stream,
            messages=turn(f"Count {client} {stream} up to {number * 7} please"),
        )
    gate.provider.on("gpt-4o-mini", always=Answer("First.", first_delay_s=30.0))
    question = turn(f"What came before the {client} {stream} egg?")
    asked = len(gate.provider.requests)
    assert say(gate, client, "hedged", stream=stream, messages=question).text == "Second."
    assert len(gate.provider.requests) == asked + 2
    wait_for(
        lambda: all(not place["busy"] for place in gate.http("GET", "/admin", key=ADMIN).json["deployments"])
    )
    assert say(gate, client, "hedged", stream=stream, messages=question).text == "Second."
    assert len(gate.provider.requests) == asked + 2


@STREAMED
def test_an_answer_without_its_form_is_asked_for_again_and_kept_right(gate: Gate, stream: bool) -> None:
    """Repair between guard and cache: the wrong form is re-asked, the caller's value is in the right one, and that is the hit."""
    schema = {
        "type": "object",
        "properties": {"to": {"type": "string"}},
        "required": ["to"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "letter", "strict": True, "schema": schema}}
    gate.provider.script(Answer("I cannot say."), Answer('{"to": "[EMAIL_1]"}'))
    for _ in range(2):
        said = say(
            gate,
            "openai",
            "all",
            stream=stream,
            messages=turn(f"To whom ({stream})? {MAIL}"),
            response_format=form,
        )
        assert json.loads(said.text) == {"to": MAIL}
        assert len(gate.provider.requests) == 2


def test_the_library_has_the_same(gate: Gate, tmp_path: Path) -> None:
    """The same settings in a program: a streamed answer with the caller's value, then a hit that costs nothing."""
    (tmp_path / "headrace.toml").write_text((gate.folder / "headrace.toml").read_text())
    gate.provider.default = Answer("Sent to [EMAIL_1].")
    with headrace.Client(headrace.config.load(tmp_path / "headrace.toml", environ={})) as llm:
        with llm.stream("all", f"Write to {MAIL} in the library") as stream:
            assert "".join(stream) == f"Sent to {MAIL}."
        assert stream.final.cost_usd and len(stream.final.attempts) == 1
        again = llm.chat("all", f"write to {MAIL} in the library")
        assert (again.text, again.cost_usd, again.attempts) == (f"Sent to {MAIL}.", "0", [])
    assert len(gate.provider.requests) == 1 and MAIL not in said_to(gate.provider.requests[0])


@DIALECTS
@STREAMED
def test_an_idempotency_key_over_all_of_it(gate: Gate, client: str, stream: bool) -> None:
    """The same key gives the same bytes, with the caller's values, asked once (what is kept for it has the values: `docs/idempotency.md`); another body is refused."""
    gate.provider.default = Answer("Sent to [EMAIL_1].")
    key = {"idempotency-key": f"together-{client}-{stream}"}
    body = ask(client, "all", "Write to eve@example.com under a key", stream=stream)
    first, second = (gate.post(client, body, key) for _ in range(2))
    assert (first.status, second.status) == (200, 200)
    assert b"eve@example.com" in first.body and len(gate.provider.requests) == 1
    if not stream:
        assert second.body == first.body
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-headrace-cache"] == "hit-idempotent"
    other = gate.post(client, ask(client, "all", "Something else", stream=stream), key)
    assert other.status in (409, 422) and other.headers["x-headrace-error"].startswith("idempotency")


def test_rules_lead_to_all_of_it(gate: Gate) -> None:
    """Another route by rule: its guard, cache and budgets hold."""
    tags = {"x-headrace-tags": "task=all"}
    body = json.dumps({"model": "auto", "messages": turn(f"Greet {MAIL} for the rule")}).encode()
    first, second = (gate.post("openai", body, tags) for _ in range(2))
    assert (first.headers["x-headrace-cache"], second.headers["x-headrace-cache"]) == ("miss", "hit-exact")
    assert first.headers["x-headrace-target"] == "openai/gpt-4o-mini"
    assert MAIL not in said_to(gate.provider.requests[0])


def test_nothing_of_it_shows_a_value(gate: Gate) -> None:
    """After all of that no file of the store has the address, and the admin API and metrics have not either."""
    body = json.dumps({"model": "all", "messages": turn(f"Greet {MAIL} once more")}).encode()
    assert gate.post("openai", body).status == 200
    for path in ("/admin", "/admin/requests", "/admin/cache", "/admin/budgets", "/admin/cost", "/metrics"):
        assert MAIL.encode() not in gate.http("GET", path, key=ADMIN).body, path
    wait_for(lambda: (gate.folder / "headrace.cache.db").exists())
    for file in gate.folder.iterdir():
        if file.name != "headrace.toml":
            assert MAIL.encode() not in file.read_bytes(), file.name
