"""The record of one logical call: who asked, and every attempt that was made for it.

Layers below write into it while the request is on its way; layers above, the faces and the ledger read it. It is the one
mutable value of a request, and it belongs to that request alone. A layer that needs only the end of an attempt registers
with `Attempt.on_end` and so costs nothing per event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from headrace.errors import InvalidOutput, ProviderError
from headrace.types import FinishReason, Target, Usage

__all__ = ["Attempt", "Cached", "Call", "Outcome", "format_usd"]

Outcome = Literal["pending", "ok", "error", "broken", "cancelled", "skipped"]
"""`broken`: the stream died after its first content. `cancelled`: the caller left, or another attempt won. `skipped`: nothing was
sent, for the reason in `note` or `error_kind`."""

Nanodollars = int
"""Money: an integer of 10**-9 US dollars."""


def format_usd(amount: Nanodollars | None) -> str:
    """`0.00123` for 1_230_000; `unknown` for None. Exact, without trailing zeros."""
    if amount is None:
        return "unknown"
    whole, part = divmod(abs(amount), 1_000_000_000)
    text = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if amount < 0 else text


class Attempt(msgspec.Struct, kw_only=True):
    """One request to one target.

    Times are seconds; `started_at` on the clock's monotonic scale, `started_wall` since 1970; `waited_s` is the wait before
    the attempt, `first_content_s` and `duration_s` count from its start. `breaker` is the state of the target's circuit when it
    was asked, `deployment` the name of the place of the target that was, where there are several, `used_up_s` how long its headers say that nothing is left, `note` our own reason for what was done (`retry budget
    spent`). Costs are nano-dollars, None while unknown;
    `wasted` is the part of `cost` that bought nothing the caller received; `estimated` marks a cost that is an upper bound, since
    the provider may have charged for tokens that it did not report. `last_content_at` is on the monotonic scale, moved on
    by the time in which nobody was `reading`. `settlement` is what the budgets are told with the attempt's row. `judged` is False while somebody has still to say whether a whole answer is of use.
    """

    number: int
    target: Target
    started_at: float
    started_wall: float
    waited_s: float = 0.0
    outcome: Outcome = "pending"
    error_kind: str | None = None
    error_message: str | None = None
    http: int | None = None
    provider_request_id: str | None = None
    model: str | None = None
    finish: FinishReason | None = None
    usage: Usage | None = None
    cost: Nanodollars | None = None
    wasted: Nanodollars | None = 0
    estimated: bool = False
    purpose: str = ""
    first_content_s: float | None = None
    last_content_at: float = 0.0
    reading: bool = True
    error: ProviderError | None = None
    breaker: str | None = None
    deployment: str | None = None
    used_up_s: float | None = None
    note: str | None = None
    duration_s: float | None = None
    judged: bool = True
    on_end: list[Callable[[Attempt], None]] = []
    on_judged: list[Callable[[Attempt], None]] = []
    settlement: object | None = None

    def end(self, outcome: Outcome, now: float) -> None:
        """Close the record once; later calls change nothing. Runs what registered, in order."""
        if self.outcome != "pending":
            return
        self.outcome = outcome
        self.duration_s = now - self.started_at
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback(self)
        if self.judged or outcome != "ok":
            self.judge()

    def judge(self, error: ProviderError | None = None, outcome: Outcome = "error") -> None:
        """Say what an answer that ended well is worth, once: nothing, with the `error` that says why. Runs what registered for it;
        does nothing before the end."""
        if self.outcome == "pending":
            return
        if error is not None:
            self.outcome, self.error, self.error_kind = outcome, error, error.kind
            self.error_message = error.problem if isinstance(error, InvalidOutput) else error.message
            self.wasted = self.cost
        self.judged = True
        callbacks, self.on_judged = self.on_judged, []
        for callback in callbacks:
            callback(self)

    def fail(self, error: ProviderError, now: float, outcome: Outcome = "error") -> None:
        """Close the record with the error that ended it."""
        if self.outcome == "pending":
            if not error.target:
                error.target = str(self.target)
            self.error = error
            self.error_kind = error.kind
            self.error_message = error.message
            self.http = error.http if error.http is not None else self.http
            self.provider_request_id = error.request_id or self.provider_request_id
        self.end(outcome, now)

    def line(self) -> str:
        """`openai/gpt-4o: 429 rate_limited after 0.21 s (waited 0.50 s): Too many requests`."""
        said = self.outcome if self.error_kind is None else self.error_kind
        status = "" if self.http is None or self.error_kind is None else f"{self.http} "
        took = "" if self.duration_s is None else f" after {self.duration_s:.2f} s"
        waited = f" (waited {self.waited_s:.2f} s)" if self.waited_s else ""
        why = f": {self.error_message}" if self.error_message else ""
        if self.note:
            why += f" ({self.note})" if why else f": {self.note}"
        return f"{self.target}: {status}{said}{took}{waited}{why}"


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache made of a call.

    Attributes:
        tier: Where the answer was found: `exact`, `canonical`, `semantic`, or `flight` (an identical request was under way); empty
            when it was not.
        why: Why the cache was not asked, or not used.
        entry: The id of the entry; `target` is who had answered, `age_s` how long ago.
        p, tau: The probability that the answer is right, and the least that is served; of the semantic tier.
        state: Where `tau` comes from: `prior`, `certified`, `infeasible` or `shadow`; `scored` or `judged` where a part of one's own decided.
        vetoes: The nearest entries that a guard turned down, as `guard` each.
        audit: `right` or `wrong` where `entry` would have been given, was not for the sake of an audit, and the fresh answer has come.
        saved: Nano-dollars that asking would have cost, None where unknown; `saved_s` the seconds that the first answer took.
    """

    tier: str = ""
    why: str = ""
    entry: str = ""
    target: str = ""
    age_s: float = 0.0
    p: float | None = None
    tau: float | None = None
    state: str = ""
    vetoes: tuple[str, ...] = ()
    audit: str = ""
    saved: Nanodollars | None = None
    saved_s: float = 0.0

    def detail(self) -> str:
        """One line: `tier=semantic; p=0.9981; tau=0.9900; age=12`."""
        said: list[tuple[str, object]] = [
            ("tier", self.tier),
            ("why", self.why),
            ("entry", self.entry),
            ("target", self.target),
            ("state", self.state),
            ("p", "" if self.p is None else f"{self.p:.4f}"),
            ("tau", "" if self.tau is None else f"{self.tau:.4f}"),
            ("veto", ",".join(self.vetoes)),
            ("audit", self.audit),
        ]
        if self.tier:
            said += [("age", int(self.age_s)), ("saved-usd", format_usd(self.saved))]
        return "; ".join(f"{name}={value}" for name, value in said if value != "")


