"""What a user's type checker sees of the library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

USER_CODE = """
from dataclasses import dataclass
import headrace

@dataclass
class City:
    name: str

def weather(city: str) -> str:
    return city

def sync(llm: headrace.Client) -> None:
    reveal_type(llm.chat("fast", "?").text)
    reveal_type(llm.chat("fast", "?", output=City).value)
    reveal_type(llm.chat("fast", "?", output=list[City]).value)
    reveal_type(llm.chat("fast", "?", output={"type": "object"}).value)
    reveal_type(llm.chat("fast", "?", output=City, tools=[weather]).value)
    with llm.stream("fast", "?", output=City) as stream:
        reveal_type(stream.final.value)
    label = headrace.Prompt(system="Label.", examples=[("Great!", "pos")])
    reveal_type(llm.chat("fast", label("x"), output=City).value)
    plain: headrace.Answer = llm.chat("fast", "?")
    llm.chat("fast", "?", output=City).value.nme
    llm.chat("fast", "?", output=3)

async def asynchronous(llm: headrace.AsyncClient) -> None:
    reveal_type((await llm.chat("fast", "?", output=City)).value)
    async with llm.stream("fast", "?", output=City) as stream:
        reveal_type(stream.final.value)
"""


def test_values_have_their_types(tmp_path: Path) -> None:
    """`value` is what `output=` names, in both clients, and mistakes are found."""
    (tmp_path / "user.py").write_text(USER_CODE)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-incremental",
            "--config-file",
            "",
            str(tmp_path / "user.py"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2] / "src",
        timeout=110,
    )
    revealed = [line.split('"')[1] for line in ran.stdout.splitlines() if "Revealed" in line]
    city, some = "user.City", "Any"
    assert revealed == ["str", city, f"list[{city}]", some, city, city, city, city, city], (
        ran.stdout + ran.stderr
    )
    errors = [line for line in ran.stdout.splitlines() if "error:" in line]
    assert len(errors) == 2 and "nme" in errors[0] and "[arg-type]" in errors[1], ran.stdout
