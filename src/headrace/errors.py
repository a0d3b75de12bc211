"""Every error that Headrace raises, and the one decision that is made from them.

The class says whose fault it was; `disposition` says what to do::

    HeadraceError
    ├── RequestError            the caller's: asking again will not help
    │   ├── InvalidRequest
    │   ├── Unsupported         no target of the route can carry what was asked
    │   ├── UnknownModel        neither a route nor provider/model
    │   ├── Unauthorized        no key, or not one of ours
    │   ├── Forbidden           a good key, not allowed to do this
    │   ├── RequestBlocked      it has what the route's guard does not let pass
    │   ├── NotFound            no such path, request or key
    │   ├── Conflict            not with what there is: a name is taken, a key is revoked
    │   ├── AnswerNotKept       answered before under this idempotency key, and the answer is not there to be given again
    │   ├── IdempotencyKeyReused   another request had this idempotency key
    │   └── BodyTooLarge
    ├── Refused                 our own policy
    │   ├── RateLimited
    │   ├── BudgetExceeded
    │   │   └── Unpriced        nobody knows what the target costs, and a budget in money is hard
    │   ├── BudgetUnavailable   the store cannot say what is left
    │   ├── KeysUnavailable     the store cannot say whose key it is
    │   ├── IdempotencyUnavailable   the store cannot say whether the request was answered before
    │   ├── StillAnswering      the request with this idempotency key is under way
    │   ├── DeadlineExceeded
    │   └── ShuttingDown
    ├── ConfigError             the configuration, or how Headrace was called
    ├── StoreError              the database file cannot be used
    ├── ProviderError           theirs: has target, status, code, body, retry_after_s
    │   ├── CircuitOpen         not asked: it failed too often, or said when to ask again
    │   ├── AtCapacity          not asked: as many requests as it may have are under way
    │   ├── Transient           may pass
    │   │   ├── ProviderRateLimited
    │   │   ├── ProviderOverloaded
    │   │   ├── ProviderUnavailable
    │   │   ├── ConnectFailed
    │   │   ├── ProviderTimeout
    │   │   ├── Malformed       bytes that are not the protocol, or an answer cut short before its first content
    │   │   └── ModelFailed     the model, not the service, produced something unusable
    │   └── Permanent           will not pass for this request at this target
    │       ├── CredentialsInvalid
    │       │   └── CredentialsMissing   not asked: there is no key for it
    │       ├── QuotaExhausted
    │       ├── ModelNotFound
    │       ├── ContextTooLong
    │       ├── NeverFits       more than this account may ever ask for at once
    │       ├── ContentFiltered
    │       ├── ModelRefused
    │       ├── InvalidOutput   asked twice, the model did not give what was asked for
    │       └── ProviderRejected
    ├── StreamBroken            after the first content: the answer is not whole
    │   └── AnswerBlocked       it has what the route's guard does not let pass
    │   └── StreamRestarted     and another one follows: iterate again
    ├── ToolLoopStopped         the model goes on calling functions, or goes in circles
    └── AllTargetsFailed        every level is spent; lists every attempt

Bodies and headers of providers are kept on the error, cut to `BODY_KEPT` bytes; neither `str` nor `repr` shows headers, and
keys never get here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from headrace.call import Attempt
    from headrace.types import Frame

__all__ = [
    "AllTargetsFailed",
    "AnswerBlocked",
    "AnswerNotKept",
    "AtCapacity",
    "BodyTooLarge",
    "BudgetExceeded",
    "BudgetUnavailable",
    "CircuitOpen",
    "ConfigError",
    "Conflict",
    "ConnectFailed",
    "ContentFiltered",
    "ContextTooLong",
    "CredentialsInvalid",
    "CredentialsMissing",
    "DeadlineExceeded",
    "Disposition",
    "Forbidden",
    "HeadraceError",
    "IdempotencyKeyReused",
    "IdempotencyUnavailable",
    "InvalidOutput",
    "InvalidRequest",
    "KeysUnavailable",
    "Malformed",
    "ModelFailed",
    "ModelNotFound",
    "ModelRefused",
    "NeverFits",
    "NotFound",
    "Permanent",
    "ProviderError",
    "ProviderOverloaded",
    "ProviderRateLimited",
    "ProviderRejected",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QuotaExhausted",
    "RateLimited",
    "Refused",
    "RequestBlocked",
    "RequestError",
    "ShuttingDown",
    "StillAnswering",
    "StoreError",
    "StreamBroken",
    "StreamRestarted",
    "ToolLoopStopped",
    "Transient",
    "Unauthorized",
    "UnknownModel",
    "Unpriced",
    "Unsupported",
    "What",
    "disposition",
]

BODY_KEPT = 65_536


class HeadraceError(Exception):
    """The root. `status` is the HTTP status that a caller of the gateway gets; `kind` a stable word for it.

    `param` names the member of the request that is at fault, where one is.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal_error"
    param: str | None = None

    @property
    def message(self) -> str:
        """What was wrong, with the value, and what to change."""
        return str(self)

    @property
    def http_status(self) -> int:
        """The status for this very error; some errors know better than their class."""
        return self.status


