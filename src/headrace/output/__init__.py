"""Answers with a form: from a type or a JSON Schema to what is asked of a model, and back to a valid value. Pure."""

from __future__ import annotations

from headrace.output.ask import Means, Mode, modes, phrase
from headrace.output.judge import Judged, judge
from headrace.output.schema import Mismatch, Shape, shape_of

__all__ = ["Judged", "Means", "Mismatch", "Mode", "Shape", "judge", "modes", "phrase", "shape_of"]
