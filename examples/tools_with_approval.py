"""Tools with approval: reading is free, deleting asks first, and the model hears the answer."""

import headrace
from headrace.testing import Answer

files = {"notes.txt": "buy milk", "report.txt": "profit is up"}


def read(name: str) -> str:
    """Read a file."""
    return files[name]


def delete(name: str) -> str:
    """Delete a file for ever."""
    del files[name]
    return "deleted"


def approve(call: headrace.ToolCall) -> bool:
    return call.name == "read" or "notes" in call.arguments  # or ask a person


with headrace.fake("Cleaned up; the report was kept.") as llm:
    llm.provider.script(
        Answer(tool_calls=[("read", {"name": "notes.txt"})]),
        Answer(tool_calls=[("delete", {"name": "notes.txt"}), ("delete", {"name": "report.txt"})]),
    )
    with llm.stream(
        "openai/gpt-4o", "Clean up", tools=[read, delete], approve=approve, max_rounds=5
    ) as stream:
        print("".join(stream))
    for run in stream.final.tool_runs:
        print(f"{run.call.name}({run.call.arguments}): {run.result}")
    assert list(files) == ["report.txt"]
