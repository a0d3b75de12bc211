"""The worst case bounds every bill that the limits allow, and the output limit is the smallest that holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.worst import OutputLimit, input_bound, output_limit, worst_case
from headrace.dialects import by_name
from headrace.handler import Body
from headrace.prices import Model, Prices, Tier
from headrace.types import CacheHint, Chat, Message, Text, Usage

price = st.integers(0, 10**12)
maybe_price = st.none() | price


def chat(text: str = "hi", *, n: int | None = None, ttl: str | None = None) -> Chat:
    """A request of one message, with a cache breakpoint where `ttl` is given."""
    hint = None if ttl is None else CacheHint(ttl)
    return Chat(model="m", messages=(Message(role="user", content=(Text(text=text, cache=hint),)),), n=n)


@pytest.mark.parametrize(
    ("asked", "route", "model", "default", "tokens", "written"),
    [
        (100, None, None, None, 100, None),
        (100, 500, 4000, None, 100, None),
        (600, 500, 4000, None, 500, 500),
        (None, 500, 4000, None, 500, 500),
        (None, 500, 400, None, 400, 400),
        (None, None, 4000, None, 4000, None),
        (None, None, None, None, None, None),
        (None, None, None, 8192, 8192, 8192),
        (None, None, 4000, 8192, 4000, 4000),
        (9000, None, 4000, 8192, 4000, None),
        (9000, None, None, 8192, 9000, None),
    ],
)
def test_the_smallest_limit_holds(
    asked: int | None,
    route: int | None,
    model: int | None,
    default: int | None,
    tokens: int | None,
    written: int | None,
) -> None:
    """It is written into the request only where the caller's own does not bound it; a caller's own limit is never raised."""
    assert output_limit(asked, route, model, default=default) == OutputLimit(tokens, written)


@given(
    prices=st.builds(
        Prices,
        input=price,
        output=price,
        cache_read=maybe_price,
        cache_write=maybe_price,
        cache_write_1h=maybe_price,
        reasoning=maybe_price,
        image=maybe_price,
    ),
    above=st.none() | st.integers(0, 50),
    parts=st.lists(st.integers(0, 10), min_size=4, max_size=4),
    said=st.integers(0, 40),
    thought=st.integers(0, 40),
    drawn=st.integers(0, 40),
    hint=st.booleans(),
)
def test_no_bill_within_the_limits_is_above_the_bound(
    prices: Prices, above: int | None, parts: list[int], said: int, thought: int, drawn: int, hint: bool
) -> None:
    """Input read, written and fresh in any mixture up to the bound, any output up to the limit, in any tier that is dearer."""
    fresh, read, minutes, hour = parts if hint else [*parts[:3], 0]
    dearer: tuple[Tier, ...] = ()
    if above is not None:
        dearer = (Tier(above=above, input=2 * prices.input, output=2 * prices.output),)
    if prices.cache_read is not None and prices.cache_read > prices.input:
        prices = Prices(input=prices.input, output=prices.output)  # a read is never dearer than input
    model = Model(prices=prices, tiers=dearer)
    usage = Usage(
        input_tokens=fresh + read + minutes + hour,
        cache_read_tokens=read,
        cache_write_tokens=minutes + hour,
        cache_write_1h_tokens=hour,
        output_tokens=said + thought + drawn,
        reasoning_tokens=thought,
        image_tokens=drawn,
    )
    worst = worst_case(
        model, Body(chat=chat(ttl="1h" if hint else None)), usage.input_tokens, usage.output_tokens
    )
    billed = model.cost(usage)
    assert worst.cost is not None and billed is not None
    assert billed <= worst.cost
    assert usage.total_tokens <= worst.tokens


def test_every_choice_is_counted() -> None:
    """Three choices may each be as long as the limit."""
    model = Model(prices=Prices(input=0, output=1_000_000))
    assert worst_case(model, Body(chat=chat(n=3)), 0, 10).cost == 30


def test_what_has_no_price_or_no_limit_has_no_bound() -> None:
    """Unknown, not zero."""
    body = Body(chat=chat())
    assert worst_case(None, body, 5, 10).cost is None
    assert worst_case(Model(), body, 5, 10).cost is None
    assert worst_case(Model(prices=Prices(input=1, output=1)), body, 5, None).cost is None
    assert worst_case(Model(prices=Prices(input=1, output=1)), body, 5, None).tokens == 5


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_an_hour_is_reserved_only_where_it_may_be_asked_for(ttl: str) -> None:
    """Twice the price of input for a breakpoint of an hour, in wire bytes as in typed requests."""
    model = Model(prices=Prices(input=1_000_000, output=0))
    wire = (
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"hi",'
        b'"cache_control":{"type":"ephemeral","ttl":"' + ttl.encode() + b'"}}]}]}'
    )
    for body in (Body(chat=chat(ttl=ttl)), Body(wire=wire, dialect=by_name("anthropic"))):
        assert worst_case(model, body, 100, 0).cost == (200 if ttl == "1h" else 100)


def test_the_input_is_bounded_from_above() -> None:
    """More than any tokenizer makes of plain English."""
    text = "The quick brown fox jumps over the lazy dog. " * 20
    assert 200 < input_bound(Body(chat=chat(text))) < 900
