"""`models`: what can be asked for, what it costs, and the weights that run on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from headrace import config
from headrace.call import format_usd
from headrace.cli import options
from headrace.cli.console import Console
from headrace.config import Settings
from headrace.errors import ConfigError
from headrace.local import weights

__all__ = ["models"]


@click.group(invoke_without_command=True, short_help="List models and prices; fetch local ones.")
@options.config_file
@click.option("--provider", metavar="NAME", help="Only this provider's models, also without its key.")
@options.as_json
@click.pass_context
def models(context: click.Context, path: Path | None, provider: str | None, as_json: bool) -> None:
    """List the routes, and the models of each provider that has a key: window, output limit, price.

    `local` and `pull` are about the models that run on this machine.

    Exit codes: 0 listed, 2 the settings are wrong or there is no such provider.
    """
    if context.invoked_subcommand is None:
        _list(Console(as_json=as_json), config.load(path), provider)


def _list(console: Console, settings: Settings, only: str | None) -> None:
    from headrace.prices import Catalog

    catalog = Catalog.from_settings(settings.prices)
    if only is None:
        names = [provider.name for provider in settings.providers.values() if provider.usable]
    elif only in settings.providers or only in config.known_providers():
        names = [only]
    else:
        raise ConfigError(
            f"no provider is called {only!r}: use one of {', '.join(sorted(config.known_providers()))}"
        )
    routes = [] if only else list(settings.routes.values())
    found = [model for name in names for id_ in catalog.models(name) if (model := catalog.model(name, id_))]
    if console.as_json:
        console.json(
            {
                "routes": [
                    {"name": r.name, "cascade": [str(target) for target in r.cascade]} for r in routes
                ],
                "models": [
                    {
                        "id": f"{model.provider}/{model.id}",
                        "context": model.context_total,
                        "max_output": model.max_output,
                        "input_usd_per_mtok": None
                        if model.prices is None
                        else format_usd(model.prices.input),
                        "output_usd_per_mtok": None
                        if model.prices is None
                        else format_usd(model.prices.output),
                        "price_sources": list(model.price_sources),
                        "price_as_of": None
                        if "config" in model.price_sources
                        else catalog.as_of(model.provider),
                        "price_changes": [dated.since for dated in model.later],
                    }
                    for model in found
                ],
                "unlisted": [name for name in names if not catalog.models(name)],
                "local": ["local/default", *(f"local/{name}" for name in weights.MODELS)]
                if only is None
                else [],
            }
        )
        return
    if routes:
        console.table(["route", "cascade"], [[r.name, ", then ".join(map(str, r.cascade))] for r in routes])
        console.line()
    if found:
        console.table(
            ["model", "window", "max output", "$ / M in", "$ / M out"],
            [
                [
                    f"{model.provider}/{model.id}",
                    _count(model.context_total),
                    _count(model.max_output),
                    format_usd(model.prices.input if model.prices else None),
                    format_usd(model.prices.output if model.prices else None),
                ]
                for model in found
            ],
        )
        console.line()
    for name in names:
        if not catalog.models(name):
            console.line(f"{name}/...: ask it for its models; no price list has them")
        elif as_of := catalog.as_of(name):
            console.line(f"{name}: prices of {as_of}")
    if only is None:
        console.line("local/default: runs on this machine; see headrace models local")
    if not names and only is None:
        console.line("no provider has a key; see headrace doctor")


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"


@models.command("local", short_help="List those that run on this machine.")
@options.config_file
@options.as_json
def local(path: Path | None, as_json: bool) -> None:
    """List the models that can run on this machine: licence, origin, size, and whether they are here.

    Exit codes: 0 listed, 2 the settings are wrong.
    """
    console = Console(as_json=as_json)
    settings = config.load(path)
    cache_dir = settings.local.cache_dir
    rows = [(model, weights.find(model.name, cache_dir)) for model in weights.MODELS.values()]
    if as_json:
        console.json(
            {
                "default": settings.local.model,
                "models": [
                    {
                        "name": model.name,
                        "path": None if place is None else str(place),
                        "download_bytes": model.download,
                        "memory_bytes": model.memory,
                        "context": model.context,
                        "licence": model.licence,
                        "origin": model.origin,
                        "judgement": model.judgement,
                        "anonymous": model.anonymous,
                        "sha256": model.sha256,
                    }
                    for model, place in rows
                ],
            }
        )
        return
    console.table(
        ["model", "here", "download", "memory", "judgement"],
        [
            [
                model.name + (" (default)" if model.name == settings.local.model else ""),
                "no" if place is None else "yes",
                _megabytes(model.download),
                _megabytes(model.memory),
                model.judgement,
            ]
            for model, place in rows
        ],
    )
    console.line()
    for model, _ in rows:
        console.line(f"{model.name}: {model.origin}. Licence: {model.licence}")
    console.line()
    console.line("fetch one with: headrace models pull NAME")


@models.command("pull", short_help="Fetch one, and verify it.")
@click.argument("name", required=False)
@options.config_file
@options.as_json
def pull(name: str | None, path: Path | None, as_json: bool) -> None:
    """Fetch the model NAME (default: the one that the settings name) and verify it.

    Exit codes: 0 it is here, 2 no such model, no network, no room, or a wrong hash.
    """
    console = Console(as_json=as_json)
    settings = config.load(path)
    model = weights.lookup(name or settings.local.model)
    console.note(f"{model.name}: {_megabytes(model.download)}, licence: {model.licence}")
    console.note(f"origin: {model.origin}")
    if sys.stderr.isatty() and not as_json:
        place = _pull_with_bar(console, model, settings.local.cache_dir)
    else:
        place = weights.pull(model.name, cache_dir=settings.local.cache_dir)
    if as_json:
        console.json({"name": model.name, "path": str(place), "size": model.size, "sha256": model.sha256})
        return
    console.line(str(place))


def _pull_with_bar(console: Console, model: weights.Weights, cache_dir: Path) -> Path:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.rich(sys.stderr), transient=True) as bar:
        task = bar.add_task("downloading", total=model.download)

        def show(state: weights.PullProgress) -> None:
            bar.update(task, completed=state.done, description=state.phase)

        return weights.pull(model.name, cache_dir=cache_dir, progress=show)


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:,.0f} MB"
