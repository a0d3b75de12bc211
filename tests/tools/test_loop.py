"""Functions as tools: their schemas, and the loop that runs them, in both dialects."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

import headrace
from headrace.testing import Answer, FakeProvider, Overloaded
from headrace.tools import function_tool


def weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    """Current weather in a city.

    Args:
        city: Its name,
            in English.
        unit: Of the temperature.
    """
    return f"{city}: 20 {unit}"


def settings(tmp_path: Path, provider: FakeProvider) -> headrace.Settings:
    """A target in each dialect."""
    (tmp_path / "headrace.toml").write_text(f"""
[providers.openish]
dialect = "openai-chat"
base_url = "{provider.base_url}"
[providers.anthropish]
dialect = "anthropic"
base_url = "{provider.anthropic_url}"
""")
    return headrace.load(tmp_path / "headrace.toml", environ={})


def calls(*named: tuple[str, Any]) -> Answer:
    return Answer(tool_calls=list(named))


BOTH = pytest.mark.parametrize("target", ["openish/m", "anthropish/m"])


def test_a_function_tells_its_own_schema() -> None:
    """Types from the hints, words from the docstring, defaults not required, nothing else allowed."""
    tool = function_tool(weather).tool
    assert (tool.name, tool.description) == ("weather", "Current weather in a city.")
    assert tool.parameters is not None
    schema = json.loads(bytes(tool.parameters))
    assert schema["required"] == ["city"]
    assert schema["properties"]["city"] == {"type": "string", "description": "Its name, in English."}
    assert schema["properties"]["unit"]["enum"] == ["C", "F"]
    assert schema["additionalProperties"] is False


def test_a_function_without_a_json_form_is_refused() -> None:
    """A parameter without a hint, or that cannot be given by name, is told at once."""

    def unhinted(a) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return str(a)

    def starred(*names: str) -> str:
        return ",".join(names)

    for function in (unhinted, starred, lambda: ""):
        with pytest.raises(headrace.InvalidRequest):
            function_tool(function)


@BOTH
def test_the_loop_runs_functions_until_the_model_answers(tmp_path: Path, target: str) -> None:
    """Two calls at once, their results sent back, one answer; cost and attempts count both rounds."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(
            calls(("weather", {"city": "Paris"}), ("weather", {"city": "Rome", "unit": "F"})),
            Answer("Mild in both."),
        )
        answer = llm.chat(target, "Paris and Rome?", tools=[weather], max_rounds=4)
        assert answer.text == "Mild in both."
        assert [(run.result, run.is_error) for run in answer.tool_runs] == [
            ("Paris: 20 C", False),
            ("Rome: 20 F", False),
        ]
        assert len(answer.attempts) == 2 and len(answer.rounds) == 1
        sent = json.dumps(provider.requests[1].json["messages"])
        assert "Paris: 20 C" in sent and "Rome: 20 F" in sent
        assert answer.call.tags == {"loop": answer.rounds[0].id}


@BOTH
def test_what_goes_wrong_is_told_to_the_model(tmp_path: Path, target: str) -> None:
    """Exceptions, bad arguments, unknown names and slow functions are results marked as errors, not errors of ours."""

    def broken(city: str) -> str:
        raise LookupError(f"no {city}")

    async def slow(city: str) -> str:
        await asyncio.Event().wait()
        return city

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(
            calls(("broken", {"city": "X"}), ("weather", {"town": "X"}), ("nobody", {})),
            Answer("Sorry."),
            calls(("slow", {"city": "X"})),
            Answer("Sorry."),
        )
        answer = llm.chat(target, "?", tools=[weather, broken])
        # By itself: on a busy machine the others would not be back in time either.
        late = llm.chat(target, "?", tools=[slow], tool_timeout=0.05)
        runs = [*answer.tool_runs, *late.tool_runs]
        said = [run.result for run in runs]
        assert all(run.is_error for run in runs)
        assert said[0] == "LookupError: no X"
        assert (
            "not valid" in said[1]
            and "there is no tool 'nobody'" in said[2]
            and "longer than 0.05 s" in said[3]
        )


def test_calls_of_one_round_run_at_once(tmp_path: Path) -> None:
    """Two synchronous functions that wait for each other both return."""
    meet = threading.Barrier(2, timeout=5)

    def wait(name: str) -> str:
        meet.wait()
        return name

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("wait", {"name": "a"}), ("wait", {"name": "b"})), Answer("ok"))
        answer = llm.chat("openish/m", "?", tools=[wait])
        assert [run.result for run in answer.tool_runs] == ["a", "b"]


def test_a_retry_never_runs_a_function_twice(tmp_path: Path) -> None:
    """The request with the results fails twice; the function has run once."""
    ran: list[str] = []

    def charge(card: str) -> str:
        ran.append(card)
        return "charged"

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("charge", {"card": "1"})), Overloaded(), Overloaded(), Answer("Done."))
        answer = llm.chat([("openish/m", 3)], "?", tools=[charge])
        assert answer.text == "Done." and len(provider.requests) == 4
        assert ran == ["1"]


