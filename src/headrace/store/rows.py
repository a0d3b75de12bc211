"""What a store keeps: values, taken from the live records at once, so nothing that happens later changes them."""

from __future__ import annotations

import msgspec

from headrace.access import KeyTerms
from headrace.call import Attempt, Call, Nanodollars

__all__ = [
    "LOST",
    "Actor",
    "AttemptRow",
    "AuditRow",
    "StoredCircuit",
    "StoredKey",
    "StoredRequest",
    "attempt_row",
    "lost_row",
    "request_of",
    "request_row",
]

LOST = "lost"
"""The outcome of an attempt whose process died before its end."""


class AttemptRow(msgspec.Struct, frozen=True, array_like=True):
    """One attempt, as the ledger keeps it. Journals know the fields by their places: a new one comes last and has a default.

    Times are seconds, `..._wall` since 1970. `provider` and `target_model` are what was asked, `model` is who answered by its own
    account. `call_wall` is when the logical call began: with `request_id` it names the call, since a caller may choose an id
    twice. Tokens are None where the provider did not say; `cost_nano` and `wasted_nano` are None while unknown;
    `estimated` marks a cost that is an upper bound of what the provider charged. `outcome` is an `Outcome`, or `lost`: the process
    died before the attempt's end, and `cost_nano` is the most that it can have cost.
    """

    request_id: str
    call_wall: float
    number: int
    started_wall: float
    provider: str
    target_model: str
    model: str | None
    purpose: str
    outcome: str
    error_kind: str | None
    http: int | None
    waited_s: float
    first_content_s: float | None
    duration_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cache_write_1h_tokens: int | None
    reasoning_tokens: int | None
    cost_nano: Nanodollars | None
    wasted_nano: Nanodollars | None
    estimated: bool
    finish: str | None
    provider_request_id: str | None
    breaker: str | None
    note: str | None
    key_id: str | None
    tenant: str | None
    user: str | None
    team: str | None
    route: str
    tags: dict[str, str]
    image_tokens: int | None = None
    deployment: str | None = None

    @property
    def target(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.target_model}"


class StoredRequest(msgspec.Struct, frozen=True, array_like=True):
    """One logical call (journals know its fields by their places too). `model` is what was asked for, `status` the HTTP status that the caller got, None while it runs.

    `attempts` are in order of their numbers; they are kept apart and put in when a request is read. `saved_nano` is what asking
    would have cost where the cache answered, `packed_nano` what the tokens would have cost that packing left out; None where that is unknown or was not so.
    """

    request_id: str
    started_wall: float
    duration_s: float | None
    status: int | None
    purpose: str
    route: str
    model: str
    dialect: str
    stream: bool
    cache: str
    key_id: str | None
    tenant: str | None
    user: str | None
    team: str | None
    tags: dict[str, str]
    warnings: tuple[str, ...]
    attempts: tuple[AttemptRow, ...] = ()
    saved_nano: Nanodollars | None = None
    packed_nano: Nanodollars | None = None

    @property
    def cost_nano(self) -> Nanodollars | None:
        """What all attempts cost together; None if one of them is unknown."""
        total = 0
        for attempt in self.attempts:
            if attempt.cost_nano is None:
                return None
            total += attempt.cost_nano
        return total


class StoredCircuit(msgspec.Struct, frozen=True, kw_only=True):
    """The last transition of a target's or an account's circuit (`headrace.layers.breaker`), told by the worker `by`."""

    key: str
    state: str
    until_wall: float
    trips: int
    reason: str
    by: str


