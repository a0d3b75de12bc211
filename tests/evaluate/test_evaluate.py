"""Cases, judgements, and what is counted of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace
from headrace.evaluate import Answered, Case, Score, evaluate, read_cases, svg, wilson
from headrace.testing import Answer, Fault, ManualClock, Received, Status, run


def cases(tmp_path: Path, *lines: str) -> list[Case]:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(lines))
    return read_cases(path)


@pytest.mark.parametrize(
    ("must", "good", "bad"),
    [
        ('"equals": "Paris"', " Paris\n", "paris"),
        ('"contains": "aris"', "in Paris.", "London"),
        ('"matches": "^[A-Z]+$"', "ABC", "ABc"),
        ('"schema": {"type": "object", "required": ["n"]}', '```json\n{"n": 1}\n```', '{"m": 1}'),
        ('"equals": "A1", "matches": "[0-9]"', "A1", "A2"),
    ],
)
def test_what_needs_no_model_is_judged_here(tmp_path: Path, must: str, good: str, bad: str) -> None:
    """Each judge passes what it should and tells what is wrong with the rest; several must all hold."""
    (case,) = cases(tmp_path, f'{{"prompt": "?", {must}}}')
    assert case.wrong(good) == ""
    assert case.wrong(bad)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 1: not a JSON object"),
        ('{"prompt": "?"}', "one or more of equals"),
        ('{"equals": "x"}', "has prompt or messages"),
        ('{"prompt": "?", "equal": "x"}', "unknown: equal"),
        ('{"prompt": "?", "matches": "("}', "line 1:"),
        ('{"prompt": "?", "equals": 3}', "equals is a text"),
        ('{"prompt": "?", "schema": 3}', "a schema is an object"),
        ("", "there are no cases"),
    ],
)
def test_cases_that_are_none(tmp_path: Path, line: str, why: str) -> None:
    """Told with the line."""
    with pytest.raises(headrace.ConfigError, match=why):
        cases(tmp_path, line)


def scored(found: list[Case], say: Any, **options: Any) -> tuple[list[Score], list[Answered]]:
    async def main() -> tuple[list[Score], list[Answered]]:
        async with headrace.fake(say) as llm:
            return await evaluate(llm, ["openai/gpt-4o-mini", "openai/gpt-4o"], found, **options)

    return run(main(), ManualClock())


def test_routes_are_compared(tmp_path: Path) -> None:
    """Share, cost and times of each; a call that fails is a case that fails, with its reason."""

    def say(request: Received) -> Answer | Fault:
        if request.model == "gpt-4o-mini" and request.text == "2?":
            return Status(400, message="no")
        slow = 2.0 if request.model == "gpt-4o" else 0.5
        return Answer(request.text[0], usage=(10, 10), first_delay_s=slow)

    found = cases(tmp_path, *(f'{{"prompt": "{n}?", "equals": "{n}"}}' for n in range(4)))
    (small, large), answers = scored(found, say)
    assert (small.passed, large.passed, small.cases) == (3, 4, 4)
    assert small.share == 0.75 and small.interval[0] < 0.75 < small.interval[1]
    assert small.p50_s == 0.5 and large.p95_s == 2.0
    assert small.cost is not None and large.cost is not None and 0 < small.cost < large.cost
    failed = [one for one in answers if one.wrong]
    assert [(one.case, one.wrong[:15]) for one in failed] == [("3", "invalid_request")]


def test_models_judge_what_words_cannot(tmp_path: Path) -> None:
    """Vectors and a judging model; the answer is fenced from the judge, and a judge that fails is no pass."""
    found = cases(
        tmp_path,
        '{"prompt": "near?", "similar": "the quick brown fox"}',
        '{"prompt": "far?", "similar": "the quick brown fox"}',
        '{"prompt": "kind?", "judge": "It is kind."}',
        '{"prompt": "rude?", "judge": "It is kind."}',
        '{"prompt": "odd?", "judge": "It is kind."}',
    )
    said = {
        "near?": "the quick brown dog",
        "far?": "tax law",
        "kind?": "thank you",
        "rude?": "go away",
        "odd?": "hm",
    }

    def say(request: Received) -> Answer | Fault:
        if request.model != "judge":
            return Answer(said.get(request.text, "vectors are made of the texts themselves"))
        assert "outside-" in request.text and "It is kind." in request.text
        if "hm" in request.text:
            return Status(400, message="judge is ill")
        meets = "true" if "thank you" in request.text else "false"
        return Answer(f'{{"why": "because", "meets": {meets}}}')

    options = {"judge": "openai/judge", "embed": "openai/text-embedding-3-small", "near": 0.7}
    (score, _), answers = scored(found, say, **options)
    assert score.passed == 2
    wrong = {one.case: one.wrong for one in answers if one.route == score.route}
    assert wrong["1"] == "" and "cosine" in wrong["2"] and wrong["3"] == ""
    assert wrong["4"] == "judge: because" and "could not be judged" in wrong["5"]
    for missing in ("judge", "embed"):
        with pytest.raises(headrace.ConfigError, match=f"--{missing}"):
            scored(found, say, **{**options, missing: None})


@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share(counted: tuple[int, int]) -> None:
    """Within 0 and 1, around what was seen; narrower with more cases."""
    good, all_ = counted
    low, high = wilson(good, all_)
    assert 0 <= low <= high <= 1
    if all_:
        assert low - 1e-9 <= good / all_ <= high + 1e-9
        more = wilson(good * 10, all_ * 10)
        assert more[1] - more[0] < high - low
    assert wilson(9, 10)[0] == pytest.approx(0.596, abs=0.001)


def test_the_plot_is_an_svg_with_every_route() -> None:
    """Names are escaped, an unknown price is marked."""
    scores = [Score("a<b", 3, 4, 1_000_000, 0.1, 0.2), Score("c", 1, 4, None, None, None)]
    root = ElementTree.fromstring(svg(scores))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a<b" in texts and "c (no price)" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2
