"""Asks rows, as many at once as the rate limits take, and keeps what becomes of each."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from headrace.answer import Answer
from headrace.batch.journal import NO_VALUE, Journal, Line
from headrace.batch.pace import Pace
from headrace.batch.progress import Meter, Progress
from headrace.batch.rows import Row, Rows, digest
from headrace.call import Nanodollars, format_usd
from headrace.clock import Clock
from headrace.errors import (
    AllTargetsFailed,
    BudgetExceeded,
    HeadraceError,
    InvalidOutput,
    ProviderError,
    Refused,
    RequestError,
)
from headrace.output import Shape
from headrace.rounds import Rounds

__all__ = ["Asking", "Result", "Run", "run_rows"]

T = TypeVar("T")

Asking: TypeAlias = Callable[[Row], Coroutine[Any, Any, "Rounds[Any]"]]
"""The question that a row makes."""

TRIES = 5
"""How often a row is begun again that met a limit or an outage which the cascade could not get around."""

AGAIN_S, LONGEST_AGAIN_S = 1.0, 30.0
"""The wait before it is: doubling from the one to the other."""

WAITING = 4
"""So many times the rows under way may wait for another try, before no new ones are begun: memory stays flat in an outage."""

_HOPELESS = frozenset(
    {
        "budget_exceeded",
        "unpriced_target",
        "credentials_invalid",
        "quota_exhausted",
        "model_not_found",
        "unauthorized",
        "forbidden",
    }
)
"""What every other row would meet too: the run stops, and what is not done may be resumed."""


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What became of one row. `reason` is an error's kind and None where it went well."""

    line: Line
    read: tuple[T] | None = None

    @property
    def row(self) -> int:
        """Its number, from 0."""
        return self.line.row

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.line.ok

    @property
    def text(self) -> str:
        """The answer; JSON where a form was asked for, empty where it failed."""
        return self.line.text or bytes(self.line.value).decode()

    @property
    def value(self) -> T:
        """What `output=` asked for. Raises `RuntimeError` where nothing was, or the row failed."""
        if self.read is None:
            raise RuntimeError(f"row {self.row} has no value: {self.line.message or 'ask with output='}")
        return self.read[0]

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        return self.line.reason


@dataclass(slots=True)
class Run(Generic[T]):
    """A batch that has ended, or was stopped. Iterate for a `Result` of each row that is done, in the order of the rows.

    Attributes:
        journal: Where the results are.
        total: How many rows there are, None where they were an iterator that was not read to its end.
        stopped: Why it was stopped before its end; None if it was not.
    """

    journal: Journal
    shape: Shape[T] | None
    total: int | None
    stopped: HeadraceError | None
    again: Callable[[], Coroutine[Any, Any, Run[T]]] = field(repr=False)

    @property
    def ok(self) -> int:
        """Rows that were answered."""
        return self.journal.ok

    @property
    def failed(self) -> int:
        """Rows that were not, for a reason."""
        return self.journal.failed

    @property
    def reasons(self) -> dict[str, int]:
        """How many failed for which reason."""
        return {reason: number for reason, number in self.journal.reasons.items() if number}

    @property
    def cost(self) -> Nanodollars | None:
        """What all rows cost, of earlier runs too; None if a price is unknown."""
        return None if self.journal.unpriced else self.journal.cost

    @property
    def cost_usd(self) -> str:
        """`cost` as exact decimal US dollars, or `unknown`."""
        return format_usd(self.cost)

    def __len__(self) -> int:
        return len(self.journal)

    def __getitem__(self, row: int) -> Result[T]:
        line = self.journal[row]
        if not line.ok or self.shape is None:
            return Result(line)
        return Result(line, (self.shape.decode(bytes(line.value).decode()),))

    def __iter__(self) -> Iterator[Result[T]]:
        return (self[row] for row in self.journal.rows() if self.journal.has(row))

    def close(self) -> None:
        """Let go of the file; without `resume=` the results are gone then. Idempotent."""
        self.journal.close()


