"""Partial values: fields appear while the model writes, provisional until the last."""

import dataclasses

import headrace
from headrace.testing import Answer


@dataclasses.dataclass
class Recipe:
    title: str
    minutes: int
    steps: list[str]


pieces = ['{"title": "Pan', 'cakes", "minutes": 2', '0, "steps": ["Mix", "F', 'ry"]}']
with (
    headrace.fake(Answer(chunks=pieces)) as llm,
    llm.stream("openai/gpt-4o", "Pancakes?", output=Recipe) as stream,
):
    shown = []
    for partial in stream.partials():
        shown.append(partial)
        print(partial)
assert (
    shown[0] == {"title": "Pan"} and {"title": "Pancakes", "minutes": 2} not in shown
)  # never half a number
assert stream.final.value == Recipe("Pancakes", 20, ["Mix", "Fry"])
