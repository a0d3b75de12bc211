"""Rate limits as callers see them: the official SDKs' own errors and headers, both dialects, streamed or not, over several workers."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path

import anthropic
import openai
import pytest
from tests.budget.served import ask_many, served
from tests.budget.test_layers import BOTH, budgeted, request
from tests.gateway.gate import ADMIN, Gate, Got, clock

import headrace
from headrace.config import load
from headrace.gateway.ratelimit import _duration
from headrace.testing import FakeProvider
from headrace.types import Limits

LIMITED = "limits = { rpm = 2, tpm = 100000 }"


def _ask(gate: Gate, dialect: str, *, stream: bool) -> object:
    """By the official SDK, without its retries."""
    hi = "hi"
    if dialect == "openai":
        chat = gate.oai.with_options(max_retries=0).chat.completions
        return chat.create(model="r", stream=stream, messages=[{"role": "user", "content": hi}])
    messages = gate.ant.with_options(max_retries=0).messages
    return messages.create(model="r", max_tokens=5, stream=stream, messages=[{"role": "user", "content": hi}])


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_sdks_see_their_own_error_and_headers(tmp_path: Path, dialect: str, stream: bool) -> None:
    """The third request of two a minute is a RateLimitError with retry-after, and both it and a success say how the limits stand."""
    with budgeted(tmp_path, key=LIMITED) as gate:
        answers = [gate.post(dialect, request(dialect, stream=stream)) for _ in range(2)]
        assert [got.status for got in answers] == [200, 200]
        headers = answers[1].headers
        try:
            _ask(gate, dialect, stream=stream)
        except (openai.RateLimitError, anthropic.RateLimitError) as error:
            raised, refused = str(error), error.response
        else:
            pytest.fail("the third request was let in")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["x-headrace-error"] == "rate_limited"
    assert "x-should-retry" not in refused.headers
    assert "key one may make 2 requests a minute" in raised
    if dialect == "openai":
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-limit-tokens"] == "100000"
        assert 99_000 < int(headers["x-ratelimit-remaining-tokens"]) < 100_000
        assert headers["x-ratelimit-reset-requests"].startswith(("59.", "1m0"))
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    else:
        assert headers["anthropic-ratelimit-requests-limit"] == "2"
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert 99_000 < int(headers["anthropic-ratelimit-tokens-remaining"]) < 100_000
        reset = datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"])
        assert reset.utcoffset() is not None
        assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"


def test_without_limits_nothing_is_said(tmp_path: Path) -> None:
    """No header of the kind, not even the provider's own."""
    with budgeted(tmp_path) as gate:
        got = gate.post("openai", request())
    assert got.status == 200
    assert not [name for name in got.headers if "ratelimit" in name]


def test_a_hit_counts_and_gives_its_tokens_back(tmp_path: Path) -> None:
    """Of a thousand answers from the cache no token is counted; the third request is refused all the same."""
    cached = "[routes.r.cache]"
    with budgeted(tmp_path, key="limits = { rpm = 3, tpm = 10000 }", route=cached) as gate:
        first, hit, after = (gate.post("openai", request()) for _ in range(3))
        assert hit.headers["x-headrace-cache"] == "hit-exact"
        assert gate.post("openai", request()).status == 429
    left = [int(got.headers["x-ratelimit-remaining-tokens"]) for got in (first, hit, after)]
    used = json.loads(first.body)["usage"]["total_tokens"]
    assert 0 <= left[1] - left[0] + used < 10_000 / 60 * 3  # a little time passes
    assert left[2] >= left[1]


def test_the_tightest_limit_is_told_and_users_have_theirs(tmp_path: Path) -> None:
    """Of key, user and route the one with the least left; what refuses is named."""
    users = "[limits.users]\nann = { rpm = 1 }\n"
    with budgeted(tmp_path, key="limits = { rpm = 50 }", budgets=users) as gate:
        got = gate.post("openai", request(), {"x-headrace-user": "ann"})
        assert got.headers["x-ratelimit-limit-requests"] == "1"
        refused = gate.post("openai", request(), {"x-headrace-user": "ann"})
        assert refused.status == 429 and "user ann may make 1" in refused.json["error"]["message"]
        assert gate.post("openai", request(), {"x-headrace-user": "bob"}).status == 200


def test_a_cascade_is_no_way_around_a_route(tmp_path: Path) -> None:
    """Who names a route in a list of his own is held to its limits and its budget, in the same counters."""
    rules = 'limits = { rpm = 2 }\nbudget = { tokens = 200, window = "day" }'
    with budgeted(tmp_path, route=rules) as gate:
        assert gate.post("openai", request()).status == 200
        got = gate.post("openai", request(model="r,openai/cheap"))
        assert (got.status, got.headers["x-ratelimit-remaining-requests"]) == (200, "0")
        (balance,) = gate.http("GET", "/admin/budgets", key=ADMIN).json["budgets"]
        assert (balance["budget"], balance["spent"]) == ("route r", 40)
        refused = gate.post("openai", request(model="r,openai/cheap"))
        assert refused.status == 429 and "route r may make 2" in refused.json["error"]["message"]


