"""`keys`: the keys of the store, straight in its file, whether a gateway runs or not."""

from __future__ import annotations

from pathlib import Path

import click

from headrace import config
from headrace import keys as made
from headrace.access import ROLES
from headrace.budget.leases import Balance
from headrace.cli import options
from headrace.cli.console import Console
from headrace.cli.storage import opened, store_file, whoami
from headrace.clock import SystemClock
from headrace.config import KeySettings, Settings, span_of
from headrace.store import Store, StoredKey
from headrace.types import Limits

__all__ = ["keys"]

_key = click.argument("key")


@click.group(invoke_without_command=True, short_help="Make, list, rotate and revoke the gateway's keys.")
@options.config_file
@click.option("--all", "every", is_flag=True, help="Also those that are revoked or expired.")
@options.as_json
@click.pass_context
def keys(context: click.Context, path: Path | None, every: bool, as_json: bool) -> None:
    """List the keys that callers present to the gateway: those of its store and those of the settings. No value is shown.

    Below are the other things that can be done with keys. They work on the store's file; gateways that run follow within a second.

    Exit codes: 0 listed, 2 the settings are wrong or the store cannot be read.
    """
    if context.invoked_subcommand is None:
        _list(Console(as_json=as_json), config.load(path), every=every)


@keys.command("list", short_help="List them.")
@options.config_file
@click.option("--all", "every", is_flag=True, help="Also those that are revoked or expired.")
@options.as_json
def listed(path: Path | None, every: bool, as_json: bool) -> None:
    """The same as `headrace keys`.

    Exit codes: 0 listed, 2 the settings are wrong or the store cannot be read.
    """
    _list(Console(as_json=as_json), config.load(path), every=every)


