"""`headrace ask` and `headrace chat`, against a provider on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.testing import Answer, BadKey, CutStream, FakeProvider, ServerError

Write = Callable[[str], Path]


@pytest.fixture
def settings(write: Write, provider: FakeProvider) -> None:
    """One provider, a route of two levels, and a price."""
    write(
        f"""
        [providers.fake]
        dialect = "openai-chat"
        base_url = "{provider.base_url}"
        [routes.default]
        cascade = ["fake/first", "fake/second"]
        [prices."fake/*"]
        input_usd_per_mtok = "1"
        output_usd_per_mtok = "2"
        """
    )


@pytest.mark.usefixtures("settings")
def test_an_answer(headrace: Any, provider: FakeProvider) -> None:
    """Only the answer is on standard output; target, tokens and cost are on standard error."""
    provider.script(Answer("Forty-two.", usage=(1000, 500)))
    ran = headrace("ask", "-s", "be brief", "what", "is it?", "--max-tokens", "9", "--temperature", "0.5")
    assert (ran.code, ran.out) == (0, "Forty-two.\n")
    assert "fake/first" in ran.err
    assert "0.002" in ran.err
    (asked,) = provider.requests
    assert asked.text == "what is it?"
    body = json.loads(asked.body)
    assert body["stream"] is True
    assert body["temperature"] == 0.5
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert 9 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_an_answer_that_begins_anew(headrace: Any, provider: FakeProvider, write: Write) -> None:
    """The void beginning ends its line, a note says so, and the new answer follows whole."""
    write(
        f"""
        [providers.fake]
        dialect = "openai-chat"
        base_url = "{provider.base_url}"
        [routes.default]
        cascade = ["fake/first", "fake/second"]
        mid_stream = "restart"
        """
    )
    provider.on("first", CutStream(after=2, answer=Answer("one two three four")))
    provider.on("second", Answer("five six"))
    ran = headrace("ask", "-q", "x")
    void, whole = ran.out.splitlines()
    assert ran.code == 0
    assert void and "one two three".startswith(void.rstrip())
    assert whole == "five six"
    assert "that answer is void, fake/second begins anew" in ran.err


@pytest.mark.usefixtures("settings")
def test_without_streaming(headrace: Any, provider: FakeProvider) -> None:
    """The same answer, asked for whole; `-q` says nothing on standard error."""
    provider.script(Answer("Whole."))
    ran = headrace("ask", "--no-stream", "-q", "x")
    assert (ran.code, ran.out, ran.err) == (0, "Whole.\n", "")
    assert not json.loads(provider.requests[0].body).get("stream")


@pytest.mark.usefixtures("settings")
def test_json(headrace: Any, provider: FakeProvider) -> None:
    """Text, tokens, cost and every attempt in one document, and nothing else."""
    provider.script(BadKey(), Answer("Second.", usage=(1000, 500)))
    ran = headrace("ask", "--json", "x")
    assert (ran.code, ran.err) == (0, "")
    found = ran.json
    assert found["text"] == "Second."
    assert found["finish"] == "stop"
    assert found["usage"]["input_tokens"] == 1000
    assert found["cost_usd"] == "0.002"
    assert [(a["target"], a["error"]) for a in found["attempts"]] == [
        ("fake/first", "credentials_invalid"),
        ("fake/second", None),
    ]


@pytest.mark.usefixtures("settings")
def test_the_prompt_from_standard_input(headrace: Any, provider: FakeProvider) -> None:
    """All of it without a prompt, or where the dash stands."""
    headrace("ask", stdin="from the pipe\n")
    headrace("ask", "sum up:", "-", stdin="a text\n")
    headrace("ask", "no pipe", stdin="ignored")
    assert [request.text for request in provider.requests] == ["from the pipe", "sum up: a text", "no pipe"]


@pytest.mark.usefixtures("settings")
def test_an_empty_prompt_is_refused(headrace: Any, provider: FakeProvider) -> None:
    """Nothing is sent; exit code 2."""
    ran = headrace("ask", stdin="  \n")
    assert ran.code == 2
    assert "nothing to ask" in ran.err
    assert not provider.requests


@pytest.mark.usefixtures("settings")
def test_several_models_are_a_cascade(headrace: Any, provider: FakeProvider) -> None:
    """Each `-m` is a level."""
    provider.on("a", always=BadKey())
    ran = headrace("ask", "-m", "fake/a", "-m", "fake/b", "hello")
    assert (ran.code, ran.out) == (0, "echo: hello\n")
    assert [json.loads(request.body)["model"] for request in provider.requests] == ["a", "b"]


@pytest.mark.usefixtures("settings")
def test_when_every_target_fails(headrace: Any, provider: FakeProvider) -> None:
    """Exit code 1, each attempt with its reason on standard error, nothing on standard output."""
    provider.default = ServerError()
    ran = headrace("ask", "x")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert "fake/first" in ran.err
    assert "fake/second" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.usefixtures("settings")
def test_failures_as_json(headrace: Any, provider: FakeProvider) -> None:
    """The error document lists the attempts."""
    provider.default = ServerError()
    ran = headrace("ask", "x", "--json")
    assert (ran.code, ran.err) == (1, "")
    error = ran.json["error"]
    assert error["kind"] == "all_targets_failed"
    assert [attempt["target"] for attempt in error["attempts"]] == ["fake/first", "fake/second"]


@pytest.mark.usefixtures("settings")
def test_an_answer_that_breaks_off(headrace: Any, provider: FakeProvider) -> None:
    """What came is on standard output with its line ended, the error on standard error, and the exit code is 1."""
    provider.script(CutStream(after=3, answer=Answer("one two three four five six seven eight")))
    ran = headrace("ask", "x")
    assert ran.code == 1
    assert ran.out.startswith("one two")
    assert ran.out.endswith("\n")
    assert "eight" not in ran.out
    assert ran.err.startswith("error: ")


@pytest.mark.usefixtures("settings")
def test_models_that_are_not_there(headrace: Any, provider: FakeProvider) -> None:
    """An unknown provider is exit code 2 with what there is."""
    ran = headrace("ask", "-m", "nope/x", "hi")
    assert ran.code == 2
    assert "fake/..." in ran.err
    assert not provider.requests


def test_without_a_default_a_model_must_be_named(headrace: Any, environ: dict[str, str]) -> None:
    """The message names what could be asked."""
    environ["OPENAI_API_KEY"] = "canary"
    ran = headrace("ask", "hi")
    assert ran.code == 2
    assert "openai/MODEL" in ran.err
    assert "canary" not in ran.err


@pytest.mark.parametrize("value", ["5", "0s", "soon", "25h"])
def test_a_timeout_says_its_unit(headrace: Any, value: str) -> None:
    """A bare number is refused before anything is read or sent."""
    ran = headrace("ask", "--timeout", value, "hi")
    assert ran.code == 2
    assert "60s" in ran.err


@pytest.mark.usefixtures("settings")
def test_an_answer_cannot_steer_the_terminal(
    headrace: Any, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences reach a pipe as they are, and a terminal not at all."""
    from headrace.cli import console

    text = "safe\x1b]0;title\x07\u202e\tend"
    assert console.printable(text) == "safe]0;title\tend"
    provider.script(Answer(text, chunks=[text]), Answer(text, chunks=[text]))
    assert headrace("ask", "x").out == f"{text}\n"
    monkeypatch.setattr(console, "_shown", lambda shown, _stream: console.printable(shown))
    assert headrace("ask", "x").out == "safe]0;title\tend\n"