@pytest.mark.parametrize("later", [False, True])
def test_approve_is_asked_before_each_call(tmp_path: Path, later: bool) -> None:
    """A call that is not approved is not run, and the model hears so; the hook may be asynchronous."""
    ran: list[str] = []

    def delete(name: str) -> str:
        ran.append(name)
        return "gone"

    def approve(call: headrace.ToolCall) -> bool:
        return bool(json.loads(call.arguments)["name"] == "a")

    async def approve_later(call: headrace.ToolCall) -> bool:
        return approve(call)

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("delete", {"name": "a"}), ("delete", {"name": "b"})), Answer("ok"))
        answer = llm.chat("openish/m", "?", tools=[delete], approve=approve_later if later else approve)
        assert ran == ["a"]
        assert [run.is_error for run in answer.tool_runs] == [False, True]


def test_a_loop_that_goes_in_circles_stops(tmp_path: Path) -> None:
    """The third identical call is not run; the order of its arguments does not make it another."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(
            calls(("weather", {"city": "X", "unit": "C"})),
            calls(("weather", {"unit": "C", "city": "X"})),
            calls(("weather", {"city": "X", "unit": "C"})),
        )
        with pytest.raises(headrace.ToolLoopStopped, match="3 times") as stopped:
            llm.chat("openish/m", "?", tools=[weather])
        assert stopped.value.reason == "repeated"
        assert len(stopped.value.runs) == 2 and len(stopped.value.answers) == 3


def test_a_loop_has_a_most_of_rounds(tmp_path: Path) -> None:
    """Different calls for ever end at `max_rounds`."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.default = lambda request: calls(("weather", {"city": str(request.number)}))
        with pytest.raises(headrace.ToolLoopStopped) as stopped:
            llm.chat("openish/m", "?", tools=[weather], max_rounds=3)
        assert stopped.value.reason == "max_rounds" and len(provider.requests) == 3


def test_all_rounds_share_one_deadline(tmp_path: Path) -> None:
    """The second round does not get the timeout anew: a function that eats it leaves none."""

    async def eat() -> str:
        await asyncio.Event().wait()
        return ""

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("eat", {})), Answer("late"))
        with pytest.raises(headrace.HeadraceError):
            llm.chat("openish/m", "?", tools=[eat], timeout=0.3)


def test_tools_that_are_only_told_of_are_not_run(tmp_path: Path) -> None:
    """A `Tool` value stays as it was: its call is on the answer."""
    told = headrace.Tool(name="lookup")
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("lookup", {})), calls(("lookup", {})))
        assert [c.name for c in llm.chat("openish/m", "?", tools=[told]).tool_calls] == ["lookup"]
        answer = llm.chat("openish/m", "?", tools=[told, weather])
        assert [c.name for c in answer.tool_calls] == ["lookup"] and not answer.tool_runs


class Place(pydantic.BaseModel):
    """A place."""

    city: str


@BOTH
def test_pydantic_parameters_and_a_value_at_the_end(tmp_path: Path, target: str) -> None:
    """A model as a parameter is made from the arguments, a model as a result is sent as JSON, and the answer has its form."""

    def capital(place: Place) -> Place:
        assert isinstance(place, Place)
        return Place(city="Paris")

    final = Answer('{"city": "Paris"}') if target == "openish/m" else calls(("answer", {"city": "Paris"}))
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("capital", {"place": {"city": "Lyon"}})), final)
        answer = llm.chat(target, "?", tools=[capital], output=Place)
        assert answer.value == Place(city="Paris")
        assert answer.tool_runs[0].result == '{"city":"Paris"}'


