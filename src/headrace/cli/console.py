"""Where a verb's words go: tables and JSON to standard output, notes and errors to standard error.

Rich draws the tables and is imported for the first of them, so that `headrace serve` never pays for it. Text that others
wrote (models, providers, files) is shown without control characters when a terminal reads it, since those can rewrite what
stands there; a pipe gets it as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import click
import msgspec

from headrace import config
from headrace.call import Attempt, format_usd
from headrace.errors import AllTargetsFailed, HeadraceError, ProviderError

if TYPE_CHECKING:
    from rich.console import Console as Rich

__all__ = ["Console", "attempt_members", "error_members", "printable"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 without tab and line feed, DEL, C1, and the marks that reverse the direction of writing."""


def printable(text: str) -> str:
    """`text` without what a terminal would obey instead of show."""
    return _CONTROL.sub("", text)


def attempt_members(attempt: Attempt) -> dict[str, object]:
    """What `--json` says about `attempt`."""
    return {
        "target": str(attempt.target),
        "outcome": attempt.outcome,
        "error": attempt.error_kind,
        "message": attempt.error_message,
        "http": attempt.http,
        "waited_s": attempt.waited_s,
        "first_content_s": attempt.first_content_s,
        "duration_s": attempt.duration_s,
        "usage": attempt.usage,
        "cost_usd": None if attempt.cost is None else format_usd(attempt.cost),
    }


def error_members(error: HeadraceError) -> dict[str, object]:
    """What `--json` says about `error`: its kind, its message, and what it knows beyond them."""
    members: dict[str, object] = {"kind": error.kind, "message": error.message}
    if isinstance(error, ProviderError):
        members |= {"target": error.target, "http": error.http, "code": error.code}
    if isinstance(error, AllTargetsFailed):
        members["attempts"] = [attempt_members(attempt) for attempt in error.attempts]
    return members


class Console:
    """One verb's output; with `as_json`, everything meant for people is left out and `json` writes the one document."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.colour = config.wants_colour()

    def json(self, value: object) -> None:
        """Write `value` as indented JSON."""
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())

    def json_line(self, value: object) -> None:
        """Write `value` as JSON on one line."""
        click.echo(msgspec.json.encode(value).decode())

    def line(self, text: str = "") -> None:
        """One line for people on standard output."""
        if not self.as_json:
            click.echo(_shown(text, sys.stdout))

    def note(self, text: str, *, style: str | None = None) -> None:
        """One line for people on standard error; `style` is a colour's name."""
        if not self.as_json:
            self._say(text, style)

    def write(self, text: str) -> None:
        """A piece of an answer, at once, without a line end."""
        click.echo(_shown(text, sys.stdout), nl=False)

    def error(self, members: Mapping[str, object]) -> None:
        """Why the verb failed: `error: ...` in red, or a JSON document. `members` has `kind` and `message`."""
        if self.as_json:
            self.json({"error": members})
            return
        first, _, rest = str(members["message"]).partition("\n")
        self._say(f"error: {first}", "red")
        if rest:
            self._say(rest, None)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        title: str | None = None,
        to_errors: bool = False,
    ) -> None:
        """A table for people; nothing at all without rows. Cells are plain text: nothing in them is markup.

        A column in which no row says anything is left out. Where a terminal is too narrow, the columns with long cells are
        broken, and the others stay whole.
        """
        if self.as_json or not rows:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        stream = sys.stderr if to_errors else sys.stdout
        table = Table(
            title=None if title is None else Text(title, style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
        )
        said = [at for at in range(len(columns)) if any(row[at] for row in rows)]
        for at in said:
            longest = max(len(row[at]) for row in rows)
            table.add_column(columns[at], overflow="fold", no_wrap=longest <= _WHOLE)
        for row in rows:
            table.add_row(*(Text(printable(row[at]), style=_STATES.get(row[at], "")) for at in said))
        self.rich(stream).print(table)

    def rich(self, stream: TextIO) -> Rich:
        """Rich on `stream`. A pipe has no width: its lines are as long as they need to be."""
        from rich.console import Console as Rich

        wide = None if stream.isatty() else 10_000
        return Rich(
            file=stream, width=wide, no_color=not self.colour, highlight=False, soft_wrap=wide is not None
        )

    def _say(self, text: str, style: str | None) -> None:
        text = _shown(text, sys.stderr)
        click.echo(click.style(text, fg=style) if style and self.colour else text, err=True)


_WHOLE = 24
"""Characters of a column's longest cell up to which the column is never broken."""

_STATES = {"ok": "green", "warn": "yellow", "fail": "red"}


def _shown(text: str, stream: TextIO) -> str:
    return printable(text) if stream.isatty() else text
