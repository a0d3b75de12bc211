"""`headrace.fake`: the real cascade over memory, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

import headrace
from headrace import testing
from headrace.clock import SystemClock
from headrace.testing import Answer, CutStream, Overloaded, Refuse, Reset, Silence, Stall, Status


def test_the_ideal_snippet() -> None:
    """A fault, a wait that the provider asks for, and the answer: no second of it is real."""
    began = SystemClock().now()
    with headrace.fake({"capital": "Paris"}, faults=[Status(429, retry_after=1), Reset(0)]) as llm:
        answer = llm.chat("any", "the capital of France?")
        assert (answer.text, len(answer.attempts)) == ("Paris", 3)
        assert llm.clock.now() >= 1.0
    assert SystemClock().now() - began < 1.0


@pytest.mark.parametrize(
    "model", ["anthropic/claude-sonnet-4-5", "openai/gpt-5", "gemini/gemini-2.5-pro", "local/default"]
)
def test_every_provider_is_the_fake_one(model: str) -> None:
    """By their own names and dialects, without keys, buffered and streamed."""
    with headrace.fake({"*": Answer("Hi.", usage=(3, 2))}) as llm:
        assert llm.chat(model, "hello").text == "Hi."
        with llm.stream(model, "hello") as stream:
            assert "".join(stream) == "Hi."
        assert llm.provider.requests[0].model == model.partition("/")[2]


def test_hours_pass_at_once() -> None:
    """A provider that is silent for an hour times out at the first content, and the next level answers."""
    with headrace.fake("There.", faults=[Silence(3600)]) as llm:
        with llm.stream(["openai/gpt-5", "anthropic/claude-sonnet-4-5"], "hello") as stream:
            assert "".join(stream) == "There."
        assert [a.error_kind for a in stream.final.attempts] == ["timeout", None]
        assert 59 < llm.clock.now() < 700


def test_own_settings_are_simulated(tmp_path: Path) -> None:
    """A user's own routes are what is tried, with their own rules; their store is not touched."""
    (tmp_path / "headrace.toml").write_text("""
[providers.openai]
api_key = "sk-real-key-0000000000000000"
[providers.anthropic]
api_key = "sk-real-key-0000000000000001"
[store]
path = "real.db"
[routes.smart]
deadline = "20s"
cascade = [{ target = "openai/gpt-5", attempts = 2 }, "anthropic/claude-sonnet-4-5"]
""")
    settings = headrace.load(tmp_path / "headrace.toml", environ={})
    with headrace.fake("ok", faults=[Overloaded(), Overloaded()], settings=settings) as llm:
        assert [str(a.target) for a in llm.chat("smart", "?").attempts] == [
            "openai/gpt-5",
            "openai/gpt-5",
            "anthropic/claude-sonnet-4-5",
        ]
        with pytest.raises(headrace.UnknownModel):
            llm.chat("smrt", "?")
    assert not (tmp_path / "real.db").exists()


def test_faults_of_the_wire() -> None:
    """A refused connection, a cut in the middle and a stall are what they are over sockets."""
    with headrace.fake("one two three", faults=[Refuse(), CutStream(2)]) as llm:
        assert llm.chat("any", "?").attempts[0].error_kind == "connect_failed"
    with headrace.fake("one two three", faults=[CutStream(2)]) as llm:
        with pytest.raises(headrace.StreamBroken) as broken, llm.stream("any", "?") as stream:
            list(stream)
        assert broken.value.received == "one two"
    with headrace.fake("one two three", faults=[Stall(1, 59.0, answer=Answer("one two three"))]) as llm:
        with llm.stream("any", "?") as stream:
            assert "".join(stream) == "one two three"
        assert llm.clock.now() == 59.0


def test_a_question_without_an_answer() -> None:
    """It is named when the block is left, whatever the cascade made of it."""
    with pytest.raises(testing.Unanswered, match="weather"), headrace.fake({"capital": "Paris"}) as llm:
        llm.chat("any", "the weather?")


def test_answers_of_every_kind() -> None:
    """Text, an answer, a mapping as JSON, a fault, a function; and a value that is judged."""
    with headrace.fake(
        {"a": "x", "b": Answer("y"), "c": {"n": 1}, "d": lambda r: Answer(r.text.upper()), "e": Status(400)}
    ) as llm:
        assert [llm.chat("m", q).text for q in "abd"] == ["x", "y", "D"]
        assert llm.chat("m", "c", output={"type": "object"}).value == {"n": 1}
        with pytest.raises(headrace.ProviderError):
            llm.chat("m", "e")


def test_asynchronous_in_virtual_time() -> None:
    """Inside `run` the clock is the loop's."""
    clock = testing.ManualClock()

    async def main() -> str:
        async with headrace.fake("Paris", faults=[Status(429, retry_after=5)]) as llm:
            return (await llm.chat("any", "?")).text

    assert testing.run(main(), clock) == "Paris"
    assert clock.now() >= 5
