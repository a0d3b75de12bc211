"""Retrieval with a budget: vectors are asked for once, the answer has its sources, and the whole costs at most a cent."""

import dataclasses

import headrace

PASSAGES = [
    "Refunds are paid within 14 days of the return.",
    "The shop is open from nine to five, on weekdays.",
    "Gift cards cannot be paid out.",
]


@dataclasses.dataclass
class Cited:
    answer: str
    passages: list[int]


def nearest(question: list[float], vectors: list[list[float]], count: int) -> list[int]:
    scores = [sum(a * b for a, b in zip(question, vector)) for vector in vectors]
    return sorted(range(len(vectors)), key=lambda number: -scores[number])[:count]


with (
    headrace.fake('{"answer": "Within 14 days.", "passages": [0]}') as llm,
    llm.budget(tokens=10_000) as spent,
):
    vectors = llm.embed("openai/text-embedding-3-small", PASSAGES).vectors
    question = "When are refunds paid?"
    found = nearest(llm.embed("openai/text-embedding-3-small", question).vector, vectors, 2)
    context = "\n".join(f"[{number}] {PASSAGES[number]}" for number in found)
    prompt = f"Answer from these passages, and name them:\n{context}\n\n{question}"
    estimated = llm.estimate("openai/gpt-4o-mini", prompt, max_tokens=200)
    assert estimated.fits
    cited = llm.chat("openai/gpt-4o-mini", prompt, output=Cited, max_tokens=200).value
    print(cited.answer, [PASSAGES[number] for number in cited.passages], f"{spent.tokens_spent} tokens")
    assert cited.passages == [found[0]]
