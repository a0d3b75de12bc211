"""An agent with the official OpenAI SDK behind `headrace serve`: its provider is overloaded, and it never notices."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import openai

from headrace.testing import Answer, FakeProvider, Overloaded

CONFIG = """
[providers.first]
dialect = "openai-chat"
base_url = "{url}"
[routes.agent]
cascade = [{{ target = "first/large", attempts = 3 }}]
[keys.agent]
value = "hr-example-key-of-the-agent"
[store]
path = "headrace.db"
"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

with FakeProvider() as provider:
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "headrace.toml").write_text(CONFIG.format(url=provider.base_url))
    provider.script(
        Overloaded(),
        Answer(tool_calls=[("weather", {"city": "Rome"})]),
        Overloaded(),
        Answer("Mild in Rome."),
    )
    command = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        "--config",
        str(folder / "headrace.toml"),
        "--port",
        "0",
        "--json",
    ]
    gateway = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ}
    )
    try:
        address = json.loads(gateway.stdout.readline())["url"]
        with openai.OpenAI(
            base_url=f"{address}/v1", api_key="hr-example-key-of-the-agent", max_retries=0
        ) as llm:
            messages = [{"role": "user", "content": "How is the weather in Rome?"}]
            while True:
                said = (
                    llm.chat.completions.create(model="agent", messages=messages, tools=TOOLS)
                    .choices[0]
                    .message
                )
                messages.append(said.model_dump(exclude_none=True))
                for call in said.tool_calls or []:
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": "20 C"})
                if not said.tool_calls:
                    break
        print(said.content)
        assert said.content == "Mild in Rome." and len(provider.requests) == 4
    finally:
        gateway.terminate()
        gateway.communicate(timeout=20)
