"""The tree of errors, and what the cascade does about each of them."""

from __future__ import annotations

import inspect
import itertools

import pytest

from headrace import errors
from headrace.errors import Disposition, HeadraceError, ProviderError, What, disposition


def leaves() -> dict[str, type[HeadraceError]]:
    """Every class of the tree by name."""
    classes = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in classes if issubclass(kind, HeadraceError)}


# What to do about each class, by default; the right column is the class of research that it stands for.
ACTIONS: dict[str, What] = {
    "ProviderRateLimited": What.RETRY,  # rate limit: wait for the hint, else fail over
    "ProviderOverloaded": What.RETRY,  # overloaded: back off
    "ProviderUnavailable": What.RETRY,  # 5xx
    "ConnectFailed": What.RETRY,  # transport
    "ProviderTimeout": What.RETRY,  # transport
    "Malformed": What.RETRY,  # transport: garbled or cut
    "ModelFailed": What.RETRY,  # a model's failure: sample again
    "Transient": What.RETRY,
    "CircuitOpen": What.NEXT,  # not asked at all
    "AtCapacity": What.NEXT,  # not asked: no slot
    "CredentialsInvalid": What.NEXT,  # auth: next credential
    "CredentialsMissing": What.NEXT,  # not asked
    "QuotaExhausted": What.NEXT,  # money gone
    "ModelNotFound": What.NEXT,
    "ContextTooLong": What.NEXT,  # too long: a longer window
    "InvalidOutput": What.NEXT,  # the model cannot give the form: another may
    "NeverFits": What.NEXT,  # never fits
    "Permanent": What.NEXT,
    "ContentFiltered": What.STOP,  # content filter: surface it
    "ModelRefused": What.STOP,
    "ProviderRejected": What.STOP,  # bad request
    "ProviderError": What.STOP,
}


def test_every_provider_error_has_an_action() -> None:
    """A class that is added to the tree must be added to the table above."""
    assert {name for name, kind in leaves().items() if issubclass(kind, ProviderError)} == set(ACTIONS)


@pytest.mark.parametrize(("name", "what"), ACTIONS.items())
def test_action_of_each_provider_error(name: str, what: What) -> None:
    """Each class leads to the action that the research asks for, and only a retry carries the provider's wait."""
    kind = getattr(errors, name)
    wait = 2.5 if what is What.RETRY else None
    assert disposition(kind("x", retry_after_s=2.5)) == Disposition(what, wait)
    assert disposition(kind("x")) == Disposition(what, None)


@pytest.mark.parametrize("name", [n for n, k in leaves().items() if issubclass(k, errors.Permanent)])
def test_final_errors_are_never_retried(name: str) -> None:
    """No option, hint or header of the provider makes a permanent error retryable."""
    kind = getattr(errors, name)
    for should_retry, wait, translated, on_refusal in itertools.product(
        (None, True, False), (None, 0.0, 1.0), (False, True), ("stop", "next")
    ):
        error = kind("x", should_retry=should_retry, retry_after_s=wait)
        decision = disposition(error, translated=translated, on_refusal=on_refusal)
        assert decision.what is not What.RETRY
        assert decision.delay_s is None


@pytest.mark.parametrize("name", [n for n, k in leaves().items() if issubclass(k, errors.Transient)])
def test_should_retry_false_sends_a_transient_error_on(name: str) -> None:
    """`x-should-retry: false` means the next target; `true` leaves a transient error as it is."""
    kind = getattr(errors, name)
    assert disposition(kind("x", should_retry=False, retry_after_s=1.0)) == Disposition(What.NEXT)
    assert disposition(kind("x", should_retry=True, retry_after_s=1.0)) == Disposition(What.RETRY, 1.0)


def test_a_zero_wait_is_a_wait() -> None:
    """ "Ask again now" is not the same as saying nothing."""
    assert disposition(errors.ProviderRateLimited("x", retry_after_s=0.0)).delay_s == 0.0


@pytest.mark.parametrize("kind", [errors.ContentFiltered, errors.ModelRefused])
def test_refusals_go_on_only_where_the_route_says_so(kind: type[ProviderError]) -> None:
    """`on_refusal` alone decides whether another target is asked."""
    assert disposition(kind("x"), on_refusal="next").what is What.NEXT
    assert disposition(kind("x"), on_refusal="stop", translated=True).what is What.STOP


def test_a_rejected_translation_goes_on() -> None:
    """A "bad request" after a translation may be our doing, so the next target is asked; otherwise it is the caller's."""
    error = errors.ProviderRejected("x")
    assert disposition(error, translated=True).what is What.NEXT
    assert disposition(error, on_refusal="next").what is What.STOP


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest("x"),
        errors.Unsupported("x"),
        errors.RateLimited("x", retry_after_s=1.0),
        errors.BudgetExceeded("x"),
        errors.DeadlineExceeded("x"),
        errors.ShuttingDown("x", retry_after_s=1.0),
        errors.ConfigError("x"),
        errors.StreamBroken("x"),
        errors.AllTargetsFailed([], [], status=503, retry_after_s=1.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_a_providers_error_stops(error: HeadraceError) -> None:
    """The caller's fault, our own policy and an answer that has begun end the cascade."""
    assert disposition(error) == Disposition(What.STOP)


def test_neither_str_nor_repr_shows_the_body() -> None:
    """A provider's body may quote the prompt: it stays off logs unless someone asks for it."""
    error = errors.ProviderRejected("no such parameter", body=b"secret prompt", http=400)
    assert "secret" not in str(error) + repr(error)


def test_the_body_is_cut() -> None:
    """At most `BODY_KEPT` bytes of an answer are kept."""
    assert len(ProviderError("x", body=b"a" * (errors.BODY_KEPT + 1)).body) == errors.BODY_KEPT
