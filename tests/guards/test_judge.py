"""What is asked of a judge, and what its answer means."""

from __future__ import annotations

import pytest

from headrace.guards.judge import Judgement, question, read_judgement


@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        ("safe", Judgement(True)),
        ("\n\nSafe.", Judgement(True)),
        ("unsafe\nS1,S9", Judgement(False, "S1,S9")),
        ("Unsafe: it asks for a password", Judgement(False, "it asks for a password")),
        ("**unsafe**\n- private data\n- more", Judgement(False, "- private data")),
    ],
)
def test_opinions(answer: str, judgement: Judgement) -> None:
    """A word, and the reason on its line or the next."""
    assert read_judgement(answer) == judgement


@pytest.mark.parametrize("answer", ["", "I think it is fine", "This is safe", "safely done"])
def test_no_opinion(answer: str) -> None:
    """Anything else is none: to guess here would let things through."""
    with pytest.raises(ValueError, match="neither safe nor unsafe"):
        read_judgement(answer)


def test_models_made_for_it_get_the_text_alone() -> None:
    """They have a policy of their own; others are told what is unsafe."""
    assert question("groq/llama-guard-3-8b", "request", "hi") == ("", "hi")
    system, text = question("openai/gpt-5", "answer", "hi")
    assert "one word" in system and text == "hi"
