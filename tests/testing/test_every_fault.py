"""Every fault in every dialect, embeddings too, whole and streamed: what the fake provider does is what the stack understands."""

from __future__ import annotations

import pytest

import headrace
from headrace.testing import (
    Answer,
    BadChunk,
    BadKey,
    Bomb,
    CleanCut,
    CutJson,
    CutStream,
    Doubled,
    Empty,
    ErrorEvent,
    ErrorIn200,
    Fault,
    Filtered,
    Garbage,
    Headless,
    Html,
    Huge,
    HugeHeader,
    Interim,
    LengthAndChunks,
    ManyHeaders,
    NoSuchModel,
    Overloaded,
    QuotaGone,
    RateLimited,
    Raw,
    Redirect,
    Refuse,
    Reordered,
    Reset,
    ServerError,
    Silence,
    SlowDrip,
    Stall,
    Status,
    TooLong,
    TwoLengths,
    Unfinished,
    Unterminated,
    UntilClose,
    WrongCharset,
    WrongLength,
    faults,
)

LONG = Answer("one two three four five")

FAULTS: list[Fault] = [
    Refuse(),
    Silence(),
    Status(418),
    RateLimited(retry_after=1),
    Overloaded(),
    ServerError(),
    QuotaGone(),
    BadKey(),
    NoSuchModel(),
    TooLong(),
    Filtered(),
    Reset(2, LONG),
    CutStream(2, LONG),
    CleanCut(2, LONG),
    Stall(2, answer=LONG),
    SlowDrip(answer=LONG),
    Garbage(2, LONG),
    BadChunk(2, LONG),
    ErrorEvent(2, answer=LONG),
    ErrorIn200(),
    CutJson(),
    WrongLength(answer=LONG),
    Html(),
    Empty(),
    HugeHeader(),
    Raw(b"no HTTP at all\r\n\r\n"),
    Bomb(),
    Doubled(2, LONG),
    Headless(LONG),
    Huge(70_000_000),
    Interim(),
    LengthAndChunks(),
    ManyHeaders(),
    Redirect(),
    Reordered(2, LONG),
    TwoLengths(),
    Unfinished(0, LONG),
    Unterminated(LONG),
    UntilClose(answer=LONG),
    WrongCharset(2, LONG),
]


def is_whole(fault: Fault, model: str, how: str) -> bool:
    """Whether the answer is a right one all the same: slow, or wrong in something that does not matter there."""
    match fault:
        case SlowDrip() | UntilClose() | Unterminated():
            return True
        case WrongLength() | Doubled():
            return how == "streamed"
        case Headless():
            return how != "streamed" or model == "openai/m"
        case Reordered():
            return True
        case WrongCharset():
            return how == "vectors"
        case _:
            return False


def test_the_list_is_whole() -> None:
    """A fault that is added to the kit is tried here."""
    known = {
        kind
        for kind in vars(faults).values()
        if isinstance(kind, type) and issubclass(kind, Fault) and not kind.__name__.startswith("_")
    }
    assert {type(fault) for fault in FAULTS} == known - {Fault}


@pytest.mark.parametrize(
    ("model", "how"),
    [
        *((model, how) for model in ("openai/m", "anthropic/m") for how in ("whole", "streamed")),
        ("openai/m", "vectors"),  # Anthropic has none
    ],
)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_is_an_error_and_never_an_answer(fault: Fault, model: str, how: str) -> None:
    """Typed and within the deadline, with the fault among the attempts; after it the provider answers well."""
    with headrace.fake("fine") as llm:

        def ask() -> object:
            if how == "vectors":
                return llm.embed([(model, 1)], ["a", "b"], timeout=30).vectors
            if how == "whole":
                return llm.chat([(model, 1)], "hi", timeout=30).text
            with llm.stream([(model, 1)], "hi", timeout=30) as stream:
                return "".join(stream)

        llm.provider.fault(fault)
        if is_whole(fault, model, how):
            assert ask() == LONG.text or how == "vectors"
        else:
            with pytest.raises(headrace.HeadraceError) as caught:
                ask()
            assert caught.value.kind != "internal"
        assert llm.clock.now() <= 30
        llm.clock.advance(3600)  # an account without money is left alone for a while
        assert ask()
