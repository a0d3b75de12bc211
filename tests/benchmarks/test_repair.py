"""The corpus of broken structured outputs: the shares that are promised of each class, and no value that changes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.output import judge, shape_of


def _load() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "repair.py"
    spec = importlib.util.spec_from_file_location("repair", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["repair"] = module
    spec.loader.exec_module(module)
    return module


repair: Any = _load()


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """The measurement over 40 answers of each of the eight classes."""
    return {row.kind: row for row in repair.measure(40, 0.2)}


def test_the_corpus_is_large_and_partly_recorded(rows: dict[str, Any]) -> None:
    """At least 300 broken answers in eight classes, some of them made from what models really said."""
    assert sum(row.answers for row in rows.values()) >= 300 and len(rows) == 8
    assert len(repair.recorded()) >= 10


def test_what_needs_no_guess_is_valid_locally(rows: dict[str, Any]) -> None:
    """At least 90 % of the answers with fences, words around them, commas, quotes and comments."""
    for kind in repair.LOCAL:
        assert rows[kind].local >= 0.9 * rows[kind].answers, kind
        assert rows[kind].requests <= 1.1 * rows[kind].answers, kind


def test_every_class_is_valid_after_the_ladder(rows: dict[str, Any]) -> None:
    """At least 95 %, where a model that is asked again fails one time in five."""
    for kind, row in rows.items():
        assert row.ladder >= 0.95 * row.answers, kind


def test_no_value_is_changed_or_guessed(rows: dict[str, Any]) -> None:
    """Nothing comes out that was not meant, and nothing that is cut or ambiguous is repaired locally."""
    assert [row.changed for row in rows.values()] == [0] * 8
    assert [rows[kind].local for kind in repair.GUESS] == [0, 0, 0]


def test_the_classes_are_broken() -> None:
    """What the corpus calls broken is no JSON, or not valid, so that the shares mean something."""
    import json
    import random

    pick = random.Random(1)
    for value in repair.recorded():
        for kind in (*repair.LOCAL, *repair.GUESS):
            if kind == "comments":
                continue  # now and then none is put in
            meant, text = repair.broken(value, kind, pick)
            shape: Any = shape_of(repair.schema_of(meant))
            try:
                shape.decode(text)
            except ValueError:
                continue
            raise AssertionError(f"{kind}: {text}")
        assert judge(json.dumps(value), shape_of(repair.schema_of(value))).value == value
