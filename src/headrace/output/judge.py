"""Judges an answer by its shape: valid as it is, valid after repairs that guess nothing, or not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec

from headrace.output.narrow import without_nulls
from headrace.output.repair import Unrepairable, candidates
from headrace.output.schema import WRAPPER, Mismatch, Shape

__all__ = ["Judged", "judge"]

T = TypeVar("T")

_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(frozen=True, slots=True)
class Judged(Generic[T]):
    """A valid answer: its JSON text (the value's own, without a wrapper), the value, and what was repaired."""

    text: str
    value: T
    steps: tuple[str, ...]


def judge(text: str, shape: Shape[T], *, cut: bool = False) -> Judged[T]:
    """The value in `text`.

    Args:
        cut: The answer ended at the output limit: a number or a word at its very end may be a part of itself.

    Raises:
        Mismatch: There is no valid value, or more than one; the message is for the model that is asked again.
    """
    stripped = text.strip()
    if not stripped:
        raise Mismatch("the answer is empty")
    strict = _parsed(stripped)
    if strict is not _NOTHING:
        if cut and stripped[-1] not in '}]"':
            raise Mismatch("the answer was cut at the output limit: answer more briefly")
        return _fitting(stripped, shape, ())
    try:
        found = candidates(text)
    except Unrepairable as error:
        raise Mismatch(
            f"it was cut at the output limit: answer more briefly ({error})"
            if cut
            else f"it is not valid JSON: {error}"
        ) from None
    if cut and len(found) == 1 and found[0].text[-1] not in '}]"':
        raise Mismatch("the answer was cut at the output limit: answer more briefly")
    valid: list[Judged[T]] = []
    first: Mismatch | None = None
    for candidate in found:
        try:
            valid.append(_fitting(candidate.text, shape, candidate.steps))
        except Mismatch as error:
            first = first or error
    if not valid:
        assert first is not None
        raise first
    if any(_parsed(other.text) != _parsed(valid[0].text) for other in valid):
        raise Mismatch(f"it holds {len(valid)} different values: answer with one")
    return valid[0]


class _Nothing:
    pass


_NOTHING = _Nothing()


def _parsed(text: str) -> Any:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _NOTHING


def _fitting(text: str, shape: Shape[T], steps: tuple[str, ...]) -> Judged[T]:
    """`text`, strict JSON, as the shape's value; as it stands, or without what was only put around or into it for a provider."""
    inner, value = text, _parsed(text)
    if value is _NOTHING:
        raise Mismatch("it is not valid JSON, or nests too deeply")
    if shape.wrapped and isinstance(value, dict) and value.keys() == {WRAPPER}:
        inner = _raw_member(text)
        value = value[WRAPPER]
    try:
        return Judged(inner, shape.decode(inner), steps)
    except Mismatch as error:
        first = error
    thinned = without_nulls(value, shape.schema, shape.schema)
    if thinned != value:
        try:
            again = _encoder.encode(thinned).decode()
            return Judged(again, shape.decode(again), steps)
        except Mismatch:
            pass
    if isinstance(value, str) and _parsed(value) is not _NOTHING:
        try:
            return _fitting(value, shape, (*steps, "double encoding"))
        except Mismatch:
            pass
    raise first


def _raw_member(text: str) -> str:
    raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])[WRAPPER]
    return bytes(raw).decode()
