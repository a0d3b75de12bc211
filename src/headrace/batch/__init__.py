"""Many questions at once: rows in, a journal out that survives being killed. See `docs/batch.md`."""

from __future__ import annotations

from headrace.batch.journal import Journal, Line
from headrace.batch.pace import Pace
from headrace.batch.progress import Drawn, Progress
from headrace.batch.rows import TEXT, Row, Rows, asked, template
from headrace.batch.run import Asking, Result, Run, run_rows

__all__ = [
    "TEXT",
    "Asking",
    "Drawn",
    "Journal",
    "Line",
    "Pace",
    "Progress",
    "Result",
    "Row",
    "Rows",
    "Run",
    "asked",
    "run_rows",
    "template",
]
