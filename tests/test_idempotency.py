"""`idempotency_key` in a program, and how its answers are thrown away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace.cli.root import run as run_cli
from headrace.errors import IdempotencyKeyReused, InvalidRequest
from headrace.testing import Answer, FakeProvider

TOML = """
[providers.openai]
dialect = "openai-chat"
base_url = "{url}"
api_key = "k"
[routes.smart]
cascade = ["openai/m"]
[routes.other]
cascade = ["openai/m"]
[prices."openai/m"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"
[store]
path = "headrace.db"
"""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider of our own."""
    with FakeProvider() as fake:
        fake.default = Answer("four", thinking="two and two", usage=(1000, 1000))
        yield fake


@pytest.fixture
def settings(provider: FakeProvider, tmp_path: Path) -> headrace.Settings:
    """A route over it, and a store's file."""
    path = tmp_path / "headrace.toml"
    path.write_text(TOML.format(url=provider.base_url))
    return headrace.load(path, environ={})


def test_a_program_that_starts_again_pays_once(provider: FakeProvider, settings: headrace.Settings) -> None:
    """The same answer object, by `chat` and by `stream`, through both clients and over a restart; it cost nothing the second time."""
    with headrace.Client(settings) as llm:
        first = llm.chat("smart", "2+2?", idempotency_key="order-1")
    with headrace.Client(settings) as llm:
        again = llm.chat("smart", "2+2?", idempotency_key="order-1")
        with llm.stream("smart", "2+2?", idempotency_key="order-1") as answer:
            streamed = "".join(answer)
    assert (first.text, again.text, streamed) == ("four", "four", "four")
    assert (again.content, again.usage, again.finish) == (first.content, first.usage, first.finish)
    assert first.cost == 18_000_000 and again.cost == 0
    assert again.call.cached is not None and again.call.cached.saved == 18_000_000
    assert len(provider.requests) == 1


def test_another_question_or_route_is_another_request(
    provider: FakeProvider, settings: headrace.Settings
) -> None:
    """Any member counts."""
    with headrace.Client(settings) as llm:
        llm.chat("smart", "2+2?", idempotency_key="k")
        for route, question, heat in (
            ("other", "2+2?", None),
            ("smart", "2+3?", None),
            ("smart", "2+2?", 1.0),
        ):
            with pytest.raises(IdempotencyKeyReused):
                llm.chat(route, question, temperature=heat, idempotency_key="k")
        with pytest.raises(InvalidRequest, match="1 to 255"):
            llm.chat("smart", "2+2?", idempotency_key="")
        with pytest.raises(InvalidRequest, match="first_good"):
            llm.chat(
                headrace.first_good("smart", "other", check=lambda answer: True), "?", idempotency_key="k"
            )
    assert len(provider.requests) == 1


def test_twins_of_a_program_share_one_request(provider: FakeProvider, settings: headrace.Settings) -> None:
    """A whole answer and a stream, at once."""
    provider.default = Answer(chunks=["fo", "ur"], first_delay_s=0.05, delay_s=0.05)

    async def streamed(llm: headrace.AsyncClient) -> str:
        async with llm.stream("smart", "?", idempotency_key="k") as answer:
            return "".join([text async for text in answer])

    async def main() -> None:
        async with headrace.AsyncClient(settings) as llm:
            whole, text = await asyncio.gather(llm.chat("smart", "?", idempotency_key="k"), streamed(llm))
            assert whole.text == text == "four"

    asyncio.run(main())
    assert len(provider.requests) == 1


def test_rounds_with_functions_are_repeated_as_far_as_they_are_the_same(
    provider: FakeProvider, settings: headrace.Settings
) -> None:
    """Every round of the first time is given again; where a function says something else, the round after it is asked anew."""
    said = ["sunny"]

    def weather(city: str) -> str:
        """The weather."""
        return said[0]

    def play(request: Any) -> Answer:
        heard = json.loads(request.body)["messages"][-1]
        if heard["role"] == "tool":
            return Answer(f"It is {heard['content']}.")
        return Answer(tool_calls=[("weather", {"city": "Bern"})])

    provider.default = play
    with headrace.Client(settings) as llm:

        def asked() -> str:
            return llm.chat("smart", "Bern?", tools=[weather], idempotency_key="k").text

        assert asked() == asked() == "It is sunny."
        assert len(provider.requests) == 2
        said[0] = "raining"
        assert asked() == "It is raining."
        assert len(provider.requests) == 3


def test_the_answers_are_counted_and_purged(
    provider: FakeProvider,
    settings: headrace.Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`headrace data` knows them, and `data purge --user` leaves none of their bytes and none of another user's less."""
    monkeypatch.chdir(tmp_path)
    with headrace.Client(settings) as llm:
        for user in ("ann", "eve"):
            provider.default = Answer(f"canary-{user}")
            llm.chat("smart", "?", user=user, idempotency_key=user)
    assert run_cli(["data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["idempotent_answers"] == 2
    assert run_cli(["data", "purge", "--user", "ann", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["idempotent_answers"] == 1
    left = b"".join(file.read_bytes() for file in tmp_path.glob("headrace.db*"))
    assert b"canary-ann" not in left and b"canary-eve" in left
    with headrace.Client(settings) as llm:
        assert llm.chat("smart", "?", user="ann", idempotency_key="ann").text == "canary-eve"
    assert len(provider.requests) == 3
