"""Two providers at once through the gateway: the loser's connection is closed soon, and the books have both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.gateway.gate import PAIRS, Gate, ask, config, gated, wait_for

from headrace.layers.hedging import ENOUGH
from headrace.testing import Answer, FakeProvider

ROUTES = """
[routes.hedged-openai]
cascade = ["openai/gpt-4o", "openai/gpt-4o-mini"]
hedge = { max_extra = 0.5 }
[routes.hedged-anthropic]
cascade = ["anthropic/claude-3-haiku-20240307", "anthropic/claude-3-5-haiku-20241022"]
hedge = { max_extra = 0.5 }
"""
FIRST = {"openai": "gpt-4o", "anthropic": "claude-3-haiku-20240307"}
SECOND = {"openai": "gpt-4o-mini", "anthropic": "claude-3-5-haiku-20241022"}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway with hedged routes."""
    with (
        FakeProvider() as provider,
        gated(provider, tmp_path_factory.mktemp("gateway"), config(provider, more=ROUTES)) as gate,
    ):
        yield gate
        gate.settled()


@pytest.mark.parametrize(("client", "provider"), PAIRS)
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_the_faster_one_answers(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """Its answer comes at once; the slow one is left within 100 ms; both are in the report, the loser at its bound."""
    gate.fresh()
    body = ask(client, f"hedged-{provider}", stream=stream)
    gate.provider.on(FIRST[provider], always=Answer("first", usage=(7, 3)))
    gate.provider.on(SECOND[provider], always=Answer("second", usage=(7, 3)))
    for _ in range(ENOUGH):
        assert gate.post(client, body).status == 200
    gate.provider.on(FIRST[provider], always=Answer("first", first_delay_s=30.0))
    before = len(gate.provider.requests)
    got = gate.post(client, body)
    assert b"second" in got.body
    assert got.headers["x-headrace-target"] == f"{provider}/{SECOND[provider]}"
    assert got.headers["x-headrace-attempts"] == "2"
    slow = next(seen for seen in gate.provider.requests[before:] if seen.model == FIRST[provider])
    fast = next(seen for seen in gate.provider.requests[before:] if seen.model == SECOND[provider])
    wait_for(lambda: slow.hung_up_at is not None)
    assert slow.hung_up_at is not None
    assert slow.hung_up_at - fast.t < 0.1 + 0.2  # the answer of the other took some of it
    report = gate.report(got.headers["x-request-id"])
    lost, won = report["attempts"]
    assert (lost["outcome"], lost["note"]) == ("cancelled", f"{won['target']} was faster")
    assert lost["estimated"] and lost["cost_usd"] == lost["wasted_usd"] != "0"
    assert (won["outcome"], won["purpose"], won["wasted_usd"]) == ("ok", "hedge", "0")
