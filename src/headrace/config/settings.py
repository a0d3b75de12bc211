"""What was configured, as frozen values."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headrace.access import KeyTerms
from headrace.config.secret import Secret
from headrace.handler import GuardPolicy, Route
from headrace.types import Budget, Deployment, Headers, Limits, Target

LOCAL = "local"
"""The provider name of the embedded model; always there, configured by `[local]`."""


Auth = Literal["bearer", "x-api-key", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """One place of a target: `provider` is how it is reached there."""

    provider: ProviderSettings
    deployment: Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """How one provider is reached.

    Attributes:
        base_url: Without a slash at its end; the dialect adds its path (`/chat/completions`; `/v1/messages`).
        auth: How the key is sent: `bearer`, `x-api-key`, or `none`.
        headers: Sent with every request, names in lower case.
        key_variable: The environment variable that the key came from, or that it is expected in.
        keyless: A server that answers without a key.
        public: A known service at its own address, which answers nobody without a key.
    """

    name: str
    dialect: str
    base_url: str
    api_key: Secret | None = None
    auth: Auth = "bearer"
    headers: Headers = field(default=(), repr=False)
    key_variable: str | None = None
    keyless: bool = False
    public: bool = False

    @property
    def usable(self) -> bool:
        """Whether a request could be sent: there is a key, or none is needed."""
        return self.api_key is not None or self.keyless


class KeySettings(KeyTerms, frozen=True, kw_only=True):
    """A key that the gateway accepts, written in the file."""

    name: str
    value: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """Budgets that belong to neither a key nor a route.

    Attributes:
        zone: Where days and months begin, for every budget that does not say.
        total: Over everything.
        users, teams, tags: By name; `*` is for each that has none of its own, and a tag's name is `name=value` or `name=*`.
    """

    zone: str = "UTC"
    total: tuple[Budget, ...] = ()
    users: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)
    teams: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)
    tags: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.total or self.users or self.teams or self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The server's face.

    Attributes:
        host: Off loopback (anything but 127.0.0.0/8, ::1 and localhost) an admin key is required.
        port: 1 to 65535; 0 lets the system choose.
        workers: Processes, 1 to 256.
        max_body_bytes: Largest request body; 50 MiB holds the largest that a provider takes (OpenAI: 50 MB of files).
        max_header_bytes: Largest sum of request line and headers.
        max_depth: Deepest nesting of JSON in a request, 8 to 128; tools' schemas have some ten levels.
        drain_s: How long running requests may go on after a stop signal.
        header_timeout_s: How long a client may take to send its headers.
        body_timeout_s: How long a client may take to send its body, beside a second for every 16 KiB of it.
        idle_timeout_s: How long a kept connection may be idle; above the 60 s of common load balancers, so that they
            and not we close it.
        keep_alive_s: Silence after which a streamed response gets a comment, and is opened by it if it had not begun.
        client_stall_s: How long a client may read nothing of an answer that waits for it before it is cut: nginx's `send_timeout`.
    """

    host: str = "127.0.0.1"
    port: int = 4000
    admin_key: Secret | None = None
    workers: int = 1
    max_body_bytes: int = 50 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_depth: int = 128
    drain_s: float = 30.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    keep_alive_s: float = 10.0
    client_stall_s: float = 60.0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where the database file is.

    Attributes:
        path: The file that was named; None when none was. The library then keeps nothing beyond the process.
        usual: Where the gateway keeps its file when none was named; None when it was told to keep nothing.
    """

    path: Path | None = None
    usual: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencySettings:
    """Answers under idempotency keys: each is given again for `retention_s`, Stripe's 24 hours; all together take `max_bytes`."""

    retention_s: float = 86_400.0
    max_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The cache of all routes: `max_bytes` of entries in each process; `scorer` is `package.module:name`, see `headrace.cache.aid`."""

    max_bytes: int = 256 << 20
    scorer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """The embedded model: a name of `headrace models local`, or the path of a GGUF file; `context` in tokens."""

    model: str = "smollm2-135m"
    threads: int = 1
    context: int = 2048
    parallel: int = 2
    cache_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was configured.

    Attributes:
        source: The file, or None when there was none.
        providers: Those named in the file or by a route, and the known ones whose key is in the environment. The embedded
            model (`local`) is not among them; it is always there.
        routes: By name.
        deployments: The places of targets that have several, or another than their provider's; by name.
        keys: By name.
        prices: What the file says about prices, by `provider/model`, not yet parsed.
        proxy_environ: The proxy variables that are set, by the name they have.
        ca_file: `SSL_CERT_FILE`.
        guard: For every request whose route has none of its own.
        user_limits: By user; `*` is for each who has none of his own.
    """

    source: Path | None
    providers: Mapping[str, ProviderSettings]
    routes: Mapping[str, Route]
    keys: Mapping[str, KeySettings]
    gateway: GatewaySettings
    store: StoreSettings
    local: LocalSettings
    prices: Mapping[str, Mapping[str, object]]
    proxy_environ: Mapping[str, str] = field(repr=False)
    budgets: BudgetSettings = BudgetSettings()
    ca_file: Path | None = None
    cache: CacheSettings = CacheSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    guard: GuardPolicy | None = None
    deployments: Mapping[str, DeploymentSettings] = field(default_factory=dict)
    user_limits: Mapping[str, Limits] = field(default_factory=dict)

    @property
    def default_route(self) -> Route | None:
        """The route for a request that names no model.

        The one called `default`, or the only one there is; without routes and without any usable provider, the embedded
        model. None when the caller has to choose.
        """
        if "default" in self.routes:
            return self.routes["default"]
        if len(self.routes) == 1:
            return next(iter(self.routes.values()))
        if not self.routes and not any(provider.usable for provider in self.providers.values()):
            return Route(name="default", cascade=(Target(LOCAL, "default"),))
        return None


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
