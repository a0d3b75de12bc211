"""`headrace batch`: rows from a file, results to a file, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Headrace

from headrace.testing import Answer, FakeProvider, Status

SETTINGS = """
[providers.fake]
dialect = "openai-chat"
base_url = "{}"
[routes.default]
cascade = ["fake/m"]
[prices."fake/m"]
input_usd_per_mtok = "1"
output_usd_per_mtok = "2"
"""


@pytest.fixture
def rows(folder: Path, provider: FakeProvider, write: Callable[[str], Path]) -> Path:
    """Three rows, and settings with one default route."""
    write(SETTINGS.format(provider.base_url))
    path = folder / "rows.jsonl"
    path.write_text('{"id": "a", "x": 1}\n{"id": "b", "x": 2}\n{"id": "c", "x": 3}\n')
    return path


def lines(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_rows_go_in_and_results_come_out(headrace: Headrace, rows: Path, provider: FakeProvider) -> None:
    """Each row has a line with its id; a second time nothing is asked; progress and totals are on standard error."""
    provider.default = lambda request: Answer(f"<{request.text}>", usage=(10, 5))
    ran = headrace("batch", str(rows), "-o", "out.jsonl", "-p", "Row {x}")
    assert ran.code == 0 and ran.out == ""
    assert {line["id"]: line["text"] for line in lines("out.jsonl")} == {
        "a": "<Row 1>",
        "b": "<Row 2>",
        "c": "<Row 3>",
    }
    assert "3/3" in ran.err and "3 answered, 0 failed, $0.00006" in ran.err
    assert headrace("batch", str(rows), "-o", "out.jsonl", "-p", "Row {x}").code == 0
    assert len(provider.requests) == 3
    ran = headrace("batch", str(rows), "-o", "out.jsonl", "-p", "Other {x}")
    assert ran.code == 2 and "have changed" in ran.err


def test_failures_are_told_and_retried(headrace: Headrace, rows: Path, provider: FakeProvider) -> None:
    """Exit code 1 and the reasons; --retry-failed asks only them; --json is one document."""
    provider.script(Status(400, message="no"))
    options = ("batch", str(rows), "-o", "out.jsonl", "-p", "Row {x}", "--concurrency", "1")
    ran = headrace(*options)
    assert ran.code == 1 and "1 invalid_request" in ran.err and "--retry-failed" in ran.err
    assert headrace(*options).code == 1 and len(provider.requests) == 3
    ran = headrace(*options, "--retry-failed", "--json")
    assert ran.code == 0 and len(provider.requests) == 4
    assert (ran.json["ok"], ran.json["failed"], ran.json["total"], ran.json["stopped"]) == (3, 0, 3, None)


def test_a_schema_and_own_prompts(
    headrace: Headrace, rows: Path, folder: Path, provider: FakeProvider
) -> None:
    """With --schema a line has the value; without --prompt a row brings its own prompt or messages."""
    (folder / "schema.json").write_text('{"type": "object", "properties": {"n": {"type": "integer"}}}')
    provider.default = Answer('```json\n{"n": 1}\n```')
    assert headrace("batch", str(rows), "-o", "out.jsonl", "-p", "{x}", "--schema", "schema.json").code == 0
    assert [line["value"] for line in lines("out.jsonl")] == [{"n": 1}] * 3
    (folder / "own.jsonl").write_text(
        '{"prompt": "hi"}\n{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}\n{"x": 1}\n'
    )
    provider.default = lambda request: Answer(request.text)
    assert headrace("batch", "own.jsonl", "-o", "own.out.jsonl").code == 1
    assert sorted(str(line.get("text", line.get("reason"))) for line in lines("own.out.jsonl")) == [
        "hi",
        "invalid_request",
        "u",
    ]


def test_a_prompt_file_names_the_model(
    headrace: Headrace, rows: Path, folder: Path, provider: FakeProvider
) -> None:
    """Members that the prompt does not declare are left out."""
    (folder / "p.prompt").write_text(
        "---\nmodel: fake/other\ninput:\n  schema:\n    x: integer\n---\nRow {{ x }}"
    )
    assert headrace("batch", str(rows), "-o", "out.jsonl", "-p", "p.prompt").code == 0
    assert {request.model for request in provider.requests} == {"other"}
    assert {request.text for request in provider.requests} == {"Row 1", "Row 2", "Row 3"}


def test_a_dry_run_asks_nothing(headrace: Headrace, rows: Path, provider: FakeProvider) -> None:
    """Rows, tokens and the most that it can cost."""
    ran = headrace("batch", str(rows), "-o", "out.jsonl", "-p", "Row {x}", "--max-tokens", "10", "--dry-run")
    assert ran.code == 0 and ran.out.startswith("3 rows, about ") and "at most $0.000" in ran.out
    assert not provider.requests and not Path("out.jsonl").exists()


def test_what_cannot_be_run(headrace: Headrace, rows: Path, write: Callable[[str], Path]) -> None:
    """A file that is not there, a schema that is none, and no model are told with exit code 2."""
    assert "there is no file" in headrace("batch", "none.jsonl", "-o", "out.jsonl", "-p", "x").err
    assert headrace("batch", str(rows), "-o", "out.jsonl", "--schema", str(rows)).code == 2
    write('[routes.a]\ncascade = ["local/x"]\n[routes.b]\ncascade = ["local/x"]\n')
    ran = headrace("batch", str(rows), "-o", "out.jsonl", "-p", "x")
    assert ran.code == 2 and "no model" in ran.err
