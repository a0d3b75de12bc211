"""The journal: what it keeps over a kill at any byte, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headrace
from headrace.batch.journal import Journal, Line


def line(row: int, *, ok: bool = True, text: str = "x", cost: int | None = 1) -> Line:
    return Line(
        row=row,
        ok=ok,
        input=f"{row:016x}",
        text=text if ok else None,
        reason=None if ok else "timeout",
        cost_nano=cost,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.text(max_size=6)), max_size=12), st.data())
def test_a_kill_at_any_byte_loses_at_most_the_last_line(
    tmp_path: Path, rows: list[tuple[int, bool, str]], data: st.DataObject
) -> None:
    """What is whole is there again, the half line is gone, and the counts are those of the last line of each row."""
    path = tmp_path / "j.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for number, ok, text in rows:
        journal.write(line(number, ok=ok, text=text))
    counts = journal.ok, journal.failed, journal.cost
    journal.close()
    whole = path.read_bytes()
    again = Journal(path)
    assert (again.ok, again.failed, again.cost) == counts
    assert again.failed == sum(again.reasons.values())
    again.close()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    path.write_bytes(cut)
    left = Journal(path)
    kept = cut[: cut.rfind(b"\n") + 1]
    assert path.read_bytes() == kept
    last = {one.row: one for one in map(msgspec.json.Decoder(Line).decode, kept.splitlines())}
    assert {row: left[row].text for row in left.rows() if left.has(row)} == {
        r: o.text for r, o in last.items()
    }
    left.write(line(3, text="more"))
    assert left[3].text == "more" and left.has(3)
    left.close()


def test_it_reads_as_it_was_written(tmp_path: Path) -> None:
    """A value's JSON keeps its own characters; what is not there is not written."""
    with_value = Line(row=0, ok=True, input="0" * 16, value=msgspec.Raw(b'{"n":1.10}'))
    journal = Journal(tmp_path / "j.jsonl")
    journal.write(with_value)
    assert bytes(journal[0].value) == b'{"n":1.10}'
    journal.close()
    assert (
        tmp_path / "j.jsonl"
    ).read_text() == '{"row":0,"ok":true,"input":"0000000000000000","value":{"n":1.10}}\n'
    with pytest.raises(KeyError):
        _ = Journal()[0]


def test_a_row_that_changed_is_refused(tmp_path: Path) -> None:
    """The answer to another question is not taken for this one's."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.write(line(0))
    assert journal.done(0, f"{0:016x}", failed_too=False) and not journal.done(
        1, f"{1:016x}", failed_too=False
    )
    with pytest.raises(headrace.InvalidRequest, match="row 0 is not what"):
        journal.done(0, f"{7:016x}", failed_too=False)
    journal.write(line(1, ok=False))
    assert journal.done(1, f"{1:016x}", failed_too=True) and not journal.done(
        1, f"{1:016x}", failed_too=False
    )
    journal.close()


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    """The second is told; what is no journal, and what cannot be written, too."""
    first = Journal(tmp_path / "j.jsonl")
    with pytest.raises(headrace.InvalidRequest, match="another run"):
        Journal(tmp_path / "j.jsonl")
    first.close()
    Journal(tmp_path / "j.jsonl").close()
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(headrace.InvalidRequest, match="line 1 is not of a batch"):
        Journal(tmp_path / "other.jsonl")
    assert (tmp_path / "other.jsonl").read_text() == '{"a": 1}\n'
    with pytest.raises(headrace.InvalidRequest, match="cannot be written"):
        Journal(tmp_path / "none" / "j.jsonl")
