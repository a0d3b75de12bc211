"""Text, guards, verifier, shelf and file, each by itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from headrace.cache.encoder import Encoder
from headrace.cache.entry import Entry
from headrace.cache.guards import GUARDS, signature, veto
from headrace.cache.index import CELL_ROWS, PROBED, VectorSlab, pack
from headrace.cache.key import is_personal, is_volatile
from headrace.cache.match import is_elliptic
from headrace.cache.selection import Selection
from headrace.cache.shelf import Shelf
from headrace.cache.stores.sqlite import APPLICATION_ID, SQLiteEntries, beside, purge, read
from headrace.cache.text import canonical
from headrace.cache.verifier import FEATURES, Verifier, features


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The shipped one."""
    return Encoder.load()


def entry(name: str, *, size: int = 100, cost: int | None = 1000, tenant: str = "tenant:a") -> Entry:
    """An entry with a body of `size` bytes."""
    return Entry(
        id=name,
        scope=b"s" * 16,
        exact=name.encode().ljust(16),
        text=name,
        canonical=name,
        tenant=tenant,
        route="smart",
        target="a/one",
        created=0.0,
        expires=1e12,
        body=b"x" * size,
        cost=cost,
    )


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("What's a tort?", "what is a tort", True),
        ("Hi, could you please explain torts? Thanks!", "could you explain torts", True),
        ("I can't log in", "I cannot log in", True),
        ("flights to Boston", "flights from Boston", False),
        ("my card", "your card", False),
        ("What is 5 - 3?", "What is 5 + 3?", False),
        ("who are they", "WHO are they", True),
        ("what does the WHO say", "what does the who say", False),
        ("`A` or B", "`a` or B", False),
    ],
)
def test_canonical_text(a: str, b: str, same: bool) -> None:
    """Spelling is levelled, words are not."""
    assert (canonical(a) == canonical(b)) == same


@pytest.mark.parametrize(
    ("a", "b", "guard"),
    [
        ("what is order 1234", "what is order 1235", "numbers"),
        ("how much is two kg of rice", "how much is three kg of rice", "numbers"),
        ("how much is 90 kg in pounds", "how much is 90 kg in stone", "units"),
        ("what is 50 dollars worth", "what is 50 euros worth", "currency"),
        ("is it open on monday", "is it open on tuesday", "time"),
        ("hotels in paris", "hotels in rome", "places"),
        ("how do I open the old account", "how do I close the old account", "opposites"),
        ("should I eat before a run", "should I not eat before a run", "negation"),
        ("flights from boston to denver", "flights from denver to boston", "direction"),
        ("is he her boss", "is she his boss", "persons"),
        ("why is it late", "when is it late", "question word"),
        ("write it as a table for me", "write it as a poem for me", "form"),
        ("prune an apple tree well", "prune a cherry tree well", "substitution"),
        ("open /etc/hosts file", "open /etc/passwd file", "identifiers"),
    ],
)
def test_guards_veto_what_changes_the_answer(encoder: Encoder, a: str, b: str, guard: str) -> None:
    """Each pair differs in one thing, either way round."""
    first, second = signature(a, encoder.knows), signature(b, encoder.knows)
    verdicts = {veto(first, second), veto(second, first)}
    assert None not in verdicts, (a, b)
    assert verdicts <= set(GUARDS)
    assert guard in verdicts, verdicts
    assert veto(first, first) is None


def test_places_have_other_names(encoder: Encoder) -> None:
    """NYC is New York City."""
    first = signature("best hotels in NYC", encoder.knows)
    assert veto(first, signature("best hotels in New York City", encoder.knows)) is None


def test_more_likeness_never_lowers_the_probability(encoder: Encoder) -> None:
    """All weights speak for the pair, and features do not depend on who is first."""
    verifier = Verifier.load()
    low = [0.2] * len(FEATURES)
    for at in range(len(FEATURES)):
        high = [*low[:at], 0.9, *low[at + 1 :]]
        assert verifier.probability(high) >= verifier.probability(low)
    a = signature("how can I activate the new card", encoder.knows)
    b = signature("how do I activate my new card", encoder.knows)
    assert features(a, b, 0.9, encoder) == pytest.approx(features(b, a, 0.9, encoder))


def test_a_stricter_share_never_has_a_lower_threshold() -> None:
    """An unknown share takes the next stricter one; below all of them nothing is served."""
    verifier = Verifier([1.0] * len(FEATURES), 0.0, {0.02: 0.9, 0.05: 0.8}, "x")
    assert [verifier.tau(share) for share in (0.0, 0.01, 0.02, 0.03, 0.05, 0.5)] == [
        None,
        None,
        0.9,
        0.9,
        0.8,
        0.8,
    ]
    shipped = list(Verifier.load().thresholds.values())
    assert shipped == sorted(shipped, reverse=True)