class RequestError(HeadraceError):
    """The caller's fault."""

    status = 400
    kind = "invalid_request"


class InvalidRequest(RequestError):
    """The request cannot be understood."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unsupported(RequestError):
    """What was asked cannot be carried by any target of the route."""

    kind = "unsupported"


class UnknownModel(RequestError):
    """The model is neither a route nor `provider/model` of a known provider."""

    status = 404
    kind = "model_not_found"


class Unauthorized(RequestError):
    """No key, or not one of ours."""

    status = 401
    kind = "unauthorized"


class Forbidden(RequestError):
    """A good key that may not do this."""

    status = 403
    kind = "forbidden"


class RequestBlocked(RequestError):
    """The request has what the route's guard does not let pass.

    Attributes:
        reason: A stable word: `personal`, `injection` or `judge`.
        found: What was found, without the values themselves: `("email", "card")`.
    """

    kind = "request_blocked"

    def __init__(self, message: str, *, reason: str, found: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.found = tuple(found)


class NotFound(RequestError):
    """What is asked for does not exist, or not for this key."""

    status = 404
    kind = "not_found"


class Conflict(RequestError):
    """It cannot be done to what there is: a name is taken, a key is revoked already."""

    status = 409
    kind = "conflict"


class AnswerNotKept(RequestError):
    """A request with this idempotency key was answered, and the answer is not there to be given again; asking again would be paid for
    again, which takes a new key."""

    status = 409
    kind = "idempotency_answer_not_kept"


class IdempotencyKeyReused(RequestError):
    """The idempotency key came before with another request. 422, as the IETF's draft has it (draft-ietf-httpapi-idempotency-key-header)."""

    status = 422
    kind = "idempotency_key_reused"


class BodyTooLarge(RequestError):
    """The body, a header or the nesting is over the gateway's limit."""

    status = 413
    kind = "request_too_large"


class Refused(HeadraceError):
    """Our own policy says no. `retry_after_s`: seconds until it might say yes, or None."""

    status = 429
    kind = "refused"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Refused):
    """Over a limit on requests or tokens a minute. Without a `retry_after_s` the request itself is too large for the limit."""

    kind = "rate_limited"


class BudgetExceeded(Refused):
    """The attempt could cost more than is left.

    402, since neither official SDK asks again for it (OpenAI's raises `APIStatusError`, Anthropic's `PaymentRequiredError`).

    Attributes:
        budget: Whose budget it is (`key dev`, `this request`).
        unit: `usd` or `tokens`; the three amounts are nano-dollars or tokens.
        limit: The whole budget.
        used: What is spent or reserved of it.
        needed: What the attempt could cost at most.
        renewed_wall: When the window ends, seconds since 1970; None if never.
        downgrade: Whether the next target may be tried.
    """

    status = 402
    kind = "budget_exceeded"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        budget: str = "",
        unit: str = "usd",
        limit: int = 0,
        used: int = 0,
        needed: int = 0,
        renewed_wall: float | None = None,
        downgrade: bool = False,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.budget = budget
        self.unit = unit
        self.limit = limit
        self.used = used
        self.needed = needed
        self.renewed_wall = renewed_wall
        self.downgrade = downgrade


class Unpriced(BudgetExceeded):
    """The target has no price and a hard budget in money holds: what it would cost cannot be bounded."""

    kind = "unpriced_target"


class BudgetUnavailable(Refused):
    """A budget holds and the store cannot say what is left of it: refused rather than spent unseen."""

    status = 503
    kind = "budget_unavailable"


class KeysUnavailable(Refused):
    """The store cannot say whose key it is: refused rather than let in."""

    status = 503
    kind = "keys_unavailable"


class IdempotencyUnavailable(Refused):
    """The store cannot say whether the request was answered before: refused rather than paid for twice unseen."""

    status = 503
    kind = "idempotency_unavailable"


class StillAnswering(Refused):
    """The request with this idempotency key is under way, and this caller's time is over. 409, as the IETF's draft has it."""

    status = 409
    kind = "idempotency_in_progress"


