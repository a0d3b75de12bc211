"""Every path of the gateway: who may use it, what it says, and the rules that a route of the configuration sets."""

from __future__ import annotations

import json
import socket
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.gate import ADMIN, KEY, PAIRS, Gate, ask, config, gated

from headrace.gateway.routes import ROUTES
from headrace.testing import Answer, CutJson, FakeProvider, Overloaded

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)


def test_without_an_admin_key_nobody_is_admin(tmp_path: Path) -> None:
    """An admin API without a key is closed, not open."""
    with FakeProvider() as provider:
        text = config(provider).replace(f'admin_key = "{ADMIN}"', "")
        with gated(provider, tmp_path, text) as gate:
            for key in (KEY, "", "None", ADMIN):
                assert gate.http("GET", "/admin", key=key).status in (401, 403)


def test_health(gate: Gate) -> None:
    """For people, for load balancers, and for those who restart what hangs."""
    assert gate.http("GET", "/health", key=None).json["status"] == "ok"
    assert gate.http("GET", "/health/liveness", key=None).json == {"status": "ok"}
    assert gate.http("GET", "/health/readiness", key=None).json == {"status": "ready"}


def test_the_api_describes_itself(gate: Gate) -> None:
    """Every route is in both descriptions; the page runs no script."""
    spec = gate.http("GET", "/openapi.json", key=None).json
    assert spec["openapi"].startswith("3.")
    assert {(method.upper(), path) for path, item in spec["paths"].items() for method in item} == {
        (note.method, note.path) for note in ROUTES
    }
    page = gate.http("GET", "/docs", key=None)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert "<script" not in text
    assert all(note.path in text for note in ROUTES)


def test_metrics(gate: Gate) -> None:
    """Attempts, requests and tokens are counted by target, and a name that a client makes up is escaped."""
    gate.provider.on("first", Overloaded())
    gate.provider.reply("fine", usage=(11, 7))
    assert gate.post("openai", ask("openai", "both")).status == 200
    assert gate.post("openai", ask("openai", 'openai/x"\n{y}\\')).status == 200
    text = gate.http("GET", "/metrics", key=ADMIN).body.decode()
    assert 'headrace_attempts_total{outcome="error",reason="overloaded",target="openai/first"}' in text
    assert 'headrace_tokens_total{target="openai/first",type="input"} 11.0' in text
    assert r'target="openai/x\"\n{y}\\"' in text
    assert "headrace_inflight 1.0" in text  # this very request


def test_admin(gate: Gate) -> None:
    """What runs, and what was asked lately."""
    gate.provider.on("first", Overloaded())
    request_id = gate.post("openai", ask("openai", "both")).headers["x-request-id"]
    overview = gate.http("GET", "/admin", key=ADMIN).json
    assert [provider["name"] for provider in overview["providers"]] == ["openai", "anthropic"]
    assert {route["name"] for route in overview["routes"]} >= {"both", "quick"}
    assert overview["stack"][0]["layer"] == "trace" and overview["stack"][-1]["layer"] == "provider"
    recent = gate.http("GET", "/admin/requests", key=ADMIN).json["requests"]
    assert recent[0]["id"] == request_id and len(recent[0]["attempts"]) == 2
    one = gate.http("GET", f"/admin/requests/{request_id}", key=ADMIN).json
    assert one == recent[0] == gate.report(request_id)


def test_the_report_of_a_request(gate: Gate) -> None:
    """Each attempt with its target, reason, wait, breaker state, tokens and cost; what was wasted, and whether it is an estimate."""
    gate.provider.on("gpt-4o", always=CutJson())
    gate.provider.on("gpt-4o-mini", Answer("fine", usage=(1000, 100)))
    got = gate.post("openai", ask("openai", "openai/gpt-4o,openai/gpt-4o-mini"))
    report = gate.report(got.headers["x-request-id"])
    *dead, alive = report["attempts"]
    assert [attempt["reason"] for attempt in dead] == ["malformed"] * 3
    assert all(attempt["target"] == "openai/gpt-4o" and attempt["estimated"] for attempt in dead)
    assert all(attempt["cost_usd"] == attempt["wasted_usd"] != "0" for attempt in dead)
    assert alive["target"] == "openai/gpt-4o-mini" and alive["breaker"] == "closed"
    assert (alive["tokens"]["input"], alive["tokens"]["output"]) == (1000, 100)
    assert (alive["cost_usd"], alive["wasted_usd"], alive["estimated"]) == ("0.00021", "0", False)
    assert alive["finish"] == "stop" and alive["provider_request_id"] and alive["waited_s"] == 0
    assert Decimal(report["cost_usd"]) == Decimal(report["wasted_usd"]) + Decimal("0.00021")
    assert got.headers["x-headrace-cost-usd"] == report["cost_usd"]


