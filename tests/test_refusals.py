"""A refusal inside a 200: the route says whether it is an answer or a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

import headrace
from headrace.testing import Answer, FakeProvider

TOML = """
[providers.oai]
dialect = "openai-chat"
base_url = "{openai}"
[providers.ant]
dialect = "anthropic"
base_url = "{anthropic}"
[routes.stop]
cascade = ["{first}/a", "{second}/b"]
[routes.next]
on_refusal = "next"
cascade = ["{first}/a", "{second}/b"]
"""


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize(("first", "second"), [("oai", "ant"), ("ant", "oai")])
@pytest.mark.parametrize("route", ["stop", "next"])
def test_a_refusal_in_an_answer(tmp_path: Path, route: str, first: str, second: str, stream: bool) -> None:
    """By default the refusal is the answer; with `next` the second target is asked and the first attempt is booked as refused."""
    with FakeProvider() as provider:
        refused = (
            Answer("", refusal="I cannot help with that.") if first == "oai" else Answer("", finish="refusal")
        )
        provider.on("a", always=refused)
        provider.on("b", always=Answer("Gladly."))
        path = tmp_path / "headrace.toml"
        path.write_text(
            TOML.format(
                openai=provider.base_url, anthropic=provider.anthropic_url, first=first, second=second
            )
        )
        with headrace.Client(headrace.load(path, environ={})) as llm:
            if stream:
                with llm.stream(route, "Hi") as answering:
                    said = "".join(answering)
                answer = answering.final
            else:
                answer = llm.chat(route, "Hi")
                said = answer.text
    models = [request.model for request in provider.requests]
    if route == "stop":
        assert (models, said) == (["a"], "")
        assert answer.finish == "refusal" or any(isinstance(b, headrace.Refusal) for b in answer.content)
    else:
        assert (models, said) == (["a", "b"], "Gladly.")
        assert [attempt.error_kind for attempt in answer.attempts] == ["refusal", None]
