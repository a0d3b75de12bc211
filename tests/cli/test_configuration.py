"""`headrace check` and `headrace stack`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.engine import LAYERS

GOOD = """
[providers.openai]
[providers.vllm]
[routes.smart]
deadline = "45s"
cascade = [{ target = "openai/gpt-5", attempts = 2 }, "anthropic/claude-sonnet-4-5"]
[keys.dev]
value = "canary-client-key"
[gateway]
port = 4100
admin_key = "canary-admin-key"
"""


def test_good_settings_are_summed_up(
    headrace: Any, write: Callable[[str], Path], environ: dict[str, str]
) -> None:
    """Providers with where their key is from, routes with their cascade, and no secret anywhere."""
    path = write(GOOD)
    environ["OPENAI_API_KEY"] = "canary-provider-key"
    ran = headrace("check")
    assert ran.code == 0
    assert str(path) in ran.out
    assert "yes, OPENAI_API_KEY" in ran.out
    assert "no: set ANTHROPIC_API_KEY" in ran.out
    assert "none needed" in ran.out
    assert "openai/gpt-5 (x2), then anthropic/claude-sonnet-4-5" in ran.out
    assert "127.0.0.1:4100, with an admin key" in ran.out
    assert "canary" not in ran.out + ran.err + headrace("check", "--json").out


def test_good_settings_as_json(headrace: Any, write: Callable[[str], Path], environ: dict[str, str]) -> None:
    """The same as one document."""
    write(GOOD)
    environ["OPENAI_API_KEY"] = "k"
    found = headrace("check", "--json").json
    assert found["ok"] is True
    assert [(p["name"], p["key"], p["usable"]) for p in found["providers"]] == [
        ("openai", True, True),
        ("vllm", False, True),
        ("anthropic", False, False),
    ]
    (route,) = found["routes"]
    assert route["cascade"][0] == {"target": "openai/gpt-5", "attempts": 2}
    assert (route["deadline_s"], found["default_route"]) == (45.0, "smart")
    assert found["gateway"] == {"host": "127.0.0.1", "port": 4100, "workers": 1, "admin_key": True}


def test_every_problem_is_shown(headrace: Any, write: Callable[[str], Path]) -> None:
    """A table with line, setting, reason and fix on standard output; one line on standard error; exit code 2."""
    write('[providers.opnai]\n[routes.x]\ndeadline = "soon"\ncascade = ["openai/gpt-5"]\n')
    ran = headrace("check")
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert "2 problems" in ran.err
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["1", "providers.opnai"] in [row[:2] for row in rows]
    assert ["3", "routes.x.deadline", "=", '"soon"'] in [row[:4] for row in rows]
    assert 'Did you mean "openai"?' in ran.out


def test_problems_as_json(headrace: Any, write: Callable[[str], Path]) -> None:
    """One error document with every problem in it."""
    write('[routes.x]\ncascade = ["openai/gpt-5"]\nretry = 5\n')
    ran = headrace("check", "--json")
    assert (ran.code, ran.err) == (2, "")
    error = ran.json["error"]
    assert error["kind"] == "config_error"
    (problem,) = error["problems"]
    assert (problem["line"], problem["key"]) == (3, "routes.x.retry")
    assert "not supported yet" in problem["message"]


def test_a_file_that_is_not_there(headrace: Any) -> None:
    """Told in words rather than as a table with empty columns."""
    ran = headrace("check", "--config", "nowhere.toml")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot read" in ran.err
    assert "nowhere.toml" in ran.err


def test_without_a_file_the_environment_is_summed_up(headrace: Any, environ: dict[str, str]) -> None:
    """The providers whose keys are there; without any, the embedded model is the default."""
    assert "default: default (local/default)" in headrace("check").out
    environ["GROQ_API_KEY"] = "k"
    ran = headrace("check")
    assert "yes, GROQ_API_KEY" in ran.out
    assert "default:" not in ran.out


def test_the_stack_is_printed_in_order(headrace: Any) -> None:
    """Every layer with its reason, outermost first, in both forms."""
    names = [layer["name"] for layer in headrace("stack", "--json").json["layers"]]
    assert names == [layer.name for layer in LAYERS]
    ran = headrace("stack")
    assert ran.code == 0
    positions = [ran.out.index(f"\n{layer.name} ") for layer in LAYERS]
    assert positions == sorted(positions)
    assert all(layer.reason in ran.out for layer in LAYERS)
