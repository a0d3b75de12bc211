"""`map`: every row once, at the pace that the limits take, over memory in virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace
from headrace.batch import Drawn, Pace, Progress
from headrace.testing import Answer, BadKey, Fault, ManualClock, Overloaded, Received, Status, run


@dataclasses.dataclass
class Length:
    n: int


def test_every_row_has_its_answer() -> None:
    """In the order of the rows, each with its own; typed where a form is asked for; with cost and tokens."""
    with headrace.fake(lambda request: Answer(f'{{"n": {len(request.text)}}}', usage=(10, 5))) as llm:
        rows = [{"id": f"r{n}", "text": "x" * n} for n in range(100)]
        result = llm.map("openai/gpt-4o-mini", rows, "Count: {text}", output=Length)
        assert [one.value.n for one in result] == [7 + n for n in range(100)]
        assert (result.ok, result.failed, len(result), result.total) == (100, 0, 100, 100)
        assert result.stopped is None and result[3].line.id == "r3" and result[3].line.input_tokens == 10
        assert result.cost == 100 * (result[0].line.cost_nano or 0) > 0
        plain = llm.map("fast", ["a", "b"], system="Be brief.")
        assert [one.text for one in plain] == ['{"n": 1}', '{"n": 1}']
        assert llm.provider.requests[-1].json["messages"][0]["content"] == "Be brief."
        with pytest.raises(RuntimeError, match="no value"):
            _ = plain[0].value


def test_limits_and_outages_are_waited_out() -> None:
    """A rate limit pauses the run as long as it asks; what the cascade cannot get around is begun again; no row is lost."""
    asked = Counter[str]()

    def say(request: Received) -> Answer | Fault:
        asked[request.text] += 1
        if asked[request.text] <= 3 and hash(int(request.text)) % 3 == 0:
            return Status(429, retry_after=20)
        if asked[request.text] <= 3 and int(request.text) % 7 == 1:
            return Overloaded()
        return Answer(request.text)

    with headrace.fake(say) as llm:
        result = llm.map("fast", [str(n) for n in range(60)])
        assert [one.text for one in result] == [str(n) for n in range(60)] and not result.failed
        assert llm.clock.now() > 20


def test_a_route_with_its_own_limit_loses_no_row(tmp_path: Path) -> None:
    """Places compete for one request a second, and none that lost too often fails; no request is sent in vain."""
    path = tmp_path / "headrace.toml"
    path.write_text('[routes.narrow]\ncascade = ["openai/m"]\nlimits = { rpm = 60 }\n')
    settings = headrace.load(path, environ={"OPENAI_API_KEY": "k"})
    with headrace.fake(lambda request: Answer(request.text, first_delay_s=0.5), settings=settings) as llm:
        result = llm.map("narrow", [str(n) for n in range(300)])
        assert [one.text for one in result] == [str(n) for n in range(300)]
        assert len(llm.provider.requests) == 300
        assert 235 <= llm.clock.now() <= 260  # 60 at once, then one a second


def test_what_fails_for_good_has_a_reason_and_can_be_retried() -> None:
    """A bad request and an answer of no use fail once, the others go on; only they are asked again."""
    bad: dict[str, Answer | Fault] = {"3": Status(400, message="no"), "5": Answer("junk")}

    def say(request: Received) -> Answer | Fault:
        return bad.get(request.text.split()[-1], Answer('{"n": 1}'))

    with headrace.fake(say) as llm:
        # The re-ask of row 5 has other words, and fails as well.
        bad["else."] = Answer("junk")
        result = llm.map("fast", [{"x": n} for n in range(10)], "{x}", output=Length)
        assert result.reasons == {"invalid_request": 1, "invalid_output": 1} and result.ok == 8
        assert result[3].reason == "invalid_request" and "no" in (result[3].line.message or "")
        bad.clear()
        before = len(llm.provider.requests)
        again = llm.retry_failed(result)
        assert again.ok == 10 and not again.failed and not again.reasons
        assert len(llm.provider.requests) == before + 2


def test_what_is_hopeless_stops_the_run() -> None:
    """A key that is refused would be for every row: few are asked, none is written off, and a resumed run finishes."""
    with headrace.fake("unused") as llm:
        llm.provider.default = BadKey()
        result = llm.map("fast", [str(n) for n in range(500)])
        assert result.stopped is not None and not len(result) and len(llm.provider.requests) < 20
        llm.provider.default = Answer("ok")
        assert llm.retry_failed(result).ok == 500


def test_an_outage_that_does_not_end_fails_the_rows_and_not_the_run() -> None:
    """Each row is begun `TRIES` times, then it has failed with the provider's reason."""
    with headrace.fake("unused") as llm:
        llm.provider.default = Overloaded()
        result = llm.map([("openai/gpt-4o", 1)], ["a", "b"])
        assert result.failed == 2 and result.stopped is None
        assert set(result.reasons) <= {"overloaded", "circuit_open"}


def test_a_budget_stops_the_run(tmp_path: Path) -> None:
    """A budget that is spent ends it with what was done; it is not overdrawn."""
    (tmp_path / "headrace.toml").write_text("""
[routes.r]
cascade = ["openai/gpt-4o-mini"]
max_output_tokens = 1000
budget = { usd = "0.01", window = "day" }
""")
    settings = headrace.load(tmp_path / "headrace.toml", environ={"OPENAI_API_KEY": "k"})
    with headrace.fake(Answer("ok", usage=(10, 1000)), settings=settings) as llm:
        result = llm.map("r", [str(n) for n in range(100)])
        assert isinstance(result.stopped, headrace.BudgetExceeded)
        assert 0 < result.ok < 100 and not result.failed
        assert result.cost is not None and result.cost <= 10_000_000


