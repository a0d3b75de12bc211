"""Rate-limit headers: every form that a provider was seen to send."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.providers.allowance import ALLOWANCES, LONGEST_S, pause_after, reset_in

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8.64s", 8.64),
        ("6ms", 0.006),
        ("1m30s", 90.0),
        ("10.332999999s", 10.332999999),
        ("1h0m0.5s", 3600.5),
        ("2", 2.0),
        ("0", 0.0),
        ("1767225612", 12.0),
        ("1767225612500", 12.5),
        ("2026-01-01T00:00:30Z", 30.0),
        ("2026-01-01T01:00:30+01:00", 30.0),
        ("2025-12-31T00:00:00Z", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("2026-01-01T00:00:30", None),
        ("5 s", None),
    ],
)
def test_forms_of_a_reset(text: str, seconds: float | None) -> None:
    """Go durations, seconds, stamps in seconds and milliseconds, RFC 3339; nonsense says nothing."""
    found = reset_in(text, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        pytest.param(
            {"remaining-requests": "0", "limit-requests": "500", "reset-requests": "1m0s"}, 0.12, id="bucket"
        ),
        pytest.param(
            {"remaining-tokens": "0", "limit-tokens": "30000", "reset-tokens": "60s"}, 4.0, id="tokens"
        ),
        pytest.param({"remaining-requests": "1", "limit-requests": "500", "reset-requests": "1m0s"}, None),
        pytest.param(
            {"remaining-tokens": "500", "limit-tokens": "30500", "reset-tokens": "60s"},
            3.0,
            id="too few left",
        ),
        pytest.param({"remaining-tokens": "2000", "limit-tokens": "30000", "reset-tokens": "60s"}, None),
        pytest.param(
            {
                "remaining-tokens_usage_based": "0",
                "limit-tokens_usage_based": "20000",
                "reset-tokens_usage_based": "10s",
            },
            1.0,
            id="usage based",
        ),
        pytest.param(
            {"remaining-input-images": "0", "limit-input-images": "10", "reset-input-images": "10s"},
            1.0,
            id="images",
        ),
        pytest.param(
            {
                "remaining-requests": "0",
                "limit-requests": "120",
                "reset-requests": "60000",
                "renewalperiod-requests": "60",
            },
            0.5,
            id="azure",
        ),
        pytest.param({"remaining-req-60-second": "0", "limit-req-60-second": "60"}, 1.0, id="mistral"),
        pytest.param(
            {"remaining-tokens-minute": "0", "limit-tokens-minute": "60000"}, 2.0, id="mistral tokens"
        ),
        pytest.param(
            {"remaining-tokens-month": "0", "limit-tokens-month": "10000000000"}, LONGEST_S, id="month"
        ),
        pytest.param(
            {"remaining-requests-day": "0", "limit-requests-day": "720000"}, LONGEST_S, id="cerebras"
        ),
        pytest.param({"remaining-requests-hour": "1", "limit-requests-hour": "30000"}, None),
        pytest.param({"remaining-requests": "-1", "limit-requests": "0", "reset-requests": "0"}, None),
        pytest.param({"remaining-requests": "0", "limit-requests": "0", "reset-requests": "60"}, None),
        pytest.param({"remaining": "0", "limit": "20", "reset": "1767225610000"}, 10.0, id="openrouter"),
        pytest.param({"remaining": "0", "limit": "20", "reset": "86400"}, LONGEST_S, id="capped"),
        pytest.param({"remaining-requests": "0", "limit-requests": "9"}, None, id="no reset"),
    ],
)
def test_openai_names(headers: dict[str, str], pause: float | None) -> None:
    """What refills is waited for in proportion to the request, what does not until its reset; Azure's zeros mean nothing."""
    named = {f"x-ratelimit-{name}": value for name, value in headers.items()}
    assert pause_after(named, now_wall=NOW, tokens=2000) == (pause and pytest.approx(pause))


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"ratelimit": '"api";r=0;t=12', "ratelimit-policy": '"fixed window";"api";q=1000;w=300'}, 12.0),
        ({"ratelimit": '"api";r=999;t=295'}, None),
        ({"ratelimit": '"a";r=3;t=2, "b";r=0;t=7'}, 7.0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "5"}, 5.0),
        (
            {"ratelimitbysize-remaining": "0", "ratelimitbysize-limit": "9", "ratelimitbysize-reset": "46"},
            46.0,
        ),
        ({"x-ratelimitbysize-remaining-minute": "0", "x-ratelimitbysize-limit-minute": "60000"}, 2.0),
        ({"retry-after": "7"}, None),
    ],
)
def test_other_names(headers: dict[str, str], pause: float | None) -> None:
    """Hugging Face's list, Replicate, which tells no limit, and Mistral's older names; a `retry-after` alone is no stop sign."""
    assert pause_after(headers, now_wall=NOW, tokens=2000) == (pause and pytest.approx(pause))


def test_anthropic_names() -> None:
    """The longest of the pauses counts."""
    headers = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:00Z",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-reset": "2026-01-01T00:00:40Z",
        "retry-after": "7",
    }
    assert pause_after(headers, now_wall=NOW, tokens=400) == pytest.approx(2.0)


NAMES = st.sampled_from(
    ["ratelimit", *(name for a in ALLOWANCES for name in (a.remaining, a.limit, a.reset, a.millis) if name)]
)
VALUES = st.one_of(
    st.text(max_size=12), st.integers(-5, 10**20).map(str), st.sampled_from(["0", "1s", "60", '"a";r=0;t=9'])
)


@given(st.dictionaries(NAMES, VALUES), st.integers(0, 10**7))
def test_whatever_is_sent(headers: dict[str, Any], tokens: int) -> None:
    """Nonsense never raises and never imposes more than the longest pause."""
    pause = pause_after(headers, now_wall=NOW, tokens=tokens)
    assert pause is None or (0 < pause <= LONGEST_S and not math.isnan(pause))
