"""Text, guards, verifier, shelf and file, each by itself."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from headrace.cache.agreement import agree, mark
from headrace.cache.audits import Audit
from headrace.cache.entry import Entry
from headrace.cache.guards import GUARDS, signature, veto
from headrace.cache.index import CELL_ROWS, PROBED, VectorSlab, pack
from headrace.cache.key import is_personal, is_volatile
from headrace.cache.match import is_elliptic
from headrace.cache.neighbourhood import side, standing
from headrace.cache.selection import Selection
from headrace.cache.shelf import Shelf
from headrace.cache.shift import Shift
from headrace.cache.spelling import mended
from headrace.cache.stores.sqlite import APPLICATION_ID, SQLiteEntries, beside, purge, read, read_audits
from headrace.cache.text import canonical
from headrace.cache.verifier import FEATURES, Verifier, features
from headrace.encoder import Encoder


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


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is the best way to renew a passport?", "How do I renew a passport?"),
        ("In order to renew a passport, what should you do?", "how can I renew a passport"),
        ("Good morning, could you please tell me how to renew a passport?", "How can I renew a passport?"),
        ("If you want to sell your car quickly, what should you do?", "How can I sell my car quickly?"),
        ("how do i clera the cahce of a browser", "How do I clear the cache of a browser?"),
        ("Is Amy related to Paul?", "Is Paul related to Amy?"),
        ("Who do critics think is the best painter?", "Who is the best painter according to critics?"),
    ],
)
def test_guards_let_other_wordings_through(encoder: Encoder, a: str, b: str) -> None:
    """Frames of a question, slips of the fingers, and who comes first where it says nothing."""
    assert veto(signature(a, encoder.knows), signature(b, encoder.knows)) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Is Madison Scott Jewish?", "Is Amy Nelson Jewish?"),
        ("can i use 87 octane in a car that requires 91", "can i use 91 octane in a car that requires 87"),
        ("how is ethanol turned into acid", "how is acid turned into ethanol"),
        ("Did Angela own the school?", "Was Angela owned by the school?"),
        ("Can someone borrow a book for me?", "How can someone borrow a book for me?"),
        ("turn off the light in the kitchen", "turn off the light in the bedroom"),
        ("How can you reach me?", "How can I reach you?"),
        ("You're not afraid, are you?", "You're afraid, aren't you?"),
        ("Do not all birds fly?", "Do all birds not fly?"),
    ],
)
def test_guards_see_who_and_in_which_order(encoder: Encoder, a: str, b: str) -> None:
    """The same words, or nearly, for another question."""
    assert veto(signature(a, encoder.knows), signature(b, encoder.knows)) is not None


def test_only_slips_that_lead_to_one_known_word_are_mended(encoder: Encoder) -> None:
    """A swapped, lost or doubled letter; never a word that is known, nor one letter for another."""
    for typed, meant in (
        ("clera", "clear"),
        ("cahce", "cache"),
        ("diference", "difference"),
        ("wwindow", "window"),
    ):
        assert mended(typed, encoder.knows) == meant
    for word in ("cache", "form", "zyxwv", "1235", "ab", "kubernetas"):
        assert mended(word, encoder.knows) == word


def test_agreeing_neighbours_speak_for_a_candidate(encoder: Encoder) -> None:
    """More that agree raise the probability, near others lower it, and features do not depend on who is first."""
    verifier = Verifier.load()
    a = signature("how can I activate the new card", encoder.knows)
    b = signature("how do I activate my new card", encoder.knows)

    def score(cosines: list[float], agrees: list[str]) -> float:
        return verifier.score(features(a, b, standing(cosines, agrees, 0), encoder))

    alone = score([0.85], ["x"])
    assert score([0.85, 0.84, 0.83], ["x", "x", "x"]) > alone > score([0.85, 0.84, 0.83], ["x", "y", "z"])
    around = standing([0.85, 0.84], ["x", "y"], 0)
    assert features(a, b, around, encoder) == pytest.approx(features(b, a, around, encoder))


def test_standing_counts_votes() -> None:
    """Shares are of all votes and of nobody's; the margin is to the nearest other answer and bounded."""
    found = standing([0.9, 0.8, 0.7], ["x", "y", "x"], 0)
    assert (found.cosine, found.voters) == (0.9, 2)
    assert found.margin == pytest.approx(0.1)
    votes = [math.exp((cosine - 1) / 0.2) for cosine in (0.9, 0.8, 0.7, 0.6)]
    assert found.share == pytest.approx((votes[0] + votes[2]) / sum(votes))
    assert standing([0.9, 0.2], ["x", "y"], 0).margin == standing([0.9], ["x"], 0).margin == 0.25
    assert standing([0.9, 0.8], ["x", "y"], 1).margin == pytest.approx(-0.1)