@keys.command("create", short_help="Make one.")
@options.config_file
@click.option("--name", metavar="NAME", help="What to call it, beside its id.")
@click.option("--tenant", metavar="NAME", help="Whose data it sees; default: the key's name, or its id.")
@click.option("--user", metavar="NAME", help="For the ledger and for budgets.")
@click.option("--team", metavar="NAME", help="For the ledger and for budgets.")
@click.option("--role", type=click.Choice(ROLES), help="What it is for; default: caller.")
@click.option("--route", "routes", multiple=True, metavar="NAME", help="A route it may ask for; repeat it.")
@click.option(
    "--model", "models", multiple=True, metavar="MODEL", help="A provider/model or provider/* likewise."
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="BUDGET",
    help="usd=5,window=day or tokens=1000,...; repeat it.",
)
@click.option("--rpm", type=click.IntRange(1, 10**9), help="Requests a minute.")
@click.option("--tpm", type=click.IntRange(1, 10**9), help="Tokens a minute, input and output together.")
@click.option("--expires", metavar="WHEN", help="30d, 2030-01-31 or 2030-01-31T12:00:00Z; default: never.")
@options.as_json
def create(
    path: Path | None,
    name: str | None,
    tenant: str | None,
    user: str | None,
    team: str | None,
    role: str | None,
    routes: tuple[str, ...],
    models: tuple[str, ...],
    budgets: tuple[str, ...],
    rpm: int | None,
    tpm: int | None,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key and print its value, which is shown only now; everything else goes to standard error.

    Without --route and --model it may ask for everything. A BUDGET has usd or tokens, a window (minute, hour, day, month), and perhaps
    soft=true, on_limit=downgrade, timezone=Europe/Berlin.

    Exit codes: 0 made, 2 it cannot be so, or the store cannot be written.
    """
    console, settings = Console(as_json=as_json), config.load(path)
    said: dict[str, object] = {"name": name, "tenant": tenant, "user": user, "team": team, "role": role}
    said |= {"routes": list(routes), "models": list(models), "expires": expires}
    members = {what: value for what, value in said.items() if value}
    if budgets:
        members["budget"] = [_budget(text) for text in budgets]
    if rpm or tpm:
        members["limits"] = {name: value for name, value in (("rpm", rpm), ("tpm", tpm)) if value}
    now = SystemClock.wall()
    issued = opened(settings, lambda store: made.issue(store, members, settings, now=now, by=whoami()))
    _show(console, issued, now, "made")


@keys.command("rotate", short_help="Give one a new value.")
@_key
@options.config_file
@click.option(
    "--grace",
    default="0s",
    metavar="TIME",
    help="How long its former value is still good: 24h, 7d; default: 0s.",
)
@options.as_json
def rotate(key: str, path: Path | None, grace: str, as_json: bool) -> None:
    """Give KEY (its id or its name) a new value and print it, which is shown only now. Its spend and its terms stay.

    The former value is good for --grace, at most 30d; one before that no more.

    Exit codes: 0 rotated, 2 there is no such key, it is revoked, or the store cannot be written.
    """
    console, settings = Console(as_json=as_json), config.load(path)
    try:
        grace_s = span_of(grace)
    except ValueError as error:
        raise click.UsageError("--grace is a time such as 24h or 7d") from error
    now = SystemClock.wall()

    async def work(store: Store) -> made.Issued:
        found = await made.find(store, key, settings)
        return await made.rotate(store, found, grace_s=grace_s, now=now, by=whoami())

    issued = opened(settings, work)
    _show(console, issued, now, "rotated")
    if grace_s:
        console.note(f"its former value is good until {made.moment(issued.key.old_until_wall)}")
    else:
        console.note("its former value is good no more")


@keys.command("revoke", short_help="End one for good.")
@_key
@options.config_file
@options.as_json
def revoke(key: str, path: Path | None, as_json: bool) -> None:
    """End KEY (its id or its name, or its value where that was found somewhere) for good.

    Exit codes: 0 revoked, 2 there is no such key, it was revoked before, or the store cannot be written.
    """
    console, settings = Console(as_json=as_json), config.load(path)
    now = SystemClock.wall()

    async def work(store: Store) -> StoredKey:
        return await made.revoke(store, await made.find(store, key, settings), now=now, by=whoami())

    gone = opened(settings, work)
    if as_json:
        console.json(made.key_members(gone, now))
        return
    console.line(f"{_called(gone)} is revoked; gateways that run refuse it within a second")


@keys.command("audit", short_help="Show who changed what.")
@options.config_file
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, help="How many lines; default: 100.")
@click.option("--key", metavar="KEY", help="Only about this key: its id or its name.")
@options.as_json
def audit(path: Path | None, limit: int, key: str | None, as_json: bool) -> None:
    """Show the audit log, the newest line first: who did what to which key, with what result, over the command line and the admin API.

    Exit codes: 0 shown, 2 there is no such key, or the store cannot be read.
    """
    console, settings = Console(as_json=as_json), config.load(path)

    async def work(store: Store) -> list[dict[str, object]]:
        subject = None if key is None else (await made.find(store, key)).id
        return [made.audit_members(row) for row in await store.audit(limit, subject)]

    rows = opened(settings, work) if store_file(settings).exists() else []
    if as_json:
        console.json({"audit": rows})
        return
    if not rows:
        console.note("nothing has been done to a key yet")
    columns = ["at", "actor", "action", "subject", "result", "request_id", "detail"]
    console.table(columns, [[str(row[name] or "") for name in columns] for row in rows])


def _budget(text: str) -> dict[str, object]:
    """`usd=5,window=day` as the settings would write it."""
    budget: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or name in budget:
            raise click.UsageError(f"--budget {text}: write it as usd=5,window=day")
        if name == "tokens" and value.isascii() and value.isdigit():
            budget[name] = int(value)
        elif name == "soft" and value in ("true", "false"):
            budget[name] = value == "true"
        else:
            budget[name] = value
    return budget


def _list(console: Console, settings: Settings, *, every: bool) -> None:
    now = SystemClock.wall()

    async def work(store: Store) -> tuple[list[StoredKey], list[Balance]]:
        return await store.list_keys(), await store.balances(now)

    stored, balances = opened(settings, work) if store_file(settings).exists() else ([], [])
    found: list[StoredKey | KeySettings] = [*stored, *settings.keys.values()]
    shown = [key for key in found if every or made.state(key, now) == "active"]
    if console.as_json:
        console.json({"keys": [made.key_members(key, now, balances) for key in shown]})
        return
    console.table(
        [
            "key",
            "name",
            "begins with",
            "state",
            "role",
            "tenant",
            "user",
            "team",
            "may ask for",
            "budget",
            "limits a minute",
            "expires",
        ],
        [_row(key, now, balances) for key in shown],
    )
    hidden = len(found) - len(shown)
    if hidden:
        console.note(f"{hidden} more {'is' if hidden == 1 else 'are'} revoked or expired: --all shows them")
    if not found:
        console.note("there are no keys: make one with headrace keys create")


def _row(key: StoredKey | KeySettings, now: float, balances: list[Balance]) -> list[str]:
    where = (
        [key.id, key.name or "", f"{key.prefix}..."]
        if isinstance(key, StoredKey)
        else ["(settings)", key.name, ""]
    )
    return [
        *where,
        state if (state := made.state(key, now)) != "active" else "",
        key.role if key.role != "caller" else "",
        key.tenant,
        key.user or "",
        key.team or "",
        ", ".join((*key.routes, *key.models)) or ("all" if key.role == "caller" else "nothing"),
        ", ".join(map(_budget_text, made.key_members(key, now, balances)["budget"])),
        _limits_text(key.limits),
        made.moment(key.expires_wall) or "",
    ]


def _budget_text(budget: dict[str, object]) -> str:
    soft = " (soft)" if budget["soft"] else ""
    if "usd" in budget:
        return f"${budget['used']} of ${budget['usd']} a {budget['window']}{soft}"
    return f"{budget['used']} of {budget['tokens']} tokens a {budget['window']}{soft}"


def _limits_text(limits: Limits | None) -> str:
    if limits is None:
        return ""
    said = ((limits.rpm, "requests"), (limits.tpm, "tokens"))
    return ", ".join(f"{amount:,} {unit}" for amount, unit in said if amount)


def _show(console: Console, issued: made.Issued, now: float, done: str) -> None:
    """The value to standard output, what it is about to standard error."""
    if console.as_json:
        console.json(made.issued_members(issued, now))
        return
    console.note(f"{_called(issued.key)} is {done}; this is its value, shown only now:")
    console.line(issued.value.reveal())


def _called(key: StoredKey) -> str:
    return f"key {key.id}" if key.name is None else f"key {key.name} ({key.id})"
