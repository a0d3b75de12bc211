"""Spares a target that keeps failing, and its callers: a circuit breaker for every target and every account.

`Circuit` decides and is pure: no clock, no I/O, no chance. The layer around it asks before an attempt and counts at the attempt's
end, which for a stream is its real end: an answer that is cut or goes silent in its middle counts as the failure that it is.

    closed ── failures ──► open ── cooldown over ──► half-open ── the probe's first content ──► closed
                            ▲                            │
                            └───── the probe failed ─────┘   (with a longer cooldown)

Beside that a target can be *limited*: its provider said when to ask again. Nobody asks before; afterwards everybody may, for
nothing is broken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

import msgspec

from headrace.call import Attempt
from headrace.clock import Clock
from headrace.errors import (
    AtCapacity,
    CircuitOpen,
    ConnectFailed,
    CredentialsInvalid,
    Malformed,
    ModelFailed,
    Permanent,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
)
from headrace.handler import Handler, Request, Stream
from headrace.types import Deployment, Target

__all__ = ["Breaker", "Change", "Circuit", "CircuitState", "Rules", "account_weight", "weight"]

CIRCUITS_KEPT = 4096
"""Targets and accounts that are remembered; callers may name any model."""

LEASE_S = 120.0
"""How long a probe may take to show content before another is sent: above the longest usual wait for it (60 s)."""

SLACK_S = 0.001
"""Event loops wake sleepers up to their clock's resolution early; who slept as long as he was told is not sent back."""

LIMIT_S = 300.0
"""The longest that one announced wait keeps a target from being asked, in seconds: a wrong header must not silence it for a day."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a circuit opens and for how long.

    Attributes:
        in_a_row: Weighted failures without a success between them. Source: Envoy's outlier detection and Finagle's failure accrual (5).
        last_in_a_row: The same for who has nobody else to ask: half of the answers are better than none, and where half of the attempts
            fail, five in a row come every minute, ten (at 0.1 %) do not.
        few_in_a_row, few_over_s: As many are enough over at least this time: where requests are rare, five failures are five callers who
            waited; where they are frequent, some success comes between. Source: Failover Bench S15, at most 5 attempts on a dead
            primary, probes included.
        ratio, volume: Share of failures in the window that opens the circuit once the window has `volume` attempts. Source: Hystrix (50 %
            of 20).
        window_s: The window is between half of this and this long. Source: Finagle (30 s).
        first_s, longest_s: Cooldown after the first opening, and the most that doubling makes of it: a target that is back is used
            within half a minute. Envoy begins with 30 s and ends with 300, Finagle with 5 and 300.
    """

    in_a_row: float = 5.0
    last_in_a_row: float = 10.0
    few_in_a_row: float = 3.0
    few_over_s: float = 0.25
    ratio: float = 0.5
    volume: float = 20.0
    window_s: float = 30.0
    first_s: float = 20.0
    longest_s: float = 30.0

    def cooldown(self, trips: int) -> float:
        """Seconds that a circuit stays open after its `trips`-th opening in one outage."""
        return min(self.longest_s, self.first_s * 2.0 ** min(trips - 1, 30))


class CircuitState(Enum):
    """What a circuit says of itself; the value is the word in reports."""

    CLOSED = "closed"
    LIMITED = "limited"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Verdict(Enum):
    """What may be done now."""

    GO = "go"
    PROBE = "probe"
    REFUSE = "refuse"


