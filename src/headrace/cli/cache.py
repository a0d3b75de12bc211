"""`cache`: what is kept, why a question is or is not answered from it, and how to throw it away."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import click
import msgspec

from headrace import config
from headrace.cache.audits import Audit, Audits
from headrace.cache.entry import Entry
from headrace.cache.selection import Selection
from headrace.cache.stores import sqlite as store
from headrace.call import format_usd
from headrace.cli import options
from headrace.cli.console import Console
from headrace.cli.storage import opened, store_file, whoami
from headrace.clock import SystemClock
from headrace.config import Settings
from headrace.errors import ConfigError
from headrace.handler import CachePolicy, Route

__all__ = ["cache"]


@click.group(invoke_without_command=True, short_help="Look into kept answers, or throw them away.")
@options.config_file
@options.as_json
@click.pass_context
def cache(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Count what is kept in the file beside the store (`headrace.db` has `headrace.cache.db`); below are the other things that can
    be done with it.

    Exit codes: 0 done, 2 the settings are wrong or there is no file.
    """
    if context.invoked_subcommand is None:
        _stats(Console(as_json=as_json), path)


def _file(path: Path | None) -> tuple[Path, Settings]:
    settings = config.load(path)
    file = store.beside(store_file(settings))
    if not file.exists():
        raise ConfigError(f"there is no {file}: no answer has been kept yet")
    return file, settings


def _read(path: Path | None) -> tuple[list[Entry], Settings]:
    file, settings = _file(path)
    try:
        return store.read(file), settings
    except sqlite3.Error as error:
        raise ConfigError(f"the cache file {file} cannot be read: {error}") from error


@cache.command(short_help="Count what is kept.")
@options.config_file
@options.as_json
def stats(path: Path | None, as_json: bool) -> None:
    """Entries, bytes and lifetimes, by route and tenant; how often they were given out, and the known cost and the seconds that this saved. Of
    routes with a semantic tier also what audits say: the state, the least probability that is given, audits, wrong ones, and the share of wrong
    ones that they are below with 95 % confidence.

    Exit codes: 0 shown, 2 the settings are wrong or there is no file.
    """
    _stats(Console(as_json=as_json), path)


def _bounds(settings: Settings, said: list[Audit]) -> list[dict[str, object]]:
    """What the audits of the file say; none without the semantic extra."""
    try:
        from headrace.cache.match import Matcher
    except ModuleNotFoundError:
        return []
    audits = Audits(Matcher.load())
    audits.add(said)
    return audits.report(list(settings.routes.values()))


def _stats(console: Console, path: Path | None) -> None:
    wall = SystemClock.wall()
    groups: dict[tuple[str, str], list[Entry]] = {}
    entries, settings = _read(path)
    bounds = (
        _bounds(settings, _read_audits(settings)) if any(map(_is_semantic, settings.routes.values())) else []
    )
    for entry in entries:
        groups.setdefault((entry.route, entry.tenant), []).append(entry)
    rows = [
        {
            "route": route,
            "tenant": tenant,
            "entries": len(found),
            "expired": sum(entry.expires <= wall for entry in found),
            "bytes": sum(entry.size for entry in found),
            "semantic": sum(bool(entry.vector) for entry in found),
            "hits": sum(entry.hits for entry in found),
            "saved_usd": format_usd(sum(entry.hits * (entry.cost or 0) for entry in found)),
            "saved_s": round(sum(entry.hits * entry.took for entry in found), 1),
        }
        for (route, tenant), found in sorted(groups.items())
    ]
    if console.as_json:
        console.json({"groups": rows, "bounds": bounds})
        return
    columns = ["route", "tenant", "entries", "expired", "bytes", "semantic", "hits", "saved_usd", "saved_s"]
    console.table(columns, [[str(row[name]) for name in columns] for row in rows])
    if bounds:
        console.line()
        columns = ["route", "max_wrong", "state", "tau", "audits", "wrong", "at_most", "drifts"]
        console.table(columns, [[_shown(bound[name]) for name in columns] for bound in bounds])


def _is_semantic(route: Route) -> bool:
    return route.cache is not None and route.cache.semantic and route.cache.max_wrong > 0


def _shown(value: object) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_audits(settings: Settings) -> list[Audit]:
    file = store.beside(store_file(settings))
    try:
        return store.read_audits(file)
    except sqlite3.Error as error:
        raise ConfigError(f"the cache file {file} cannot be read: {error}") from error


