from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.prices import Catalog, Model, Prices, Tier
from headrace.types import Usage

PRICE = st.integers(0, 600_000_000_000)
MAYBE = st.none() | PRICE
TOKENS = st.integers(0, 3_000_000)


@st.composite
def models(draw: st.DrawFn, *, tiers: bool = True) -> Model:
    base = Prices(
        input=draw(PRICE),
        output=draw(PRICE),
        cache_read=draw(MAYBE),
        cache_write=draw(MAYBE),
        cache_write_1h=draw(MAYBE),
        reasoning=draw(MAYBE),
        image=draw(MAYBE),
    )
    rising: list[Tier] = []
    if tiers and draw(st.booleans()):
        factor = draw(st.integers(1, 5))
        rising.append(
            Tier(
                above=draw(st.integers(1, 1_000_000)),
                input=base.input * factor,
                output=base.output * factor,
            )
        )
    return Model(provider="p", id="m", prices=base, tiers=tuple(rising))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage whose counts agree with one another."""
    fresh, read, minutes, hour = draw(TOKENS), draw(TOKENS), draw(TOKENS), draw(TOKENS)
    said, thinking, drawn = draw(TOKENS), draw(TOKENS), draw(TOKENS)
    return Usage(
        input_tokens=fresh + read + minutes + hour,
        cache_read_tokens=read,
        cache_write_tokens=minutes + hour,
        cache_write_1h_tokens=hour,
        output_tokens=said + thinking + drawn,
        reasoning_tokens=thinking,
        image_tokens=drawn,
    )


def reference(model: Model, usage: Usage) -> Fraction:
    """The cost as an exact fraction of nano-dollars, written from the documentation and not from the code."""
    prices = model.prices
    assert prices is not None
    rate = {kind: getattr(prices, kind) for kind in prices.__struct_fields__}
    for tier in model.tiers:
        if usage.input_tokens > tier.above:
            rate |= {kind: p for kind in rate if (p := getattr(tier, kind)) is not None}
    hour = usage.cache_write_1h_tokens
    tokens = {
        "input": usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens - hour,
        "cache_write_1h": hour,
        "output": usage.output_tokens - usage.reasoning_tokens - usage.image_tokens,
        "reasoning": usage.reasoning_tokens,
        "image": usage.image_tokens,
    }
    write = rate["input"] if rate["cache_write"] is None else rate["cache_write"]
    default = {
        "cache_read": rate["input"],
        "cache_write": rate["input"],
        "cache_write_1h": max(write, 2 * rate["input"]),
        "reasoning": rate["output"],
        "image": rate["output"],
    }
    total = sum(n * (default[k] if rate[k] is None else rate[k]) for k, n in tokens.items())
    return Fraction(total, 1_000_000)


def cost(model: Model, usage: Usage) -> int:
    found = model.cost(usage)
    assert found is not None
    return found


def sum_of(a: Usage, b: Usage) -> Usage:
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in a.__struct_fields__})


@given(models(), usages())
def test_exact_but_for_one_rounding_up(model: Model, usage: Usage) -> None:
    """The cost is the exact cost, rounded up once."""
    assert cost(model, usage) == math.ceil(reference(model, usage))


@given(models(), usages(), usages())
def test_more_tokens_never_cost_less(model: Model, usage: Usage, more: Usage) -> None:
    """Monotone: adding tokens of any kind never lowers the cost, across tiers too."""
    assert cost(model, sum_of(usage, more)) >= cost(model, usage)


@given(models(tiers=False), usages(), usages())
def test_additive_within_the_rounding(model: Model, a: Usage, b: Usage) -> None:
    """Two requests cost what their sum costs, but for one nano-dollar of rounding."""
    apart = cost(model, a) + cost(model, b)
    assert 0 <= apart - cost(model, sum_of(a, b)) <= 1


@given(models(), st.builds(Usage, **dict.fromkeys(Usage.__struct_fields__, st.integers(-5, 2_000_000))))
def test_contradictions_never_give_money_back(model: Model, usage: Usage) -> None:
    """Whatever an upstream reports, the cost is not negative and covers each part that it reports."""
    found = cost(model, usage)
    assert found >= 0
    assert found >= cost(model, Usage(cache_read_tokens=usage.cache_read_tokens))
    assert found >= cost(model, Usage(reasoning_tokens=usage.reasoning_tokens))


def test_a_price_below_a_nano_dollar_a_token_is_not_lost() -> None:
    """0.075 dollars a million tokens is 75 nano-dollars for 1000 tokens, and one token costs 1, not 0."""
    model = Model(prices=Prices(input=75_000, output=75_000))
    assert cost(model, Usage(input_tokens=1_000_000)) == 75_000
    assert cost(model, Usage(input_tokens=1)) == 1
    assert cost(model, Usage()) == 0


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(input_tokens=1_000, cache_read_tokens=1_000), 3_000_000),
        (Usage(input_tokens=1_000, cache_write_tokens=1_000), 3_000_000),
        (Usage(input_tokens=1_000, cache_write_tokens=1_000, cache_write_1h_tokens=1_000), 6_000_000),
        (Usage(output_tokens=1_000, reasoning_tokens=1_000), 15_000_000),
        (Usage(output_tokens=1_000, image_tokens=1_000), 15_000_000),
    ],
)
def test_a_kind_without_a_price_falls_back_and_is_never_free(usage: Usage, nano: int) -> None:
    """Reads and writes cost as input, a write for an hour twice that, reasoning as output."""
    assert cost(Model(prices=Prices(input=3_000_000_000, output=15_000_000_000)), usage) == nano


def test_an_unknown_price_is_none_even_for_no_tokens() -> None:
    """None is unknown; 0 would be a claim."""
    assert Model(provider="p", id="m").cost(Usage()) is None


def test_a_bill_by_hand() -> None:
    """claude-sonnet-4-5: 100 fresh, 1000 read, 200 written for 5 minutes, 300 for an hour, 50 out of which 20 thinking."""
    usage = Usage(
        input_tokens=1_600,
        cache_read_tokens=1_000,
        cache_write_tokens=500,
        cache_write_1h_tokens=300,
        output_tokens=50,
        reasoning_tokens=20,
    )
    dollars = 100 * 3.00 + 1_000 * 0.30 + 200 * 3.75 + 300 * 6.00 + 50 * 15.00
    assert Catalog().cost("anthropic", "claude-sonnet-4-5", usage) == round(dollars * 1_000)


@given(usages(), usages())
def test_every_listed_model_is_monotone(usage: Usage, more: Usage) -> None:
    """No tier in the data is cheaper than the one below it, for any mix of tokens."""
    catalog = Catalog()
    for provider in ("openai", "anthropic", "gemini", "xai"):
        for id_ in catalog.models(provider):
            model = catalog.model(provider, id_)
            if model is not None and model.tiers:
                assert cost(model, sum_of(usage, more)) >= cost(model, usage), (provider, id_)