@dataclass(slots=True)
class _Todo:
    """A row that is not done; `tried` times begun, for `cost` nano-dollars and `attempts` requests so far. When a limit last refused it,
    `served` rows had been answered."""

    number: int
    row: Row
    asked: str
    tried: int = 0
    served: int = 0
    cost: Nanodollars | None = 0
    attempts: int = 0

    def spent(self, rounds: Rounds[Any] | None) -> None:
        """Book one try."""
        for call in () if rounds is None else rounds.calls:
            self.attempts += call.sent
            self.cost = None if self.cost is None or call.cost is None else self.cost + call.cost


@dataclass(slots=True)
class _Again:
    """A row that is to be begun once more: it met a limit, or an outage."""

    error: HeadraceError
    limited: bool


async def run_rows(
    rows: Rows,
    journal: Journal,
    ask: Asking,
    *,
    job: str,
    pace: Pace,
    clock: Clock,
    total: int | None,
    retry_failed: bool = False,
    tries: int = TRIES,
    report: Callable[[Progress, float, bool], None] = lambda progress, now, last: None,
) -> HeadraceError | None:
    """Ask every row that `journal` has not; why it stopped before the end, None if it did not.

    Args:
        job: What all rows share, for their digests.
        retry_failed: Also those that failed in an earlier run.
        tries: How often a row is begun, 1 or more; not counted where a rate limit refused it and let others through.
        report: Hears how far it is, after each row.

    Raises:
        InvalidRequest: A row is none, or the journal has the answer to another.
    """
    loop = _Loop(journal, ask, pace, clock, total, tries, report)
    todo = (
        _Todo(number, row, asked)
        for number, row in enumerate(rows)
        if not journal.done(number, asked := digest(job, row), failed_too=not retry_failed)
    )
    try:
        await loop.run(todo)
    finally:
        for task in loop.flying:
            task.cancel()
        await asyncio.gather(*loop.flying, return_exceptions=True)
        journal.sync()
    return loop.stopped