def test_asks_that_are_personal_volatile_or_elliptic() -> None:
    """What only the asker may be told, what is soon out of date, what needs the turns before."""
    assert is_personal("where is my order")
    assert not is_personal("how do I activate my card")
    assert is_volatile("what is the weather like")
    assert not is_volatile("what is a tort")
    assert is_elliptic("and tomorrow?")
    assert not is_elliptic("how do I activate a new card")


def test_vectors_are_found_after_any_removal(encoder: Encoder) -> None:
    """The nearest of what is left, exactly."""
    slab = VectorSlab()
    texts = [
        f"how do I {verb} the {noun}"
        for verb in ("open", "sell", "paint")
        for noun in ("car", "door", "boat")
    ]
    for text in texts:
        slab.add(text, pack(encoder.encode(text)))
    for at, text in enumerate(texts):
        assert slab.nearest(encoder.encode(text), 1)[0][0] == text
        slab.remove(text)
        assert len(slab) == len(texts) - at - 1
        assert all(name != text for name, _ in slab.nearest(encoder.encode(text), 9))


def test_a_large_scope_is_searched_in_part() -> None:
    """Of 6,000 random clusters' rows the very one asked for is found, what was removed is not, and no row is lost by cutting cells."""
    chance = np.random.default_rng(7)
    centres = chance.normal(size=(60, 32))
    rows = np.repeat(centres, 100, axis=0) + 0.5 * chance.normal(size=(6_000, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    slab = VectorSlab()
    for number, row in enumerate(rows):
        slab.add(str(number), pack(row))
    assert len(slab) == 6_000 > PROBED
    asked = chance.permutation(6_000)[:300]
    found = sum(slab.nearest(rows[number], 1)[0][0] == str(number) for number in asked)
    assert found >= 295, found
    for number in asked:
        slab.remove(str(number))
        slab.remove(str(number))
    assert len(slab) == 5_700
    assert not {str(number) for number in asked} & {
        name for number in asked[:50] for name, _ in slab.nearest(rows[number], 8)
    }
    for number in range(6_000):
        slab.remove(str(number))
    assert len(slab) == 0 and slab.nearest(rows[0], 3) == []
    with pytest.raises(ValueError, match="8 members"):
        slab.add("x", b"\x01" * 8)


def test_equal_vectors_are_cut_too() -> None:
    """Two-means cannot part them; halves do."""
    slab = VectorSlab()
    for number in range(CELL_ROWS * 2 + 1):
        slab.add(str(number), b"\x40" * 8)
    assert len(slab) == CELL_ROWS * 2 + 1
    assert slab.nearest(np.full(8, 8**-0.5, dtype=np.float32), 1)[0][1] == pytest.approx(1.0)


def test_the_shelf_keeps_what_saves_most_a_byte() -> None:
    """Over its limit the entry that was never given out and cost little goes first; bytes are counted exactly."""
    gone: list[str] = []
    shelf = Shelf(10_000, evicted=lambda entries: gone.extend(entry.id for entry in entries))
    for number in range(4):
        shelf.put(entry(f"e{number}", size=1500, cost=1_000_000 if number == 0 else 1))
    kept = shelf.get("e1")
    assert kept is not None
    shelf.hit(kept)
    shelf.hit(kept)
    for number in range(4, 8):
        shelf.put(entry(f"e{number}", size=1500, cost=1))
    assert shelf.bytes <= 10_000
    assert shelf.bytes == sum(one.size for one in shelf)
    assert shelf.get("e0") is not None
    assert "e2" in gone
    shelf.put(entry("huge", size=20_000))
    assert shelf.get("huge") is None
    assert len(shelf.remove([one.id for one in shelf])) and shelf.bytes == 0


def test_entries_outlive_the_process(tmp_path: Path) -> None:
    """What was flushed is there again; what expired or was removed is not."""
    path = beside(tmp_path / "headrace.db")
    assert path.name == "headrace.cache.db"
    kept = SQLiteEntries(path)
    assert kept.load(0.0) == []
    for name in ("one", "two", "old"):
        kept.put(entry(name))
    kept.remove(["two"])
    expired = entry("expired")
    expired.expires = 5.0
    kept.put(expired)
    assert kept.flush()
    kept.close()
    again = SQLiteEntries(path)
    assert [one.id for one in again.load(10.0)] == ["one", "old"]
    again.close()


def test_a_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    """Its entries may mean something else."""
    path = tmp_path / "x.cache.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("CREATE TABLE entries (id TEXT)")
        connection.commit()
    kept = SQLiteEntries(path)
    assert kept.load(0.0) == []
    kept.put(entry("one"))
    kept.close()
    assert [one.id for one in read(path)] == ["one"]
    assert purge(path, Selection(prefix="ONE")) == 1
    assert read(path) == []


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    """A cache is begun anew where a ledger would have to be restored."""
    path = tmp_path / "x.cache.db"
    path.write_bytes(b"no database at all" * 100)
    kept = SQLiteEntries(path)
    assert kept.load(0.0) == []
    kept.close()
    assert (tmp_path / "x.cache.db.damaged").exists()
