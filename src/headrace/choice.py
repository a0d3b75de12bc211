"""A cheap model first, a strong one where the answer is not good enough."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from headrace.answer import Answer
from headrace.call import Call
from headrace.clock import Clock
from headrace.engine import Levels
from headrace.errors import (
    AllTargetsFailed,
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    ProviderError,
    StreamBroken,
    ToolLoopStopped,
)
from headrace.rounds import Rounds

__all__ = ["Check", "FirstGood", "choose", "first_good"]

T = TypeVar("T")

Check: TypeAlias = Callable[[Answer[Any]], "bool | Awaitable[bool]"]
"""Whether an answer is good enough; may ask another model."""


@dataclass(frozen=True, slots=True)
class FirstGood:
    """What `first_good` gives: in place of a model for `chat`."""

    choices: tuple[Levels, ...]
    check: Check

    async def good(self, answer: Answer[Any]) -> bool:
        """The verdict of `check`."""
        verdict = self.check(answer)
        return bool(await verdict if inspect.isawaitable(verdict) else verdict)


def first_good(*choices: Levels, check: Check) -> FirstGood:
    """The first of `choices` (routes, models, cascades) whose answer passes `check`: ``llm.chat(first_good("fast", "smart", check=...), ...)``.

    A choice whose targets all fail, or whose answer has not its form, is passed over like one that is not good. The last one's answer is taken as it is, with
    a warning where it does not pass. The answer has the others on `rejected`; cost and attempts count them in.

    Raises:
        InvalidRequest: Fewer than two choices.
    """
    if len(choices) < 2:
        raise InvalidRequest(f"first_good chooses among two or more, not {len(choices)}", param="model")
    return FirstGood(choices, check)


async def choose(
    choice: FirstGood,
    begin: Callable[[Levels, float | None, Mapping[str, str]], Coroutine[Any, Any, Rounds[T]]],
    *,
    clock: Clock,
    timeout: float | None,
    tags: Mapping[str, str],
) -> Answer[T]:
    """Ask one choice after the other. All share `timeout` (seconds) and one tag in the ledger, `choice`: the id of the first request.

    Raises:
        DeadlineExceeded: `timeout` is over before the last choice could be asked.
        HeadraceError: What the last choice raises; what no other choice would cure.
    """
    began = clock.now()
    before: list[Call] = []
    rejected: list[Answer[Any]] = []
    warnings: list[str] = []
    for number, levels in enumerate(choice.choices, 1):
        left = None if timeout is None else timeout - (clock.now() - began)
        if left is not None and left <= 0:
            raise DeadlineExceeded(
                f"{timeout:g} s were over after {number - 1} of {len(choice.choices)} choices"
            )
        last = number == len(choice.choices)
        rounds = await begin(levels, left, {**tags, **({"choice": before[0].id} if before else {})})
        try:
            answer = await rounds.finish()
        except (AllTargetsFailed, ProviderError, StreamBroken, ToolLoopStopped) as error:
            if last:
                raise
            warnings.append(f"{_name(levels)} failed: {_brief(error)}")
            before += rounds.calls
            continue
        if await choice.good(answer):
            break
        warnings.append(
            f"the answer of {_name(levels)} was not good enough" + (", nor was any other" if last else "")
        )
        if not last:
            rejected.append(answer)
            before += rounds.calls
    for warning in warnings:
        answer.call.warn(warning)
    return replace(answer, rejected=tuple(rejected), before=tuple(before))


def _name(levels: Levels) -> str:
    return (
        levels
        if isinstance(levels, str)
        else ", ".join(one if isinstance(one, str) else one[0] for one in levels)
    )


def _brief(error: HeadraceError) -> str:
    return error.message.partition("\n")[0][:200]
