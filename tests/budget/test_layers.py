"""Budgets through the gateway and the library: every level, both units, both dialects, streamed or not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.gate import ADMIN, KEY, Gate, Got, ask, gated

import headrace
from headrace.budget.worst import input_bound, worst_case
from headrace.call import format_usd
from headrace.config import load
from headrace.dialects import by_name
from headrace.errors import BudgetExceeded, BudgetUnavailable, InvalidRequest, StoreError
from headrace.handler import Body
from headrace.prices import Model, Prices
from headrace.testing import Answer, FakeProvider
from headrace.types import Usage

OUTPUT = 50
MODEL = Model(prices=Prices(input=3_000_000_000, output=15_000_000_000))
NAMES = {"openai": "openai-chat", "anthropic": "anthropic"}
BOTH = pytest.mark.parametrize("dialect", ["openai", "anthropic"])


def request(dialect: str = "openai", model: str = "r", **members: Any) -> bytes:
    """One that limits its own output."""
    return ask(dialect, model, **{"max_tokens": OUTPUT} | members)


def worst(dialect: str = "openai", output: int = OUTPUT, **members: Any) -> tuple[int, int]:
    """Tokens and nano-dollars that such a request reserves."""
    body = Body(wire=request(dialect, **members), dialect=by_name(NAMES[dialect]))
    found = worst_case(MODEL, body, input_bound(body), output)
    assert found.cost is not None
    return found.tokens, found.cost


def config(
    provider: FakeProvider,
    *,
    key: str = "",
    route: str = "",
    budgets: str = "",
    cascade: str = '["openai/priced"]',
    more: str = "",
) -> str:
    """One route over one priced model, with budgets wherever they are given."""
    return f"""
