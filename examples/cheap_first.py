"""Cheap first: the large model is asked only where the small one's answer is not good enough."""

import dataclasses

import headrace
from headrace.testing import Answer


@dataclasses.dataclass
class Label:
    topic: str
    confidence: float


SMALL, LARGE = "openai/gpt-4o-mini", "openai/gpt-4o"
sure = headrace.first_good(SMALL, LARGE, check=lambda answer: answer.value.confidence >= 0.8)

with headrace.fake("unused") as llm:
    llm.provider.on(
        "gpt-4o-mini",
        always=lambda r: Answer('{"topic": "billing", "confidence": %s}' % (0.4 if "odd" in r.text else 0.9)),
    )
    llm.provider.on("gpt-4o", always=Answer('{"topic": "legal", "confidence": 0.95}'))
    for question in ("Where is my invoice?", "An odd letter from a lawyer"):
        answer = llm.chat(sure, question, output=Label)
        print(f"{question:<30} {answer.value.topic:<8} {answer.call.target}  ${answer.cost_usd}")
    assert len(answer.rejected) == 1 and len(llm.provider.requests) == 3
