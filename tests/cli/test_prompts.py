"""`headrace prompts`: list, show, diff and test over files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Headrace

from headrace.testing import FakeProvider

LABEL = """---
model: fake/m
input:
  schema:
    text: string
---
{{role "system"}}
Label it.
{{role "user"}}
{{ text }}
"""


def put(folder: Path, name: str = "label.prompt", text: str = LABEL) -> str:
    (folder / name).write_text(text)
    return name


def test_list(headrace: Headrace, folder: Path) -> None:
    """Every file below, with version, model and inputs."""
    put(folder)
    (folder / "deep").mkdir()
    put(folder, "deep/other.prompt", "Just say hi.")
    listed = headrace("prompts", "list", "--json").json
    assert [(p["name"], p["model"], p["inputs"]) for p in listed] == [
        ("other", None, []),
        ("label", "fake/m", ["text"]),
    ]
    assert listed[1]["version"] in headrace("prompts", "list").out


def test_show(headrace: Headrace, folder: Path) -> None:
    """As it stands, and filled; a value that does not fit ends with code 2."""
    name = put(folder)
    assert "{{ text }}" in headrace("prompts", "show", name).out
    shown = headrace("prompts", "show", name, "--set", "text=I loved it", "--json").json
    assert shown["messages"] == [
        {"role": "system", "text": "Label it."},
        {"role": "user", "text": "I loved it"},
    ]
    assert "[user]\nI loved it" in headrace("prompts", "show", name, "--set", "text=I loved it").out
    ran = headrace("prompts", "show", name, "--set", "text=3")
    assert ran.code == 2 and "expected string" in ran.err


def test_diff(headrace: Headrace, folder: Path) -> None:
    """Whether two files send the same, and where they differ."""
    a, b = put(folder), put(folder, "b.prompt", LABEL.replace("Label it.", "Judge it."))
    ran = headrace("prompts", "diff", a, b)
    assert "differ" in ran.out and "-Label it." in ran.out and "+Judge it." in ran.out
    same = put(
        folder, "c.prompt", LABEL.replace("---\nmodel", "---\ndescription: nothing that is sent\nmodel")
    )
    assert headrace("prompts", "diff", a, same, "--json").json["same"] is True


def test_test(headrace: Headrace, folder: Path, provider: FakeProvider, write: Callable[[str], Path]) -> None:
    """Cases are asked and judged; one that does not hold ends with code 1 and says what came."""
    write(f'[providers.fake]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n')
    put(folder)
    (folder / "label.cases.yaml").write_text(
        "- {input: {text: good}, contains: good}\n- {input: {text: bad}, equals: 'echo: bad', matches: '^echo'}\n"
    )
    ran = headrace("prompts", "test")
    assert ran.code == 0 and "2 of 2 hold" in ran.out
    provider.reply("something else")
    ran = headrace("prompts", "test", "--json")
    assert ran.code == 1
    assert [result["ok"] for result in ran.json] == [False, True]
    assert "something else" in ran.json[0]["why"]
    (folder / "label.cases.yaml").write_text("- {input: {text: good}}\n")
    assert headrace("prompts", "test").code == 2


def test_a_wrong_file(headrace: Headrace, folder: Path) -> None:
    """A file with a mistake ends with code 2 and its name."""
    put(folder, "bad.prompt", "{{ undeclared }}")
    ran = headrace("prompts", "list")
    assert ran.code == 2 and "bad.prompt" in ran.err
