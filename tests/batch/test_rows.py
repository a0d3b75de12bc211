"""Rows and what they ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace
from headrace.batch.rows import Rows, digest, template


def test_rows_of_every_kind(tmp_path: Path) -> None:
    """Texts and mappings, JSON Lines, CSV and lines of text; each can be read again, and says how many there are."""
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n"two"\n')
    (tmp_path / "a.csv").write_text('name,age\nAnn,"4, or 5"\n')
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    for rows, expected in (
        (Rows(["x", {"n": 1}]), [{"text": "x"}, {"n": 1}]),
        (Rows(tmp_path / "a.jsonl"), [{"n": 1}, {"text": "two"}]),
        (Rows(str(tmp_path / "a.csv")), [{"name": "Ann", "age": "4, or 5"}]),
        (Rows(tmp_path / "a.txt"), [{"text": "one"}, {"text": "two"}]),
    ):
        assert list(rows) == list(rows) == expected
        assert rows.total == len(expected) and rows.again
    once = Rows(iter(["x"]))
    assert once.total is None and list(once) == [{"text": "x"}] and not once.again


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.jsonl", '{"n": 1}\n{', "line 2 is not JSON"),
        ("a.jsonl", "3\n", "no JSON object"),
        ("a.xml", "", "not '.*a.xml'"),
        ("none.jsonl", None, "there is no file"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, name: str, text: str | None, why: str) -> None:
    """A file that cannot be read is told with its place."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(headrace.InvalidRequest, match=why):
        list(Rows(tmp_path / name))
    with pytest.raises(headrace.InvalidRequest, match="row 1 is a int"):
        list(Rows(["a", 3]))


@given(st.dictionaries(st.from_regex(r"\A[a-z_]{1,5}\Z"), st.text(), min_size=1))
def test_a_template_puts_values_in_and_reads_nothing_from_them(row: dict[str, str]) -> None:
    """Braces in a value stay what they are; doubled ones in the template are braces."""
    text = "{{x}} " + " ".join(f"<{{{name}}}>" for name in row)
    assert template(text)(row) == "{x} " + " ".join(f"<{value}>" for value in row.values())


def test_a_template_names_what_is_missing() -> None:
    """Only plain names are looked up: no attribute of a value can be reached."""
    with pytest.raises(headrace.InvalidRequest, match=r"needs 'b'; the row has 'a'"):
        template("{b}")({"a": 1})
    assert template("{a.__class__}")({"a": 1}) == "{a.__class__}"


def test_a_digest_is_of_what_is_asked() -> None:
    """The order of members does not matter; a value, or the job, does."""
    assert digest("j", {"a": 1, "b": 2}) == digest("j", {"b": 2, "a": 1})
    assert len({digest("j", {"a": 1}), digest("j", {"a": 2}), digest("k", {"a": 1})}) == 3
