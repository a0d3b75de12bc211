"""A nightly job: rows in, typed values out; what fails is retried alone, and a second run asks nothing."""

import dataclasses
import pathlib
import tempfile

import headrace
from headrace.testing import Answer, RateLimited


@dataclasses.dataclass
class Order:
    number: str
    urgent: bool


out = pathlib.Path(tempfile.mkdtemp()) / "orders.jsonl"
rows = [{"id": n, "mail": f"Order A-{n}, " + ("now!" if n % 3 == 0 else "thanks")} for n in range(60)]


def model(request):
    number = request.text.split("A-")[1].split(",")[0]
    return Answer(f'{{"number": "A-{number}", "urgent": {str("now!" in request.text).lower()}}}')


with headrace.fake(model, faults=[RateLimited(retry_after=5)] * 3) as llm:
    run = llm.map(
        "openai/gpt-4o-mini", rows, "Read this mail: {mail}", output=Order, resume=out, progress=True
    )
    print(f"{run.ok} read, {run.failed} failed {run.reasons}, cost ${run.cost_usd}")
    assert [row.value.number for row in run][:2] == ["A-0", "A-1"]
    assert sum(row.value.urgent for row in run) == 20
    run.close()
    before = len(llm.provider.requests)
    llm.map("openai/gpt-4o-mini", rows, "Read this mail: {mail}", output=Order, resume=out).close()
    assert len(llm.provider.requests) == before
