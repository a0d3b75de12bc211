"""`simulate`: the user's own policy under load and trouble, the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

import headrace
from headrace.testing import Simulation, Trouble, simulate

SETTINGS = """
[routes.smart]
deadline = "30s"
cascade = [{ target = "anthropic/claude-sonnet-4-5", attempts = 2 }, { target = "openai/gpt-4o", attempts = 2 }]
[routes.lonely]
deadline = "30s"
cascade = [{ target = "openai/gpt-4o", attempts = 2 }]
"""


@pytest.fixture
def settings(tmp_path: Path) -> headrace.Settings:
    """Two routes, and no key anywhere."""
    (tmp_path / "headrace.toml").write_text(SETTINGS)
    return headrace.load(tmp_path / "headrace.toml", environ={})


def test_a_good_day(settings: headrace.Settings) -> None:
    """Everybody is answered by the first target, once, in the time that it takes."""
    found = simulate(settings, "smart", requests=200, takes={"claude-sonnet-4-5": 2.0})
    assert found.answered == {"anthropic/claude-sonnet-4-5": 200} and not found.failed and found.share == 1.0
    assert found.attempts == 200 and found.at(0.0) >= 1.0 and 1.5 < sum(found.seconds) / 200 < 2.5
    assert found.cost == 200 * (500 * 3_000 + 200 * 15_000)  # its price in nano-dollars a token


def test_an_outage_is_gone_around(settings: headrace.Settings) -> None:
    """While the first target is down the second answers, and afterwards the first again; the circuit spares it most attempts."""
    trouble = Trouble("claude-sonnet-4-5", "down", begins=10.0, ends=40.0)
    found = simulate(settings, "smart", requests=1000, troubles=[trouble])
    assert not found.failed
    second = found.answered["openai/gpt-4o"]
    assert 300 <= second < 700 and found.answered["anthropic/claude-sonnet-4-5"] > 300
    assert found.attempts < 1000 + second / 2


def test_what_nothing_can_cure_is_counted(settings: headrace.Settings) -> None:
    """A route with one target fails with its reason, and the callers' timeout bounds the wait."""
    found = simulate(settings, "lonely", requests=50, troubles=[Trouble("gpt-4o", "silent")], timeout=5.0)
    assert not found.answered and sum(found.failed.values()) == 50
    assert found.seconds[-1] <= 5.001
    half = simulate(settings, "lonely", requests=400, troubles=[Trouble("gpt-4o", "error", share=0.5)])
    assert 0 < half.share < 1 and half.failed


def test_the_same_seed_gives_the_same_figures(settings: headrace.Settings) -> None:
    """To the last digit; another seed gives others."""

    def run(seed: int) -> Simulation:
        troubles = [Trouble("claude-sonnet-4-5", "limited", share=0.2)]
        return simulate(settings, "smart", requests=150, troubles=troubles, seed=seed)

    assert run(1) == run(1) != run(2)


def test_what_cannot_be_simulated(settings: headrace.Settings) -> None:
    """Unknown troubles, shares and routes are told."""
    for trouble in (Trouble("gpt-4o", "sad"), Trouble("gpt-4o", "down", share=2.0)):
        with pytest.raises(headrace.InvalidRequest, match="a trouble is one of"):
            simulate(settings, "smart", troubles=[trouble])
    with pytest.raises(headrace.InvalidRequest, match="1 or more"):
        simulate(settings, "smart", requests=0)
    with pytest.raises(headrace.UnknownModel):
        simulate(settings, "none")
