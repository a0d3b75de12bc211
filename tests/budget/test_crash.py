"""Workers are killed with reservations open, again and again: the provider's bill stays within the budget."""

from __future__ import annotations

import os
import random
import signal
import threading
from functools import partial
from pathlib import Path

from tests.budget.served import OUTPUT, Bill, ask_many, body, served
from tests.gateway.gate import wait_for

from headrace.budget.worst import input_bound
from headrace.call import format_usd
from headrace.dialects import by_name
from headrace.handler import Body
from headrace.testing import Answer, FakeProvider

KILLS = 4
BOUND = input_bound(Body(wire=body(), dialect=by_name("openai-chat")))


def test_a_killed_worker_releases_nothing(tmp_path: Path) -> None:
    """Each round asks, kills a worker while its answers are under way (counted), and asks again. The provider charges for every
    request that reached it; its bill never passes the budget, what the dead held is marked, and the gateway serves on."""
    bill, limit = Bill(BOUND, OUTPUT), 400 * Bill(BOUND, OUTPUT).one
    cut: list[int] = []
    chance = random.Random(7)

    def charge(request: object) -> Answer:
        bill.answers += 1
        return Answer("yes", usage=(bill.input, bill.output), first_delay_s=0.15)

    def charged(answers: int) -> bool:
        return bill.answers >= answers

    budgets = f'budget = {{ usd = "{format_usd(limit)}", window = "month" }}'
    with FakeProvider() as provider, served(provider, tmp_path, workers=2, budgets=budgets) as gateway:
        provider.default = charge
        for _ in range(KILLS):
            wait_for(lambda: len(gateway.workers()) == 2)
            before = gateway.workers()
            asking = threading.Thread(
                target=lambda: cut.append([status for status, _ in ask_many(gateway.port, 60)].count(0))
            )
            seen = bill.answers
            asking.start()
            wait_for(partial(charged, seen + 10))
            os.kill(chance.choice(before), signal.SIGKILL)
            asking.join(30)
            assert bill.total <= limit
        assert sum(map(bool, cut)) >= KILLS // 2, "kills must cut answers; a worker may have had none of them"
        rest = [status for status, _ in ask_many(gateway.port, 400)]
        assert set(rest) == {200, 402}
        gateway.stop()
        ((spent, unsettled),) = gateway.query("SELECT sum(spent), sum(unsettled) FROM budget_windows")
        ((held,),) = gateway.query("SELECT coalesce(sum(amount), 0) FROM budget_slices")
        ((lost, known),) = gateway.query(
            "SELECT sum(iif(outcome = 'lost', cost_nano, 0)), sum(iif(estimated, 0, cost_nano)) FROM attempts"
        )
        ((ledger,),) = gateway.query("SELECT sum(cost_nano) FROM attempts")
        ((repeated,),) = gateway.query(
            "SELECT count(*) - count(DISTINCT request_id || '/' || number) FROM attempts"
        )
    # Every attempt is in the ledger, once: with its bill, or with what it had reserved. The counter says the same.
    assert repeated == held == 0
    assert ledger == spent <= limit
    assert known <= bill.total <= ledger
    assert unsettled == lost > 0