class StoredKey(KeyTerms, frozen=True, kw_only=True):
    """A key that callers present; the key itself is not kept, only its keyed hash, and that is not shown.

    `prefix` is its beginning, enough for a person to recognise it; of two keys that are not revoked only one has a `name`.
    `revoked_wall` is None while it is good. `old_until_wall` is until when the value before the last rotation is good too. Spend is kept
    under `id`, so rotating a key changes nothing there.
    """

    id: str
    prefix: str
    created_wall: float
    name: str | None = None
    revoked_wall: float | None = None
    old_until_wall: float | None = None

    @property
    def summary(self) -> str:
        """One line for the audit log."""
        parts = [f"prefix {self.prefix}", f"role {self.role}", f"tenant {self.tenant}"]
        parts += [f"{what} {value}" for what in ("name", "user", "team") if (value := getattr(self, what))]
        parts += [f"may use {', '.join(names)}" for names in ((*self.routes, *self.models),) if names]
        return ", ".join(parts)

    def by_former_value(self) -> StoredKey:
        """The key as one is to take it who presents its former value: it expires when that does."""
        ends = [wall for wall in (self.expires_wall, self.old_until_wall) if wall is not None]
        return msgspec.structs.replace(self, expires_wall=min(ends))


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what to which key, when, and what came of it; never changed and never deleted.

    `actor` is the id of a key, `admin_key` for the one of the settings, or `cli:USER`. `result` is `ok` or the kind of the error.
    `request_id` is that of the admin request. `detail` has no secret in it.
    """

    at_wall: float
    actor: str
    action: str
    subject: str
    result: str = "ok"
    request_id: str | None = None
    detail: str | None = None


class Actor(msgspec.Struct, frozen=True):
    """Who changes something, and in which request, for the audit log."""

    name: str
    request_id: str | None = None

    def did(
        self, action: str, subject: str, now: float, detail: str | None = None, *, result: str = "ok"
    ) -> AuditRow:
        """The line that says so."""
        return AuditRow(
            at_wall=now,
            actor=self.name,
            action=action,
            subject=subject,
            result=result,
            request_id=self.request_id,
            detail=detail,
        )


_NO_TAGS: dict[str, str] = {}


def attempt_row(call: Call, attempt: Attempt) -> AttemptRow:
    """The attempt as it is now."""
    usage = attempt.usage
    target = attempt.target
    return AttemptRow(
        call.id,
        call.started_wall,
        attempt.number,
        attempt.started_wall,
        target.provider,
        target.model,
        attempt.model,
        attempt.purpose or call.purpose,
        attempt.outcome,
        attempt.error_kind,
        attempt.http,
        attempt.waited_s,
        attempt.first_content_s,
        attempt.duration_s,
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        None if usage is None else usage.cache_read_tokens,
        None if usage is None else usage.cache_write_tokens,
        None if usage is None else usage.cache_write_1h_tokens,
        None if usage is None else usage.reasoning_tokens,
        attempt.cost,
        attempt.wasted,
        attempt.estimated,
        attempt.finish,
        attempt.provider_request_id,
        attempt.breaker,
        attempt.note,
        call.key_id,
        call.tenant,
        call.user,
        call.team,
        call.route,
        dict(call.tags) if call.tags else _NO_TAGS,
        None if usage is None else usage.image_tokens,
        attempt.deployment,
    )


def lost_row(call: Call, attempt: Attempt, bound: Nanodollars | None) -> AttemptRow:
    """What the ledger says of an attempt that is about to be sent, if nothing more is heard of it."""
    row = attempt_row(call, attempt)
    return msgspec.structs.replace(row, outcome=LOST, cost_nano=bound, wasted_nano=bound, estimated=True)


def request_row(call: Call) -> StoredRequest:
    """The call as it is now, without its attempts."""
    return StoredRequest(
        call.id,
        call.started_wall,
        call.duration_s,
        call.status,
        call.purpose,
        call.route,
        call.model,
        call.dialect,
        call.stream,
        call.cache,
        call.key_id,
        call.tenant,
        call.user,
        call.team,
        dict(call.tags) if call.tags else _NO_TAGS,
        tuple(call.warnings),
        saved_nano=None if call.cached is None or not call.cached.tier else call.cached.saved,
        packed_nano=call.packed,
    )


def request_of(attempts: tuple[AttemptRow, ...]) -> StoredRequest:
    """What the attempts of a call that has not ended (or whose process died) say about it; one attempt or more."""
    first = attempts[0]
    return StoredRequest(
        request_id=first.request_id,
        started_wall=first.call_wall,
        duration_s=None,
        status=None,
        purpose=first.purpose,
        route=first.route,
        model="",
        dialect="",
        stream=False,
        cache="",
        key_id=first.key_id,
        tenant=first.tenant,
        user=first.user,
        team=first.team,
        tags=first.tags,
        warnings=(),
        attempts=attempts,
    )
