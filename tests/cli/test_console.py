"""Tables on a terminal of 80 columns."""

from __future__ import annotations

import io
import re
import sys

import pytest

from headrace.cli.console import Console


class Terminal(io.StringIO):
    """What is written to it, as a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, columns: list[str], rows: list[list[str]]) -> list[str]:
    made = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", made)
        Console().table(columns, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", made.getvalue()).splitlines()


def test_long_cells_are_broken_and_short_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wider than the terminal, no word of a short column is cut, and what nobody filled is not drawn."""
    reason = "because of this and that, which takes more than one line on a terminal of eighty columns"
    rows = [["qwen2.5-coder", "", reason, "12,345"]] * 2
    lines = drawn(monkeypatch, ["name", "empty", "why", "tokens"], rows)
    assert max(map(len, lines)) <= 80
    assert "empty" not in lines[0] and lines[0].split() == ["name", "why", "tokens"]
    assert lines[2].startswith("qwen2.5-coder ") and lines[2].rstrip().endswith("12,345")


def test_no_rows_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads above nothing tell nothing."""
    assert drawn(monkeypatch, ["name", "why"], []) == []
