"""`[keys.X]`, and the same members where a key is made on the command line or over the admin API."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from msgspec.structs import asdict

from headrace.access import ROLES, KeyTerms
from headrace.config.budgets import read_budgets
from headrace.config.known import known_providers
from headrace.config.limits import read_limits
from headrace.config.problem import Report, closest
from headrace.config.secret import Secret
from headrace.config.settings import LOCAL, KeySettings, Settings
from headrace.config.table import Table
from headrace.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_IS = (
    "a key's name is 1 to 128 letters, digits, dots, dashes and underscores, the first a letter or a digit"
)


def read_keys(
    found: Report, root: Table, routes: Collection[str], providers: Collection[str], zone: str
) -> dict[str, KeySettings]:
    keys: dict[str, KeySettings] = {}
    seen: dict[Secret, str] = {}
    for name, table in root.tables("keys"):
        if not _NAME.fullmatch(name):
            found.add(table.path, _NAME_IS)
        value = table.secret("value", required=True)
        terms = _read_terms(table, name, routes, providers, zone, None)
        table.close()
        if "value" not in table.members:
            found.add(table.path, "has no value", 'Write value = "${NAME}" and set the variable.')
        elif value is not None and value in seen:
            table.wrong(
                "value", f"is also the value of key {seen[value]}", "Give each key a value of its own."
            )
        elif value is not None:
            seen[value] = name
            keys[name] = KeySettings(name=name, value=value, **asdict(terms))
    return keys


def key_terms(
    members: Mapping[str, object], settings: Settings, *, usual: str, now: float
) -> tuple[str | None, KeyTerms]:
    """The name and the terms of a key that is to be made: `members` are those of `[keys.X]` without `value`, and `name`.

    Args:
        usual: The tenant of a key that names neither a tenant nor itself.
        now: Wall time, from which an `expires` such as `30d` counts.

    Raises:
        InvalidRequest: With every mistake.
    """
    found = Report("", {})  # without an environment: nobody far away may ask for a variable's value
    table = Table(found, (), members, None)
    name = table.text("name")
    if name is not None and not _NAME.fullmatch(name):
        table.wrong("name", _NAME_IS)
    elif name is not None and name.startswith("hr-"):
        table.wrong(
            "name", "begins as a key's value does", "Choose another, so that no value is kept as a name."
        )
    terms = _read_terms(table, name or usual, settings.routes, settings.providers, settings.budgets.zone, now)
    table.close()
    if found.problems:
        raise InvalidRequest("; ".join(str(problem) for problem in found.problems))
    return name, terms


def _read_terms(
    table: Table,
    usual: str,
    routes: Collection[str],
    providers: Collection[str],
    zone: str,
    now: float | None,
) -> KeyTerms:
    tenant, user, team = table.name("tenant"), table.name("user"), table.name("team")
    role = table.choice("role", ROLES)
    asked, models = table.texts("routes"), table.texts("models")
    for index, route in asked:
        if route not in routes:
            table.found.add((*table.path, "routes", index), "no such route", closest(route, list(routes)))
    known = {*providers, *known_providers(), LOCAL}
    for index, model in models:
        provider, _, rest = model.partition("/")
        if provider not in known or not rest or ("*" in rest and rest != "*") or "," in rest:
            fix = 'Write "provider/model", or "provider/*" for all of a provider.'
            table.found.add((*table.path, "models", index), "no model of a known provider", fix, value=model)
    terms = KeyTerms(
        tenant=tenant or usual,
        user=user,
        team=team,
        role=role or "caller",  # type: ignore[arg-type]  # one of ROLES
        routes=tuple(route for _, route in asked),
        models=tuple(model for _, model in models),
        budgets=read_budgets(table, "budget", zone),
        limits=read_limits(table),
        expires_wall=table.moment("expires", now),
    )
    if terms.role != "caller" and (terms.routes or terms.models or terms.budgets or terms.limits):
        table.wrong(
            "role",
            f"a key with the role {terms.role} asks no models",
            "Leave routes, models, budget and limits out.",
        )
    return terms
