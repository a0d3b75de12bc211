"""Tests without keys: the real cascade over a provider in memory, in virtual time."""

import headrace
from headrace.testing import Overloaded, Status


def summarise(llm: headrace.Client, text: str) -> str:
    """Your application."""
    return llm.chat(["anthropic/claude-sonnet-4-5", "openai/gpt-4o"], f"Summarise: {text}").text


def test_it_survives_a_bad_day() -> None:
    faults = [Overloaded(), Status(500), Status(429, retry_after=30)]
    with headrace.fake({"Summarise": "Short."}, faults=faults) as llm:
        assert summarise(llm, "a long text") == "Short."
        assert len(llm.provider.requests) == 4
        print(f"passed after {llm.clock.now():.1f} s that nobody waited for")


test_it_survives_a_bad_day()  # pytest finds it by itself
