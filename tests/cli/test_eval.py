"""`headrace eval`: the table, the plot and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Headrace

from headrace.testing import Answer, FakeProvider


@pytest.fixture
def cases(folder: Path, provider: FakeProvider, write: Callable[[str], Path]) -> str:
    """Two cases, and two routes of which one knows one answer only."""
    write(
        f'[providers.fake]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
        '[routes.small]\ncascade = ["fake/s"]\n[routes.large]\ncascade = ["fake/l"]\n'
    )
    provider.on("s", always=Answer("Paris"))
    provider.on("l", always=lambda request: Answer("Paris" if "France" in request.text else "Rome"))
    (folder / "cases.jsonl").write_text(
        '{"prompt": "Capital of France?", "equals": "Paris"}\n{"prompt": "Capital of Italy?", "equals": "Rome"}\n'
    )
    return "cases.jsonl"


def test_a_table_a_plot_and_what_failed(headrace: Headrace, cases: str) -> None:
    """Failures are named with what was got; the plot is written."""
    ran = headrace("eval", cases, "-m", "small", "-m", "large", "--plot", "plot.svg")
    assert ran.code == 0, ran.err
    assert "1/2" in ran.out and "2/2" in ran.out and "50%" in ran.out
    assert "FAIL small case 2: is not 'Rome', got 'Paris'" in ran.err
    assert Path("plot.svg").read_text().startswith("<svg")
    assert headrace("eval", cases, "-m", "small", "-q").err == ""


def test_json_and_the_gate(headrace: Headrace, cases: str) -> None:
    """One document; --at-least makes it a test."""
    ran = headrace("eval", cases, "-m", "small", "-m", "large", "--json", "--at-least", "0.9")
    assert ran.code == 1
    assert [(score["route"], score["share"]) for score in ran.json["scores"]] == [
        ("small", 0.5),
        ("large", 1.0),
    ]
    assert len(ran.json["answers"]) == 4
    assert headrace("eval", cases, "-m", "large", "--at-least", "0.9").code == 0


def test_what_cannot_be_compared(headrace: Headrace, cases: str) -> None:
    """No model, no cases, a judge that is missing."""
    assert "no model" in headrace("eval", cases).err
    assert headrace("eval", "none.jsonl", "-m", "small").code == 2
    Path("judged.jsonl").write_text('{"prompt": "?", "judge": "kind"}')
    ran = headrace("eval", "judged.jsonl", "-m", "small")
    assert ran.code == 2 and "--judge" in ran.err
