"""The library's face against a real socket server that fails on demand."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import headrace
from headrace.client import AsyncClient
from headrace.clock import SystemClock
from headrace.handler import Route
from headrace.sync import Client
from headrace.testing import Answer, CutStream, FakeProvider, Overloaded, RateLimited, Silence, until
from headrace.types import Delta

TOML = """
[providers.oai]
dialect = "openai-chat"
base_url = "{openai}"
[providers.ant]
dialect = "anthropic"
base_url = "{anthropic}"
[routes.smart]
deadline = "20s"
cascade = [{{ target = "oai/gpt", attempts = 2 }}, {{ target = "ant/claude", attempts = 2 }}]
[routes.brief]
deadline = "200ms"
cascade = ["oai/gpt"]
[routes.anew]
cascade = ["oai/gpt", "ant/claude"]
mid_stream = "restart"
[routes.onward]
cascade = ["oai/gpt", "ant/claude"]
mid_stream = "continue"
[prices."oai/gpt"]
input_usd_per_mtok = "1"
output_usd_per_mtok = "2"
"""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider of our own."""
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def settings(provider: FakeProvider, tmp_path: Path) -> headrace.Settings:
    """A cascade over it, in both dialects."""
    path = tmp_path / "headrace.toml"
    path.write_text(TOML.format(openai=provider.base_url, anthropic=provider.anthropic_url))
    return headrace.load(path, environ={})


def test_chat_gives_text_usage_cost_and_route(provider: FakeProvider, settings: headrace.Settings) -> None:
    """An answer says what it is, what it took, and who gave it."""
    provider.reply("four", usage=(10, 5, 0))
    with Client(settings) as llm:
        answer = llm.chat("smart", "2 + 2?", system="Be brief.", temperature=0)
    assert (answer.text, str(answer), answer.finish) == ("four", "four", "stop")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 5)
    assert answer.cost == 10 * 1_000 + 5 * 2_000
    assert answer.cost_usd == "0.00002"
    assert str(answer.route).startswith("oai/gpt: ok (")
    sent = provider.requests[0].json
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["temperature"] == 0


def test_streamed_costs_what_buffered_costs(provider: FakeProvider, settings: headrace.Settings) -> None:
    """The same answer costs the same to the last digit, streamed or whole."""
    provider.reply("four", usage=(11, 7, 3))
    provider.reply("four", usage=(11, 7, 3))
    with Client(settings) as llm:
        whole = llm.chat("smart", "2 + 2?")
        with llm.stream("smart", "2 + 2?") as stream:
            text = "".join(stream)
        assert stream.final.cost == whole.cost is not None
        assert text == stream.final.text == whole.text


def test_a_list_is_a_cascade_with_attempts(provider: FakeProvider, settings: headrace.Settings) -> None:
    """The levels of a list are asked in order, each as often as it says, across dialects."""
    provider.script(Overloaded(), RateLimited(retry_after=0.01), Overloaded())
    with Client(settings) as llm:
        answer = llm.chat([("oai/gpt", 3), ("ant/claude", 1)], "Hello")
    assert [str(attempt.target) for attempt in answer.attempts] == ["oai/gpt"] * 3 + ["ant/claude"]
    assert answer.text == "echo: Hello"


def test_own_names_are_cascades(provider: FakeProvider, settings: headrace.Settings) -> None:
    """`models` gives names of the caller's own."""
    with Client(settings, models={"fast": ["ant/claude"]}) as llm:
        assert str(llm.chat("fast", "Hello").attempts[0].target) == "ant/claude"
        assert llm.models()[0].name == "fast"


def test_all_spent_reports_every_attempt(provider: FakeProvider, settings: headrace.Settings) -> None:
    """The error has one line for each attempt."""
    provider.default = Overloaded()
    with Client(settings) as llm, pytest.raises(headrace.AllTargetsFailed) as caught:
        llm.chat("smart", "Hello")
    assert len(caught.value.report().splitlines()) == 4


def test_a_broken_stream_says_what_arrived(provider: FakeProvider, settings: headrace.Settings) -> None:
    """After the first content a death is an error that carries the text so far."""
    provider.script(CutStream(after=4))
    with (
        Client(settings) as llm,
        pytest.raises(headrace.StreamBroken) as caught,
        llm.stream("smart", "one two three four") as stream,
    ):
        seen = "".join(stream)
    assert caught.value.received
    assert "echo: one two three four".startswith(caught.value.received)
    assert "seen" not in locals() or seen == caught.value.received


