"""A support FAQ: the same question, spelled otherwise, is paid for once."""

import pathlib
import tempfile

import headrace

CONFIG = """
[routes.faq]
cascade = ["openai/gpt-4o-mini"]
[routes.faq.cache]
ttl = "24h"
"""

path = pathlib.Path(tempfile.mkdtemp()) / "headrace.toml"
path.write_text(CONFIG)
settings = headrace.load(path, environ={"OPENAI_API_KEY": "any"})

with headrace.fake({"hours": "We are open from nine to five."}, settings=settings) as llm:
    for question in ("What are your hours?", "what are your HOURS", "Please, what are your hours?"):
        answer = llm.chat("faq", question, temperature=0)
        print(f"{question:<32} {answer.call.cache:<14} {answer.text}")
    assert len(llm.provider.requests) == 1
