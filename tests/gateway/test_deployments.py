"""Deployments through the gateway: their keys and addresses, their failures, and where they are told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.gateway.gate import ADMIN, PAIRS, Gate, ask, config, gated, wait_for

from headrace.config import check, load
from headrace.testing import Answer, FakeProvider, Overloaded

MORE = """
[deployments.east]
target = "{name}/m"
base_url = "{url}"
api_key = "sk-east-0123456789"
[deployments.west]
target = "{name}/m"
api_key = "sk-west-0123456789"
weight = 3
[routes.placed]
cascade = [{{ target = "{name}/m", attempts = 2 }}, "{name}/other"]
"""


@pytest.fixture(scope="module", params=["openai", "anthropic"])
def gates(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gate, FakeProvider, str]]:
    """A gateway whose provider has two places: `west` at its own address, `east` at another server."""
    with FakeProvider() as west, FakeProvider() as east:
        name = request.param
        url = east.base_url if name == "openai" else east.anthropic_url
        text = config(west, more=MORE.format(name=name, url=url))
        with gated(west, tmp_path_factory.mktemp("gateway"), text) as gate:
            yield gate, east, name
            gate.settled()


def key_of(provider: FakeProvider) -> set[str]:
    """The keys that arrived."""
    return {
        seen.headers.get("x-api-key") or seen.headers["authorization"].removeprefix("Bearer ")
        for seen in provider.requests
    }


@pytest.mark.parametrize("client", sorted({client for client, _ in PAIRS}))
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_each_place_has_its_key_and_its_address(
    gates: tuple[Gate, FakeProvider, str], client: str, stream: bool
) -> None:
    """Conversations are shared out, each to the place with its own key; a target without deployments has its provider's."""
    gate, east, name = gates
    gate.fresh()
    east.reset()
    for number in range(30):
        assert gate.post(client, ask(client, "placed", f"Question {number}", stream=stream)).status == 200
    assert key_of(east) == {"sk-east-0123456789"}
    assert key_of(gate.provider) == {"sk-west-0123456789"}
    assert 0 < len(east.requests) < len(gate.provider.requests)
    gate.provider.reset()
    assert gate.post(client, ask(client, f"{name}/other", stream=stream)).status == 200
    assert key_of(gate.provider) != {"sk-west-0123456789"}


def test_a_place_that_fails(gates: tuple[Gate, FakeProvider, str]) -> None:
    """The other one answers, and the report, the admin and the metrics say where."""
    gate, east, name = gates
    gate.fresh()
    east.reset()
    east.on("m", always=Overloaded())
    bodies = [ask("openai", "placed", f"Question {number}") for number in range(12)]
    reports = [gate.report(gate.post("openai", body).headers["x-request-id"]) for body in bodies]
    moved = [report["attempts"] for report in reports if len(report["attempts"]) > 1]
    assert moved
    assert all([each["deployment"] for each in attempts] == ["east", "west"] for attempts in moved)
    assert all(attempts[-1]["outcome"] == "ok" for attempts in moved)
    overview = gate.http("GET", "/admin", key=ADMIN).json
    assert {row["name"]: (row["target"], row["quota_domain"]) for row in overview["deployments"]} == {
        "east": (f"{name}/m", "east"),
        "west": (f"{name}/m", "west"),
    }
    assert "sk-" not in str(overview["deployments"])
    assert {"east", "west"} <= {row["circuit"] for row in overview["circuits"]}


FULL = """
[deployments.narrow]
target = "openai/m"
concurrency = 1
queue = 0
[routes.low]
cascade = ["openai/m"]
priority = "low"
"""


def test_a_full_house_says_so(tmp_path: Path) -> None:
    """503 with a time to both SDKs' users; the admin shows who is there; a place comes free at the stream's real end."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=FULL)) as gate:
        provider.on("m", Answer("a b c d e f", delay_s=0.1), always=Answer("soon"))
        body = ask("openai", "low", stream=True)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(gate.post, "openai", body)
            wait_for(lambda: provider.requests)
            got = gate.post("anthropic", ask("anthropic", "low"))
            assert got.status == 503
            assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("1", "false")
            assert "1 of 1 requests under way" in got.body.decode()
            (row,) = gate.http("GET", "/admin", key=ADMIN).json["deployments"]
            assert (row["concurrency"], row["busy"], row["waiting"]) == (1, 1, 0)
            assert b"[DONE]" in first.result().body
        assert gate.post("openai", body).status == 200
        gate.settled()
        assert len(provider.requests) == 2


GOOD = '[providers.openai]\napi_key = "sk-1"\n[deployments.d]\ntarget = "openai/m"\n'


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("[deployments.d]\n", "deployments.d", "has no target"),
        ('[deployments.d]\ntarget = "m"\n', "deployments.d.target", "must be provider/model"),
        ('[deployments.d]\ntarget = "opnai/m"\n', "deployments.d.target", "no provider has that name"),
        ('[deployments.d]\ntarget = "local/m"\n', "deployments.d.target", "has one place"),
        (f"{GOOD}weight = 0\n", "deployments.d.weight", "must be"),
        (f'{GOOD}base_url = "ftp://x"\n', "deployments.d.base_url", "must be an http or https address"),
        ('[deployments.openai]\ntarget = "openai/m"\n', "deployments.openai", "is not a deployment's name"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, place: str, message: str) -> None:
    """Each is told with its line and what to change."""
    path = tmp_path / "headrace.toml"
    path.write_text(text if "[providers" in text else f'[providers.openai]\napi_key = "sk-1"\n{text}')
    (problem,) = check(path, {})
    assert problem.key == place
    assert message in problem.message


def test_what_is_not_said_is_the_providers(tmp_path: Path) -> None:
    """Key, address and account; another key or address is another account, unless one is named."""
    path = tmp_path / "headrace.toml"
    path.write_text(
        f'{GOOD}[deployments.k]\ntarget = "openai/m"\napi_key = "${{K}}"\n'
        '[deployments.q]\ntarget = "openai/m"\napi_key = "sk-3"\nquota_domain = "acme"\n'
    )
    found = load(path, environ={"K": "sk-2"}).deployments
    assert {name: each.deployment.quota_domain for name, each in found.items()} == {
        "d": "openai",
        "k": "k",
        "q": "acme",
    }
    keys = {name: each.provider.api_key for name, each in found.items()}
    assert {name: key.reveal() for name, key in keys.items() if key} == {
        "d": "sk-1",
        "k": "sk-2",
        "q": "sk-3",
    }
    assert found["k"].provider.base_url == load(path, environ={"K": "x"}).providers["openai"].base_url
    assert "sk-" not in repr(found)