@cache.command("purge", short_help="Throw kept answers away.")
@options.config_file
@click.option("--route", metavar="NAME", help="Only of this route.")
@click.option("--tenant", metavar="NAME", help="Only of this tenant.")
@click.option("--user", metavar="NAME", help="Only of questions of this user.")
@click.option("--model", metavar="PROVIDER/MODEL", help="Only answers of this model.")
@click.option("--tag", metavar="NAME=VALUE", help="Only of requests with this tag.")
@click.option(
    "--documents",
    metavar="VERSION",
    help="Only of this version of the route's documents; !VERSION: of others.",
)
@click.option("--prefix", metavar="TEXT", help="Only of questions that begin so.")
@click.option("--older-than", metavar="TIME", help="Only older ones: 30m, 24h.")
@options.as_json
def throw_away(
    path: Path | None,
    route: str | None,
    tenant: str | None,
    user: str | None,
    model: str | None,
    tag: str | None,
    documents: str | None,
    prefix: str | None,
    older_than: str | None,
    as_json: bool,
) -> None:
    """Throw away the entries that all given options describe; without one, all. Running gateways follow within a second or two.

    Exit codes: 0 done, 2 the settings are wrong or there is no file.
    """
    console = Console(as_json=as_json)
    file, settings = _file(path)
    try:
        age = None if older_than is None else config.parse_duration(older_than)
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from error
    selection = Selection(
        route=route,
        tenant=tenant,
        user=user,
        model=model,
        tag=tag,
        documents=documents,
        prefix=prefix,
        before=None if age is None else SystemClock.wall() - age,
    )
    try:
        count = store.purge(file, selection)
    except sqlite3.Error as error:
        raise ConfigError(f"the cache file {file} cannot be written: {error}") from error
    said = whoami().did("cache.purge", selection.described, SystemClock.wall(), f"{count} entries")
    opened(settings, lambda store: store.add_audit(said))
    if as_json:
        console.json({"purged": count})
        return
    console.line(f"{count} {'entry' if count == 1 else 'entries'} thrown away")


@cache.command(short_help="Say why a question is or is not answered.")
@options.config_file
@click.option("--route", metavar="NAME", help="Only entries of this route, judged by its max_wrong.")
@click.option("--max-wrong", type=click.FloatRange(0, 0.5), metavar="SHARE", help="In place of the route's.")
@click.argument("question")
@options.as_json
def explain(
    path: Path | None, route: str | None, max_wrong: float | None, question: str, as_json: bool
) -> None:
    """The entries nearest to QUESTION, and the verdict on each: the same words, a guard's veto, its probability and the least that is
    served.

    Each is judged as if asked in the entry's own scope: one shown here may belong to another tenant or system prompt than yours, and
    would then never be given to you.

    Exit codes: 0 shown, 2 the settings are wrong or there is no file.
    """
    from headrace.cache.explain import explain as verdicts  # NumPy is the semantic extra's
    from headrace.cache.explain import prior
    from headrace.cache.match import Matcher

    console, matcher = Console(as_json=as_json), Matcher.load()
    entries, settings = _read(path)
    share = _max_wrong(settings, route) if max_wrong is None else max_wrong
    audits = Audits(matcher)
    audits.add(_read_audits(settings))
    rulings = {
        name: audits.ruling(known, known.cache)
        for name, known in settings.routes.items()
        if max_wrong is None and known.cache is not None and _is_semantic(known)
    }
    found = verdicts(
        question,
        [entry for entry in entries if route is None or entry.route == route],
        matcher,
        max_wrong=share,
        wall=SystemClock.wall(),
        rulings=rulings,
    )
    only = next(iter(rulings)) if len(rulings) == 1 else None
    ruling = rulings.get(route or only or "", prior(matcher, share))
    tau, state = ruling.tau, ruling.state
    if as_json:
        rows = [msgspec.to_builtins(verdict) for verdict in found]
        console.json(
            {"question": question, "max_wrong": share, "tau": tau, "state": state, "candidates": rows}
        )
        return
    console.table(
        ["entry", "tenant", "route", "text", "cosine", "p", "verdict"],
        [
            [
                v.entry,
                v.tenant,
                v.route,
                v.text,
                f"{v.cosine:.3f}",
                "" if v.p is None else f"{v.p:.4f}",
                f"{'hit' if v.hit else 'no'}: {v.why}",
            ]
            for v in found
        ],
    )
    console.line()
    console.line(f"state {state}; max_wrong {share:g}; tau {'none' if tau is None else f'{tau:.4f}'}")


def _max_wrong(settings: Settings, name: str | None) -> float:
    """The route's, or that of the only kind of semantic route there is."""
    if name is not None and name not in settings.routes:
        raise ConfigError(f"there is no route {name!r}; there is: {', '.join(sorted(settings.routes))}")
    routes = settings.routes.values() if name is None else [settings.routes[name]]
    shares = {route.cache.max_wrong for route in routes if route.cache is not None and route.cache.semantic}
    return shares.pop() if len(shares) == 1 else CachePolicy().max_wrong
