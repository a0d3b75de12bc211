"""`eval`: routes compared on a file of cases."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace import config
from headrace.cli import options
from headrace.cli.console import Console, printable
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.config import Settings
    from headrace.evaluate import Answered, Case, Score

__all__ = ["evaluate"]


@click.command("eval", short_help="Compare routes on a file of cases.")
@click.argument("cases", type=click.Path(path_type=Path))
@click.option(
    "-m", "--model", "models", multiple=True, help="A route or provider/model; several are compared."
)
@click.option("--judge", help="The model that judges criteria in words.")
@click.option("--embed", help="The model of the vectors that `similar` compares.")
@click.option(
    "--near", type=click.FloatRange(-1.0, 1.0), default=0.8, show_default=True, help="Their least cosine."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Write quality against cost to this SVG file.")
@click.option(
    "--at-least", type=click.FloatRange(0.0, 1.0), help="Exit code 1 when a route passes a smaller share."
)
@click.option("-q", "--quiet", is_flag=True, help="Only the table.")
@options.config_file
@options.as_json
def evaluate(
    cases: Path,
    models: tuple[str, ...],
    judge: str | None,
    embed: str | None,
    near: float,
    plot: Path | None,
    at_least: float | None,
    quiet: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Ask every model every case of CASES (JSON Lines: `prompt` or `messages`, and what the answer must be: `equals`, `contains`, `matches`, `schema`,
    `similar`, `judge`), and show what share passes, what it costs and how long it takes.

    Exit codes: 0 compared, 1 a route is below --at-least, 2 the command, the cases or the settings are wrong.
    """
    from headrace.evaluate import read_cases, svg

    console = Console(as_json=as_json)
    settings = config.load(path)
    routes = models or ((settings.default_route.name,) if settings.default_route is not None else ())
    if not routes:
        raise ConfigError("no model: give -m, once or several times")
    scores, answers = asyncio.run(
        _run(console, settings, routes, read_cases(cases), judge, embed, near, quiet=quiet)
    )
    if plot is not None:
        try:
            plot.write_text(svg(scores), "utf-8")
        except OSError as error:
            raise ConfigError(f"the plot {str(plot)!r} cannot be written: {error.strerror}") from None
    _show(console, scores, answers)
    if at_least is not None and any(score.share < at_least for score in scores):
        raise click.exceptions.Exit(1)


async def _run(
    console: Console,
    settings: Settings,
    routes: tuple[str, ...],
    cases: list[Case],
    judge: str | None,
    embed: str | None,
    near: float,
    *,
    quiet: bool,
) -> tuple[list[Score], list[Answered]]:
    from headrace.client import AsyncClient
    from headrace.evaluate import evaluate as compare

    def report(answered: Answered) -> None:
        if answered.wrong and not quiet:
            console.note(f"FAIL {answered.route} case {answered.case}: {printable(answered.wrong)}")

    async with AsyncClient(settings) as llm:
        return await compare(llm, routes, cases, judge=judge, embed=embed, near=near, report=report)


def _show(console: Console, scores: list[Score], answers: list[Answered]) -> None:
    if console.as_json:
        console.json(
            {
                "scores": [
                    {
                        "route": score.route,
                        "passed": score.passed,
                        "cases": score.cases,
                        "share": score.share,
                        "interval": score.interval,
                        "cost_usd": None if score.cost is None else score.cost_usd,
                        "p50_s": score.p50_s,
                        "p95_s": score.p95_s,
                    }
                    for score in scores
                ],
                "answers": [
                    {"route": one.route, "case": one.case, "text": one.text, "wrong": one.wrong}
                    for one in answers
                ],
            }
        )
        return
    rows = [
        [
            score.route,
            f"{score.passed}/{score.cases}",
            f"{score.share:.0%}",
            "{:.0%} - {:.0%}".format(*score.interval),
            score.cost_usd,
            _seconds(score.p50_s),
            _seconds(score.p95_s),
            "#" * round(20 * score.share),
        ]
        for score in scores
    ]
    console.table(["route", "passed", "share", "95 %", "cost $", "p50 s", "p95 s", ""], rows)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
