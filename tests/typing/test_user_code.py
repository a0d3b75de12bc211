"""What a user's type checker sees of the library: mypy and pyright, both strict."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"

USER_CODE = """
from dataclasses import dataclass
import headrace

@dataclass
class City:
    name: str

def weather(city: str) -> str:
    return city

async def rain(city: str) -> str:
    return city

def allow(call: headrace.ToolCall) -> bool:
    return True

def sync(llm: headrace.Client) -> None:
    reveal_type(llm.chat("fast", "?").text)
    reveal_type(llm.chat("fast", "?", output=City).value)
    reveal_type(llm.chat("fast", "?", output=list[City]).value)
    reveal_type(llm.chat("fast", "?", output=City, tools=[weather, rain], approve=allow).value)
    with llm.stream("fast", "?", output=City, tools=[weather]) as stream:
        for text in stream:
            reveal_type(text)
        reveal_type(stream.final.value)
        reveal_type(stream.final.tool_runs)
    label = headrace.Prompt(system="Label.", examples=[("Great!", "pos")])
    reveal_type(llm.chat("fast", label("x"), output=City).value)
    reveal_type(llm.chat("fast", "?").cost)
    reveal_type(llm.chat("fast", "?").prompt_version)
    reveal_type(llm.map("fast", ["a"], output=City)[0].value)
    for row in llm.map("fast", [{"text": "a"}], "Say {text}", output=City, resume="run.jsonl", progress=True):
        reveal_type(row.value)
    reveal_type(llm.embed("fast", ["a", "b"]).vectors)
    sure = headrace.first_good("fast", ["openai/gpt-5", ("anthropic/x", 2)], check=lambda answer: answer.finish == "stop")
    reveal_type(llm.chat(sure, "?", output=City).value)
    with headrace.fake({"capital": "Paris"}) as fake:
        reveal_type(fake.chat("fast", "capital?").text)
        plain: headrace.Answer = fake.chat("fast", "?")
        print(plain.text)

async def asynchronous(llm: headrace.AsyncClient) -> None:
    reveal_type((await llm.chat("fast", "?", output=City)).value)
    reveal_type((await llm.map("fast", ["a"], output=City)).ok)
    async with llm.stream("fast", "?", output=City) as stream:
        reveal_type(stream.final.value)
"""

REVEALED = [
    "str",
    "City",
    "list[City]",
    "City",
    "str",
    "City",
    "tuple[ToolRun, ...]",
    "City",
    "int | None",
    "str | None",
    "City",
    "City",
    "list[list[float]]",
    "City",
    "str",
    "City",
    "int",
    "City",
]

MISTAKES = {
    'llm.chat("fast", "?", output=City).value.nme': "nme",
    'llm.chat("fast", "?", output=3)': "chat|output",
    "llm.chat(3)": "chat|argument",
    'llm.chat("fast", "?", tool=[weather])': "tool",
    'llm.stream("fast", "?").text': "text",
    'llm.map("fast", ["a"], concurrency="fast")': "concurrency|argument",
    'llm.embed("fast", 3)': "embed|texts|Argument 2",
}


def mypy(path: Path) -> tuple[list[str], list[str], str]:
    """What is revealed, and the errors, in order; and all that was said."""
    command = ["-m", "mypy", "--strict", "--no-incremental", "--config-file", "", str(path)]
    ran = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=SRC, timeout=110
    )
    lines = ran.stdout.splitlines()
    revealed = [line.split('"')[1] for line in lines if "Revealed" in line]
    return revealed, [line for line in lines if "error:" in line], ran.stdout + ran.stderr


def pyright(path: Path) -> tuple[list[str], list[str], str]:
    """The same by pyright (basedpyright's build of it, which brings its own Node), in pyright's own strict mode."""
    (path.parent / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(SRC)], "pythonVersion": "3.11"})
    )
    command = ["-m", "basedpyright", "--outputjson", "-p", str(path.parent), "--pythonpath", sys.executable]
    ran = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=path.parent, timeout=110
    )
    said = json.loads(ran.stdout)["generalDiagnostics"]
    revealed = [
        re.findall(r'is "(.*)"', one["message"])[0] for one in said if one["severity"] == "information"
    ]
    errors = [
        f"{one['range']['start']['line']}: {one['message']}" for one in said if one["severity"] == "error"
    ]
    return revealed, errors, ran.stdout + ran.stderr


BOTH = pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])


@BOTH
def test_values_have_their_types(
    tmp_path: Path, checker: Callable[[Path], tuple[list[str], list[str], str]]
) -> None:
    """`value` is what `output=` names, in both clients and in streams, and correct code has no errors."""
    path = tmp_path / "user.py"
    path.write_text(USER_CODE)
    revealed, errors, said = checker(path)
    assert [re.sub(r"\b(user|builtins|headrace\.\w+)\.", "", kind) for kind in revealed] == REVEALED, said
    assert not errors, said


@BOTH
def test_mistakes_are_found(
    tmp_path: Path, checker: Callable[[Path], tuple[list[str], list[str], str]]
) -> None:
    """Each wrong line of a user's is an error of its own, and names what is wrong."""
    path = tmp_path / "user.py"
    body = "".join(f"    {line}\n" for line in MISTAKES)
    path.write_text(f"{USER_CODE}\ndef wrong(llm: headrace.Client) -> None:\n{body}")
    _, errors, said = checker(path)
    for line, words in MISTAKES.items():
        assert any(re.search(words, error) for error in errors), f"{line}: {said}"
    assert len(errors) >= len(MISTAKES), said
