"""`[keys.X]`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headrace.config.budgets import read_budgets
from headrace.config.problem import Report, closest
from headrace.config.secret import Secret
from headrace.config.settings import KeySettings
from headrace.config.table import Table
from headrace.handler import Route


def read_keys(found: Report, root: Table, routes: Mapping[str, Route], zone: str) -> dict[str, KeySettings]:
    keys: dict[str, KeySettings] = {}
    seen: dict[Secret, str] = {}
    for name, table in root.tables("keys"):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            found.add(table.path, "a key's name is letters, digits, dots, dashes and underscores")
        value = table.secret("value", required=True)
        tenant, user, team = table.name("tenant"), table.name("user"), table.name("team")
        allowed = table.texts("routes")
        budgets = read_budgets(table, "budget", zone)
        for index, route in allowed:
            if route not in routes:
                found.add((*table.path, "routes", index), "no such route", closest(route, list(routes)))
        table.close()
        if "value" not in table.members:
            found.add(table.path, "has no value", 'Write value = "${NAME}" and set the variable.')
        elif value is not None and value in seen:
            table.wrong(
                "value", f"is also the value of key {seen[value]}", "Give each key a value of its own."
            )
        elif value is not None:
            seen[value] = name
            keys[name] = KeySettings(
                name=name,
                value=value,
                tenant=tenant or name,
                user=user,
                team=team,
                routes=tuple(route for _, route in allowed),
                budgets=budgets,
            )
    return keys
