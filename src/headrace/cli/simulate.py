"""`simulate`: the settings under load and trouble, in virtual time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace import config
from headrace.cli import options
from headrace.cli.console import Console
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.testing.simulation import Simulation, Trouble

__all__ = ["simulate"]

_TROUBLE = re.compile(
    r"(?P<model>.+)=(?P<kind>[a-z]+)(?::(?P<share>[0-9.]+))?(?:@(?P<begins>[0-9.]+)-(?P<ends>[0-9.]+)?)?"
)


@click.command(short_help="Your settings under load and trouble, in virtual time.")
@click.argument("route", required=False)
@click.option("--requests", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(0.001), default=10.0, show_default=True, help="Requests a second."
)
@click.option(
    "--fail",
    "fails",
    multiple=True,
    metavar="MODEL=KIND[:SHARE][@FROM-TO]",
    help="What a model suffers from: down, error, limited, overloaded or silent; for a share of its requests, from second to second.",
)
@click.option(
    "--takes", multiple=True, metavar="MODEL=SECONDS", help="The mean time of a model's answers; else 1 s."
)
@click.option(
    "--timeout", type=click.FloatRange(0.001), help="What the callers give each request, in seconds."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same figures.")
@options.config_file
@options.as_json
def simulate(
    route: str | None,
    requests: int,
    rate: float,
    fails: tuple[str, ...],
    takes: tuple[str, ...],
    timeout: float | None,
    seed: int,
    path: Path | None,
    as_json: bool,
) -> None:
    """Ask ROUTE (default: the default route) of your settings again and again, with providers in memory that fail as you say. Nothing is sent anywhere, no
    second is waited, and no store is touched. MODEL is the name behind the provider's slash.

    Exit codes: 0 every request was answered, 1 some were not, 2 the command or the settings are wrong.
    """
    from headrace.testing.simulation import simulate as run

    console = Console(as_json=as_json)
    settings = config.load(path)
    asked = route or (settings.default_route.name if settings.default_route is not None else None)
    if asked is None:
        raise ConfigError("no route: name one, or call one default")
    found = run(
        settings,
        asked,
        requests=requests,
        rate=rate,
        troubles=[_trouble(text) for text in fails],
        takes=dict(_takes(text) for text in takes),
        timeout=timeout,
        seed=seed,
    )
    _show(console, found)
    if found.failed:
        raise click.exceptions.Exit(1)


def _trouble(text: str) -> Trouble:
    from headrace.testing.simulation import TROUBLES, Trouble

    read = _TROUBLE.fullmatch(text)
    try:
        assert read is not None and read["kind"] in TROUBLES
        share = float(read["share"] or 1.0)
        assert 0.0 <= share <= 1.0
        return Trouble(
            read["model"], read["kind"], share, float(read["begins"] or 0.0), float(read["ends"] or "inf")
        )
    except (AssertionError, ValueError):
        raise click.BadParameter(
            f"{text!r} is not MODEL=KIND[:SHARE][@FROM-TO] with a kind of {', '.join(TROUBLES)}"
        ) from None


def _takes(text: str) -> tuple[str, float]:
    model, equals, seconds = text.rpartition("=")
    try:
        assert equals and model and 0.0 <= float(seconds) < 1e6
        return model, float(seconds)
    except (AssertionError, ValueError):
        raise click.BadParameter(f"{text!r} is not MODEL=SECONDS") from None


def _show(console: Console, found: Simulation) -> None:
    times = {name: found.at(share) for name, share in (("p50_s", 0.5), ("p95_s", 0.95), ("p99_s", 0.99))}
    if console.as_json:
        cost = None if found.cost is None else found.cost_usd
        console.json(
            {
                "requests": found.requests,
                "answered": found.answered,
                "failed": found.failed,
                "attempts": found.attempts,
                **times,
                "cost_usd": cost,
            }
        )
        return
    rows = [["answered", target, str(number)] for target, number in sorted(found.answered.items())]
    rows += [["failed", reason, str(number)] for reason, number in sorted(found.failed.items())]
    console.table(["", "target or reason", "requests"], rows)
    console.line(
        f"{found.share:.1%} answered, {found.attempts / found.requests:.2f} attempts a request, "
        f"p50 {times['p50_s']:.2f} s, p95 {times['p95_s']:.2f} s, p99 {times['p99_s']:.2f} s, ${found.cost_usd}"
    )
