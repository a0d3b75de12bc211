"""A failover drill: your settings, every provider down in turn, in virtual time."""

import pathlib
import tempfile

import headrace
from headrace.testing import Answer, Overloaded, Refuse, Silence

CONFIG = """
[routes.smart]
deadline = "60s"
first_content = "10s"
cascade = [{ target = "anthropic/claude-sonnet-4-5", attempts = 2 }, { target = "openai/gpt-4o", attempts = 2 }]
"""

path = pathlib.Path(tempfile.mkdtemp()) / "headrace.toml"
path.write_text(CONFIG)
settings = headrace.load(path, environ={"OPENAI_API_KEY": "any", "ANTHROPIC_API_KEY": "any"})

for name, fault in {"overloaded": Overloaded(), "refuses": Refuse(), "silent": Silence()}.items():
    with headrace.fake(Answer("ok"), settings=settings) as llm:
        llm.provider.on("claude-sonnet-4-5", always=fault)
        answer = llm.chat("smart", "Hello")
        assert str(answer.call.target) == "openai/gpt-4o"
        print(f"{name:<11} answered after {llm.clock.now():5.1f} s: {answer.route}")

with headrace.fake(Overloaded(), settings=settings) as llm:
    try:
        llm.chat("smart", "Hello")
    except headrace.AllTargetsFailed as error:
        print(error.report())