def test_a_resumed_run_pays_nothing_twice(tmp_path: Path) -> None:
    """What the file has is not asked; other rows, or another question, are refused; new rows at the end are taken."""
    path = tmp_path / "run.jsonl"
    with headrace.fake(lambda request: Answer(request.text.upper())) as llm:
        llm.map("fast", ["a", "b"], resume=path).close()
        result = llm.map("fast", ["a", "b", "c"], resume=path)
        assert [one.text for one in result] == ["A", "B", "C"] and len(llm.provider.requests) == 3
        result.close()
        for rows, prompt in ((["a", "x"], "{text}"), (["a", "b"], "Say {text}")):
            with pytest.raises(headrace.InvalidRequest, match="have changed"):
                llm.map("fast", rows, prompt, resume=path)


def test_leaving_a_run_cancels_what_is_under_way(tmp_path: Path) -> None:
    """A cancelled run has written what was done, leaves the file to others, and goes on from there."""
    path = tmp_path / "run.jsonl"

    async def main() -> None:
        async with headrace.fake(lambda r: Answer("ok", first_delay_s=int(r.text))) as llm:
            task = asyncio.create_task(
                llm.map("fast", [str(n) for n in range(40)], resume=path, concurrency=4)
            )
            await llm.clock.sleep(10.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            done = len(path.read_text().splitlines())
            assert 4 <= done <= 12
            before = len(llm.provider.requests)
            result = await llm.map("fast", [str(n) for n in range(40)], resume=path)
            assert result.ok == 40 and len(llm.provider.requests) - before == 40 - done
            result.close()

    run(main(), ManualClock())


def test_no_more_rows_than_places_are_under_way() -> None:
    """A fixed number is kept; rows are read as they are needed, an iterator too."""
    taken = 0

    def rows() -> Any:
        nonlocal taken
        for n in range(50):
            taken += 1
            yield str(n)

    seen: list[tuple[int, int]] = []
    with headrace.fake("ok") as llm:
        result = llm.map(
            "fast", rows(), concurrency=3, progress=lambda p: seen.append((p.at_once, taken - p.done))
        )
        assert result.ok == 50 and max(one for one, _ in seen) <= 3 and max(ahead for _, ahead in seen) <= 3
        with pytest.raises(headrace.InvalidRequest, match="read only once"):
            llm.retry_failed(result)
        with pytest.raises(headrace.InvalidRequest, match="1 or more"):
            llm.map("fast", ["a"], concurrency=0)


def test_prompts_of_every_kind(tmp_path: Path) -> None:
    """A prompt file gets the row's members, a function the row; the version is on every row of the ledger."""
    (tmp_path / "p.prompt").write_text("---\ninput:\n  schema:\n    text: string\n---\nLabel {{ text }}")
    file = headrace.prompt(tmp_path / "p.prompt")
    with headrace.fake(lambda request: Answer(request.text)) as llm:
        assert [one.text for one in llm.map("fast", ["a"], file)] == ["Label a"]
        assert [one.text for one in llm.map("fast", ["a"], lambda row: row["text"] * 3)] == ["aaa"]


def test_rows_may_be_files(tmp_path: Path) -> None:
    """Each is read when its turn comes and sent behind the prompt's words; one that changed is another row, and one that is gone fails alone."""
    files = [tmp_path / f"{name}.txt" for name in "ab"]
    for file in files:
        file.write_text(f"contents of {file.stem}")
    with headrace.fake(lambda request: Answer(request.text)) as llm:
        found = llm.map("fast", files, "Summarise this:", resume=tmp_path / "run.jsonl")
        assert [
            "Summarise this:" in one.text and f"contents of {name}" in one.text
            for name, one in zip("ab", found, strict=True)
        ]
        found.close()
        assert "contents of a" in llm.map("fast", files[:1])[0].text
        files[0].write_text("something else, and longer")
        with pytest.raises(headrace.InvalidRequest, match="have changed"):
            llm.map("fast", files, "Summarise this:", resume=tmp_path / "run.jsonl")
        (tmp_path / "odd.bin").write_bytes(bytes(range(256)))
        assert llm.map("fast", [tmp_path / "odd.bin", files[0]]).reasons == {"invalid_request": 1}


@given(st.lists(st.tuples(st.sampled_from(["good", "limited"]), st.floats(0, 5))))
def test_the_pace_stays_within_its_bounds(events: list[tuple[str, float]]) -> None:
    """Never below one place nor above the most, and a burst of limits at one moment halves once."""
    pace, now = Pace(), 0.0
    for kind, later in events:
        now += later
        before = pace.limit
        if kind == "good":
            pace.good()
            assert before <= pace.limit <= before + 1
        else:
            pace.limited(now, None, refused=True)
            assert pace.limit >= before // 2 and pace.until >= now
        assert 1 <= pace.limit <= 64


def test_the_progress_line() -> None:
    """Done of all, rate, cost with its forecast, what is left, and what holds it back; once in a while where nobody watches."""
    progress = Progress(
        done=40, total=100, ok=39, failed=1, rate=5.2, eta_s=72, cost=120_000_000, forecast=300_000_000,
        at_once=8, limit=8, why="rate limited",
    )  # fmt: skip
    assert progress.line(10) == (
        "[####------] 40/100  ok 39  failed 1  5.2/s  $0.12 of about $0.3  1:12 left  8 at once (rate limited)"
    )
    out = io.StringIO()
    drawn = Drawn(out)
    for second in range(25):
        drawn.show(progress, float(second), False)
    drawn.show(progress, 25.0, True)
    assert len(out.getvalue().splitlines()) == 4
