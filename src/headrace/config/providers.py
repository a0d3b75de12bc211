"""`[providers.X]` and the conventional variables."""

from __future__ import annotations

import difflib
import re
from urllib.parse import urlsplit

from headrace.config.known import KnownProvider, known_providers
from headrace.config.problem import Report
from headrace.config.secret import Secret
from headrace.config.settings import LOCAL, Auth, ProviderSettings, is_loopback
from headrace.config.table import Table, sendable
from headrace.lines import KeyPath
from headrace.types import Headers

DIALECTS = ("openai-chat", "anthropic")


AUTHS = ("bearer", "x-api-key", "none")


def read_providers(found: Report, root: Table) -> dict[str, ProviderSettings]:
    """Those of the file, then the known ones that the environment has a key or an address for."""
    known = known_providers()
    providers: dict[str, ProviderSettings] = {}
    for name, table in root.tables("providers"):
        if name == LOCAL:
            found.add(table.path, "is the embedded model", "Configure it under [local].")
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            found.add(table.path, "a provider's name is letters, digits, dots, dashes and underscores")
        elif (provider := read_provider(found, name, table, known.get(name))) is not None:
            providers[name] = provider
    for name, row in known.items():
        variables = [variable for variable, _ in row.keys] + list(row.host_variables)
        if name not in providers and found.variable(*variables):
            provider = read_provider(found, name, None, row)
            if provider is not None:
                providers[name] = provider
    return providers


def read_provider(
    found: Report, name: str, table: Table | None, known: KnownProvider | None
) -> ProviderSettings | None:
    """One provider from its table (None: the file does not mention it) and what is known about the name."""
    table = Table(found, ("providers", name), {}, None) if table is None else table
    dialect = table.choice("dialect", DIALECTS) or (known.dialect if known else None)
    url = table.text("base_url")
    secret = table.secret("api_key")
    auth = table.choice("auth", AUTHS)
    headers = _headers(table.table("headers"))
    table.close()
    if known is None and not {"dialect", "base_url"} <= table.members.keys():
        names = list(known_providers())
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        fix = f'Did you mean "{near[0]}"?' if near else f"Known without them: {', '.join(names)}."
        found.add(table.path, "is not a known provider and lacks dialect or base_url", fix)
        return None
    if url is not None:
        if not judge_url(found, (*table.path, "base_url"), url, table.members["base_url"]):
            url = None
    elif known is not None and "base_url" not in table.members:
        url = _known_url(found, known)
    if dialect is None or url is None:
        return None

    # The key: the file's, or else the first conventional variable that is set.
    written = table.members.get("api_key")
    variable: str | None = None
    sent: Auth = "x-api-key" if dialect == "anthropic" else "bearer"
    candidates = known.keys if known else ((f"{re.sub('[^A-Za-z0-9]', '_', name).upper()}_API_KEY", sent),)
    if isinstance(written, str):
        match = re.fullmatch(r"\$\{([A-Za-z0-9_]+)\}", written)
        variable = match[1] if match else None
    elif candidates and auth != "none":
        variable, sent = candidates[0]
        for candidate, how in candidates:
            if value := found.variable(candidate):
                variable, sent = candidate, how
                if sendable(value[1]):
                    secret = Secret(value[1])
                else:
                    found.add(
                        (),
                        f"the environment variable {candidate} holds no key that can be sent",
                        "Set it again.",
                    )
                break
    if auth == "none" and written is not None:
        found.add((*table.path, "api_key"), 'is never sent with auth = "none"', "Leave one of the two out.")
    keyless = auth == "none" or (known.keyless if known else is_loopback(urlsplit(url).hostname or ""))
    return ProviderSettings(
        name=name,
        dialect=dialect,
        base_url=trimmed(url, dialect),
        api_key=secret,
        auth="none" if secret is None and keyless else _auth(auth) or sent,
        headers=headers,
        key_variable=None if auth == "none" else variable,
        keyless=keyless,
        public=not keyless and known is not None and url == known.base_url,
    )


def _auth(text: str | None) -> Auth | None:
    match text:
        case "bearer" | "x-api-key" | "none":
            return text
        case _:
            return None


def trimmed(url: str, dialect: str) -> str:
    """Without the slash at the end; for Anthropic without `/v1`, which belongs to the path of its dialect."""
    url = url.rstrip("/")
    return url.removesuffix("/v1") if dialect == "anthropic" else url


def _known_url(found: Report, known: KnownProvider) -> str | None:
    """Where a known provider is: the conventional variable's word, or the usual place."""
    if value := found.variable(*known.url_variables):
        if not value[1].startswith(("http://", "https://")) or urlsplit(value[1]).hostname is None:
            found.add(
                (),
                f"the environment variable {value[0]} is not an http(s) address",
                "Correct it or unset it.",
            )
            return None
        return value[1]
    if value := found.variable(*known.host_variables):
        url = _host_url(value[1], known.base_url)
        if url is None:
            found.add((), f"the environment variable {value[0]} is not host:port", "Correct it or unset it.")
        return url
    return known.base_url


def _host_url(text: str, usual: str) -> str | None:
    """An address as Ollama reads it: scheme, host and port may each be left out; `0.0.0.0` is where a server listens."""
    base = urlsplit(usual)
    scheme, _, rest = text.rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        return None
    if scheme not in {"", "http", "https"} or parts.username is not None:
        return None
    if host in {"0.0.0.0", "::"}:  # noqa: S104
        host = "127.0.0.1"
    if port is None:
        port = {"": base.port, "http": 80, "https": 443}[scheme]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme or 'http'}://{host}:{port}{parts.path.rstrip('/') or base.path}"


def judge_url(found: Report, path: KeyPath, url: str, written: object) -> bool:
    """Whether it can be an address of a provider; else the report says why not."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or not sendable(url):
        found.add(path, "must be an http or https address", 'Write "https://host/v1".', value=written)
    elif parts.username is not None or parts.password is not None:
        found.add(path, "must not hold a user or a password", "Use api_key.", value=written)
    elif parts.query or parts.fragment:
        found.add(path, "must not have a query or a fragment", "End it before ? or #.", value=written)
    else:
        return True
    return False


_OWN_HEADERS = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
    }
)
"""Headers that the transport writes itself."""


def _headers(table: Table) -> Headers:
    headers = []
    for name in table.members:
        value = table.text(name)
        path = (*table.path, name)
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            table.found.add(path, "is not a header's name")
        elif name.lower() in _OWN_HEADERS:
            table.found.add(path, "is written by Headrace itself", "Use api_key and auth for credentials.")
        elif value is not None and not re.fullmatch(r"[ -~]+", value):
            table.found.add(path, "must be printable ASCII")
        elif value is not None:
            headers.append((name.lower(), value))
    return tuple(headers)
