"""A long-running chat: what was said first is still known, and no request is over the budget."""

import pathlib
import tempfile

import headrace

CONFIG = """
[routes.support]
cascade = ["openai/gpt-4o-mini"]
[routes.support.context]
budget = 800
"""

path = pathlib.Path(tempfile.mkdtemp()) / "headrace.toml"
path.write_text(CONFIG)
settings = headrace.load(path, environ={"OPENAI_API_KEY": "any"})

with headrace.fake("Noted.", settings=settings) as llm:
    talk = headrace.Conversation(llm, "support", id="ann", system="Be brief.")
    talk.ask("My locker code is 7719.")
    for number in range(30):
        talk.ask(f"Topic {number}: " + "there is a lot to say about it. " * 5)
    talk.ask("What was the code of my locker?")
    sent = llm.provider.requests[-1]
    assert "7719" in sent.body.decode()
    assert talk.plan is not None and talk.plan.tokens <= 800
    print(
        f"{len(talk.plan.turns)} turns, {talk.plan.tokens} tokens sent; the first: {talk.plan.turns[0].why}"
    )
