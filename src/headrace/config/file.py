"""The file is found, read and judged whole."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from headrace.config.budgets import judge_budgets, read_budget_settings
from headrace.config.cache import read_cache_settings
from headrace.config.deployments import read_deployments
from headrace.config.gateway import read_gateway
from headrace.config.guard import read_guard
from headrace.config.idempotency import read_idempotency
from headrace.config.keys import read_keys
from headrace.config.limits import read_user_limits
from headrace.config.places import read_local, read_store
from headrace.config.prices import read_prices
from headrace.config.problem import Problem, Report, report
from headrace.config.providers import read_providers
from headrace.config.routes import read_routes
from headrace.config.settings import Settings
from headrace.config.table import Table
from headrace.errors import ConfigError

FILE_NAME = "headrace.toml"


def wants_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Whether output may be coloured: not if `NO_COLOR` is set to anything (no-color.org)."""
    environ = os.environ if environ is None else environ  # noqa: TID251
    return not environ.get("NO_COLOR")


def find(cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Path | None:
    """The file that `HEADRACE_CONFIG` names, else the nearest `headrace.toml` from `cwd` upward, else None."""
    environ = os.environ if environ is None else environ  # noqa: TID251
    cwd = Path.cwd() if cwd is None else cwd.absolute()
    if named := environ.get("HEADRACE_CONFIG"):
        return cwd / named
    for folder in (cwd, *cwd.parents):
        if (path := folder / FILE_NAME).is_file():
            return path
    return None


def load(
    path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """The settings from the file at `path` (None: the one that `find` finds, or no file) and from `environ`.

    Args:
        environ: The environment; None for the process's own.
        cwd: Where `find` starts; None for the working directory.

    Raises:
        ConfigError: With every mistake that `check` finds.
    """
    source, settings, problems = _read(path, environ, cwd)
    if problems:
        raise ConfigError(report(problems, source))
    return settings


def check(
    path: str | Path | None = None, environ: Mapping[str, str] | None = None, *, cwd: Path | None = None
) -> list[Problem]:
    """Every mistake, in the order of the file; an empty list means that `load` succeeds. Arguments as for `load`."""
    return _read(path, environ, cwd)[2]


def _read(
    path: str | Path | None, environ: Mapping[str, str] | None, cwd: Path | None
) -> tuple[Path | None, Settings, list[Problem]]:
    environ = os.environ if environ is None else environ  # noqa: TID251
    cwd = Path.cwd() if cwd is None else cwd.absolute()
    source = find(cwd, environ) if path is None else cwd / path
    text, data, problems = ("", {}, []) if source is None else _parse(source)
    found = Report(text, environ)
    found.problems += problems
    settings = _settings(found, source, {} if problems else data, cwd)
    return source, settings, sorted(found.problems, key=lambda problem: problem.line)


def _parse(source: Path) -> tuple[str, dict[str, object], list[Problem]]:
    """The file's text and tables, or why there are none."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
        return text, tomllib.loads(text), []
    except OSError as error:
        why = error.strerror or type(error).__name__
        return (
            "",
            {},
            [
                Problem(
                    0, "", "", f"cannot read {source}: {why}", "Name a file that can be read with --config."
                )
            ],
        )
    except UnicodeDecodeError as error:
        return "", {}, [Problem(0, "", "", f"not UTF-8 (byte {error.start})", "Save the file as UTF-8.")]
    except RecursionError:
        return "", {}, [Problem(0, "", "", "nested too deeply", "")]
    except ValueError as error:
        place = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = text.count("\n") + 1
        message = str(error)
        if place is not None:
            line, message = int(place[1] or line), message.replace(place[0], "")
        return "", {}, [Problem(line, "", "", f"not TOML: {message[:1].lower()}{message[1:]}", "")]


def _settings(found: Report, source: Path | None, data: Mapping[str, object], cwd: Path) -> Settings:
    root = Table(found, (), data, "")
    folder = cwd if source is None else source.parent
    providers = read_providers(found, root)
    budgets = read_budget_settings(root)
    routes = read_routes(found, root, providers, budgets.zone, folder)
    deployments = read_deployments(found, root, providers)
    keys = read_keys(found, root, routes, providers, budgets.zone)
    settings = Settings(
        source=source,
        providers=MappingProxyType(providers),
        routes=MappingProxyType(routes),
        deployments=MappingProxyType(deployments),
        keys=MappingProxyType(keys),
        gateway=read_gateway(found, root, keys),
        store=read_store(root, folder),
        local=read_local(found, root, folder),
        prices=MappingProxyType(read_prices(found, root)),
        proxy_environ=MappingProxyType(_proxies(found.environ)),
        ca_file=Path(ca[1]) if (ca := found.variable("SSL_CERT_FILE")) else None,
        cache=read_cache_settings(root),
        idempotency=read_idempotency(root),
        guard=read_guard(root),
        budgets=budgets,
        user_limits=MappingProxyType(read_user_limits(root)),
    )
    root.close()
    judge_budgets(found, settings)
    return settings


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    return {name: environ[name] for lower in names for name in (lower, lower.upper()) if environ.get(name)}
