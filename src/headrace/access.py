"""What a key may do: a value that the configuration, the store and the gateway share, and the decisions on it. All pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from headrace.errors import Forbidden
from headrace.types import Budget, Limits

__all__ = ["ROLES", "KeyRole", "KeyTerms", "allows", "require"]

KeyRole: TypeAlias = Literal["caller", "viewer", "auditor", "operator", "admin"]
ROLES: tuple[KeyRole, ...] = ("caller", "viewer", "auditor", "operator", "admin")
"""`caller` asks models and nothing else; the others use the admin API and ask none. `viewer` sees what runs and what it cost,
`auditor` also the keys and the audit log, `operator` also the keys, and makes, rotates and ends those of callers; `admin` may all."""


class KeyTerms(Struct, frozen=True, kw_only=True):
    """On what terms a key is good, wherever it is kept.

    Attributes:
        tenant: Whose data it sees; nothing is shared between tenants.
        routes, models: What it may ask for: names of routes; `provider/model`, or `provider/*` for all of a provider's. Both empty: all.
        budgets: Held against what this key spends.
        limits: How fast it may ask.
        expires_wall: From then on, seconds since 1970, it is good no more; None for never.
    """

    tenant: str
    user: str | None = None
    team: str | None = None
    role: KeyRole = "caller"
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()
    limits: Limits | None = None
    expires_wall: float | None = None

    @property
    def allowed(self) -> frozenset[str]:
        """`routes` and `models` together, as `allows` takes them."""
        return frozenset((*self.routes, *self.models))


def allows(allowed: frozenset[str], name: str) -> bool:
    """Whether a key that may ask for `allowed` (empty: all) may ask for `name`: a route, `provider/model`, or a cascade of them,
    separated by commas, of which it must be allowed each."""
    return not allowed or all(_allows(allowed, part) for part in name.split(","))


def _allows(allowed: frozenset[str], name: str) -> bool:
    provider, slash, _ = name.partition("/")
    return name in allowed or (slash == "/" and f"{provider}/*" in allowed)


def require(allowed: frozenset[str], name: str) -> None:
    """Raises `Forbidden` unless `allows`."""
    if not allows(allowed, name):
        raise Forbidden(f"this key may use {', '.join(sorted(allowed))}, not {name!r}")