class DeadlineExceeded(Refused):
    """The time that the caller gave is over."""

    status = 504
    kind = "deadline_exceeded"


class ShuttingDown(Refused):
    """The gateway is draining and takes no new requests."""

    status = 503
    kind = "shutting_down"


class ConfigError(HeadraceError):
    """The configuration is not usable; nothing of it was applied."""

    kind = "config_error"


class StoreError(HeadraceError):
    """The store cannot be opened: a newer schema, a file that is no database, a folder that cannot be written."""

    kind = "store_error"


class ProviderError(HeadraceError):
    """A provider said no, or said nothing that makes sense.

    Attributes:
        target: `provider/model`, empty until the attempt is known.
        http: The provider's own HTTP status, None when there was no answer (or the error came inside a 200 stream).
        code: The provider's own word for the error.
        retry_after_s: How long the provider asks to wait, in seconds; None if it does not say.
        body: What it answered, at most `BODY_KEPT` bytes.
        dialect: The dialect of `body`.
        request_id: The provider's id of the request.
        should_retry: The provider's `x-should-retry`, when sent.
        frames: The frames of a stream that were complete before the error, in the same read.
    """

    status = 502
    kind = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        target: str = "",
        http: int | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        body: bytes = b"",
        dialect: str = "",
        request_id: str | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.target = target
        self.http = http
        self.code = code
        self.retry_after_s = retry_after_s
        self.body = body[:BODY_KEPT]
        self.dialect = dialect
        self.request_id = request_id
        self.should_retry = should_retry
        self.frames: list[Frame] = []


class CircuitOpen(ProviderError):
    """The target was not asked. `limited`: its provider said when to ask again; else it has failed too often of late."""

    status = 503
    kind = "circuit_open"

    def __init__(
        self, message: str, *, target: str = "", retry_after_s: float | None = None, limited: bool = False
    ) -> None:
        super().__init__(message, target=target, retry_after_s=retry_after_s)
        self.limited = limited

    @property
    def http_status(self) -> int:
        return 429 if self.limited else 503


class AtCapacity(ProviderError):
    """The deployment was not asked: as many requests as it may have were under way, and the line before it was full or too slow."""

    status = 503
    kind = "at_capacity"


class Transient(ProviderError):
    """May pass: the same target may be asked again."""

    status = 503
    kind = "provider_unavailable"


class ProviderRateLimited(Transient):
    """Too many requests or tokens a minute; a wait helps."""

    status = 429
    kind = "rate_limited"


class ProviderOverloaded(Transient):
    """The provider has no capacity (529, 503 of that meaning)."""

    kind = "overloaded"


class ProviderUnavailable(Transient):
    """5xx, 408, 409 and the like."""


class ConnectFailed(Transient):
    """No connection, or one that broke before an answer began."""

    kind = "connect_failed"


class ProviderTimeout(Transient):
    """The provider was silent for too long. `phase`: connect, first_content, between_events or total."""

    status = 504
    kind = "timeout"
    phase: str = "total"


class Malformed(Transient):
    """Not the protocol, or cut short before any content."""

    status = 502
    kind = "malformed"


class ModelFailed(Transient):
    """The service works, the model's sample did not (Groq's `tool_use_failed`): another sample may do."""

    kind = "model_failed"


class Permanent(ProviderError):
    """Will not pass for this request at this target."""


class CredentialsInvalid(Permanent):
    """The provider does not accept our key, or not for this."""

    kind = "credentials_invalid"


class CredentialsMissing(CredentialsInvalid):
    """The provider was not asked: no key is configured for it."""

    kind = "credentials_missing"


class QuotaExhausted(Permanent):
    """The money or the monthly quota of the account is gone."""

    kind = "quota_exhausted"


class ModelNotFound(Permanent):
    """The provider has no such model or path."""

    status = 404
    kind = "model_not_found"


class ContextTooLong(Permanent):
    """The request does not fit into the model's window."""

    status = 400
    kind = "context_too_long"


class NeverFits(Permanent):
    """The request alone is over the account's limit a minute, or over the provider's body limit."""

    status = 413
    kind = "request_too_large"


class ContentFiltered(Permanent):
    """The provider's filter blocked the request or the answer."""

    status = 400
    kind = "content_filtered"


class ModelRefused(Permanent):
    """The model declined; raised only where a route says that a refusal is a failure."""

    status = 400
    kind = "refusal"


