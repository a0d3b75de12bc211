"""200 callers at once on one key with money for 50, through the real server with one and with four workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.budget.served import OUTPUT, Bill, Served, ask_many, body, served

from headrace.budget.worst import input_bound
from headrace.call import format_usd
from headrace.dialects import by_name
from headrace.handler import Body
from headrace.testing import Answer, FakeProvider

CALLERS, AFFORDED = 200, 50
BOUND = input_bound(Body(wire=body(), dialect=by_name("openai-chat")))


def books(gateway: Served) -> tuple[int, int, int]:
    """What the ledger says was spent, and what the budget's counter says was spent and is held."""
    ((ledger,),) = gateway.query("SELECT coalesce(sum(cost_nano), 0) FROM attempts")
    ((spent,),) = gateway.query("SELECT coalesce(sum(spent), 0) FROM budget_windows")
    ((held,),) = gateway.query("SELECT coalesce(sum(amount), 0) FROM budget_slices")
    return ledger, spent, held


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("bill", "stream"),
    [(Bill(BOUND, OUTPUT), False), (Bill(BOUND, OUTPUT), True), (Bill(BOUND // 2, OUTPUT // 3), False)],
    ids=["as reserved", "as reserved, streamed", "a third"],
)
def test_many_callers_never_spend_more_than_there_is(
    tmp_path: Path, workers: int, bill: Bill, stream: bool
) -> None:
    """Whatever the bills, their sum is at most the budget, the ledger equals the provider's bill to the last nano-dollar, and so
    does the counter once nothing is held any more; the refused are told so with 402."""
    bill = Bill(bill.input, bill.output)
    limit = AFFORDED * Bill(BOUND, OUTPUT).one

    def charge(request: object) -> Answer:
        bill.answers += 1
        return Answer("yes", usage=(bill.input, bill.output), first_delay_s=0.2)

    budgets = f'budget = {{ usd = "{format_usd(limit)}", window = "month" }}'
    with FakeProvider() as provider, served(provider, tmp_path, workers=workers, budgets=budgets) as gateway:
        provider.default = charge
        answers = ask_many(gateway.port, CALLERS, body(stream=stream))
        first = bill.answers
        again = ask_many(gateway.port, CALLERS, body(stream=stream))
        gateway.stop()
        ledger, spent, held = books(gateway)
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 402}
    assert statuses.count(200) == first
    assert first + [status for status, _ in again].count(200) == bill.answers
    assert bill.total <= limit
    assert ledger == spent == bill.total
    assert held == 0
    # Four workers may leave a slice too small for one more unused; money that comes back early serves others.
    assert first >= (AFFORDED if workers == 1 else AFFORDED * 3 // 4)
    assert first <= limit // bill.one
    refused = next(answer for status, answer in answers if status == 402)
    head, _, text = refused.partition(b"\r\n\r\n")
    assert b"x-should-retry: false" in head and b"retry-after: " in head
    error = json.loads(text)["error"]
    assert error["code"] == "insufficient_quota"
    assert f"key one may use ${format_usd(limit)} a month" in error["message"]