def test_bare_names(gate: Gate) -> None:
    """A model without a provider is one of the provider that speaks the client's dialect."""
    got = gate.post("openai", ask("openai", "gpt-4o"))
    assert got.headers["x-headrace-target"] == "openai/gpt-4o"
    got = gate.post("anthropic", ask("anthropic", "claude-sonnet-4-5"))
    assert got.headers["x-headrace-target"] == "anthropic/claude-sonnet-4-5"
    assert gate.post("openai", ask("openai", "meta/llama")).status == 404


def test_a_cascade_in_the_name(gate: Gate) -> None:
    """Names with commas are a cascade made on the spot."""
    gate.provider.on("a", always=Overloaded())
    got = gate.post("openai", ask("openai", "openai/a, anthropic/b"))
    assert got.headers["x-headrace-target"] == "anthropic/b"
    assert gate.post("openai", ask("openai", "openai/a,nowhere/b")).status == 404


@pairs
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize(("asked", "sent"), [(None, 100), (50, 50), (100, 100), (5000, 100)])
def test_the_output_limit_of_a_route(
    short: Gate, client: str, provider: str, stream: bool, asked: int | None, sent: int
) -> None:
    """Imposed on those who ask for more or say nothing, in every pair of dialects; a lower limit of the client stays."""
    body = json.loads(ask(client, f"short-{provider}", stream=stream))
    body.pop("max_tokens", None)
    if asked is not None:
        body["max_tokens"] = asked
    elif client == "anthropic":
        body["max_tokens"] = 9_000  # that dialect has no request without one
    assert short.post(client, json.dumps(body).encode()).status == 200
    got = short.provider.requests[0].json
    assert got.get("max_completion_tokens", got.get("max_tokens")) == sent
    assert not {"max_completion_tokens", "max_tokens"} <= got.keys()


@pytest.fixture(scope="module")
def short_running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway with routes that limit the output and time."""
    with socket.create_server(("127.0.0.1", 0)) as mute, FakeProvider() as provider:
        more = "".join(
            f'[routes.short-{name}]\ncascade = ["{name}/m"]\nmax_output_tokens = 100\n'
            for name in ("openai", "anthropic")
        )
        more += (
            f'[providers.mute]\ndialect = "anthropic"\nbase_url = "http://127.0.0.1:{mute.getsockname()[1]}"\n'
            '[routes.mute]\ncascade = ["mute/m"]\nfirst_content = "100ms"\n'
        )
        with gated(provider, tmp_path_factory.mktemp("short"), config(provider, more=more)) as gate:
            yield gate


@pytest.fixture
def short(short_running: Gate) -> Any:
    """That gateway, without a script."""
    short_running.fresh()
    yield short_running
    short_running.settled()


def test_counting_does_not_wait_for_ever(short: Gate) -> None:
    """A provider that is mute is not waited for beyond the route's limit: an estimate is given."""
    got = short.http(
        "POST", "/v1/messages/count_tokens", ask("anthropic", "mute"), {"anthropic-version": "2023-06-01"}
    )
    assert got.status == 200
    assert got.json["input_tokens"] > 0
    assert "estimate" in got.headers["x-headrace-warnings"]


def test_the_library_has_the_limit_too(short: Gate) -> None:
    """One engine, two faces."""
    from headrace import AsyncClient

    async def ask_twice() -> None:
        async with AsyncClient(short.gateway.settings) as llm:
            await llm.chat("short-openai", "hi")
            await llm.chat("short-openai", "hi", max_tokens=7)

    short.provider.default = Answer("fine")
    short.run(ask_twice())
    limits = [r.json.get("max_completion_tokens", r.json.get("max_tokens")) for r in short.provider.requests]
    assert limits == [100, 7]
