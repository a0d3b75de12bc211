"""The providers that need nothing but a key."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from headrace.config.settings import Auth


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProvider:
    """A provider that needs nothing but a key. `keys`: variables in order of preference, each with how it is sent."""

    name: str
    title: str
    dialect: str
    base_url: str
    url_variables: tuple[str, ...]
    host_variables: tuple[str, ...]
    keys: tuple[tuple[str, Auth], ...]
    keyless: bool
    docs: str


@functools.cache
def known_providers() -> Mapping[str, KnownProvider]:
    """The known providers by name (`providers/known.toml`), read on first use."""
    text = (Path(__file__).parents[1] / "providers" / "known.toml").read_text("utf-8")
    return MappingProxyType(
        {
            name: KnownProvider(
                name=name,
                title=row["title"],
                dialect=row["dialect"],
                base_url=row["base_url"],
                url_variables=tuple(row.get("url_variables", ())),
                host_variables=tuple(row.get("host_variables", ())),
                keys=tuple((key["variable"], key["auth"]) for key in row["keys"]),
                keyless=row.get("keyless", False),
                docs=row["docs"],
            )
            for name, row in tomllib.loads(text).items()
        }
    )
