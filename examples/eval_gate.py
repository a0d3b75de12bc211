"""An evaluation as a gate: two models on your cases, with what they cost."""

import asyncio
import pathlib
import tempfile

import headrace
from headrace.evaluate import evaluate, read_cases, svg
from headrace.testing import Answer

CASES = """
{"prompt": "Capital of France?", "equals": "Paris"}
{"prompt": "Capital of Italy?", "equals": "Rome"}
{"prompt": "Order number in 'ref A-17, thanks'?", "matches": "^A-[0-9]+$"}
"""
KNOWN = {"France": "Paris", "Italy": "Rome", "Order": "A-17"}


def model(request):
    known = next(answer for word, answer in KNOWN.items() if word in request.text)
    return Answer("I am not sure" if request.model == "gpt-4o-mini" and "Italy" in request.text else known)


async def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "cases.jsonl").write_text(CASES)
    async with headrace.fake(model) as llm:
        scores, _ = await evaluate(
            llm, ["openai/gpt-4o-mini", "openai/gpt-4o"], read_cases(folder / "cases.jsonl")
        )
    (folder / "quality.svg").write_text(svg(scores))
    for score in scores:
        low, high = score.interval
        print(f"{score.route:<20} {score.passed}/{score.cases}  {low:.0%} to {high:.0%}  ${score.cost_usd}")
    assert scores[1].share == 1.0, "not good enough to merge"


asyncio.run(main())