class Circuit:
    """One circuit: what has happened, and what follows from it at a time `now` (seconds, never going back).

    Attributes:
        quiet: Nothing stands in the way: not open, not limited. Whoever sees it needs not ask.
        reason: Why it last opened or was limited: the kind of the error.
        until: When it may be probed, while open.
    """

    __slots__ = (
        "_before",
        "_before_failed",
        "_failed",
        "_half_began",
        "_lease",
        "_since",
        "_total",
        "hinted",
        "limited_until",
        "open",
        "quiet",
        "reason",
        "rules",
        "streak",
        "trips",
        "until",
    )

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.quiet = True
        self.open = False
        self.until = 0.0
        self.limited_until = 0.0
        self.hinted = 0.0
        self.trips = 0
        self.streak = 0.0
        self.reason = ""
        self._lease: float | None = None
        self._half_began = self._since = 0.0
        self._total = self._failed = self._before = self._before_failed = 0.0

    # --- asking -------------------------------------------------------------------------------------------------------

    def state(self, now: float) -> CircuitState:
        """What it is at `now`."""
        if self.open:
            return CircuitState.OPEN if now < self.until else CircuitState.HALF_OPEN
        return CircuitState.LIMITED if now < max(self.limited_until, self.hinted) else CircuitState.CLOSED

    def admit(self, now: float, *, last: bool) -> Verdict:
        """Whether an attempt may be made. PROBE is given to one at a time, and must be answered by `begun`, `succeeded`, `failed` or
        `released`. `last`: nobody else can be asked, so that what headers merely suggest is not held against it, nor the few failures
        that are enough to ask somebody else."""
        if not self.open:
            if now < self.limited_until or (now < self.hinted and not last):
                return Verdict.REFUSE
            if now >= self.hinted:
                self.quiet = True
            return Verdict.GO
        if now < self.limited_until:
            return Verdict.REFUSE
        if last and self.streak < self.rules.last_in_a_row:
            return Verdict.PROBE
        if now < self.until:
            return Verdict.REFUSE
        if self._lease is not None and now < self._lease:
            return Verdict.REFUSE
        self._lease = now + LEASE_S
        return Verdict.PROBE

    def wait(self, now: float) -> float:
        """Seconds until it may be asked again; a probe under way has a second more."""
        if not self.open:
            return max(0.0, max(self.limited_until, self.hinted) - now)
        return max(self.until, self.limited_until, now + 1.0 if now >= self.until else 0.0) - now

    # --- what happened ------------------------------------------------------------------------------------------------

    def begun(self, *, probe: bool) -> bool:
        """The attempt has its first content. True if that closed the circuit; what the stream does later still counts."""
        if not (probe and self.open):
            return False
        self.close()
        return True

    def succeeded(self, now: float, *, probe: bool) -> bool:
        """An attempt ended well. True if that closed the circuit; one that began before it opened does not."""
        if self.open:
            if not probe:
                return False
            self.close()
            self.trips = 0
            return True
        self._count(now, 1.0, 0.0)
        self.streak = 0.0
        self.trips = 0
        return False

    def failed(self, now: float, weight: float, reason: str, *, probe: bool, hint_s: float = 0.0) -> bool:
        """An attempt failed, with `weight` above 0. True if the circuit opened; `hint_s` is the least that it then stays so."""
        if self.open:
            if not probe:
                return False
            self.streak += weight
            self._trip(now, reason, hint_s)
            return True
        self._count(now, max(1.0, weight), weight)
        if not self.streak:
            self._since = now
        self.streak += weight
        rules = self.rules
        total = self._total + self._before
        if (
            self.streak >= rules.in_a_row
            or (self.streak >= rules.few_in_a_row and now - self._since >= rules.few_over_s)
            or (total >= rules.volume and self._failed + self._before_failed >= rules.ratio * total)
        ):
            self._trip(now, reason, hint_s)
            return True
        return False

    def released(self) -> None:
        """The probe ended without telling anything: its caller left."""
        self._lease = None

    def limit(self, until: float, reason: str) -> None:
        """The provider said that it will not be asked before `until`."""
        self.limited_until = max(self.limited_until, until - SLACK_S)
        self.reason = reason
        self.quiet = False

    def hint(self, until: float) -> None:
        """The provider's headers suggest that nothing is left before `until`."""
        self.hinted = max(self.hinted, until)
        self.quiet = False

    # --- inside -------------------------------------------------------------------------------------------------------

    def _trip(self, now: float, reason: str, hint_s: float) -> None:
        if not self.open or now >= self.until:  # who probes early does not make the others wait longer
            self.trips += 1
        self.open, self.quiet, self._lease = True, False, None
        self.until, self.reason = now + max(self.rules.cooldown(self.trips), min(hint_s, LIMIT_S)), reason

    # --- what other processes found -------------------------------------------------------------------------------------

    def open_until(self, until: float, trips: int, reason: str) -> None:
        """Open it, as another process did."""
        self.open, self.quiet, self._lease = True, False, None
        self.until, self.trips, self.reason = until, trips, reason
        self.streak = max(self.streak, self.rules.in_a_row)

    def lease(self, until: float) -> None:
        """Another process is probing until `until`."""
        if self.open:
            self._lease = until

    def close(self) -> None:
        """Close it; the openings so far are remembered until an attempt ends well."""
        self.open, self._lease, self.streak = False, None, 0.0
        self._total = self._failed = self._before = self._before_failed = 0.0

    def _count(self, now: float, total: float, failed: float) -> None:
        half = self.rules.window_s / 2.0
        if now - self._half_began >= half:
            fresh = now - self._half_began < 2.0 * half
            self._before, self._before_failed = (self._total, self._failed) if fresh else (0.0, 0.0)
            self._total = self._failed = 0.0
            self._half_began = now
        self._total += total
        self._failed += failed


