"""`[gateway]`, and what the command line says about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from headrace.config.budgets import judge_budgets
from headrace.config.problem import Report, report
from headrace.config.secret import Secret
from headrace.config.settings import GatewaySettings, KeySettings, Settings
from headrace.config.table import Table
from headrace.errors import ConfigError

STRONG_KEY = 16
"""The fewest characters of a key that guards something reachable from other machines."""


def read_gateway(found: Report, root: Table, keys: Mapping[str, KeySettings]) -> GatewaySettings:
    table = root.table("gateway")
    usual = GatewaySettings()
    host = table.text("host") or (value[1] if (value := found.variable("HEADRACE_HOST")) else usual.host)
    port = usual.port
    if "port" not in table.members and (value := found.variable("HEADRACE_PORT")):
        if re.fullmatch(r"[0-9]{1,5}", value[1]):
            port = int(value[1])
        else:
            found.add((), "the environment variable HEADRACE_PORT is not a port", "Set it to 1 to 65535.")
    admin_key = table.secret("admin_key")
    if "admin_key" not in table.members and (value := found.variable("HEADRACE_ADMIN_KEY")):
        admin_key = Secret(value[1])
    gateway = GatewaySettings(
        host=host,
        port=table.integer("port", port, 0, 65_535),
        admin_key=admin_key,
        workers=table.integer("workers", usual.workers, 1, 256),
        max_body_bytes=table.integer("max_body_bytes", usual.max_body_bytes, 1024, 1 << 30),
        max_header_bytes=table.integer("max_header_bytes", usual.max_header_bytes, 1024, 1 << 20),
        max_depth=table.integer("max_depth", usual.max_depth, 8, 128),
        drain_s=table.duration("drain", usual.drain_s, zero=True),
        header_timeout_s=table.duration("header_timeout", usual.header_timeout_s),
        body_timeout_s=table.duration("body_timeout", usual.body_timeout_s),
        idle_timeout_s=table.duration("idle_timeout", usual.idle_timeout_s),
        keep_alive_s=table.duration("keep_alive", usual.keep_alive_s),
        client_stall_s=table.duration("client_stall", usual.client_stall_s),
    )
    table.close()
    _judge_gateway(found, gateway, keys, table.members)
    return gateway


def _judge_gateway(
    found: Report,
    gateway: GatewaySettings,
    keys: Mapping[str, KeySettings],
    written: Mapping[str, object],
) -> None:
    """What several settings of the gateway say together; `written` is what the file or the command line said."""
    if not 0 <= gateway.port <= 65_535:
        found.add(("gateway", "port"), "must be from 0 to 65535", value=written.get("port"))
    if not 1 <= gateway.workers <= 256:
        found.add(("gateway", "workers"), "must be from 1 to 256", value=written.get("workers"))
    for key in keys.values():
        if gateway.admin_key is not None and key.value == gateway.admin_key:
            found.add(("keys", key.name, "value"), "is the admin key", "Give clients a key of their own.")
    if gateway.loopback:
        return
    admin = ("gateway", "admin_key")
    if gateway.admin_key is None:
        fix = 'Set HEADRACE_ADMIN_KEY or admin_key, or listen on "127.0.0.1".'
        found.add(
            ("gateway", "host"),
            "other machines can reach this and there is no admin key",
            fix,
            value=written.get("host"),
        )
    elif len(gateway.admin_key.reveal()) < STRONG_KEY:
        found.add(
            admin, f"is shorter than {STRONG_KEY} characters and other machines can reach this", _MAKE_KEY
        )
    for key in keys.values():
        if len(key.value.reveal()) < STRONG_KEY:
            place = ("keys", key.name, "value")
            found.add(
                place, f"is shorter than {STRONG_KEY} characters and other machines can reach this", _MAKE_KEY
            )


_MAKE_KEY = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def with_gateway(
    settings: Settings, *, host: str | None = None, port: int | None = None, workers: int | None = None
) -> Settings:
    """`settings` with what the command line says about the gateway. Raises `ConfigError` as `load` does."""
    usual = settings.gateway
    gateway = replace(
        usual,
        host=usual.host if host is None else host,
        port=usual.port if port is None else port,
        workers=usual.workers if workers is None else workers,
    )
    found = Report("", {})
    _judge_gateway(found, gateway, settings.keys, {"host": host, "port": port, "workers": workers})
    settings = replace(settings, gateway=gateway)
    judge_budgets(found, settings)
    if found.problems:
        raise ConfigError(report(found.problems, settings.source))
    return settings
