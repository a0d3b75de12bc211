"""`headrace explain`: a plan of a request, and nothing sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.cli.explain import explain
from headrace.errors import ContextTooLong


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A long request, and settings with a route for it."""
    said = [
        {
            "role": "user" if n % 2 == 0 else "assistant",
            "content": f"Turn {n} is about subject{n}, decided for case{n}.",
        }
        for n in range(80)
    ]
    said.append({"role": "user", "content": "What was decided for case8?"})
    request, settings = tmp_path / "request.json", tmp_path / "headrace.toml"
    request.write_text(json.dumps({"model": "long", "messages": said}))
    settings.write_text(
        '[providers.here]\ndialect = "openai-chat"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[routes.long]\ncascade = ["here/m"]\n[routes.long.context]\nbudget = 1800\n'
    )
    return request, settings


def test_every_turn_is_shown_with_its_reason(files: tuple[Path, Path]) -> None:
    """The table has a row a turn, among them those that were recalled; the count and the limit stand below."""
    request, settings = files
    ran = CliRunner().invoke(explain, [str(request), "--config", str(settings)])
    assert ran.exit_code == 0, ran.output
    rows = [
        line
        for line in ran.output.splitlines()
        if (line[:1].isdigit() and " user " in line) or " assistant " in line
    ]
    assert len(rows) == 81
    assert any("recalled" in row and "matches what the user asks" in row for row in rows)
    assert "the newest request" in rows[-1] or "recalled before it" in rows[-1]
    assert "the limit is 1800" in ran.output


def test_json_is_the_plan(files: tuple[Path, Path]) -> None:
    """`--json` gives all of the plan, and `--budget` replaces the route's."""
    request, settings = files
    ran = CliRunner().invoke(explain, [str(request), "--config", str(settings), "--json", "--budget", "1500"])
    plan = json.loads(ran.output)
    assert (plan["limit"], len(plan["turns"])) == (1500, 81)
    assert plan["tokens"] <= 1500 and plan["period"]["cut"] > 0


def test_a_request_that_does_not_fit_says_so(files: tuple[Path, Path]) -> None:
    """A newest turn over the budget is the same error as when it is sent."""
    request, settings = files
    request.write_text(
        json.dumps({"model": "long", "messages": [{"role": "user", "content": "many words " * 900}]})
    )
    ran = CliRunner().invoke(explain, [str(request), "--config", str(settings)])
    assert isinstance(ran.exception, ContextTooLong)


def test_an_anthropic_body_is_known_by_its_looks(files: tuple[Path, Path]) -> None:
    """A system prompt beside the messages, or a tool's blocks, need no option."""
    request, settings = files
    said = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "here"}]},
    ]
    for members in ({}, {"system": "Be brief."}):
        request.write_text(json.dumps({"model": "long", "max_tokens": 9, "messages": said} | members))
        ran = CliRunner().invoke(explain, [str(request), "--config", str(settings), "--json"])
        assert [turn["role"] for turn in json.loads(ran.output)["turns"]] == ["user", "assistant", "tool"]