# --- what an end means ------------------------------------------------------------------------------------------------

LONG_S = 30.0
"""Silence that counts whoever ended it, in seconds: the timeout that Failover Bench gives its candidates."""

OPENS_AT_ONCE = 1e6
"""A weight above every threshold."""

ACCOUNT_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "billing_error",
    }
)
"""The providers' words for money that is gone, for every model of the account. Other quotas (Gemini's a day) are a model's own."""


def weight(error: ProviderError, *, silent_s: float) -> float | None:
    """How much a failure says against its target; None if it says that the target works, 0 if it says nothing.

    A timeout counts double: it cost its caller the wait. A 429 without a time counts half, with a time it is obeyed instead. That the
    caller's own time was over says something only after `LONG_S` of silence: an impatient caller is not the provider's fault.
    """
    match error:
        case AtCapacity():
            return 0.0
        case ProviderTimeout(phase="total") if silent_s < LONG_S:
            return 0.0
        case ProviderTimeout():
            return 2.0
        case ProviderRateLimited():
            return 0.0 if error.retry_after_s else 0.5
        case ProviderOverloaded() | ProviderUnavailable() | ConnectFailed() | Malformed():
            return 1.0
        case QuotaExhausted():
            return OPENS_AT_ONCE
        case CredentialsInvalid():
            return 0.0
        case _:
            return None


def account_weight(error: ProviderError) -> float | None:
    """As `weight`, against the account: money that is gone opens at once, a key that is refused counts; any answer that only an
    accepted key gets says that it works."""
    match error:
        case QuotaExhausted() if error.http == 402 or error.code in ACCOUNT_CODES:
            return OPENS_AT_ONCE
        case CredentialsInvalid():
            return 1.0 if error.http == 401 else 0.0
        case Permanent() | ProviderRateLimited() | ModelFailed():
            return None
        case _:
            return 0.0


# --- the layer --------------------------------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True):
    """A transition, for whoever tells the other processes. `until` is on the clock's monotonic scale."""

    key: str
    state: CircuitState
    until: float
    trips: int
    reason: str