class _Loop:
    """The state of one run."""

    def __init__(
        self,
        journal: Journal,
        ask: Asking,
        pace: Pace,
        clock: Clock,
        total: int | None,
        tries: int,
        report: Callable[[Progress, float, bool], None],
    ) -> None:
        self.journal = journal
        self.ask = ask
        self.pace = pace
        self.clock = clock
        self.total = total
        self.tries = tries
        self.report = report
        self.flying: set[asyncio.Task[None]] = set()
        self.waiting: list[tuple[float, int, _Todo]] = []
        self.stopped: HeadraceError | None = None
        self._order = count()
        self._meter = Meter(clock.now())
        self._before = len(journal)

    async def run(self, rows: Iterator[_Todo]) -> None:
        """Until nothing is left."""
        more = True
        while True:
            now = self.clock.now()
            while self.stopped is None and len(self.flying) < self.pace.limit and now >= self.pace.until:
                todo: _Todo | None = None
                if self.waiting and self.waiting[0][0] <= now:
                    todo = heapq.heappop(self.waiting)[2]
                elif more and len(self.waiting) < WAITING * self.pace.limit:
                    todo = next(rows, None)
                    more = todo is not None
                if todo is None:
                    break
                self.flying.add(asyncio.create_task(self._row(todo)))
            if not self.flying and (self.stopped is not None or not (more or self.waiting)):
                break
            await self._until_something(now)
        self._tell(last=True)

    async def _until_something(self, now: float) -> None:
        """A row has ended, or another may begin."""
        wake = self.pace.until if now < self.pace.until else float("inf")
        if self.waiting:
            wake = min(wake, max(self.waiting[0][0], self.pace.until))
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = None
        if self.stopped is None and now < wake < float("inf"):
            # At a time, not after a while: a rounded one could end a hair too early, again and again.
            timer = self.clock.call_at(wake, lambda: None if awake.done() else awake.set_result(None))
        await asyncio.wait({*self.flying, awake}, return_when=asyncio.FIRST_COMPLETED)
        if timer is not None:
            timer.cancel()
        for task in [task for task in self.flying if task.done()]:
            self.flying.discard(task)
            task.result()

    async def _row(self, todo: _Todo) -> None:
        todo.tried += 1
        line, again = await self._asked(todo)
        now = self.clock.now()
        if again is not None and _hopeless(again.error):
            self.stopped = again.error  # the row stays undone
            return
        if again is not None:
            wait = getattr(again.error, "retry_after_s", None)
            if again.limited:
                self.pace.limited(now, wait, refused=True)
                if (
                    self.journal.ok > todo.served
                ):  # the limit lets rows through, others for now: no try is lost
                    todo.served = self.journal.ok
                    todo.tried -= 1
            if todo.tried < self.tries:
                backoff = AGAIN_S * 2.0 ** max(0, todo.tried - 1) if wait is None else wait
                due = now + min(backoff, LONGEST_AGAIN_S)
                heapq.heappush(self.waiting, (due, next(self._order), todo))
                return
        self.journal.write(line)
        if line.ok:
            self.pace.good()
        self._tell()

    async def _asked(self, todo: _Todo) -> tuple[Line, _Again | None]:
        rounds: Rounds[Any] | None = None
        named = todo.row.get("id", todo.row.get("custom_id"))
        line = Line(row=todo.number, ok=False, input=todo.asked, id=None if named is None else str(named))
        again = None
        try:
            rounds = await self.ask(todo.row)
            answer = await rounds.finish()
        except HeadraceError as error:
            again = _again(error)
            line = msgspec.structs.replace(line, reason=_reason(error), message=error.message[:1000])
        else:
            line = msgspec.structs.replace(line, ok=True, **_said(answer))
            if any(attempt.error_kind == "rate_limited" for attempt in answer.attempts):
                self.pace.limited(self.clock.now(), None, refused=False)
        todo.spent(rounds)
        return msgspec.structs.replace(line, cost_nano=todo.cost, attempts=todo.attempts), again

    def _tell(self, *, last: bool = False) -> None:
        journal, now = self.journal, self.clock.now()
        done = len(journal)
        rate = self._meter.rate(now, done - self._before)
        cost = None if journal.unpriced or not done else journal.cost
        left = None if self.total is None else max(0, self.total - done)
        self.report(
            Progress(
                done=done,
                total=self.total,
                ok=journal.ok,
                failed=journal.failed,
                rate=rate,
                eta_s=None if left is None or not rate else left / rate,
                cost=cost,
                forecast=None if cost is None or left is None else cost + cost * left // done,
                at_once=len(self.flying),
                limit=self.pace.limit,
                why=self.pace.why,
            ),
            now,
            last,
        )


def _again(error: HeadraceError) -> _Again | None:
    """Whether another try may do; None where it would not. What is hopeless for all rows is told apart by `_hopeless`."""
    if isinstance(error, InvalidOutput):
        return None
    limited = error.http_status == 429 or error.kind in ("overloaded", "circuit_open", "budget_unavailable")
    passing = isinstance(error, AllTargetsFailed | ProviderError | Refused) and error.http_status >= 500
    return _Again(error, limited) if limited or passing or _hopeless(error) else None


def _hopeless(error: HeadraceError) -> bool:
    if isinstance(error, AllTargetsFailed):
        return bool(error.errors) and all(one.kind in _HOPELESS for one in error.errors)
    if isinstance(error, RequestError):
        return error.kind in ("unauthorized", "forbidden") or type(error).__name__ == "UnknownModel"
    return isinstance(error, BudgetExceeded) or error.kind in _HOPELESS


def _reason(error: HeadraceError) -> str:
    """The kind; of a spent cascade that of its last attempt, which says more."""
    if isinstance(error, AllTargetsFailed) and error.errors:
        return error.errors[-1].kind
    return error.kind


def _said(answer: Answer[Any]) -> dict[str, Any]:
    """The members of a line that an answer fills."""
    target, usage = answer.call.target, answer.usage
    return {
        "text": answer.text if answer.read is None else None,
        "value": NO_VALUE if answer.read is None else msgspec.Raw(answer.text),
        "finish": answer.finish,
        "target": None if target is None else str(target),
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "request_id": answer.id,
    }
