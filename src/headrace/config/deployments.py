"""`[deployments.X]`: the places where a target is to be had."""

from __future__ import annotations

import dataclasses
import re
from urllib.parse import urlsplit

from headrace.config.known import known_providers
from headrace.config.problem import Report, closest
from headrace.config.providers import judge_url, read_provider, trimmed
from headrace.config.settings import LOCAL, DeploymentSettings, ProviderSettings, is_loopback
from headrace.config.table import Table
from headrace.types import Deployment


def read_deployments(
    found: Report, root: Table, providers: dict[str, ProviderSettings]
) -> dict[str, DeploymentSettings]:
    """Those of the file, by their names."""
    deployments: dict[str, DeploymentSettings] = {}
    for name, table in root.tables("deployments"):
        deployment = _read(found, name, table, providers)
        if deployment is not None:
            deployments[name] = deployment
    return deployments


def _read(
    found: Report, name: str, table: Table, providers: dict[str, ProviderSettings]
) -> DeploymentSettings | None:
    target, url = table.text("target"), table.text("base_url")
    key = table.secret("api_key")
    domain = table.text("quota_domain")
    weight = table.number("weight", 1.0, 0.001, 1000.0)
    concurrency = table.integer("concurrency", 0, 0, 100_000)
    queue = table.integer("queue", concurrency, 0, 100_000)
    table.close()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name in providers or name == LOCAL:
        fix = "Choose letters, digits, dots, dashes and underscores, and no provider's name."
        found.add(table.path, "is not a deployment's name", fix)
        return None
    provider_name, slash, model = (target or "").partition("/")
    if target is None:
        found.add(table.path, "has no target", 'Write target = "provider/model".')
        return None
    if not slash or not model:
        found.add((*table.path, "target"), "must be provider/model", 'For instance "openai/gpt-5".')
        return None
    row = known_providers().get(provider_name)
    if provider_name not in providers and row is not None:
        known = read_provider(found, provider_name, None, row)
        if known is not None:
            providers[provider_name] = known
    provider = providers.get(provider_name)
    if provider is None:
        what = (
            "is the embedded model, which has one place"
            if provider_name == LOCAL
            else "no provider has that name"
        )
        names = sorted(known_providers().keys() | providers.keys())
        found.add((*table.path, "target"), what, closest(provider_name, names))
        return None
    if url is not None and not judge_url(found, (*table.path, "base_url"), url, table.members["base_url"]):
        return None
    keyless = provider.keyless or (url is not None and is_loopback(urlsplit(url).hostname or ""))
    secret = key if key is not None else provider.api_key
    place = dataclasses.replace(
        provider,
        base_url=provider.base_url if url is None else trimmed(url, provider.dialect),
        api_key=secret,
        keyless=keyless,
        auth=provider.auth if secret is None or provider.auth != "none" else "bearer",
        public=provider.public and url is None and secret is None,
    )
    account = domain or (name if key is not None or url is not None else provider_name)
    return DeploymentSettings(
        provider=place,
        deployment=Deployment(
            name=name,
            provider=provider_name,
            model=model,
            quota_domain=account,
            weight=weight,
            concurrency=concurrency,
            queue=queue,
        ),
    )
