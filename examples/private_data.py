"""Redaction on a route: the provider never sees the values, the caller never sees the placeholders."""

import pathlib
import tempfile

import headrace
from headrace.testing import Answer

CONFIG = """
[routes.support]
cascade = ["openai/gpt-4o-mini"]
[routes.support.guard]
redact = ["email", "card"]
"""

path = pathlib.Path(tempfile.mkdtemp()) / "headrace.toml"
path.write_text(CONFIG)
settings = headrace.load(path, environ={"OPENAI_API_KEY": "any"})

with headrace.fake(lambda request: Answer(f"You wrote: {request.text}"), settings=settings) as llm:
    asked = "I am ann@example.org, card 4111 1111 1111 1111."
    answer = llm.chat("support", asked)
    print("sent:    ", llm.provider.requests[0].text)
    print("answered:", answer.text)
    assert "ann@example.org" not in llm.provider.requests[0].body.decode()
    assert "ann@example.org" in answer.text