class Breaker:
    """Raises `CircuitOpen` in place of an attempt whose target or account is open or limited.

    Args:
        told: Hears of every transition; must not wait.

    Attributes:
        claim: Asks the other processes for the one probe of a circuit; None where there are none.
    """

    def __init__(
        self, clock: Clock, rules: Rules = Rules(), told: Callable[[Change], None] | None = None
    ) -> None:
        self._clock = clock
        self._rules = rules
        self.told = told
        self.claim: Callable[[str], Awaitable[bool]] | None = None
        self._circuits: dict[str, Circuit] = {}
        self._watched: dict[tuple[str, ...], _Watched] = {}

    def __call__(self, inner: Handler) -> Handler:
        clock = self._clock

        async def handle(request: Request) -> Stream:
            attempt, target = request.attempt, request.target
            assert attempt is not None and target is not None
            if not request.route.breaker:
                return await inner(request)
            watched = self._of(target, request.deployment)
            probe = watched.none
            if watched.circuits[0].quiet and watched.circuits[-1].quiet and watched.quota.quiet:
                attempt.breaker = "closed"
            else:
                probe = self._ask(watched, attempt, last=request.last_level)
                if probe is not watched.none and self.claim is not None:
                    await self._claimed(self.claim, watched, probe, attempt)
            attempt.on_end.append(partial(self._ended, watched, probe))
            stream = await inner(request)
            if probe is not watched.none and attempt.outcome == "pending":
                self._begun(watched, probe)
            if attempt.used_up_s is not None:
                watched.quota.hint(clock.now() + attempt.used_up_s)
            return stream

        return handle

    def shut(self, target: Target, deployment: Deployment) -> bool:
        """Whether an attempt there would be refused now, or would be a probe."""
        now = self._clock.now()
        return any(
            circuit.state(now) is not CircuitState.CLOSED
            for circuit in self._of(target, deployment).circuits
            if not circuit.quiet
        )

    def _of(self, target: Target, deployment: Deployment | None) -> _Watched:
        key = (target.provider, target.model) if deployment is None else (deployment.name,)
        watched = self._watched.get(key)
        if watched is None:
            if len(self._watched) >= CIRCUITS_KEPT:
                closed = [key for key, old in self._watched.items() if not old.circuits[0].open]
                for old in closed[: CIRCUITS_KEPT // 2]:
                    self._circuits.pop(self._watched.pop(old).keys[0], None)
            keys = _keys(target, deployment)
            watched = self._watched[key] = _Watched(keys, tuple(self.circuit(each) for each in keys))
        return watched

    def circuit(self, key: str) -> Circuit:
        """The circuit of `provider/model`, or of an account: `provider`."""
        circuit = self._circuits.get(key)
        if circuit is None:
            circuit = self._circuits[key] = Circuit(self._rules)
        return circuit

    async def _claimed(
        self,
        claim: Callable[[str], Awaitable[bool]],
        watched: _Watched,
        probe: tuple[bool, ...],
        attempt: Attempt,
    ) -> None:
        try:
            for circuit, leased, key in zip(watched.circuits, probe, watched.keys, strict=True):
                now = self._clock.now()
                if leased and now >= circuit.until and not await claim(key):
                    self._refuse(watched, circuit, attempt, now)
        except BaseException:
            for circuit, leased in zip(watched.circuits, probe, strict=True):
                if leased:
                    circuit.released()
            raise

    def learn(self, change: Change) -> None:
        """Another process told of a transition."""
        circuit = self.circuit(change.key)
        match change.state:
            case CircuitState.OPEN:
                circuit.open_until(change.until, change.trips, change.reason)
            case CircuitState.HALF_OPEN:
                circuit.lease(change.until)
            case CircuitState.LIMITED:
                circuit.limit(change.until, change.reason)
            case CircuitState.CLOSED:
                circuit.close()

    def states(self) -> Iterator[tuple[str, CircuitState, Circuit]]:
        """Every circuit that has seen an attempt, with its state now."""
        now = self._clock.now()
        for key, circuit in self._circuits.items():
            yield key, circuit.state(now), circuit

    def _ask(self, watched: _Watched, attempt: Attempt, *, last: bool) -> tuple[bool, ...]:
        now = self._clock.now()
        probes: list[bool] = []
        for circuit in watched.circuits:
            verdict = circuit.admit(now, last=last)
            if verdict is Verdict.REFUSE:
                for before, leased in zip(watched.circuits, probes, strict=False):
                    if leased:
                        before.released()
                self._refuse(watched, circuit, attempt, now)
            probes.append(verdict is Verdict.PROBE)
        attempt.breaker = (CircuitState.HALF_OPEN if any(probes) else CircuitState.CLOSED).value
        for circuit, leased, key in zip(watched.circuits, probes, watched.keys, strict=True):
            if leased:
                self._tell(key, circuit, CircuitState.HALF_OPEN, now + LEASE_S)
        return tuple(probes) if any(probes) else watched.none

    def _refuse(self, watched: _Watched, circuit: Circuit, attempt: Attempt, now: float) -> None:
        state, wait = circuit.state(now), circuit.wait(now)
        key = watched.keys[watched.circuits.index(circuit)]
        whose = f"the account {key!r}" if circuit is watched.circuits[-1] else key
        why = f" after {circuit.reason}" if circuit.reason else ""
        said = {
            CircuitState.OPEN: f"the circuit of {whose} is open for another {wait:.1f} s{why}",
            CircuitState.HALF_OPEN: f"the circuit of {whose} is being probed{why}",
        }.get(state, f"{whose} is limited for another {wait:.1f} s")
        error = CircuitOpen(
            said, target=str(attempt.target), retry_after_s=wait, limited=state is CircuitState.LIMITED
        )
        attempt.breaker, attempt.cost = state.value, 0
        attempt.fail(error, now, "skipped")
        raise error

    def _begun(self, watched: _Watched, probe: tuple[bool, ...]) -> None:
        for circuit, leased, key in zip(watched.circuits, probe, watched.keys, strict=True):
            if circuit.begun(probe=leased):
                self._tell(key, circuit, CircuitState.CLOSED, 0.0)

    def _ended(self, watched: _Watched, probe: tuple[bool, ...], attempt: Attempt) -> None:
        now = self._clock.now()
        outcome, error = attempt.outcome, attempt.error
        first, account = watched.circuits[0], watched.circuits[-1]
        if outcome == "ok" and probe is watched.none:
            first.succeeded(now, probe=False)
            if account.streak:
                account.succeeded(now, probe=False)
            return
        began = attempt.started_at if attempt.first_content_s is None else attempt.last_content_at
        hint_s = 0.0 if error is None else error.retry_after_s or 0.0
        for circuit, leased, key in zip(watched.circuits, probe, watched.keys, strict=True):
            if outcome == "ok":
                found: float | None = None
            elif error is None:
                found = 0.0
            elif circuit is first:
                found = weight(error, silent_s=now - began)
            else:  # what deployments share beside the account is only ever limited
                found = account_weight(error) if circuit is account else 0.0
            if found is None:
                if circuit.succeeded(now, probe=leased):
                    self._tell(key, circuit, CircuitState.CLOSED, 0.0)
            elif found and error is not None:
                if circuit.failed(now, found, error.kind, probe=leased, hint_s=hint_s):
                    self._tell(key, circuit, CircuitState.OPEN, circuit.until)
            elif leased and circuit.open:
                circuit.released()
                self._tell(key, circuit, CircuitState.OPEN, circuit.until)
        if hint_s and error is not None and isinstance(error, ProviderRateLimited):
            quota = watched.quota
            quota.limit(now + min(hint_s, LIMIT_S), error.kind)
            self._tell(watched.keys[-2], quota, CircuitState.LIMITED, quota.limited_until)

    def _tell(self, key: str, circuit: Circuit, state: CircuitState, until: float) -> None:
        if self.told is not None:
            self.told(Change(key, state, until, circuit.trips, circuit.reason))


class _Watched:
    """The circuits of what one attempt goes to, the account's last, and their keys. `none` stands for: no probe."""

    __slots__ = ("circuits", "keys", "none", "quota")

    def __init__(self, keys: tuple[str, ...], circuits: tuple[Circuit, ...]) -> None:
        self.keys = keys
        self.circuits = circuits
        self.none = (False,) * len(keys)
        self.quota = circuits[-2]


def _keys(target: Target, deployment: Deployment | None) -> tuple[str, ...]:
    """A target and its account; a deployment, what those of one account and model share, and that account."""
    if deployment is None:
        return str(target), target.provider
    return deployment.name, f"{deployment.quota_domain}/{target.model}", deployment.quota_domain
