"""The settings: `headrace.toml` and the environment, read once, judged whole, then frozen.

Nothing else in Headrace reads the environment, and nothing here happens at import. One order holds everywhere: the command
line wins over the file, the file over the conventional variables (`OPENAI_API_KEY`, ...), those over the defaults; a file
hands a value over to the environment by writing `${NAME}`.

A configuration with one mistake is not used at all. `check` lists every mistake at once, each with its line, the value and
the fix; `load` raises `ConfigError` with the same report. A report never shows a secret: it quotes the file, not what
`${NAME}` stood for, and values of keys that hold secrets are masked.
"""

from __future__ import annotations

from headrace.config.file import FILE_NAME, check, find, load, wants_colour
from headrace.config.gateway import with_gateway
from headrace.config.keys import key_terms
from headrace.config.known import KnownProvider, known_providers
from headrace.config.problem import Problem, report
from headrace.config.secret import Secret
from headrace.config.settings import (
    LOCAL,
    CacheSettings,
    DeploymentSettings,
    GatewaySettings,
    IdempotencySettings,
    KeySettings,
    LocalSettings,
    ProviderSettings,
    Settings,
    StoreSettings,
)
from headrace.config.table import MAX_DURATION_S, parse_duration, span_of

__all__ = [
    "FILE_NAME",
    "LOCAL",
    "MAX_DURATION_S",
    "CacheSettings",
    "DeploymentSettings",
    "GatewaySettings",
    "IdempotencySettings",
    "KeySettings",
    "KnownProvider",
    "LocalSettings",
    "Problem",
    "ProviderSettings",
    "Secret",
    "Settings",
    "StoreSettings",
    "check",
    "find",
    "key_terms",
    "known_providers",
    "load",
    "parse_duration",
    "report",
    "span_of",
    "wants_colour",
    "with_gateway",
]