class Call(msgspec.Struct, kw_only=True):
    """One logical call. `guarded` counts what a guard did, by deed (`redact`, `flag`, `block`) and kind (`email`, `injection`, ...), `limits` is how
    the rate limits that hold for it stood when it came (`headrace.gcra.Standing`), `packed` what the tokens would have cost that context packing left out, `conversation` the one that the gateway holds for it. `purpose` is `answer`, or why Headrace itself asks (`summary`, `judge`, `audit`, `reask`, `guard`)."""

    id: str
    started_at: float
    started_wall: float
    purpose: str = "answer"
    key_id: str | None = None
    tenant: str | None = None
    user: str | None = None
    team: str | None = None
    tags: dict[str, str] = {}
    route: str = ""
    model: str = ""
    stream: bool = False
    dialect: str = ""
    conversation: str = ""
    cache: str = "bypass"
    cached: Cached | None = None
    attempts: list[Attempt] = []
    warnings: list[str] = []
    guarded: dict[tuple[str, str], int] = {}
    plan: object | None = None
    packed: Nanodollars | None = None
    limits: tuple[object, ...] = ()
    status: int | None = None
    duration_s: float | None = None
    on_end: list[Callable[[Call], None]] = []

    def end(self, status: int, now: float) -> None:
        """Close the record once, with the HTTP status that the caller got (or would have got). Runs what registered."""
        if self.status is not None:
            return
        self.status = status
        self.duration_s = now - self.started_at
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback(self)

    @property
    def answering(self) -> Attempt | None:
        """The attempt that answers or has answered, of two at once not always the later; where none did, the last that was to."""
        last = None
        for attempt in reversed(self.attempts):
            if attempt.purpose != "judge":
                if attempt.outcome in ("pending", "ok", "broken"):
                    return attempt
                last = last or attempt
        return last

    @property
    def target(self) -> Target | None:
        """Who answered, or was asked last for an answer."""
        attempt = self.answering
        return None if attempt is None else attempt.target

    @property
    def sent(self) -> int:
        """How many attempts reached for a provider; the others were skipped."""
        return sum(attempt.outcome != "skipped" for attempt in self.attempts)

    @property
    def cost(self) -> Nanodollars | None:
        """What all attempts cost together; None if one that produced tokens has an unknown price."""
        total = 0
        for attempt in self.attempts:
            if attempt.cost is None:
                return None
            total += attempt.cost
        return total

    def warn(self, what: str) -> None:
        """Name something that could not be carried or was changed; once each."""
        if what not in self.warnings:
            self.warnings.append(what)
