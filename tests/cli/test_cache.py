"""`headrace cache`: a file that a client filled, read and emptied from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import headrace as library
from headrace.testing import FakeProvider


@pytest.fixture
def filled(folder: Path) -> Path:
    """A folder whose settings keep answers, with three of them in the file."""
    with FakeProvider() as provider:
        (folder / "headrace.toml").write_text(
            f'[providers.oai]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
            '[routes.kept]\ncascade = ["oai/m"]\n[routes.kept.cache]\nsemantic = true\nmax_wrong = 0.05\n'
            '[store]\npath = "h.db"\n'
        )
        settings = library.load(folder / "headrace.toml", environ={})
        with library.Client(settings) as llm:
            for text in ("How do I activate my new card?", "What is a tort?", "What is an annulment?"):
                llm.chat("kept", text)
    return folder


def test_stats_count_what_is_kept(headrace: Any, filled: Path) -> None:
    """By route and tenant; the group alone does the same."""
    for verb in (("cache", "stats"), ("cache",)):
        ran = headrace(*verb, "--json")
        assert ran.code == 0
        (group,) = json.loads(ran.out)["groups"]
        assert (group["route"], group["tenant"], group["entries"]) == ("kept", "library", 3)
        assert group["semantic"] == 3
    assert "library" in headrace("cache", "stats").out


def test_explain_shows_the_verdict_on_each_neighbour(headrace: Any, filled: Path) -> None:
    """The paraphrase has a probability, another question's entry a veto or none at all."""
    ran = headrace("cache", "explain", "how can I activate the new card", "--json")
    assert ran.code == 0
    said = json.loads(ran.out)
    best = said["candidates"][0]
    assert best["text"] == "How do I activate my new card?"
    assert best["veto"] is None and best["p"] > 0.5
    ran = headrace("cache", "explain", "how do I not activate my new card")
    assert "negation" in ran.out


def test_purge_throws_away_what_is_described(headrace: Any, filled: Path) -> None:
    """By prefix and by age; without an option everything."""
    assert json.loads(headrace("cache", "purge", "--older-than", "1h", "--json").out) == {"purged": 0}
    assert json.loads(headrace("cache", "purge", "--prefix", "What is", "--json").out) == {"purged": 2}
    assert json.loads(headrace("cache", "stats", "--json").out)["groups"][0]["entries"] == 1
    assert json.loads(headrace("cache", "purge", "--json").out) == {"purged": 1}
    assert headrace("cache", "purge", "--older-than", "soon").code == 2


def test_there_is_nothing_to_read(headrace: Any, folder: Path) -> None:
    """Without a file the error says so."""
    ran = headrace("cache", "stats")
    assert ran.code == 2 and "headrace.cache.db: no answer has been kept yet" in ran.err