@BOTH
def test_a_stream_runs_functions_too(tmp_path: Path, target: str) -> None:
    """The words of both rounds come in order, the functions run between them, and the final answer has both rounds."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(
            Answer(
                "Let me look. ", tool_calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
            ),
            Answer("Mild in both."),
        )
        with llm.stream(target, "Paris and Rome?", tools=[weather], max_rounds=4) as stream:
            first = next(iter(stream))
            assert first.startswith("Let") and len(provider.requests) == 1 and not stream.tool_runs
            assert first + "".join(stream) == "Let me look. Mild in both."
        answer = stream.final
        assert answer.text == "Mild in both."
        assert [run.result for run in answer.tool_runs] == ["Paris: 20 C", "Rome: 20 C"]
        assert stream.tool_runs == answer.tool_runs
        assert len(answer.rounds) == 1 and len(answer.attempts) == 2
        assert "Rome: 20 C" in json.dumps(provider.requests[1].json["messages"])
        assert [r.json["stream"] for r in provider.requests] == [True, True]
        provider.script(calls(("weather", {"city": "Paris"})), Answer("Mild."))
        with llm.stream(target, "Paris?", tools=[weather]) as stream:
            kinds = [type(event).__name__ for event in stream.events()]
        assert kinds.count("Start") == 2 and kinds.count("Finish") == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_all_rounds_share_one_group_of_the_ledger(tmp_path: Path, streamed: bool) -> None:
    """Every row of a loop, its first too, has the tag `loop` with the id of the first request."""
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("weather", {"city": "A"})), calls(("weather", {"city": "B"})), Answer("ok"))
        if streamed:
            with llm.stream("openish/m", "?", tools=[weather]) as stream:
                list(stream)
            answer = stream.final
        else:
            answer = llm.chat("openish/m", "?", tools=[weather])
        store = llm.client.engine.store

        async def rows() -> list[Any]:
            await store.flush()
            return await store.recent(10)

        found = llm.portal.run(rows())
        assert len(found) == 3
        assert {row.tags["loop"] for row in found} == {answer.rounds[0].id}
        assert {attempt.tags["loop"] for row in found for attempt in row.attempts} == {answer.rounds[0].id}


@pytest.mark.parametrize("streamed", [False, True])
def test_all_rounds_share_one_cap(tmp_path: Path, streamed: bool) -> None:
    """What the first round cost is not there for the second: it is refused before it is sent."""
    (tmp_path / "headrace.toml").write_text("""
[prices."openai/m"]
input_usd_per_mtok = "1"
output_usd_per_mtok = "1"
[routes.capped]
cascade = ["openai/m"]
max_output_tokens = 6000
max_cost_usd = "0.014"
""")
    own = headrace.load(tmp_path / "headrace.toml", environ={"OPENAI_API_KEY": "k"})
    ran: list[str] = []

    def note(text: str) -> str:
        """Note something."""
        ran.append(text)
        return text

    with headrace.fake("unused", settings=own) as llm:
        # 100 tokens in and 6,000 out cost $0.0061 each time, and more than $0.006 must be free for a round.
        llm.provider.default = lambda request: Answer(
            tool_calls=[("note", {"text": str(request.number)})], usage=(100, 6000)
        )

        def loop() -> None:
            if streamed:
                with llm.stream("capped", "?", tools=[note]) as stream:
                    list(stream)
            else:
                llm.chat("capped", "?", tools=[note])

        with pytest.raises(headrace.BudgetExceeded):
            loop()
        assert len(llm.provider.requests) == len(ran) == 2


def test_a_streamed_loop_stops_as_a_buffered_one_does(tmp_path: Path) -> None:
    """Circles and the deadline end it while it is read, and reading on runs nothing again."""
    ran: list[str] = []

    def again(city: str) -> str:
        ran.append(city)
        return city

    async def eat() -> str:
        await asyncio.Event().wait()
        return ""

    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.default = calls(("again", {"city": "X"}))
        with llm.stream("openish/m", "?", tools=[again]) as stream:
            with pytest.raises(headrace.ToolLoopStopped, match="3 times"):
                list(stream)
            assert list(stream) == [] and ran == ["X", "X"]
            with pytest.raises(RuntimeError, match="not whole"):
                _ = stream.final
        provider.default = calls(("eat", {}))
        with (
            pytest.raises(headrace.HeadraceError),
            llm.stream("openish/m", "?", tools=[eat], timeout=0.3) as s,
        ):
            list(s)


def test_leaving_a_streamed_loop_stops_its_functions(tmp_path: Path) -> None:
    """Whoever leaves while a function runs cancels it, and no further request is sent."""

    async def main() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return ""

        async with FakeProvider() as provider, headrace.AsyncClient(settings(tmp_path, provider)) as llm:
            provider.default = calls(("slow", {}))

            async def read() -> None:
                async with llm.stream("openish/m", "?", tools=[slow]) as stream:
                    async for _ in stream:
                        pass

            reader = asyncio.create_task(read())
            await started.wait()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            assert ended.is_set() and len(provider.requests) == 1

    asyncio.run(main())


@BOTH
def test_partials_of_a_streamed_loop(tmp_path: Path, target: str) -> None:
    """The value of the last round grows, after the functions have run."""

    def capital(country: str) -> str:
        return "Paris" + country

    final = (
        Answer(chunks=['{"city": "Pa', 'ris"}'])
        if target == "openish/m"
        else calls(("answer", {"city": "Paris"}))
    )
    with FakeProvider() as provider, headrace.Client(settings(tmp_path, provider)) as llm:
        provider.script(calls(("capital", {"country": "France"})), final)
        with llm.stream(target, "?", tools=[capital], output=Place) as stream:
            seen = list(stream.partials())
        assert seen[0] == {"city": "Pa"} or target != "openish/m"
        assert seen[-1] == {"city": "Paris"} and stream.final.value == Place(city="Paris")
        assert len(stream.final.tool_runs) == 1
        provider.script(calls(("capital", {"country": "France"})), final)
        with llm.stream(target, "?", tools=[capital], output=Place) as stream:
            assert json.loads("".join(stream)) == {"city": "Paris"}
