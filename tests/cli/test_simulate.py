"""`headrace simulate`: the table, the exit code, and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Headrace


@pytest.fixture(autouse=True)
def settings(write: Callable[[str], Path]) -> None:
    """One route over two services, without a key."""
    write('[routes.smart]\ncascade = ["anthropic/claude-sonnet-4-5", "openai/gpt-4o"]\ndeadline = "30s"\n')


def test_who_answers_when_one_is_down(headrace: Headrace) -> None:
    """The default route, a trouble for a while, and one line of figures."""
    ran = headrace("simulate", "--requests", "200", "--fail", "claude-sonnet-4-5=down@5-10")
    assert ran.code == 0, ran.err
    assert "openai/gpt-4o" in ran.out and "100.0% answered" in ran.out and "p99" in ran.out


def test_json_and_what_fails(headrace: Headrace) -> None:
    """Everything down is exit code 1, with the reasons."""
    ran = headrace(
        "simulate", "smart", "--requests", "20", "--fail", "claude-sonnet-4-5=error", "--fail", "gpt-4o=overloaded:1", "--json"
    )  # fmt: skip
    assert ran.code == 1
    assert ran.json["answered"] == {} and sum(ran.json["failed"].values()) == 20
    ran = headrace("simulate", "--requests", "20", "--takes", "claude-sonnet-4-5=3", "--json")
    assert ran.json["p50_s"] > 1.5 and ran.json["cost_usd"] is not None


@pytest.mark.parametrize(
    "options",
    [
        ("--fail", "gpt-4o"),
        ("--fail", "gpt-4o=sad"),
        ("--fail", "gpt-4o=down:2"),
        ("--takes", "gpt-4o=long"),
        ("none",),
    ],
)
def test_what_is_not_understood(headrace: Headrace, options: tuple[str, ...]) -> None:
    """Exit code 2."""
    assert headrace("simulate", *options).code == 2
