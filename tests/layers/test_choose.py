"""Routes by rule: what is chosen, for whom it holds, in the library and through the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.gate import Gate, ask, config, gated

import headrace
from headrace.handler import Rule
from headrace.layers.choose import Facts, first_match
from headrace.testing import Answer, FakeProvider

RULES = """
[routes.auto]
cascade = ["openai/usual"]
rules = [
  { tag = "task=label", use = "fast" },
  { language = ["de", "fr"], use = "european" },
  { longer_than = 500, use = "openai/long" },
  { tools = true, use = "tools" },
  { budget_below = 0.5, use = "fast" },
]
[routes.fast]
cascade = ["openai/small"]
max_output_tokens = 100
[routes.european]
cascade = ["openai/mistral"]
deadline = "3s"
[routes.tools]
cascade = ["openai/caller"]
"""
PRICE = '[prices."openai/*"]\ninput_usd_per_mtok = "1"\noutput_usd_per_mtok = "1"\n'


def settings(tmp_path: Path, text: str) -> headrace.Settings:
    (tmp_path / "headrace.toml").write_text(text)
    return headrace.load(tmp_path / "headrace.toml", environ={"OPENAI_API_KEY": "k"})


def lookup(city: str) -> str:
    """Look it up."""
    return city


def test_each_rule_chooses(tmp_path: Path) -> None:
    """By tag, language, length and tools, the first that holds; else the route's own cascade. The chosen route's limits hold."""
    with headrace.fake("ok", settings=settings(tmp_path, RULES)) as llm:

        def asked(prompt: str, **options: Any) -> str:
            answer = llm.chat("auto", prompt, **options)
            assert answer.call.model == "auto"
            return llm.provider.requests[-1].model

        assert asked("Hello") == "usual"
        assert asked("Hello", tags={"task": "label"}) == "small"
        assert llm.provider.requests[-1].json["max_tokens"] == 100
        assert asked("Hello", tags={"task": "other"}) == "usual"
        assert asked("Warum ist der Himmel blau?") == "mistral"
        assert asked("word " * 1000) == "long"
        assert asked("Hello", tools=[lookup]) == "caller"
        answer = llm.chat("auto", "Warum ist der Himmel blau?", tags={"task": "label"})
        assert answer.call.route == "fast"
        with llm.stream("auto", "Pourquoi le ciel est-il bleu ?") as stream:
            list(stream)
        assert llm.provider.requests[-1].model == "mistral"


def test_the_deadline_of_the_chosen_route_holds(tmp_path: Path) -> None:
    """It is that route's, not the one's that was asked for."""
    with headrace.fake(Answer("ok", first_delay_s=60), settings=settings(tmp_path, RULES)) as llm:
        with pytest.raises(headrace.HeadraceError):
            llm.chat("auto", "Warum ist der Himmel blau?")
        assert llm.clock.now() <= 3.01


def test_what_is_left_of_a_budget(tmp_path: Path) -> None:
    """Below the share the cheap one is asked; without a budget the rule does not hold; a store that cannot say counts as nothing left."""
    budget = f'{PRICE}{RULES}[budgets]\ntotal = {{ usd = "0.01", window = "day" }}\n'
    with headrace.fake(Answer("ok", usage=(1000, 1000)), settings=settings(tmp_path, budget)) as llm:
        seen = []
        for _ in range(4):
            llm.chat("auto", "Hello", max_tokens=1000)
            seen.append(llm.provider.requests[-1].model)
            llm.portal.run(llm.client.engine.clock.sleep(2))
        assert seen == ["usual", "usual", "usual", "small"]

        async def broken(since: float) -> Any:
            raise headrace.StoreError("gone")

        llm.client.engine.store.balances = broken  # type: ignore[method-assign]
        llm.portal.run(llm.client.engine.clock.sleep(2))
        llm.chat("auto", "Hello", max_tokens=10)
        assert llm.provider.requests[-1].model == "small"
    with headrace.fake("ok", settings=settings(tmp_path, RULES)) as llm:
        llm.chat("auto", "Hello")
        assert llm.provider.requests[-1].model == "usual"


def test_a_guard_is_not_lost_on_the_way(tmp_path: Path) -> None:
    """What the asked route would have kept back is kept back on the chosen one too."""
    text = RULES + '[routes.auto.guard]\nredact = ["email"]\n'
    with headrace.fake("ok", settings=settings(tmp_path, text)) as llm:
        llm.chat("auto", "Mail ann@example.org", tags={"task": "label"})
        assert llm.provider.requests[-1].model == "small"
        assert "ann@example.org" not in json.dumps(llm.provider.requests[-1].json)


def test_the_cap_of_the_asked_route_holds_too(tmp_path: Path) -> None:
    """What one request may cost is not lost by a detour."""
    text = PRICE + RULES.replace("rules = [", 'max_cost_usd = "0.00005"\nrules = [')
    with headrace.fake("ok", settings=settings(tmp_path, text)) as llm:
        with pytest.raises(headrace.BudgetExceeded):
            llm.chat("auto", "Hello", tags={"task": "label"})
        assert not llm.provider.requests


def test_through_the_gateway(tmp_path: Path) -> None:
    """The same rules, for either dialect, by the tags of a header."""
    with FakeProvider() as provider:
        gate: Gate
        with gated(provider, tmp_path, config(provider, more=RULES)) as gate:
            for dialect in ("openai", "anthropic"):
                answer = gate.post(dialect, ask(dialect, "auto", "Warum ist der Himmel blau?"))
                assert answer.status == 200 and answer.headers["x-headrace-target"] == "openai/mistral"
                answer = gate.post(dialect, ask(dialect, "auto"), {"x-headrace-tags": "task=label"})
                assert answer.headers["x-headrace-target"] == "openai/small"


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("3", "array of tables"),
        ("[]", "array of tables"),
        ("[3]", "must be a table"),
        ("[{ tag = 'a=b' }]", "route or provider/model"),
        ("[{ use = 'none' }]", "route or provider/model"),
        ("[{ use = 'x' }]", "has rules itself"),
        ("[{ use = 'fast', tag = 'label' }]", "NAME=VALUE"),
        ("[{ use = 'fast', language = ['xx'] }]", "not a language"),
        ("[{ use = 'fast', budget_below = 2 }]", "from 0 to 1"),
        ("[{ use = 'fast', longer = 2 }]", "unknown key"),
    ],
)
def test_rules_that_are_none(tmp_path: Path, rules: str, why: str) -> None:
    """Each mistake is named with its place."""
    text = f'[routes.x]\ncascade = ["openai/a"]\nrules = {rules}\n[routes.fast]\ncascade = ["openai/b"]\n'
    with pytest.raises(headrace.ConfigError, match=why):
        settings(tmp_path, text)


def test_a_budget_of_a_route_with_rules_is_refused(tmp_path: Path) -> None:
    """It would hold for what no rule takes, and for nothing else: a surprise."""
    text = RULES.replace("rules = [", 'budget = { usd = "1", window = "day" }\nrules = [')
    with pytest.raises(headrace.ConfigError, match="no budget of its own"):
        settings(tmp_path, text)


@given(st.integers(0, 2000), st.integers(0, 2000), st.one_of(st.none(), st.floats(0, 1)))
def test_all_conditions_of_a_rule_must_hold(tokens: int, bound: int, left: float | None) -> None:
    """The first rule that holds is taken, and only where each of its conditions does."""
    rules = (
        Rule(use="a", longer_than=bound, budget_below=0.5),
        Rule(use="b", shorter_than=bound),
        Rule(use="c", languages=frozenset({"de"})),
    )
    found = first_match(rules, Facts(tokens, "en", {}, tools=False, left=left))
    if tokens > bound and left is not None and left < 0.5:
        assert found is rules[0]
    elif tokens < bound:
        assert found is rules[1]
    else:
        assert found is None