class InvalidOutput(Permanent):
    """The model did not give the form that was asked for, nor when it was told what was wrong.

    Attributes:
        received: Its last answer, raw.
        problem: The validator's message.
    """

    status = 502
    kind = "invalid_output"

    def __init__(
        self,
        message: str,
        *,
        target: str = "",
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        received: str = "",
        problem: str = "",
    ) -> None:
        super().__init__(message, target=target, retry_after_s=retry_after_s, should_retry=should_retry)
        self.received = received
        self.problem = problem


class ProviderRejected(Permanent):
    """The provider calls the request invalid."""

    status = 400
    kind = "invalid_request"


class StreamBroken(HeadraceError):
    """The answer had begun and is not whole. `received` is the text so far."""

    status = 502
    kind = "stream_broken"

    def __init__(
        self, message: str, *, target: str = "", received: str = "", cause: ProviderError | None = None
    ) -> None:
        super().__init__(message)
        self.target = target
        self.received = received
        self.cause = cause


class AnswerBlocked(StreamBroken):
    """The answer has what the route's guard does not let pass; also when nothing of it was given out yet.

    `reason` is a stable word: `secret`, `link`, `length` or `judge`.
    """

    kind = "answer_blocked"

    def __init__(self, message: str, *, reason: str, target: str = "") -> None:
        super().__init__(message, target=target)
        self.reason = reason


class StreamRestarted(StreamBroken):
    """The answer so far is void and another one follows from its beginning: iterate the same stream again to read it.

    Raised only by iterating for text in the library, on routes with `mid_stream = "restart"`: whoever joins the pieces must not join
    those of two answers. `received` is the void text, `target` who answers now, `reason` the kind of the error that broke the first.
    """

    kind = "stream_restarted"

    def __init__(self, message: str, *, target: str = "", received: str = "", reason: str = "") -> None:
        super().__init__(message, target=target, received=received)
        self.reason = reason


class ToolLoopStopped(HeadraceError):
    """A loop of tool calls that would not end.

    Attributes:
        reason: `repeated` (one call with the same arguments for the third time) or `max_rounds`.
        answers: The answers so far; `runs` what was run for them.
    """

    status = 502
    kind = "tool_loop_stopped"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.answers: tuple[object, ...] = ()
        self.runs: tuple[object, ...] = ()


class AllTargetsFailed(HeadraceError):
    """Every level of the cascade is spent.

    Attributes:
        attempts: Every attempt, in order.
        errors: The error of each attempt, in the same order.
        retry_after_s: The shortest wait that a rate-limited target asked for, if all were rate limited.
    """

    kind = "all_targets_failed"

    def __init__(
        self,
        attempts: Sequence[Attempt],
        errors: Sequence[ProviderError],
        *,
        status: int,
        retry_after_s: float | None = None,
    ) -> None:
        self.attempts = tuple(attempts)
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s
        self._status = status
        count = len(self.attempts)
        super().__init__(
            f"{'the only attempt' if count == 1 else f'all {count} attempts'} failed:\n{self.report()}"
        )

    @property
    def http_status(self) -> int:
        return self._status

    def report(self) -> str:
        """One line an attempt: target, status, reason, wait."""
        return "\n".join(f"  {attempt.line()}" for attempt in self.attempts)


class What(Enum):
    """What the cascade does after a failed attempt."""

    RETRY = "retry"
    NEXT = "next"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Disposition:
    """`what` to do; for RETRY, `delay_s` is the wait that the provider asked for (None: our own backoff decides)."""

    what: What
    delay_s: float | None = None


def disposition(error: HeadraceError, *, translated: bool = False, on_refusal: str = "stop") -> Disposition:
    """What to do about `error` at the target that raised it; pure.

    Args:
        translated: The request went out in another dialect than it came in, so that a "bad request" may be our doing.
        on_refusal: `stop` or `next`: what the route says about content filters and refusals.

    Final errors are never retried at the same target. A provider's `x-should-retry: false` turns a retry into the next
    target; `true` does not make a final error retryable, since final means that it cannot help.
    """
    match error:
        case BudgetExceeded():
            return Disposition(What.NEXT if error.downgrade else What.STOP)
        case ContentFiltered() | ModelRefused():
            return Disposition(What.NEXT if on_refusal == "next" else What.STOP)
        case ProviderRejected():
            return Disposition(What.NEXT if translated else What.STOP)
        case CircuitOpen(limited=True):
            return Disposition(What.RETRY, error.retry_after_s)
        case Permanent() | CircuitOpen() | AtCapacity():
            return Disposition(What.NEXT)
        case Transient():
            if error.should_retry is False:
                return Disposition(What.NEXT)
            return Disposition(What.RETRY, error.retry_after_s)
        case _:
            return Disposition(What.STOP)
