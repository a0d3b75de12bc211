"""`guard`: what the guards find in a text, without asking anybody."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import TextIO

import click

from headrace import config
from headrace.cli import options
from headrace.cli.console import Console
from headrace.errors import InvalidRequest
from headrace.guards import KINDS, Redactor, find_injections
from headrace.guards.redact import exchanger

__all__ = ["guard"]


@click.command(short_help="Find what a text gives away, and what in it speaks to a model.")
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@click.option(
    "--route", metavar="NAME", help="With the kinds and patterns of this route's guard; default: all kinds."
)
@click.option("--redact", is_flag=True, help="Print the text with placeholders in place of the values.")
@options.config_file
@options.as_json
def guard(file: TextIO, route: str | None, redact: bool, path: Path | None, as_json: bool) -> None:
    """Say where FILE (standard input without one) has e-mail addresses, phone numbers, cards, IBANs, secrets or IP addresses, and what in it
    speaks to a model. The values themselves are not shown. Nothing is sent.

    Exit codes: 0 nothing found (or --redact), 1 something found, 2 the file or the settings are wrong.
    """
    console = Console(as_json=as_json)
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{file.name} is not text in UTF-8: {error.reason} at byte {error.start}"
        ) from None
    redactor = _redactor(route, path)
    values = redactor.values([text])
    redacted = exchanger(values)(text)
    if redact and not as_json:
        console.write(redacted)
        return
    placeholders = {value: placeholder for placeholder, value in values.items()}
    starts = [0, *(at + 1 for at, character in enumerate(text) if character == "\n")]
    found = []
    for finding in redactor.find(text):
        line = bisect_right(starts, finding.start)
        found.append(
            {
                "kind": finding.kind,
                "line": line,
                "column": finding.start - starts[line - 1] + 1,
                "characters": finding.end - finding.start,
                "placeholder": placeholders[text[finding.start : finding.end]],
            }
        )
    reasons = find_injections(text)
    if as_json:
        console.json(
            {"found": found, "speaks_to_the_model": reasons, **({"redacted": redacted} if redact else {})}
        )
    else:
        if found:
            console.table(list(found[0]), [[str(cell) for cell in row.values()] for row in found])
        if reasons:
            console.line(f"speaks to the model: {', '.join(reasons)}")
        if not found and not reasons:
            console.line("nothing found")
    if (found or reasons) and not redact:
        click.get_current_context().exit(1)


def _redactor(route: str | None, path: Path | None) -> Redactor:
    if route is None:
        return Redactor(KINDS)
    settings = config.load(path)
    known = settings.routes.get(route)
    if known is None:
        raise InvalidRequest(f"no route is called {route!r}; there is: {', '.join(sorted(settings.routes))}")
    policy = known.guard or settings.guard
    if policy is None:
        raise InvalidRequest(f"the route {route!r} has no guard")
    return Redactor(policy.redact, dict(policy.patterns))
