"""`data`: what was asked and answered, thrown away for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from headrace import config
from headrace.cache.selection import Selection
from headrace.cache.stores import sqlite as cached
from headrace.cli import options
from headrace.cli.console import Console
from headrace.cli.storage import opened, store_file, whoami
from headrace.clock import SystemClock
from headrace.errors import ConfigError
from headrace.store import Store, conversations
from headrace.store import answers as kept
from headrace.store.schema import connect, prepare

__all__ = ["data"]


@click.group(invoke_without_command=True, short_help="Count what was asked and answered, or throw it away.")
@options.config_file
@options.as_json
@click.pass_context
def data(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Count the prompts and answers that are kept in files: answers of the cache and under idempotency keys, conversations, and how far conversations were packed.

    Exit codes: 0 done, 2 the settings are wrong or a file cannot be read.
    """
    if context.invoked_subcommand is not None:
        return
    console, file = Console(as_json=as_json), store_file(config.load(path))
    counts = {
        "cache_entries": 0,
        "conversations": 0,
        "conversation_turns": 0,
        "plans": 0,
        "idempotent_answers": 0,
    }
    answers = cached.beside(file)
    try:
        if answers.exists():
            counts["cache_entries"] = len(cached.read(answers))
        if file.exists():
            prepare(file)
            with closing(connect(file)) as connection:
                counts |= conversations.counted(connection) | {"idempotent_answers": kept.count(connection)}
    except sqlite3.Error as error:
        raise ConfigError(f"what is kept beside {file} cannot be read: {error}") from error
    if as_json:
        console.json(counts)
        return
    console.table(["kept", "number"], [[name.replace("_", " "), str(n)] for name, n in counts.items()])


@data.command(short_help="Delete a tenant's, a user's, or a conversation.")
@options.config_file
@click.option("--tenant", metavar="NAME", help="What this tenant asked.")
@click.option("--user", metavar="NAME", help="What this user asked; with --tenant only there.")
@click.option("--conversation", metavar="ID", help="This conversation.")
@click.option(
    "--vacuum", is_flag=True, help="Write the store's file anew too, for what an earlier version deleted."
)
@options.as_json
def purge(
    path: Path | None,
    tenant: str | None,
    user: str | None,
    conversation: str | None,
    vacuum: bool,
    as_json: bool,
) -> None:
    """Delete it for good: nothing of it is left in the bytes of the files. The ledger stays: it has names and costs, and no prompt and no answer.

    Gateways that run follow within a second or two. What they keep in memory alone, for routes with content = "hash-only", ends with
    its time or with the process.

    Exit codes: 0 done, 2 nothing was named, the settings are wrong, or a file cannot be written.
    """
    if tenant is None and user is None and conversation is None:
        raise click.UsageError("name a --tenant, a --user or a --conversation")
    console, settings = Console(as_json=as_json), config.load(path)
    file = store_file(settings)
    entries = turns = repeatable = 0
    answers = cached.beside(file)
    if (tenant or user) and answers.exists():
        try:
            entries = cached.purge(answers, Selection(tenant=tenant, user=user))
        except sqlite3.Error as error:
            raise ConfigError(f"the cache file {answers} cannot be written: {error}") from error
    answers.with_name(f"{answers.name}.damaged").unlink(missing_ok=True)
    if file.exists():
        named = (("tenant", tenant), ("user", user), ("conversation", conversation))
        subject = "&".join(f"{name}={value}" for name, value in named if value is not None)

        async def work(store: Store) -> tuple[int, int]:
            # First: emptying the write-ahead log comes with the other.
            again = await store.purge_answers(tenant, user) if tenant or user else 0
            gone = await store.purge_content(conversation, tenant=None if user else tenant)
            said = f"{entries} entries, {again} answers, {gone} turns"
            await store.add_audit(whoami().did("data.purge", subject, SystemClock.wall(), said))
            return gone, again

        turns, repeatable = opened(settings, work)
        if vacuum:
            _vacuum(file)
    copies = [str(copy) for copy in _copies(file)]
    if as_json:
        console.json(
            {
                "cache_entries": entries,
                "conversation_turns": turns,
                "idempotent_answers": repeatable,
                "copies": copies,
            }
        )
        return
    console.line(
        f"{entries} cache entries, {repeatable} answers under idempotency keys and {turns} turns of conversations are deleted"
    )
    for copy in copies:
        console.note(f"an older copy may still have them: {copy}", style="yellow")


def _vacuum(file: Path) -> None:
    try:
        with closing(connect(file)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise ConfigError(f"the store {file} cannot be written anew: {error}; try again") from error


def _copies(file: Path) -> Iterator[Path]:
    """Backups that were made before the file was brought up."""
    yield from sorted(file.parent.glob(f"{file.name}.v*.bak"))