def test_the_time_of_one_request_is_an_argument(provider: FakeProvider, settings: headrace.Settings) -> None:
    """It spans attempts and levels, and is the caller's 504; a route's own deadline is not made longer by it."""
    provider.default = Silence()
    clock = SystemClock()
    with Client(settings) as llm:
        for levels, timeout in (("smart", 0.2), ("brief", 60.0)):
            began = clock.now()
            with pytest.raises(headrace.AllTargetsFailed) as caught:
                llm.chat(levels, "Hello", timeout=timeout)
            assert caught.value.http_status == 504
            assert clock.now() - began < 2.0


def test_timeouts_are_on_by_default() -> None:
    """Connect 5 s, first content and between events 60 s, 600 s in all."""
    route = Route(name="r", cascade=())
    assert (route.connect_s, route.first_content_s, route.between_events_s, route.deadline_s) == (
        5,
        60,
        60,
        600,
    )


def test_text_of_two_answers_is_never_joined(provider: FakeProvider, settings: headrace.Settings) -> None:
    """Iterating for text stops at a restart with the void text; iterating again gives the new answer alone."""
    provider.on("gpt", CutStream(after=2, answer=Answer("one two three four")))
    provider.on("claude", Answer("five six seven"))
    with Client(settings) as llm, llm.stream("anew", "Count") as stream:
        pieces: list[str] = []
        with pytest.raises(headrace.StreamRestarted, match="begins anew at ant/claude") as caught:
            pieces.extend(stream)
        shown = "".join(pieces)
        assert shown and "one two three four".startswith(shown)
        assert caught.value.received == shown
        assert (caught.value.target, caught.value.reason) == ("ant/claude", "malformed")
        assert "".join(stream) == "five six seven"
        assert stream.final.text == "five six seven"


def test_a_text_that_broke_off_is_continued(provider: FakeProvider, settings: headrace.Settings) -> None:
    """Iterating gives one text, whoever wrote it; both attempts are on the answer."""
    text = "Water boils at a lower temperature on a mountain, since the air presses less upon it there."
    provider.on("gpt", CutStream(after=9, answer=Answer(text)))
    provider.on("claude", Answer(text))
    with Client(settings) as llm, llm.stream("onward", "Why?") as stream:
        assert "".join(stream) == text
        assert stream.final.text == text
        assert [str(attempt.target) for attempt in stream.final.attempts] == ["oai/gpt", "ant/claude"]
        assert any("ant/claude went on" in warning for warning in stream.final.warnings)


def test_who_ignores_a_restart_has_a_broken_stream(
    provider: FakeProvider, settings: headrace.Settings
) -> None:
    """Code that knows nothing of restarts sees what it knows: an answer that is not whole, and everything is released."""
    provider.on("gpt", CutStream(after=2))
    provider.on("claude", Answer("a b c d", delay_s=0.2))

    async def read(llm: AsyncClient) -> str:
        async with llm.stream("anew", "Count") as stream:
            return "".join([piece async for piece in stream])

    async def main() -> None:
        async with AsyncClient(settings) as llm:
            with pytest.raises(headrace.StreamBroken):
                await read(llm)
            await until(lambda: provider.requests[1].hung_up_at is not None)

    asyncio.run(main())


def test_leaving_a_stream_early_closes_upstream(provider: FakeProvider, settings: headrace.Settings) -> None:
    """The provider sees that nobody listens any more."""
    provider.reply("a b c d e f g h", delay_s=0.2)
    with Client(settings) as llm:
        with llm.stream("smart", "Count") as stream:
            next(iter(stream))
        asyncio.run(until(lambda: provider.requests[0].hung_up_at is not None))


def test_events_show_blocks_and_tools(provider: FakeProvider, settings: headrace.Settings) -> None:
    """`events` gives everything, and the final answer has the calls."""
    provider.reply("Looking.", tool_calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})])
    tool = headrace.Tool(name="weather", parameters=msgspec.Raw(b'{"type":"object"}'))
    with Client(settings) as llm:
        with llm.stream("smart", "Weather?", tools=[tool]) as stream:
            kinds = {event.kind for event in stream.events() if isinstance(event, Delta)}
        assert kinds == {"text", "arguments"}
        assert [call.name for call in stream.final.tool_calls] == ["weather", "weather"]


def test_final_needs_the_end(provider: FakeProvider, settings: headrace.Settings) -> None:
    """A stream that was not read to its end has no final answer."""
    with (
        Client(settings) as llm,
        llm.stream("smart", "Hello there you") as stream,
        pytest.raises(RuntimeError, match="not whole yet"),
    ):
        _ = stream.final


