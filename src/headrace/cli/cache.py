"""`cache`: what is kept, why a question is or is not answered from it, and how to throw it away."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import click

from headrace import config
from headrace.cache.entry import Entry
from headrace.cache.stores.sqlite import beside, purge, read
from headrace.cli import options
from headrace.cli.console import Console
from headrace.clock import SystemClock
from headrace.errors import ConfigError

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


def _file(path: Path | None) -> Path:
    settings = config.load(path)
    if settings.store.path is None:
        raise ConfigError("nothing is kept beyond the process: set [store] path")
    file = beside(settings.store.path)
    if not file.exists():
        raise ConfigError(f"there is no {file}: no answer has been kept yet")
    return file


def _read(path: Path | None) -> list[Entry]:
    file = _file(path)
    try:
        return read(file)
    except sqlite3.Error as error:
        raise ConfigError(f"the cache file {file} cannot be read: {error}") from error


@cache.command(short_help="Count what is kept.")
@options.config_file
@options.as_json
def stats(path: Path | None, as_json: bool) -> None:
    """Entries, bytes and lifetimes, by route and tenant.

    Exit codes: 0 shown, 2 the settings are wrong or there is no file.
    """
    _stats(Console(as_json=as_json), path)


def _stats(console: Console, path: Path | None) -> None:
    wall = SystemClock.wall()
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in _read(path):
        groups.setdefault((entry.route, entry.tenant), []).append(entry)
    rows = [
        {
            "route": route,
            "tenant": tenant,
            "entries": len(found),
            "expired": sum(entry.expires <= wall for entry in found),
            "bytes": sum(entry.size for entry in found),
            "semantic": sum(bool(entry.vector) for entry in found),
        }
        for (route, tenant), found in sorted(groups.items())
    ]
    if console.as_json:
        console.json({"groups": rows})
        return
    columns = ["route", "tenant", "entries", "expired", "bytes", "semantic"]
    console.table(columns, [[str(row[name]) for name in columns] for row in rows])


@cache.command("purge", short_help="Throw kept answers away.")
@options.config_file
@click.option("--route", metavar="NAME", help="Only of this route.")
@click.option("--tenant", metavar="NAME", help="Only of this tenant.")
@click.option("--model", metavar="PROVIDER/MODEL", help="Only answers of this model.")
@click.option("--prefix", metavar="TEXT", help="Only of questions that begin so.")
@click.option("--older-than", metavar="TIME", help="Only older ones: 30m, 24h.")
@options.as_json
def throw_away(
    path: Path | None,
    route: str | None,
    tenant: str | None,
    model: str | None,
    prefix: str | None,
    older_than: str | None,
    as_json: bool,
) -> None:
    """Throw away the entries that all given options describe; without one, all. Running gateways follow within a second or two.

    Exit codes: 0 done, 2 the settings are wrong or there is no file.
    """
    console, file = Console(as_json=as_json), _file(path)
    try:
        age = None if older_than is None else config.parse_duration(older_than)
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from error
    before = None if age is None else SystemClock.wall() - age
    gone = [
        entry.id
        for entry in _read(path)
        if (route is None or entry.route == route)
        and (tenant is None or entry.tenant == f"tenant:{tenant}")
        and (model is None or entry.target == model)
        and (prefix is None or (entry.text or "").startswith(prefix))
        and (before is None or entry.created < before)
    ]
    purge(file, gone)
    if as_json:
        console.json({"purged": len(gone)})
        return
    console.line(f"{len(gone)} entries thrown away")


@cache.command(short_help="Say why a question is or is not answered.")
@options.config_file
@click.option("--route", metavar="NAME", help="Only entries of this route.")
@click.argument("question")
@options.as_json
def explain(path: Path | None, route: str | None, question: str, as_json: bool) -> None:
    """The entries nearest to QUESTION, and the verdict on each: words in common, guard, probability.

    Scopes are left out of account: an entry shown here may belong to another tenant or system prompt than yours, and would then never be
    given to you.

    Exit codes: 0 shown, 2 the settings are wrong or there is no file.
    """
    from headrace.cache.index import VectorSlab, pack  # NumPy is the semantic extra's
    from headrace.cache.match import Matcher
    from headrace.cache.shelf import Shelf
    from headrace.cache.text import canonical

    console, matcher = Console(as_json=as_json), Matcher.load()
    shelf = Shelf(1 << 62, new_slab=VectorSlab)
    for entry in _read(path):
        if entry.text is not None and (route is None or entry.route == route):
            entry.exact, entry.scope = entry.id.encode(), b"one"
            entry.vector = pack(matcher.encoder.encode(entry.text))
            shelf.put(entry)
    rows = []
    for found in matcher.candidates(question, b"one", shelf, fresh=lambda _: True):
        same = found.entry.canonical == canonical(question)
        rows.append(
            {
                "entry": found.entry.id,
                "tenant": found.entry.tenant,
                "text": found.entry.text,
                "cosine": round(found.cosine, 4),
                "same_words": same,
                "veto": found.veto,
                "p": None if found.p is None else round(found.p, 4),
            }
        )
    thresholds = {f"{share:g}": tau for share, tau in matcher.verifier.thresholds.items()}
    if as_json:
        console.json({"question": question, "candidates": rows, "thresholds": thresholds})
        return
    columns = ["entry", "tenant", "text", "cosine", "same_words", "veto", "p"]
    console.table(columns, [["" if row[c] is None else str(row[c]) for c in columns] for row in rows])
    console.line()
    console.line(
        "served from p: " + ", ".join(f"{tau} at max_wrong {share}" for share, tau in thresholds.items())
    )
