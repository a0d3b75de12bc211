"""Finding by words, choosing what fits, and pieces of documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.content import user
from headrace.context import Library, Log
from headrace.context.documents import PIECE_CHARS, pieces
from headrace.context.recall import Hit, Index, choose
from headrace.context.stem import stem, terms
from headrace.context.summarize import FOLD, SEGMENT_FACTS, Fact, Segment, fold, segment
from headrace.errors import ConfigError

PORTER = """caresses caress ponies poni ties ti cats cat feed feed agreed agre plastered plaster motoring motor sing sing conflated conflat
troubled troubl sized size hopping hop falling fall hissing hiss filing file happy happi sky sky relational relat conditional condit
rational ration valenci valenc digitizer digit operator oper feudalism feudal decisiveness decis hopefulness hope formaliti formal
sensibiliti sensibl triplicate triplic formative form formalize formal electrical electr hopeful hope goodness good revival reviv
allowance allow inference infer airliner airlin adjustable adjust replacement replac adjustment adjust dependent depend adoption adopt
communism commun activate activ angulariti angular effective effect probate probat rate rate cease ceas controll control roll roll"""


def test_stems_are_porter_s() -> None:
    """The examples of the paper (M. F. Porter, 1980), as its reference program stems them."""
    words = PORTER.split()
    assert [stem(word) for word in words[::2]] == words[1::2]


def test_terms_of_other_scripts() -> None:
    """Scripts without spaces are indexed as pairs, other letters as words; function words are left out."""
    assert terms("The früher flights, 東京都!") == ["früher", "flight", "東京", "京都"]


def test_an_answer_is_found_by_the_words_of_its_question() -> None:
    """A turn that shares no word with the query is found by the turn before it, or behind it."""
    index = Index()
    said = [
        "Which hotel do you like?",
        "The Savoy.",
        "Lovely weather today.",
        "Indeed, sunshine.",
        "Shall we eat pasta?",
    ]
    for number, text in enumerate(said):
        index.add(number, text)
    hits = [hit.turn for hit in index.search("hotel")]
    assert hits[:2] == [0, 1] and 4 not in hits


def test_choosing_prices_headers_and_puts_the_best_last() -> None:
    """Neighbours share a header; the best passage stands last, the second best first; nothing is over the room."""
    hits = [Hit(10, 3.0), Hit(20, 2.0), Hit(11, 1.5), Hit(5, 1.0), Hit(30, 0.5)]
    passages = choose(hits, 1000, lambda turn, left: 10, lambda turn: 4)
    assert [passage.turns for passage in passages] == [(20,), (5,), (30,), (10, 11)]
    small = choose(hits, 38, lambda turn, left: 10, lambda turn: 4)
    assert sorted(turn for passage in small for turn in passage.turns) == [10, 11, 20]


def test_documents_are_cut_at_paragraphs_and_quoted_by_question(tmp_path: Path) -> None:
    """The piece that answers is quoted under its heading; what does not fit is not."""
    text = (
        "# Returns\n\nGoods may be sent back within 30 days.\n\n# Shipping\n\nParcels leave on Monday.\n\n"
        + "x " * 2000
    )
    (tmp_path / "shop.md").write_text(text)
    library = Library.read([str(tmp_path / "shop.md")])
    assert all(len(piece.text) <= PIECE_CHARS + 2 for piece in pieces("shop.md", text))
    quoted, names = library.quote("When do parcels leave?", 200, lambda text: len(text) // 4)
    assert "(shop.md#1: Shipping)" in quoted and "Parcels leave on Monday." in quoted
    assert names[0][0] == "shop.md#1" and quoted.index("Parcels") > quoted.find("30 days")
    assert library.quote("When do parcels leave?", 5, lambda text: len(text) // 4) == ("", [])


def test_a_document_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is not text are errors of the configuration."""
    (tmp_path / "bad").write_bytes(b"\xff\xfe\xff")
    for name in ("missing", "bad"):
        with pytest.raises(ConfigError, match=name):
            Library.read([str(tmp_path / name)])


def test_segments_fold_in_fours() -> None:
    """Sixteen segments become one of level 2 that covers all of them; no fact is made longer or of another turn."""

    log = Log.of([user(f"I decided for case{n}, never forget it.") for n in range(FOLD**2)])
    kept: tuple[Segment, ...] = ()
    for turn in log.turns:
        kept = fold((*kept, segment([turn])))
    (only,) = kept
    assert (only.level, only.first, only.last) == (2, 0, FOLD**2 - 1)
    assert {fact.turn for fact in only.facts} == set(range(FOLD**2))


@pytest.mark.parametrize(
    "facts",
    [
        [],
        [Fact("said", 99, "x")],
        [Fact("said", 0, "")],
        [Fact("said", 0, "x" * 5000)],
        [Fact("said", 0, "x")] * (SEGMENT_FACTS + 1),
    ],
    ids=["nothing", "another turn", "empty", "too long", "too many"],
)
def test_a_summariser_that_errs_is_not_believed(facts: list[Fact]) -> None:
    """Whatever it gives that cannot be right, the extractive facts stand; also where it raises."""

    turns = Log.of([user("Never book before noon.")]).turns

    def fails(turns: object) -> list[Fact]:
        raise RuntimeError("Error generating summary")

    expected = segment(turns)
    assert segment(turns, lambda _: facts, made_by="model") == expected
    assert segment(turns, fails, made_by="model") == expected
    good = segment(turns, lambda _: [Fact("goal", 0, "noon")], made_by="model")
    assert (good.made_by, good.facts) == ("model", (Fact("goal", 0, "noon"),))