def test_too_large_a_request_is_not_tried_again(tmp_path: Path) -> None:
    """The SDKs are told so."""
    with budgeted(tmp_path, route="limits = { tpm = 20 }") as gate:
        got = gate.post("openai", request(messages=[{"role": "user", "content": "word " * 200}]))
    assert (got.status, got.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in got.headers


def test_a_made_key_has_limits(tmp_path: Path) -> None:
    """Over the admin API, shown, and held at the next request."""
    with budgeted(tmp_path) as gate:
        made = gate.http(
            "POST", "/admin/keys", b'{"name": "slow", "limits": {"rpm": 1, "tpm": 5000}}', key=ADMIN
        )
        assert made.json["limits"] == {"rpm": 1, "tpm": 5000}
        shown = gate.http("GET", f"/admin/keys/{made.json['id']}", key=ADMIN)
        assert shown.json["limits"] == {"rpm": 1, "tpm": 5000}

        def ask() -> Got:
            return gate.http("POST", "/v1/chat/completions", request(), key=made.json["key"])

        assert [ask().status, ask().status] == [200, 429]
        wrong = gate.http("POST", "/admin/keys", b'{"limits": {"rpm": 0}}', key=ADMIN)
        assert wrong.status == 400 and "limits.rpm" in wrong.json["error"]["message"]


def test_the_librarys_users_and_routes_are_limited(tmp_path: Path) -> None:
    """The same through `import headrace`, with the typed error."""
    with FakeProvider() as provider:
        (tmp_path / "headrace.toml").write_text(
            f'[providers.openai]\nbase_url = "{provider.base_url}"\napi_key = "sk-x"\n'
            '[routes.r]\ncascade = ["openai/m"]\nlimits = { rpm = 1 }\n'
        )

        async def main() -> None:
            async with headrace.AsyncClient(settings=load(tmp_path / "headrace.toml", environ={})) as llm:
                assert (await llm.chat("r", "hi")).text
                with pytest.raises(headrace.RateLimited) as raised:
                    await llm.chat("r", "hi")
                assert raised.value.retry_after_s == pytest.approx(60, abs=1)

        asyncio.run(main())


@pytest.mark.parametrize(
    ("nanoseconds", "said"),
    [(0, "0s"), (1, "1ms"), (120_000_000, "120ms"), (7_500_000_000, "7.5s"), (360_000_000_000, "6m0s")],
)
def test_durations(nanoseconds: int, said: str) -> None:
    """As OpenAI writes them."""
    assert _duration(nanoseconds) == said


def test_workers_count_together(tmp_path: Path) -> None:
    """Of 150 callers at once, four worker processes let in what the limit says, and what time gave meanwhile."""
    with (
        FakeProvider() as provider,
        served(provider, tmp_path, workers=4, budgets="limits = { rpm = 60, tpm = 1000000 }") as gateway,
    ):
        began = clock.now()
        statuses = [status for status, _ in ask_many(gateway.port, 150)]
        more = clock.now() - began
        assert 60 <= statuses.count(200) <= 61 + more
        assert statuses.count(200) + statuses.count(429) == 150
        gateway.stop()
        assert [name for (name,) in gateway.query("SELECT id FROM limits ORDER BY id")] == [
            "key one|requests",
            "key one|tokens",
        ]


def test_limits_are_read(tmp_path: Path) -> None:
    """Of keys, routes and users; mistakes are named."""
    (tmp_path / "headrace.toml").write_text(
        '[routes.r]\ncascade = ["openai/m"]\nlimits = { tpm = 7 }\n'
        '[keys.k]\nvalue = "v"\nlimits = { rpm = 3, tpm = 9 }\n[limits.users]\n"*" = { rpm = 1 }\n'
    )
    settings = load(tmp_path / "headrace.toml", environ={})
    assert settings.routes["r"].limits == Limits(tpm=7)
    assert settings.keys["k"].limits == Limits(rpm=3, tpm=9)
    assert dict(settings.user_limits) == {"*": Limits(rpm=1)}
    (tmp_path / "headrace.toml").write_text(
        '[routes.r]\ncascade = ["openai/m"]\nlimits = {}\n[keys.k]\nvalue = "v"\nrole = "viewer"\n'
        "limits = { rpm = 0 }\n[limits.users]\nann = 3\n"
    )
    with pytest.raises(headrace.ConfigError) as raised:
        load(tmp_path / "headrace.toml", environ={})
    for said in ("limits nothing", "limits.rpm = 0: must be from 1", "limits.users.ann: must be a table"):
        assert said in str(raised.value)


def test_workers_without_a_file_are_refused(tmp_path: Path) -> None:
    """Each would let in the whole of a limit, or of a budget; every place is named."""
    text = (
        '[routes.r]\ncascade = ["openai/m"]\nlimits = { tpm = 7 }\n'
        '[keys.k]\nvalue = "v"\nlimits = { rpm = 3 }\nbudget = { usd = "1", window = "day" }\n'
        '[limits.users]\n"*" = { rpm = 1 }\n[gateway]\nworkers = 2\n[store]\npath = ":memory:"\n'
    )
    (tmp_path / "headrace.toml").write_text(text)
    with pytest.raises(headrace.ConfigError) as raised:
        load(tmp_path / "headrace.toml", environ={})
    for place in ("routes.r.limits", "keys.k.limits", "keys.k.budget", "limits"):
        assert f"{place}: several workers would each have the whole of it" in str(raised.value)
    (tmp_path / "headrace.toml").write_text(text.replace(":memory:", "h.db"))
    assert load(tmp_path / "headrace.toml", environ={}).gateway.workers == 2
