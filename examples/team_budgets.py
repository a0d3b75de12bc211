"""Team budgets: what does not fit goes to the cheaper model, then nowhere, and nothing is overdrawn."""

import pathlib
import tempfile

import headrace
from headrace.testing import Answer

CONFIG = """
[budgets]
tags = { "team=search" = { usd = "0.02", window = "day" } }
[routes.smart]
cascade = ["openai/gpt-4o", "openai/gpt-4o-mini"]
on_limit = "downgrade"
max_output_tokens = 1000
"""

path = pathlib.Path(tempfile.mkdtemp()) / "headrace.toml"
path.write_text(CONFIG)
settings = headrace.load(path, environ={"OPENAI_API_KEY": "any"})

with headrace.fake(Answer("ok", usage=(100, 1000)), settings=settings) as llm:
    models, spent = [], 0
    try:
        while True:
            answer = llm.chat("smart", "Hello", tags={"team": "search"})
            models.append(str(answer.call.target))
            spent += answer.cost or 0
    except headrace.BudgetExceeded as error:
        print(error)
    print(
        f"{models.count('openai/gpt-4o')} answers of gpt-4o, {models.count('openai/gpt-4o-mini')} of the small one, ${spent / 1e9}"
    )
    assert models[0] == "openai/gpt-4o" and models[-1] == "openai/gpt-4o-mini" and spent <= 20_000_000
