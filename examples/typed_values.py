"""Typed values: a fence, a comment and single quotes are repaired; a wrong type is asked for again."""

from typing import Literal, TypedDict

import headrace
from headrace.testing import Answer


class Ticket(TypedDict):
    kind: Literal["bug", "question", "praise"]
    stars: int


with headrace.fake("unused") as llm:
    llm.provider.script(
        Answer("Sure!\n```json\n{'kind': 'bug', 'stars': 2,} // sorry\n```"),
        Answer('{"kind": "praise", "stars": "five"}'),
        Answer('{"kind": "praise", "stars": 5}'),
    )
    first = llm.chat("openai/gpt-4o-mini", "It crashes. Two stars.", output=Ticket)
    print(first.value, first.warnings)
    second = llm.chat("openai/gpt-4o-mini", "Love it!", output=Ticket)
    print(second.value, [attempt.purpose for attempt in second.attempts])
    assert first.value == {"kind": "bug", "stars": 2} and second.value["stars"] == 5
