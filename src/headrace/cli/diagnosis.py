"""`doctor`: what this machine has, one line a check, with the fix where something is missing."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import socket
import sqlite3
import ssl
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click

from headrace import config
from headrace.cli import options
from headrace.cli.configuration import key_state
from headrace.cli.console import Console
from headrace.clock import SystemClock
from headrace.config import Settings
from headrace.errors import ConfigError

__all__ = ["Finding", "doctor", "examine"]

EARLIEST = 1_735_689_600.0
"""2025-01-01 UTC: a clock before it is wrong, and certificates will seem not yet valid."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `warn`: works, but perhaps not as meant. `fail`: will not work. `fix` is empty for `ok`."""

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


@click.command(short_help="Examine this machine.")
@options.config_file
@options.as_json
@click.pass_context
def doctor(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Examine this machine: Python, parts, settings, keys, store, port, clock, proxy, certificates, local model.

    Nothing is sent anywhere. Exit codes: 0 nothing is broken, 1 something is.
    """
    console = Console(as_json=as_json)
    findings = list(examine(path))
    broken = any(finding.state == "fail" for finding in findings)
    if as_json:
        rows = [{"what": f.what, "state": f.state, "found": f.found, "fix": f.fix} for f in findings]
        console.json({"ok": not broken, "checks": rows})
    else:
        console.table(["check", "", "found", "fix"], [[f.what, f.state, f.found, f.fix] for f in findings])
    if broken:
        context.exit(1)


def examine(path: Path | None) -> Iterator[Finding]:
    """Every finding, in the order of the table."""
    yield _python(sys.version_info[:3])
    yield from _parts()
    yield _clock(SystemClock().wall())
    problems = config.check(path)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Finding("settings", "fail", f"{problems[0]}{more}", "headrace check lists every problem")
        return
    settings = config.load(path)
    yield Finding("settings", "ok", str(settings.source or "no file; the environment alone"))
    yield from _keys(settings)
    yield _store(settings.store)
    yield from _circuits(settings.store.path or settings.store.usual)
    yield _port(settings.gateway.host, settings.gateway.port)
    yield _proxies(settings)
    yield _certificates(settings.ca_file)
    yield _local_model(settings)


def _python(version: tuple[int, int, int]) -> Finding:
    text = f"{platform.python_implementation()} {'.'.join(map(str, version))}"
    if version < (3, 11):
        return Finding("python", "fail", text, "use Python 3.11 or newer")
    return Finding("python", "ok", text)


_EXTRAS = {
    "server": (("uvloop",), "the gateway runs on the standard event loop, which is slower"),
    "local": (("xllamacpp",), "the embedded model cannot run"),
}


def _parts() -> Iterator[Finding]:
    for extra, (modules, effect) in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            yield Finding(
                f"extra {extra}", "warn", f"not installed: {effect}", f"pip install 'headrace[{extra}]'"
            )
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def _clock(wall: float) -> Finding:
    if wall < EARLIEST:
        return Finding(
            "clock", "fail", "before 2025: certificates will be refused", "set the time, e.g. with NTP"
        )
    return Finding("clock", "ok", "plausible")


def _keys(settings: Settings) -> Iterator[Finding]:
    known = config.known_providers()
    for provider in settings.providers.values():
        what = f"provider {provider.name}"
        if provider.usable:
            yield Finding(what, "ok", f"key: {key_state(provider)}; {provider.base_url}")
        else:
            docs = f"; keys: {known[provider.name].docs}" if provider.name in known else ""
            fix = f"export {provider.key_variable}=...{docs}" if provider.key_variable else "set api_key"
            yield Finding(what, "warn", "no key: its attempts will be refused", fix)
    if not settings.providers:
        fix = "export OPENAI_API_KEY=... or ANTHROPIC_API_KEY=..."
        yield Finding("providers", "warn", "no key found: only the embedded model answers", fix)


def _store(store: config.StoreSettings) -> Finding:
    path = store.path
    if path is None:
        gateway = "nothing either" if store.usual is None else str(store.usual)
        return Finding("store", "ok", f"not named: the library keeps nothing, the gateway {gateway}")
    folder = path.parent
    if not folder.is_dir():
        return Finding("store", "fail", f"{folder} is no folder", f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "store", "fail", f"{folder} cannot be written", "choose another [store] path or change its owner"
        )
    if not path.exists():
        return Finding("store", "ok", f"{path} will be made")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding("store", "fail", f"{path} cannot be read and written", f"chmod u+rw {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(
            "store", "warn", f"{path} is open to other users (mode {mode:03o})", f"chmod 600 {path}"
        )
    return Finding("store", "ok", f"{path} (mode {mode:03o})")


def _circuits(path: Path | None) -> Iterator[Finding]:
    """What the gateway's workers told each other of targets that fail; nothing where no file is."""
    if path is None or not path.is_file():
        return
    now = SystemClock().wall()
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT key, state, until_wall, reason FROM circuits WHERE state != 'closed' ORDER BY key"
            ).fetchall()
    except sqlite3.Error:
        return  # an older file, or one that `store` tells of
    shut = [(key, state, until, why) for key, state, until, why in rows if state == "open" or until > now]
    if not shut:
        yield Finding("circuits", "ok", "none is open")
    for key, state, until, why in shut:
        wait = f"for {until - now:.0f} s" if until > now else "until the next request probes it"
        yield Finding(f"circuit {key}", "warn", f"{state} {wait}" + (f" after {why}" if why else ""))


def _port(host: str, port: int) -> Finding:
    where = f"{host}:{port}"
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return Finding("port", "fail", f"{host} is not an address of this machine", "correct [gateway] host")
    family, kind, protocol, _, address = info[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return Finding(
                    "port", "fail", f"{where} is taken", "stop what listens there, or serve --port N"
                )
            if error.errno == errno.EACCES:
                return Finding(
                    "port", "fail", f"{where} may not be opened by this user", "use a port above 1023"
                )
            return Finding("port", "fail", f"{where}: {error.strerror}", "correct [gateway] host")
    return Finding("port", "ok", f"{where} is free")


def _proxies(settings: Settings) -> Finding:
    proxies = settings.proxy_environ
    if not proxies:
        return Finding("proxy", "ok", "none")
    for name, value in proxies.items():
        if name.lower() == "no_proxy":
            continue
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            usable = parts.hostname is not None and parts.scheme in {"http", "https"} and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            return Finding(
                "proxy", "fail", f"{name} is not an http proxy's address", f"unset {name} or correct it"
            )
    # Values may hold a password; the names say enough.
    return Finding("proxy", "ok", f"used: {', '.join(sorted(proxies))}")


def _certificates(path: Path | None) -> Finding:
    if path is None:
        return Finding("certificates", "ok", "the built-in list; SSL_CERT_FILE is not set")
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "it holds no certificate"
        fix = "name a PEM file in SSL_CERT_FILE, or unset it"
        return Finding("certificates", "fail", f"{path}: {reason}", fix)
    return Finding("certificates", "ok", f"{path} (SSL_CERT_FILE)")


def _local_model(settings: Settings) -> Finding:
    from headrace.local import weights

    model = settings.local.model
    try:
        place = weights.find(model, settings.local.cache_dir)
    except ConfigError as error:
        return Finding("local model", "fail", str(error), "correct [local] model")
    if place is not None:
        return Finding("local model", "ok", str(place))
    if weights.is_path(model):
        return Finding("local model", "fail", f"{model} is not there", "correct [local] model")
    return Finding("local model", "warn", f"{model} is not on this machine", f"headrace models pull {model}")
