"""`first_good`: the cheap one where it will do, and what the way there cost."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import headrace
from headrace.testing import Answer, Overloaded, Silence, Status


@dataclasses.dataclass
class Invoice:
    total: int


def long_enough(answer: headrace.Answer[Any]) -> bool:
    return len(answer.text) > 5


CHEAP, STRONG = "openai/gpt-4o-mini", "openai/gpt-4o"


def test_the_cheap_answer_is_taken_where_it_is_good() -> None:
    """One request; nothing was rejected."""
    with headrace.fake("long enough") as llm:
        answer = llm.chat(headrace.first_good(CHEAP, STRONG, check=long_enough), "?")
        assert answer.text == "long enough" and [r.model for r in llm.provider.requests] == ["gpt-4o-mini"]
        assert not answer.rejected and not answer.before and not answer.warnings


def test_the_strong_one_is_asked_where_it_is_not() -> None:
    """Both are paid for and stand on the answer and in one group of the ledger; an asynchronous check does as well."""

    async def later(answer: headrace.Answer[Any]) -> bool:
        return long_enough(answer)

    with headrace.fake("unused") as llm:
        llm.provider.on("gpt-4o-mini", always=Answer("short", usage=(100, 10)))
        llm.provider.on("gpt-4o", always=Answer("long enough", usage=(100, 10)))
        for check in (long_enough, later):
            answer = llm.chat(headrace.first_good(CHEAP, STRONG, check=check), "?", tags={"job": "x"})
            assert answer.text == "long enough" and [one.text for one in answer.rejected] == ["short"]
            assert [str(attempt.target) for attempt in answer.attempts] == [CHEAP, STRONG]
            costs = [attempt.cost or 0 for attempt in answer.attempts]
            assert answer.cost == sum(costs) and min(costs) > 0
            assert answer.call.tags == {"job": "x", "choice": answer.rejected[0].id}
            assert answer.warnings == [f"the answer of {CHEAP} was not good enough"]


def test_a_choice_that_fails_is_passed_over() -> None:
    """An outage and an answer without its form count as not good; their requests are counted; a bad request is final."""
    with headrace.fake("unused") as llm:
        llm.provider.on("gpt-4o", always=Answer('{"total": 7}'))
        for bad in (Overloaded(), Answer("no invoice")):
            llm.provider.on("gpt-4o-mini", always=bad)
            answer = llm.chat(
                headrace.first_good(CHEAP, STRONG, check=lambda a: a.value.total > 0), "?", output=Invoice
            )
            assert answer.value.total == 7 and len(answer.attempts) >= 3 and len(answer.before) == 1
            assert f"{CHEAP} failed" in answer.warnings[-1]
        with pytest.raises(headrace.InvalidRequest):
            llm.chat(headrace.first_good(CHEAP, STRONG, check=long_enough), [])


def test_the_last_answer_is_taken_with_a_warning() -> None:
    """Where none is good the last one's stands, and says so; its errors are raised."""
    with headrace.fake("short") as llm:
        answer = llm.chat(headrace.first_good(CHEAP, [STRONG], check=long_enough), "?")
        assert answer.text == "short" and answer.warnings[-1].endswith("nor was any other")
        llm.provider.on("gpt-4o", always=Status(400, message="no"))
        with pytest.raises(headrace.ProviderError):
            llm.chat(headrace.first_good(CHEAP, STRONG, check=long_enough), "?")
        with pytest.raises(headrace.InvalidRequest, match="two or more"):
            headrace.first_good(CHEAP, check=long_enough)


def test_all_choices_share_one_timeout() -> None:
    """What the first one waited is gone for the second."""
    with headrace.fake("unused") as llm:
        llm.provider.default = Silence()
        with pytest.raises(headrace.HeadraceError):
            llm.chat(headrace.first_good((CHEAP,), (STRONG,), check=long_enough), "?", timeout=10)
        assert llm.clock.now() <= 10.001
