"""Kept answers over the admin API and in the metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.gateway.gate import ADMIN, Gate, ask, config, gated

from headrace.testing import FakeProvider

ROUTE = """
[routes.kept]
cascade = ["openai/first"]
[routes.kept.cache]
semantic = true
max_wrong = 0.05
lookup = "5s"
"""
QUESTIONS = ("How do I activate my new card?", "What is a tort?")


def filled(gate: Gate) -> None:
    """Two answers kept, one with a tag; then a hit and a veto."""
    gate.post("openai", ask("openai", "kept", QUESTIONS[0]), {"x-headrace-tags": "team=cards"})
    gate.post("openai", ask("openai", "kept", QUESTIONS[1]))
    hit = gate.post("openai", ask("openai", "kept", "how can I activate the new card"))
    assert hit.headers["x-headrace-cache"] == "hit-semantic"
    assert "state=prior" in hit.headers["x-headrace-cache-detail"]
    gate.post("openai", ask("openai", "kept", "How do I not activate my new card?"))


def test_entries_and_counters_are_shown(tmp_path: Path) -> None:
    """With the admin key only; the metrics have the same counters."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        filled(gate)
        assert gate.http("GET", "/admin/cache").status == 403
        found = gate.http("GET", "/admin/cache", key=ADMIN).json
        assert (found["enabled"], found["entries"], found["results"]) == (
            True,
            3,
            {"miss": 3, "semantic": 1},
        )
        assert found["vetoes"] == {"negation": 1}
        (group,) = found["groups"]
        assert (group["route"], group["entries"], group["hits"]) == ("kept", 3, 1)
        text = gate.http("GET", "/metrics", key=ADMIN).body.decode()
        assert 'headrace_cache_requests_total{result="semantic",route="kept"} 1.0' in text
        assert 'headrace_cache_vetoes_total{guard="negation"} 1.0' in text
        assert 'headrace_cache_saved_seconds_total{route="kept"}' in text


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("tag=team%3Dcards", 1),
        ("prefix=what", 1),
        ("older_than=1h", 0),
        ("model=openai/first&route=kept", 3),
        ("", 3),
    ],
)
def test_entries_are_thrown_away(tmp_path: Path, query: str, count: int) -> None:
    """What all filters describe, in memory and in the file."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        filled(gate)
        gone = gate.http("DELETE", f"/admin/cache?{query}", key=ADMIN)
        assert (gone.status, gone.json) == (200, {"purged": count})
        assert gate.http("GET", "/admin/cache", key=ADMIN).json["entries"] == 3 - count
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        assert gate.http("GET", "/admin/cache", key=ADMIN).json["entries"] == 3 - count


@pytest.mark.parametrize("query", ["tenent=acme", "tenant=", "older_than=soon", "tag=a&tag=b"])
def test_a_filter_that_is_not_understood_throws_nothing_away(tmp_path: Path, query: str) -> None:
    """A slip of the pen must not empty the cache."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        filled(gate)
        refused = gate.http("DELETE", f"/admin/cache?{query}", key=ADMIN)
        assert refused.status == 400, refused
        assert gate.http("GET", "/admin/cache", key=ADMIN).json["entries"] == 3


def test_a_question_is_explained(tmp_path: Path) -> None:
    """The verdict on each neighbour under the route's own share; a wrong body says what is wrong."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        filled(gate)

        said = gate.http(
            "POST",
            "/admin/cache/explain",
            b'{"question": "how can i activate the new card", "route": "kept"}',
            key=ADMIN,
        ).json
        assert (said["state"], said["max_wrong"]) == ("prior", 0.05)
        by_text = {candidate["text"]: candidate for candidate in said["candidates"]}
        assert "tau" in by_text[QUESTIONS[0]]["why"]
        assert by_text["How do I not activate my new card?"]["why"] == "guard: negation"
        for body in (b"{}", b'{"question": "x", "route": "none"}', b"no"):
            assert gate.http("POST", "/admin/cache/explain", body, key=ADMIN).status == 400


def test_without_a_cache_there_is_nothing_to_show(tmp_path: Path) -> None:
    """The report says so; a purge is refused."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider)) as gate:
        assert gate.http("GET", "/admin/cache", key=ADMIN).json == {"enabled": False}
        assert gate.http("DELETE", "/admin/cache", key=ADMIN).status == 400