def test_a_new_answer_sides_with_most_that_agree() -> None:
    """The answer of most agreeing neighbours, the nearest's of equals; half of an answer's neighbours are not enough."""
    assert side(["x", "y", "y"], [True, True, True]) == "y"
    assert side(["x", "y"], [True, True]) == "x"
    assert side(["x", "y", "y", "y"], [True, False, True, False]) == "x"
    assert side(["y", "y"], [True, False]) is None
    assert side(["x", "y"], [False, False]) is None
    assert side([], []) is None


def test_the_shift_doubts_what_would_loosen() -> None:
    """Answers that differ more often than expected lower the odds at once; those that agree raise them late, and less; far ones teach nothing."""
    few, many, far = Shift(), Shift(), Shift()
    few.learn(2.0, False)
    assert few.value < 0
    few = Shift()
    for _ in range(3):
        few.learn(0.0, True)
    for _ in range(200):
        many.learn(0.0, True)
        far.learn(-3.0, False)
    assert few.value == far.value == 0.0
    assert 0.0 < many.value < 3.0
    mixed = Shift()
    for number in range(1_000):  # one in four is wrong where the verifier expects one in eight
        mixed.learn(2.0, number % 4 > 0)
    assert mixed.value == pytest.approx(math.log(3) - 2.0, abs=0.15)


def test_answers_agree_in_words_or_nearly(encoder: Encoder) -> None:
    """The same words agree, other numbers, places and negations do not, whatever their vectors say."""

    def same(a: str, b: str) -> bool:
        return agree(mark(a, encoder), mark(b, encoder), lambda: (a, b), encoder)

    assert same("Open the app, then tap Cards.", "open the app then tap cards")
    assert same("You can open the app and tap Cards.", "Open the app and tap Cards.")
    assert not same("It takes 3 days.", "It takes 5 days.")
    assert not same("The office is in Paris.", "The office is in Rome.")
    assert not same("You can travel with it.", "You cannot travel with it.")
    assert not same("Bananas are yellow.", "The meeting was moved.")


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
    quoted = "A long report. " * 500
    assert is_volatile(f"{quoted} What is new today?") and is_personal(f"Where is my order? {quoted}")
    assert not is_volatile(f"Sum this up. {quoted} It rained today. {quoted}")
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


def test_processes_that_share_a_file_follow_each_other(tmp_path: Path) -> None:
    """What another one wrote is there at a process's first request, and what comes or goes later soon after."""
    told: list[tuple[list[str], list[str]]] = []
    one, two = SQLiteEntries(tmp_path / "x.cache.db"), SQLiteEntries(tmp_path / "x.cache.db")
    one.load(0.0)
    two.load(0.0)
    two.follow(lambda new, gone, _: told.append(([entry.id for entry in new], gone)))

    async def main() -> None:
        one.put(entry("first"))
        assert one.flush() and two.flush()
        assert told == []
        two.on_loop()
        assert told == [(["first"], [])]
        one.put(entry("second"))
        one.remove(["first"])
        assert one.flush() and two.flush()
        await asyncio.sleep(0)  # noqa: TID251  (what the thread has called for runs now)
        await asyncio.sleep(0)  # noqa: TID251
        assert told[1:] == [(["second"], ["first"])]

    asyncio.run(main())
    one.close()
    two.close()


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


def test_audits_outlive_the_process_and_reach_the_others(tmp_path: Path) -> None:
    """Those of another worker are told once, one's own never; a new process begins with all."""
    path = tmp_path / "x.cache.db"
    heard: list[list[Audit]] = []
    one, two = SQLiteEntries(path), SQLiteEntries(path)
    one.load(0.0)
    two.load(0.0)
    one.follow(lambda new, gone, audits: heard.append([Audit("mine", b"", 0.0, True, 0.0)]))
    two.follow(lambda new, gone, audits: heard.append(audits))
    said = [Audit("faq", b"made", 0.98, right, 5.0) for right in (True, False)]

    async def main() -> None:
        for audit in said:
            one.audit(audit)
        assert one.flush() and two.flush()
        two.on_loop()
        one.on_loop()
        assert [audit for batch in heard for audit in batch] == said

    asyncio.run(main())
    one.close()
    two.close()
    three = SQLiteEntries(path)
    three.load(0.0)
    assert three.audits == said == read_audits(path)
    three.close()