@pytest.mark.parametrize("name", ["cat.png", "paper.pdf", "notes.txt"])
def test_files_travel_by_path_and_by_bytes(
    provider: FakeProvider, settings: headrace.Settings, tmp_path: Path, name: str
) -> None:
    """Images, PDFs and text are recognised by their bytes."""
    data = {"cat.png": b"\x89PNG\r\n\x1a\n0000", "paper.pdf": b"%PDF-1.7 x", "notes.txt": "Grüße".encode()}[
        name
    ]
    path = tmp_path / name
    path.write_bytes(data)
    with Client(settings) as llm:
        llm.chat("ant/claude", ["What is this?", path])
        llm.chat("ant/claude", ["What is this?", data])
    first, second = (request.json["messages"][0]["content"][1] for request in provider.requests)
    assert first["type"] == {"cat.png": "image", "paper.pdf": "document", "notes.txt": "document"}[name]
    assert first["source"] == second["source"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([3], "a part of a message is"),
        ([{"role": "boss", "content": "x"}], "role 'boss'"),
        ([headrace.user("a"), "b"], "not both"),
        ([Path("/does/not/exist.png")], "cannot be read"),
        ([b"\xff\xfe\x00\x01"], "neither PNG"),
    ],
)
def test_a_bad_prompt_is_named(settings: headrace.Settings, prompt: object, message: str) -> None:
    """What is wrong with a prompt is said before anything is sent."""
    with Client(settings) as llm, pytest.raises(headrace.InvalidRequest, match=message):
        llm.chat("smart", prompt)  # type: ignore[arg-type]


def test_unknown_model_lists_what_there_is(settings: headrace.Settings) -> None:
    """The message helps."""
    with (
        Client(settings) as llm,
        pytest.raises(headrace.UnknownModel, match=r"smart, ant/\.\.\., oai/\.\.\."),
    ):
        llm.chat("nope", "Hello")


def test_estimate_bounds_tokens_and_cost(settings: headrace.Settings) -> None:
    """The bound is above the likely count and is priced with the whole output limit."""
    with Client(settings) as llm:
        estimate = llm.estimate("smart", "Hello world", max_tokens=100)
    assert 0 < estimate.input_tokens <= estimate.input_bound
    assert estimate.cost_bound == estimate.input_bound * 1_000 + 100 * 2_000


def test_many_requests_at_once_from_threads_and_tasks(
    provider: FakeProvider, settings: headrace.Settings
) -> None:
    """One client serves many callers at a time."""
    with Client(settings) as llm:
        texts: list[str] = []
        threads = [
            threading.Thread(target=lambda n=n: texts.append(llm.chat("smart", f"n{n}").text))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(texts) == sorted(f"echo: n{n}" for n in range(8))

    async def main() -> list[str]:
        async with AsyncClient(settings) as llm:
            return [
                answer.text
                for answer in await asyncio.gather(*(llm.chat("smart", f"n{n}") for n in range(8)))
            ]

    assert asyncio.run(main()) == [f"echo: n{n}" for n in range(8)]


def test_cancelling_a_request_closes_upstream(provider: FakeProvider, settings: headrace.Settings) -> None:
    """A cancelled buffered request does not go on at the provider."""
    provider.reply("late", first_delay_s=30)

    async def main() -> None:
        async with AsyncClient(settings) as llm:
            task = asyncio.ensure_future(llm.chat("smart", "Hello"))
            await until(lambda: bool(provider.requests))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert llm.engine.transport.open_connections == 0  # type: ignore[attr-defined]

    asyncio.run(main())
    asyncio.run(until(lambda: provider.requests[0].hung_up_at is not None))


def test_both_faces_have_the_same_methods() -> None:
    """Nothing can be asked of one client and not of the other, and the arguments are the same."""
    for name in ("chat", "stream", "models", "estimate"):
        assert inspect.signature(getattr(Client, name)) == inspect.signature(getattr(AsyncClient, name))
    assert {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose", "engine"} == {
        name for name in vars(Client) if not name.startswith("_")
    } - {"close", "portal"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"timeout": 0}, "timeout must be seconds above 0, not 0"),
        ({"timeout": float("nan")}, "timeout must be seconds above 0, not nan"),
        ({"tools": [3]}, "a tool is a function or a headrace.Tool, not int: 3"),
        ({"prompt": 5}, "a prompt is a string, parts, or messages, not int: 5"),
        ({"model": 5}, "a model is a route, provider/model, or a list of them, not int: 5"),
    ],
)
def test_a_wrong_argument_is_named(settings: headrace.Settings, call: dict[str, Any], said: str) -> None:
    """What it is, the value, and what it should be; whole and streamed, before anything is sent."""
    given: dict[str, Any] = {"model": "smart", "prompt": "hi"} | call
    with headrace.Client(settings) as llm:
        with pytest.raises((headrace.InvalidRequest, TypeError), match=re.escape(said)):
            llm.chat(**given)
        with pytest.raises((headrace.InvalidRequest, TypeError), match=re.escape(said)), llm.stream(**given):
            pass
