"""`batch`: many questions from a file, answers to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from headrace import config
from headrace.call import format_usd
from headrace.cli import options
from headrace.cli.console import Console
from headrace.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.batch import Row, Rows, Run
    from headrace.prompts import Filled
    from headrace.sync import Client

__all__ = ["batch"]


@click.command(short_help="Ask a file of rows; resumes where it was.")
@click.argument("rows", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The results, as JSON Lines."
)
@click.option(
    "-m", "--model", help="A route or provider/model; default: the default route, or the prompt file's."
)
@click.option("-p", "--prompt", help="What is asked, with {name} for a row's members; or a .prompt file.")
@click.option("-s", "--system", help="What the model is told before the prompt.")
@click.option(
    "--schema",
    type=click.Path(path_type=Path),
    help="A file with the JSON Schema that every answer must have.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(0.0, 2.0), help="0 is the least random.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), help="Rows at once; default: what the rate limits take."
)
@click.option("--retry-failed", is_flag=True, help="Also ask the rows again that failed in an earlier run.")
@click.option("--dry-run", is_flag=True, help="Count rows and tokens and bound the cost; ask nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@options.config_file
@options.as_json
def batch(
    rows: Path,
    output: Path,
    model: str | None,
    prompt: str | None,
    system: str | None,
    schema: Path | None,
    max_tokens: int | None,
    temperature: float | None,
    concurrency: int | None,
    retry_failed: bool,
    dry_run: bool,
    quiet: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Ask every row of ROWS, a .jsonl, .csv or .txt file, and append what becomes of it to the output.

    Without --prompt a row has a member `prompt` or `messages`; a line of a .txt file is the prompt. Run it again after a crash, a kill or
    Ctrl-C: rows that the output has are not asked, nor paid, again.

    Exit codes: 0 every row was answered, 1 some failed or the run was stopped, 2 the command, the rows or the settings are wrong.
    """
    from headrace.batch import Rows
    from headrace.sync import Client

    console = Console(as_json=as_json)
    settings = config.load(path)
    make, named = _question(prompt)
    asked = model or named or (settings.default_route.name if settings.default_route is not None else None)
    if asked is None:
        raise ConfigError("no model: give -m, or make a route the default")
    form = None if schema is None else _schema(schema)
    with Client(settings) as client:
        if dry_run:
            _estimate(console, client, Rows(rows), asked, make, system, max_tokens)
            return
        run = client.map(
            asked,
            rows,
            make,
            output=form,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            concurrency="auto" if concurrency is None else concurrency,
            resume=output,
            retry_failed=retry_failed,
            progress=not (quiet or as_json),
        )
        try:
            _tell(console, run, output)
            good = run.stopped is None and not run.failed
        finally:
            run.close()
    if not good:
        raise click.exceptions.Exit(1)


def _question(prompt: str | None) -> tuple[Callable[[Row], Any], str | None]:
    """What a row is asked, and the model that a prompt file names."""
    from headrace.batch import template

    if prompt is None:
        return _own, None
    if prompt.endswith(".prompt"):
        from headrace.prompts import prompt as read

        file = read(prompt)

        def fill(row: Row) -> Filled:
            return file.fill({name: row[name] for name in file.inputs.get("properties", {}) if name in row})

        fill.__qualname__ = file.version  # for the digests of the rows
        return fill, file.model
    made = template(prompt)
    made.__qualname__ = prompt
    return made, None


def _own(row: Row) -> Any:
    """The row's own question."""
    for name in ("prompt", "messages", "text"):
        if row.get(name):
            return row[name]
    raise InvalidRequest(f"a row has `prompt` or `messages`, or --prompt says what to ask; not {sorted(row)}")


def _schema(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"the schema {str(path)!r} cannot be read: {error}") from None


def _estimate(
    console: Console,
    client: Client,
    rows: Rows,
    model: str,
    make: Callable[[Row], Any],
    system: str | None,
    max_tokens: int | None,
) -> None:
    from headrace.prompts import Filled

    number, tokens, cost = 0, 0, 0
    unpriced = False
    for row in rows:
        asked = make(row)
        words = asked.messages if isinstance(asked, Filled) else asked
        found = client.estimate(model, words, system=system, max_tokens=max_tokens)
        number += 1
        tokens += found.input_tokens
        unpriced = unpriced or found.cost_bound is None
        cost += found.cost_bound or 0
    bound = None if unpriced else cost
    if console.as_json:
        console.json(
            {
                "rows": number,
                "input_tokens": tokens,
                "cost_bound_usd": None if bound is None else format_usd(bound),
            }
        )
        return
    console.line(
        f"{number} rows, about {tokens} input tokens, at most ${format_usd(bound)} at the first target"
    )


def _tell(console: Console, run: Run[Any], output: Path) -> None:
    stopped = None if run.stopped is None else run.stopped.message
    if console.as_json:
        console.json(
            {
                "ok": run.ok,
                "failed": run.failed,
                "total": run.total,
                "reasons": run.reasons,
                "cost_usd": None if run.cost is None else format_usd(run.cost),
                "stopped": stopped,
                "output": str(output),
            }
        )
        return
    console.note(f"{run.ok} answered, {run.failed} failed, ${run.cost_usd}; results in {output}")
    for reason, number in sorted(run.reasons.items(), key=lambda pair: -pair[1]):
        console.note(f"  {number} {reason}")
    if run.failed:
        console.note("ask those that failed again: the same command with --retry-failed")
    if stopped is not None:
        console.note(f"stopped: {stopped}", style="red")
