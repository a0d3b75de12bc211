"""Routes compared on cases with known good answers. See `docs/choice.md`."""

from __future__ import annotations

from headrace.evaluate.case import JUDGES, Case, read_cases
from headrace.evaluate.plot import svg
from headrace.evaluate.run import Answered, Score, evaluate
from headrace.evaluate.wilson import wilson

__all__ = ["JUDGES", "Answered", "Case", "Score", "evaluate", "read_cases", "svg", "wilson"]