@pytest.mark.usefixtures("settings")
def test_a_talk_remembers_its_turns(headrace: Any, provider: FakeProvider) -> None:
    """Every turn is sent again; `/new` forgets; empty lines are passed over; `/quit` leaves."""
    provider.script(Answer("Hello Ada."), Answer("You are Ada."), Answer("Who?"))
    ran = headrace(
        "chat", "-s", "be kind", stdin="I am Ada\n\nwho am I?\n/new\nand now?\n/quit\nnever sent\n"
    )
    assert ran.code == 0
    assert ran.out == "Hello Ada.\nYou are Ada.\nWho?\n"
    sent = [
        [(m["role"], m["content"]) for m in json.loads(request.body)["messages"]]
        for request in provider.requests
    ]
    assert sent == [
        [("system", "be kind"), ("user", "I am Ada")],
        [("system", "be kind"), ("user", "I am Ada"), ("assistant", "Hello Ada."), ("user", "who am I?")],
        [("system", "be kind"), ("user", "and now?")],
    ]


@pytest.mark.usefixtures("settings")
def test_a_failed_turn_is_told_and_forgotten(headrace: Any, provider: FakeProvider) -> None:
    """The talk goes on after it."""
    provider.script(BadKey(), BadKey(), Answer("fine"))
    ran = headrace("chat", stdin="first\nsecond\n")
    assert (ran.code, ran.out) == (0, "fine\n")
    assert "error: " in ran.err
    assert [m["content"] for m in json.loads(provider.requests[-1].body)["messages"]] == ["second"]


@pytest.mark.usefixtures("settings")
def test_a_talk_can_change_its_model(headrace: Any, provider: FakeProvider) -> None:
    """`/model` takes a name, or several as a cascade; an unknown one fails at the next turn."""
    ran = headrace("chat", stdin="a\n/model fake/other\nb\n/model nope/x\nc\n")
    assert [json.loads(request.body)["model"] for request in provider.requests] == ["first", "other"]
    assert "nope/x" in ran.err
    assert ran.code == 0


@pytest.mark.usefixtures("settings")
def test_a_talk_as_json(headrace: Any, provider: FakeProvider) -> None:
    """One line of JSON a turn, errors too."""
    provider.script(Answer("one"), BadKey(), BadKey())
    ran = headrace("chat", "--json", stdin="a\nb\n")
    first, second = [json.loads(line) for line in ran.out.splitlines()]
    assert first["text"] == "one"
    assert second["error"]["kind"] == "all_targets_failed"
    assert ran.err == ""
