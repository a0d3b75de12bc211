"""Cascades that cannot keep what they promise: what `headrace check` warns of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.promises import broken_promises
from headrace.config import load
from headrace.prices import Catalog

KEYS = {"OPENAI_API_KEY": "k1", "ANTHROPIC_API_KEY": "k2", "MINE_API_KEY": "k3", "OTHER_API_KEY": "k3"}
OWN = """
[providers.mine]
dialect = "openai-chat"
base_url = "https://llm.example.com/v1"
[providers.other]
dialect = "openai-chat"
base_url = "https://llm.example.com/v1"
"""


def warned(tmp_path: Path, route: str, environ: dict[str, str] = KEYS) -> list[str]:
    """The messages about one route."""
    path = tmp_path / "headrace.toml"
    path.write_text(f"{OWN}[routes.r]\n{route}\n")
    settings = load(path, environ=environ)
    return [w.message for w in broken_promises(settings, Catalog.from_settings(settings.prices))]


GOOD = 'cascade = ["anthropic/claude-sonnet-4-5", "openai/gpt-5"]'


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (
            'cascade = ["openai/gpt-5", "local/default"]',
            "local/default has no tools, no images, no JSON Schema, unlike openai/gpt-5",
        ),
        ('cascade = ["openai/gpt-5", "local/default"]', "local/default takes 2,048 tokens"),
        (
            f"{GOOD}\n[routes.r.cache]\nsemantic = true\nmax_wrong = 0.0001",
            "no threshold is known to keep max_wrong = 0.0001",
        ),
        (f'{GOOD}\ndeadline = "30s"', "the deadline of 30 s is shorter than first_content = 60 s"),
        (
            f'{GOOD}\ndeadline = "3s"\nfirst_content = "1s"',
            "the deadline of 3 s is shorter than connect = 5 s",
        ),
        (
            'cascade = ["openai/gpt-55-typo", "anthropic/claude-sonnet-4-5"]',
            "openai/gpt-55-typo is not in the",
        ),
        ('cascade = ["openai/gpt-5", "openai/gpt-5-mini"]', "all its levels use one account (openai)"),
        ('cascade = ["openai/gpt-5"]\nmid_stream = "continue"', "has no later target to ask"),
        (
            'cascade = ["openai/gpt-5", "anthropic/claude-haiku-4-5"]\nmid_stream = "continue"\nrepair = true',
            "does nothing with repair = true",
        ),
        ('cascade = ["openai/gpt-5"]\nhedge = {}', "it is hedged and has nobody else to ask"),
        ('cascade = ["mine/a", "other/b"]', "all its levels use one account (mine)"),
        (
            'cascade = ["openai/gpt-5", "anthropic/claude-sonnet-4-5", "openai/gpt-5"]',
            "openai/gpt-5 stands in it",
        ),
        (
            'cascade = [{ target = "openai/gpt-5", attempts = 12 }]',
            "openai/gpt-5 has 12 attempts, more than the 10",
        ),
    ],
)
def test_a_promise_that_cannot_be_kept(tmp_path: Path, route: str, message: str) -> None:
    """Each is told in a sentence with the figures."""
    assert [found for found in warned(tmp_path, route) if message in found]


def test_a_provider_without_its_key(tmp_path: Path) -> None:
    """It would answer nobody."""
    found = warned(tmp_path, GOOD, {"ANTHROPIC_API_KEY": "k"})
    assert "openai/gpt-5 has no key" in found


@pytest.mark.parametrize(
    "route",
    [
        GOOD + '\ndeadline = "60s"',
        'cascade = ["mine/anything", "anthropic/claude-sonnet-4-5"]',
        'cascade = [{ target = "openai/gpt-5", attempts = 11 }]',
    ],
)
def test_what_is_fine_is_not_warned_of(tmp_path: Path, route: str) -> None:
    """No noise; what the catalogue does not know of one's own server is no fault."""
    assert [found for found in warned(tmp_path, route) if "takes" not in found] == []


def test_warnings_are_shown_and_are_no_errors(
    headrace: Any, write: Callable[[str], Path], environ: dict[str, str]
) -> None:
    """Exit code 0, a table for people, a list for machines."""
    environ["OPENAI_API_KEY"] = "k"
    write('[routes.r]\ncascade = ["openai/gpt-5", "local/default"]\n')
    ran = headrace("check")
    assert ran.code == 0
    assert "local/default has no tools" in " ".join(ran.out.split())
    found = headrace("check", "--json").json
    assert found["ok"] is True
    assert {warning["route"] for warning in found["warnings"]} == {"r"}
    assert all(warning["message"] and warning["fix"] for warning in found["warnings"])