[providers.openai]
dialect = "openai-chat"
base_url = "{provider.base_url}"
api_key = "sk-canary"
[routes.r]
cascade = {cascade}
{route}
[prices."openai/priced"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"
[prices."openai/cheap"]
input_usd_per_mtok = "0.3"
output_usd_per_mtok = "1.5"
[keys.one]
value = "{KEY}"
team = "blue"
{key}
[store]
path = "headrace.db"
[gateway]
admin_key = "{ADMIN}"
{budgets}
{more}
"""


@contextmanager
def budgeted(folder: Path, usage: tuple[int, int] = (10, 10), **parts: str) -> Iterator[Gate]:
    """A gateway whose provider bills `usage` for every answer."""
    with FakeProvider() as provider:
        provider.default = Answer("yes", usage=usage)
        with gated(provider, folder, config(provider, **parts)) as gate:
            yield gate


CALLER = {"x-headrace-user": "ann", "x-headrace-tags": "project=demo, run=7"}

LEVELS = {
    "key": ("key one", {"key": "budget = {{ {0}, window = 'month' }}"}),
    "route": ("route r", {"route": "budget = {{ {0}, window = 'month' }}"}),
    "everything": ("all", {"budgets": "[budgets]\ntotal = {{ {0}, window = 'month' }}"}),
    "user": ("user ann", {"budgets": "[budgets]\nusers = {{ ann = {{ {0}, window = 'month' }} }}"}),
    "each user": ("user ann", {"budgets": "[budgets]\nusers = {{ '*' = {{ {0}, window = 'month' }} }}"}),
    "team": ("team blue", {"budgets": "[budgets]\nteams = {{ blue = {{ {0}, window = 'month' }} }}"}),
    "tag": (
        "tag project=demo",
        {"budgets": "[budgets]\ntags = {{ 'project=demo' = {{ {0}, window = 'month' }} }}"},
    ),
    "each tag": ("tag run=7", {"budgets": "[budgets]\ntags = {{ 'run=*' = {{ {0}, window = 'month' }} }}"}),
}


@pytest.mark.parametrize("unit", ["usd", "tokens"])
@pytest.mark.parametrize("level", list(LEVELS))
def test_a_budget_of_every_level_holds(tmp_path: Path, level: str, unit: str) -> None:
    """What is enough for one attempt buys one; the next is refused with 402 in the name of that budget, and sent to nobody. Others who
    are not meant are served."""
    owner, parts = LEVELS[level]
    tokens, cost = worst()
    limit = f'usd = "{format_usd(cost)}"' if unit == "usd" else f"tokens = {tokens}"
    filled = {name: text.format(limit).replace("'", '"') for name, text in parts.items()}
    # The bill is the whole reservation.
    with budgeted(tmp_path, usage=(tokens - OUTPUT, OUTPUT), **filled) as gate:
        assert gate.post("openai", request(), CALLER).status == 200
        refused = gate.post("openai", request(), CALLER)
        assert refused.status == 402
        said = f"${format_usd(cost)} a month" if unit == "usd" else f"{tokens} tokens a month"
        assert f"{owner} may use {said}" in refused.json["error"]["message"]
        assert len(gate.provider.requests) == 1
        if level not in ("key", "route", "everything", "team"):
            other = {"x-headrace-user": "bob", "x-headrace-tags": "project=other, run=8"}
            assert gate.post("openai", request(), other).status == 200


@pytest.mark.parametrize(
    ("route", "headers", "unit"),
    [
        ('max_cost_usd = "{usd}"', {}, "usd"),
        ("max_total_tokens = {tokens}", {}, "tokens"),
        ("", {"x-headrace-max-cost-usd": "{usd}"}, "usd"),
        ("", {"x-headrace-max-total-tokens": "{tokens}"}, "tokens"),
    ],
)
@BOTH
def test_a_budget_of_one_request_holds(
    tmp_path: Path, dialect: str, route: str, headers: dict[str, str], unit: str
) -> None:
    """In dollars and in tokens, from the route and from the caller: the worst case fits exactly, or it is refused; each request has its own."""
    tokens, cost = worst(dialect)
    for less in (0, 1):
        values = {"usd": format_usd(cost - less), "tokens": tokens - less}
        sent = {name: value.format(**values) for name, value in headers.items()}
        folder = tmp_path / str(less)
        folder.mkdir()
        with budgeted(folder, route=route.format(**values)) as gate:
            for _ in range(2):
                got = gate.post(dialect, request(dialect), sent)
                assert got.status == (402 if less else 200)
            if less:
                assert "this request may use" in got.json["error"]["message"]
                assert gate.provider.requests == []


@pytest.mark.parametrize(
    "header", ["x-headrace-max-cost-usd", "x-headrace-max-total-tokens"], ids=["dollars", "tokens"]
)
def test_a_limit_that_is_no_number_is_the_callers_fault(tmp_path: Path, header: str) -> None:
    """400, with the header and what was in it."""
    with budgeted(tmp_path) as gate:
        for text in ("-1", "1e3", "many"):
            got = gate.post("openai", request(), {header: text})
            assert got.status == 400
            assert header in got.json["error"]["message"] and text in got.json["error"]["message"]


def test_every_choice_is_reserved(tmp_path: Path) -> None:
    """Three choices may each be as long as the limit, and both spellings of the limit are read."""
    _, cost = worst()
    _, three = worst(n=3)
    assert three > 2 * cost
    with budgeted(tmp_path) as gate:
        for body in (request(n=3), request(n=3, max_tokens=None, max_completion_tokens=OUTPUT)):
            assert gate.post("openai", body, {"x-headrace-max-cost-usd": format_usd(three)}).status == 200
            less = gate.post("openai", body, {"x-headrace-max-cost-usd": format_usd(three - 1)})
            assert less.status == 402


def warnings(got: Got) -> str:
    """What the answer's header names."""
    return got.headers.get("x-headrace-warnings", "")


@pytest.mark.parametrize("stream", [False, True])
@BOTH
def test_a_soft_budget_only_warns(tmp_path: Path, dialect: str, stream: bool) -> None:
    """Once it is used up every answer says so in a header, in both dialects, streamed too; nothing is refused."""
    tokens, cost = worst(dialect)
    soft = f'budget = {{ usd = "{format_usd(cost)}", window = "day", soft = true }}'
    with budgeted(tmp_path, usage=(tokens - OUTPUT, OUTPUT), key=soft) as gate:
        first, *rest = [gate.post(dialect, request(dialect, stream=stream)) for _ in range(3)]
    assert (first.status, warnings(first)) == (200, "")
    for got in rest:
        assert got.status == 200
        assert f"over budget: key one's budget of ${format_usd(cost)} a day" in warnings(got)


def test_what_does_not_fit_is_downgraded(tmp_path: Path) -> None:
    """With `on_limit = "downgrade"` the next target that fits answers, with a warning; the dear one is a skipped attempt with the reason.
    When none fits the answer is 402."""
    _, cost = worst()
    parts = {
        "cascade": '["openai/priced", "openai/cheap"]',
        "route": f'on_limit = "downgrade"\nbudget = {{ usd = "{format_usd(cost // 5)}", window = "day" }}',
    }
    tokens, _ = worst()
    with budgeted(tmp_path, usage=(tokens - OUTPUT, OUTPUT), **parts) as gate:
        first = gate.post("openai", request())
        assert first.status == 200
        assert first.headers["x-headrace-target"] == "openai/cheap"
        assert "skipped openai/priced: route r may use" in warnings(first)
        skipped, made = gate.report(first.headers["x-request-id"])["attempts"]
        assert (skipped["outcome"], skipped["reason"], skipped["cost_usd"]) == (
            "skipped",
            "budget_exceeded",
            "0",
        )
        assert made["outcome"] == "ok"
        assert gate.post("openai", request()).status == 200
        assert gate.post("openai", request()).status == 402
        assert len(gate.provider.requests) == 2


def test_without_downgrade_the_first_that_does_not_fit_refuses(tmp_path: Path) -> None:
    """A cheaper target is no answer unless the route says so."""
    _, cost = worst()
    with budgeted(
        tmp_path,
        cascade='["openai/priced", "openai/cheap"]',
        route=f'max_cost_usd = "{format_usd(cost // 5)}"',
    ) as gate:
        assert gate.post("openai", request()).status == 402
        assert gate.provider.requests == []


@BOTH
def test_an_unpriced_target_is_not_asked_under_a_limit_in_money(tmp_path: Path, dialect: str) -> None:
    """It is passed over for the next, or refused, with the line of the configuration that would price it; a limit in tokens does not mind,
    and without a limit the cost is unknown and counted."""
    unpriced = '["openai/mystery"]'
    line = '[prices."openai/mystery"] input_usd_per_mtok = "...", output_usd_per_mtok = "..."'
    with budgeted(tmp_path, cascade=unpriced) as gate:
        refused = gate.post(dialect, request(dialect), {"x-headrace-max-cost-usd": "5"})
        assert refused.status == 402 and line in refused.json["error"]["message"]
        assert gate.provider.requests == []
        assert gate.post(dialect, request(dialect), {"x-headrace-max-total-tokens": "5000"}).status == 200
        free = gate.post(dialect, request(dialect))
        assert free.headers["x-headrace-cost-usd"] == "unknown"
        metrics = gate.http("GET", "/metrics", key=ADMIN).body.decode()
        assert 'headrace_unpriced_attempts_total{target="openai/mystery"} 2.0' in metrics
    folder = tmp_path / "next"
    folder.mkdir()
    with budgeted(folder, cascade='["openai/mystery", "openai/priced"]') as gate:
        got = gate.post(dialect, request(dialect), {"x-headrace-max-cost-usd": "5"})
        assert got.headers["x-headrace-target"] == "openai/priced"
        assert "skipped openai/mystery" in warnings(got)


@pytest.mark.parametrize("stream", [False, True])
@BOTH
def test_an_output_limit_is_written_into_the_request(tmp_path: Path, dialect: str, stream: bool) -> None:
    """Under a hard budget a request that limits nothing gets the default, and one above the route's the route's; with a warning. A soft budget, or
    none, leaves it alone."""
    hard = 'budget = { usd = "100", window = "day" }'
    for number, (route, asked, written) in enumerate(
        [
            ("", None, 8_192),
            ("max_output_tokens = 300", None, 300),
            ("max_output_tokens = 300", 200, 200),
            ("max_output_tokens = 300", 400, 300),
        ]
    ):
        if dialect == "anthropic" and asked is None:
            continue  # it always has one
        folder = tmp_path / str(number)
        folder.mkdir()
        with budgeted(folder, key=hard, route=route) as gate:
            members: dict[str, Any] = {"stream": stream} | ({} if asked is None else {"max_tokens": asked})
            got = gate.post(dialect, ask(dialect, "r", **members))
            (sent,) = gate.provider.requests
            assert json.loads(sent.body)["max_tokens"] == written
            assert (f"limited to {written} tokens" in warnings(got)) == (asked != written)
    with budgeted(tmp_path, key=hard.replace("}", ", soft = true }")) as gate:
        got = gate.post("openai", ask("openai", "r", stream=stream))
        (sent,) = gate.provider.requests
        assert "max_tokens" not in json.loads(sent.body) and warnings(got) == ""


@pytest.mark.parametrize("stream", [False, True])
def test_both_sdks_understand_a_refusal_and_do_not_ask_again(tmp_path: Path, stream: bool) -> None:
    """402 in the caller's own shape, with the limit, what is used and when it is renewed; one request each, though both SDKs retry by
    themselves."""
    spent = 'budget = { usd = "0.000001", window = "day" }'
    with budgeted(tmp_path, key=spent) as gate:
        asked: list[str] = []
        answering: Any = gate.gateway.app.answering
        inner = answering._ask

        async def count(*args: Any) -> Any:
            asked.append(args[1].name)
            return await inner(*args)

        answering._ask = count
        message: Any = {"role": "user", "content": "hi"}
        with pytest.raises(openai.APIStatusError) as oai:
            gate.oai.chat.completions.create(model="r", messages=[message], max_tokens=OUTPUT, stream=stream)
        with pytest.raises(anthropic.APIStatusError) as ant:
            gate.ant.messages.create(model="r", messages=[message], max_tokens=OUTPUT, stream=stream)
    assert gate.oai.max_retries == gate.ant.max_retries == 2
    assert asked == ["openai-chat", "anthropic"]
    assert oai.value.status_code == ant.value.status_code == 402
    assert oai.value.code == "insufficient_quota"
    assert type(ant.value).__name__ == "PaymentRequiredError"
    for error in (oai.value, ant.value):
        assert "key one may use $0.000001 a day; $0 is spent or reserved" in error.message
        assert "renewed at 20" in error.message
        assert error.response.headers["x-should-retry"] == "false"
        assert 0 < int(error.response.headers["retry-after"]) <= 86_400


@BOTH
def test_a_store_that_is_down_fails_closed(
    tmp_path: Path, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a budget holds the answer is 503 in the caller's shape and nothing is sent, whether it is the lease or the journal that fails;
    what was reserved is free again. Without a budget requests are served."""

    async def no_lease(*_: object) -> None:
        raise StoreError("disk full")

    def no_start(*_: object) -> None:
        raise StoreError("disk full")

    hard = 'budget = { usd = "100", window = "day" }'
    with budgeted(tmp_path, key=hard) as gate:
        store: Any = gate.engine.store
        with monkeypatch.context() as down:
            down.setattr(store, "lease", no_lease)
            got = gate.post(dialect, request(dialect))
            assert got.status == 503
            assert "a budget holds and the store does not say what is left: disk full" in str(
                got.json["error"]
            )
        assert gate.post(dialect, request(dialect)).status == 200
        with monkeypatch.context() as down:
            down.setattr(store._journal, "append", lambda entry: (_ for _ in ()).throw(OSError(28, "full")))
            got = gate.post(dialect, request(dialect))
            assert got.status == 503
            assert "it cannot be written down what is reserved" in str(got.json["error"])
        assert len(gate.provider.requests) == 1
        held = gate.on_loop(gate.engine.purse.held)
        assert all(reserved == 0 for _, reserved in held.values())
    folder = tmp_path / "free"
    folder.mkdir()
    with budgeted(folder) as gate:
        store = gate.engine.store
        with monkeypatch.context() as down:
            down.setattr(store._journal, "append", lambda entry: (_ for _ in ()).throw(OSError(28, "full")))
            assert gate.post(dialect, request(dialect)).status == 200


# --- the library ------------------------------------------------------------------------------------------------------


@contextmanager
def client(
    folder: Path, usage: tuple[int, int] = (10, 10), **parts: str
) -> Iterator[tuple[Any, FakeProvider]]:
    """A client with such a configuration."""
    with FakeProvider() as provider:
        provider.default = Answer("yes", usage=usage)
        file = folder / "headrace.toml"
        file.write_text(config(provider, **parts))
        with headrace.Client(load(file, environ={})) as llm:
            yield llm, provider


ASKED = Usage(input_tokens=10, output_tokens=10)
BILL = 10 * 3_000 + 10 * 15_000


@pytest.mark.parametrize("level", ["route", "everything", "user", "each user", "tag", "each tag"])
@pytest.mark.parametrize("unit", ["usd", "tokens"])
def test_the_library_holds_to_the_same_budgets(tmp_path: Path, level: str, unit: str) -> None:
    """One answer, then `BudgetExceeded` with the limit, what is used and what was needed."""
    owner, parts = LEVELS[level]
    limit = 'usd = "0.0015"' if unit == "usd" else "tokens = 110"
    filled = {name: text.format(limit).replace("'", '"') for name, text in parts.items()}
    with client(tmp_path, usage=(40, OUTPUT), **filled) as (llm, provider):
        more: Any = {"max_tokens": OUTPUT, "user": "ann", "tags": {"project": "demo", "run": "7"}}
        llm.chat("r", "hi", **more)
        with pytest.raises(BudgetExceeded) as caught:
            llm.chat("r", "hi", **more)
        assert len(provider.requests) == 1
    error = caught.value
    assert (error.budget, error.unit) == (owner, unit)
    assert error.limit == (1_500_000 if unit == "usd" else 110)
    assert error.used == (40 * 3_000 + OUTPUT * 15_000 if unit == "usd" else 40 + OUTPUT)
    assert error.used + error.needed > error.limit and error.renewed_wall is not None


def test_a_programs_own_budget(tmp_path: Path) -> None:
    """Inside the `with` no more is spent than there is, in dollars or tokens; it says what was spent, and holds for nobody else."""
    _, cost = worst()
    with client(tmp_path) as (llm, provider):
        with llm.budget(usd=0.002, tags={"report": "42"}) as spent:
            answers = 0
            while spent.left >= cost:
                answer = llm.chat("r", "hi", max_tokens=OUTPUT, tags={"own": "1"})
                answers += 1
                assert spent.spent == answers * BILL
            with pytest.raises(BudgetExceeded, match=r"this budget may use \$0\.002; \$"):
                llm.chat("r", "hi", max_tokens=OUTPUT)
            assert answers == (2_000_000 - cost) // BILL + 1 == len(provider.requests)
            assert spent.spent_usd == format_usd(answers * BILL)
            assert spent.left == 2_000_000 - spent.spent
            assert answer.call.tags == {"report": "42", "own": "1"}
            with llm.stream("openai/cheap", "hi", max_tokens=OUTPUT) as streamed:
                assert "".join(streamed) == "yes"
            assert spent.spent == answers * BILL + BILL // 10
        llm.chat("r", "hi", max_tokens=OUTPUT)
        with llm.budget(tokens=100) as few, llm.budget(usd="1") as much:
            llm.chat("r", "hi", max_tokens=OUTPUT)
            assert (few.tokens_spent, few.spent, much.spent, much.tokens_spent) == (20, 0, BILL, 0)
            with pytest.raises(BudgetExceeded, match="this budget may use 100 tokens; 20 tokens is spent"):
                llm.chat("r", "hi", max_tokens=90)
            assert much.spent == BILL and much.left == 1_000_000_000 - BILL


def test_a_programs_own_budget_downgrades(tmp_path: Path) -> None:
    """The next target that fits, as a route would."""
    _, cost = worst()
    with client(tmp_path, cascade='["openai/priced", "openai/cheap"]') as (llm, _):
        with llm.budget(usd=format_usd(cost // 5), on_limit="downgrade"):
            assert str(llm.chat("r", "hi", max_tokens=OUTPUT).call.target) == "openai/cheap"
        with llm.budget(usd=format_usd(cost // 5)), pytest.raises(BudgetExceeded):
            llm.chat("r", "hi", max_tokens=OUTPUT)


def test_concurrent_requests_share_a_programs_budget(tmp_path: Path) -> None:
    """Thirty at once with money for ten worst cases: at most ten are under way together, and the sum is exact."""
    _, cost = worst()

    async def main() -> None:
        with FakeProvider() as provider:
            provider.default = Answer("yes", usage=(10, 10), first_delay_s=0.05)
            file = tmp_path / "headrace.toml"
            file.write_text(config(provider))
            async with headrace.AsyncClient(load(file, environ={})) as llm:
                with llm.budget(usd=format_usd(10 * cost)) as spent:
                    asked = (llm.chat("r", "hi", max_tokens=OUTPUT) for _ in range(30))
                    got = await asyncio.gather(*asked, return_exceptions=True)
                served = [answer for answer in got if isinstance(answer, headrace.Answer)]
                assert len(served) == 10
                assert all(isinstance(error, BudgetExceeded) for error in got if error not in served)
                assert spent.spent == 10 * BILL

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs usd= or tokens="),
        ({"usd": "1.0000000001"}, "at most nine decimals"),
        ({"usd": -1}, "US dollars"),
        ({"usd": "five"}, "US dollars"),
        ({"tokens": -5}, "0 or more, not -5"),
        ({"usd": 1, "on_limit": "block"}, "'refuse' or 'downgrade', not 'block'"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(arguments: Any, said: str) -> None:
    """With what was given."""
    with pytest.raises(ValueError, match=said):
        headrace.Client().budget(**arguments)


# --- the ledger of answers that had to have a form ---------------------------------------------------------------------


def test_a_wrong_answer_is_booked_as_wasted(tmp_path: Path) -> None:
    """The first answer's row says that it was no use, with its cost as wasted; that of the second question its purpose."""
    with client(tmp_path) as (llm, provider):
        provider.script(Answer("not json", usage=(10, 10)), Answer('{"a": 1}', usage=(10, 10)))
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        answer = llm.chat("r", "hi", output=schema, max_tokens=OUTPUT)
        assert answer.value == {"a": 1}
        assert [attempt.wasted for attempt in answer.attempts] == [BILL, 0]
    with closing(sqlite3.connect(tmp_path / "headrace.db")) as connection:
        rows = connection.execute(
            "SELECT outcome, error_kind, purpose, cost_nano, wasted_nano FROM attempts ORDER BY number"
        ).fetchall()
    assert rows == [("error", "invalid_output", "answer", BILL, BILL), ("ok", None, "reask", BILL, 0)]


def test_the_errors_say_what_they_are() -> None:
    """402 and 503, and neither is retried by the cascade."""
    assert BudgetExceeded("x").http_status == 402
    assert BudgetUnavailable("x").http_status == 503
    assert InvalidRequest("x").http_status == 400
