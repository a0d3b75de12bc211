"""The benchmark of the guards counts right, and its labelled texts keep what was reached."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headrace.guards import KINDS


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "guards.py"
    spec = importlib.util.spec_from_file_location("guards_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guards = _load()


def test_labels_are_read() -> None:
    """Marks are cut out, spans are those of the values, secrets are made up alike each time."""
    texts = list(guards.labelled("tuned"))
    assert texts == list(guards.labelled("tuned"))
    assert not any("«" in text for text, _ in texts)
    assert "ann.smith@example.com" in [text[start:end] for text, values in texts for _, start, end in values]
    assert any(values == [] for _, values in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_what_was_reached(kind: str) -> None:
    """On the texts that the finders were tuned on, and with less on those that were held out."""
    tuned, held_out = guards.judge("tuned")[kind], guards.judge("held_out")[kind]
    assert tuned.figures()["precision"] >= 0.97 and tuned.figures()["recall"] >= 0.97, tuned.missed
    assert held_out.figures()["precision"] >= 0.8 and held_out.figures()["recall"] >= 0.9


def test_injections_keep_what_was_reached() -> None:
    """The same for text that speaks to the model."""
    scores = guards.judge_injections()
    assert scores["tuned"].figures()["precision"] >= 0.97 and scores["tuned"].figures()["recall"] >= 0.97
    assert scores["held_out"].figures()["precision"] >= 0.9 and scores["held_out"].figures()["recall"] >= 0.7


def test_what_is_found_in_part_is_wrong() -> None:
    """A value that was missed by a character counts as missed, and what was found of it as wrong."""
    score = guards.Score(right=3, missed=["a"], wrong=["b", "c"])
    assert score.figures() == {"values": 4, "found": 5, "precision": 0.6, "recall": 0.75}
    assert guards.Score().figures() == {"values": 0, "found": 0, "precision": None, "recall": None}


def test_no_cut_of_a_stream_hides_a_placeholder() -> None:
    """Through a gateway, in every pair of dialects: the short version of `--splits`."""
    rows = guards.splits(step=9)
    assert len(rows) == 4 and all(row["streams"] > 90 for row in rows)
    assert all((row["wrong"], row["left"]) == (0, 0) for row in rows), rows
