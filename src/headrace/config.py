"""The settings: `headrace.toml` and the environment, read once, judged whole, then frozen.

Nothing else in Headrace reads the environment, and nothing here happens at import. One order holds everywhere: the command
line wins over the file, the file over the conventional variables (`OPENAI_API_KEY`, ...), those over the defaults; a file
hands a value over to the environment by writing `${NAME}`.

A configuration with one mistake is not used at all. `check` lists every mistake at once, each with its line, the value and
the fix; `load` raises `ConfigError` with the same report. A report never shows a secret: it quotes the file, not what
`${NAME}` stood for, and values of keys that hold secrets are masked.
"""

from __future__ import annotations

import difflib
import functools
import hmac
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from headrace.errors import ConfigError
from headrace.handler import CachePolicy, ContextPolicy, Route
from headrace.lines import KeyPath, key_lines
from headrace.types import Budget, Headers, Target

__all__ = [
    "FILE_NAME",
    "MAX_DURATION_S",
    "CacheSettings",
    "GatewaySettings",
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
    "known_providers",
    "load",
    "parse_duration",
    "report",
    "wants_colour",
]

FILE_NAME = "headrace.toml"
IN_MEMORY = ":memory:"
"""The path of a store that keeps nothing beyond the process."""

LOCAL = "local"
"""The provider name of the embedded model; always there, configured by `[local]`."""

DIALECTS = ("openai-chat", "anthropic")
AUTHS = ("bearer", "x-api-key", "none")
Auth = Literal["bearer", "x-api-key", "none"]

STRONG_KEY = 16
"""The fewest characters of a key that guards something reachable from other machines."""

MAX_DURATION_S = 86_400.0
"""No timeout is longer than a day: longer ones are typing mistakes."""


class Secret:
    """A value that hides itself: `repr`, `str` and `format` show asterisks; only `reveal` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Never log it."""
        return self._value

    def __bool__(self) -> bool:
        return self._value != ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('********')"

    def __str__(self) -> str:
        return "********"

    def __format__(self, spec: str) -> str:
        return format("********", spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """How one provider is reached.

    Attributes:
        base_url: Without a slash at its end; the dialect adds its path (`/chat/completions`; `/v1/messages`).
        auth: How the key is sent: `bearer`, `x-api-key`, or `none`.
        headers: Sent with every request, names in lower case.
        key_variable: The environment variable that the key came from, or that it is expected in.
        keyless: A server that answers without a key.
    """

    name: str
    dialect: str
    base_url: str
    api_key: Secret | None = None
    auth: Auth = "bearer"
    headers: Headers = field(default=(), repr=False)
    key_variable: str | None = None
    keyless: bool = False

    @property
    def usable(self) -> bool:
        """Whether a request could be sent: there is a key, or none is needed."""
        return self.api_key is not None or self.keyless


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """A key that the gateway accepts; `routes` are the routes it may ask for, empty for all and for every model."""

    name: str
    value: Secret
    tenant: str
    user: str | None = None
    team: str | None = None
    routes: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()


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
        return _is_loopback(self.host)


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
class CacheSettings:
    """The cache of all routes: `max_bytes` of entries in each process."""

    max_bytes: int = 256 << 20


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
        keys: By name.
        prices: What the file says about prices, by `provider/model`, not yet parsed.
        proxy_environ: The proxy variables that are set, by the name they have.
        ca_file: `SSL_CERT_FILE`.
    """

    source: Path | None
    providers: Mapping[str, ProviderSettings]
    routes: Mapping[str, Route]
    keys: Mapping[str, KeySettings]
    gateway: GatewaySettings
    store: StoreSettings
    local: LocalSettings
    prices: Mapping[str, Mapping[str, str | int]]
    proxy_environ: Mapping[str, str] = field(repr=False)
    budgets: BudgetSettings = BudgetSettings()
    ca_file: Path | None = None
    cache: CacheSettings = CacheSettings()

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

    def with_gateway(
        self, *, host: str | None = None, port: int | None = None, workers: int | None = None
    ) -> Settings:
        """The settings with what the command line says about the gateway. Raises `ConfigError` as `load` does."""
        gateway = self.gateway
        gateway = replace(
            gateway,
            host=gateway.host if host is None else host,
            port=gateway.port if port is None else port,
            workers=gateway.workers if workers is None else workers,
        )
        found = _Report("", {})
        _judge_gateway(found, gateway, self.keys, {"host": host, "port": port, "workers": workers})
        settings = replace(self, gateway=gateway)
        _judge_budgets(found, settings)
        if found.problems:
            raise ConfigError(report(found.problems, self.source))
        return settings


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` counts from 1 and is 0 for what does not stand in the file; `value` is masked where secret."""

    line: int
    key: str
    value: str
    message: str
    fix: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        value = f" = {self.value}" if self.value else ""
        fix = f" {self.fix}" if self.fix else ""
        return (
            f"{where}{self.key}{value}: {self.message}.{fix}" if self.key else f"{where}{self.message}.{fix}"
        )


def report(problems: Sequence[Problem], source: Path | None) -> str:
    """All of `problems` as text, one a line."""
    what = "the environment" if source is None else str(source)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{what} is not usable ({count}):", *(f"  {problem}" for problem in problems)])


# --- known providers --------------------------------------------------------------------------------------------------


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
    text = (Path(__file__).parent / "providers" / "known.toml").read_text("utf-8")
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


# --- reading ----------------------------------------------------------------------------------------------------------


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
    found = _Report(text, environ)
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


_SECRET_KEYS = frozenset({"value", "api_key", "admin_key"})
_CREDENTIAL = re.compile(r"(sk|gsk|xai|pplx|csk|fw|hf|hr|AIza|Bearer)[-_ ]?\w{6,}|\S*://[^/\s]*@")
"""What a credential in the wrong place looks like: the prefixes that providers give their keys, a password in a URL."""
_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Report:
    """The mistakes found so far, and what is needed to describe one: where each key stands, and the environment."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        self.lines = key_lines(text)
        self.environ = environ
        self.problems: list[Problem] = []

    def add(self, path: KeyPath, message: str, fix: str = "", *, value: object = None) -> None:
        """Note that what stands at `path` is wrong; `value` is as written in the file."""
        shown = "" if value is None else _shown(path, value)
        self.problems.append(Problem(self._line(path), _spelled(path), shown, message, fix))

    def _line(self, path: KeyPath) -> int:
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0

    def variable(self, *names: str) -> tuple[str, str] | None:
        """The first of the variables that is set to something, and its value without the space around it."""
        for name in names:
            if value := self.environ.get(name, "").strip():
                return name, value
        return None

    def substitute(self, path: KeyPath, text: str) -> str | None:
        """`text` with each `${NAME}` replaced by the variable (`$$` is a dollar sign); None after noting a mistake."""
        failed = False

        def put(match: re.Match[str]) -> str:
            nonlocal failed
            name = match[1]
            if name is None:
                return "$"
            if _VARIABLE_NAME.fullmatch(name) is None:
                self.add(
                    path, "not a variable's name between ${ and }", "Write ${NAME}, or $$ for a dollar sign."
                )
            elif name in self.environ:
                return self.environ[name].strip()
            else:
                self.add(path, f"the environment variable {name} is not set", f"Set it: export {name}=...")
            failed = True
            return ""

        result = _VARIABLE.sub(put, text)
        return None if failed else result


def _spelled(path: KeyPath) -> str:
    """`routes.smart.cascade[1].target`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if bare else _quoted(part))
    return text


def _quoted(text: str) -> str:
    clean = "".join(c if c.isprintable() else "�" for c in text)
    return f'"{clean[:120]}…"' if len(clean) > 120 else f'"{clean}"'


def _shown(path: KeyPath, value: object) -> str:
    """`value` as a report shows it."""
    if isinstance(value, str) and re.fullmatch(r"\$\{[A-Za-z0-9_]*\}", value):
        return _quoted(value)
    if (path[-1:] and path[-1] in _SECRET_KEYS) or "headers" in path:
        return "********"
    match value:
        case str():
            return "********" if _CREDENTIAL.match(value) else _quoted(value)
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            return _kind(value)


def _kind(value: object) -> str:
    match value:
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date"


def _closest(word: str, known: Sequence[str]) -> str:
    """`Did you mean "x"?`, or what there is to choose from."""
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    if near := begun or difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f'Did you mean "{near[0]}"?'
    return f"Known: {', '.join(known)}." if known else ""


_LATER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "": frozenset({"deployments", "vectors", "limits", "context", "prompts", "observe"}),
        "routes": frozenset(
            {
                "tool_calls",
                "hedge",
                "limits",
                "output",
                "retry",
            }
        ),
        "keys": frozenset({"limits"}),
        "store": frozenset({"url"}),
    }
)
"""Keys of systems that are designed but not built: refused, since a budget that is silently ignored is none."""


class _Table:
    """One table of the file. What is asked for by name is known; what remains at `close` is refused."""

    def __init__(
        self, found: _Report, path: KeyPath, members: Mapping[str, object], later: str | None
    ) -> None:
        self.found = found
        self.path = path
        self.members = members
        self.later = _LATER.get(later, frozenset()) if later is not None else frozenset()
        self.known: list[str] = []

    def _take(self, name: str) -> object:
        self.known.append(name)
        return self.members.get(name)

    def wrong(self, name: str, message: str, fix: str = "") -> None:
        """Note that the value of `name` is wrong."""
        self.found.add((*self.path, name), message, fix, value=self.members.get(name))

    def text(self, name: str) -> str | None:
        """A string that is not empty; None if absent or wrong."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong(name, f"must be a string, not {_kind(value)}", "Put it in quotes.")
            return None
        text = self.found.substitute((*self.path, name), value)
        if text is not None and not text and name not in _SECRET_KEYS:
            self.wrong(name, "is empty", "Say something or leave the line out.")
            return None
        return text

    def name(self, name: str) -> str | None:
        """A string that is fit to stand in a log line and a table."""
        text = self.text(name)
        if text is not None and (len(text) > 128 or not text.isprintable()):
            self.wrong(name, "must be 1 to 128 printable characters")
            return None
        return text

    def secret(self, name: str, *, required: bool = False) -> Secret | None:
        """A secret that can stand in a header; None if absent, empty or wrong. An empty one is a mistake if `required`."""
        text = self.text(name)
        if not text:
            if text == "" and required:
                self.wrong(name, "is empty", "Write ${NAME} and set the variable.")
            return None
        if not _sendable(text):
            self.wrong(
                name, "has spaces, control characters or non-ASCII letters in it", "Copy the key again."
            )
            return None
        return Secret(text)

    def choice(self, name: str, known: Sequence[str]) -> str | None:
        """One of `known`; None if absent or wrong."""
        text = self.text(name)
        if text is not None and text not in known:
            self.wrong(name, f"must be one of {', '.join(known)}", _closest(text, known))
            return None
        return text

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, str) and "${" in value:
            text = self.found.substitute((*self.path, name), value)
            if text is None:
                return default
            value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else value
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(name, "must be a whole number", f"Write {name} = {default}, without quotes.")
            return default
        if not low <= value <= high:
            self.wrong(name, f"must be from {low} to {high}")
            return default
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(name, "must be a number", f"Write {name} = {default:g}, without quotes.")
            return default
        if not low <= value <= high:
            self.wrong(name, f"must be from {low:g} to {high:g}")
            return default
        return float(value)

    def duration(self, name: str, default: float, *, zero: bool = False) -> float:
        """Seconds from a text such as `60s`."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            fix = (
                f'Write {name} = "{value}s".'
                if _kind(value) == "a number"
                else 'Write "60s", "500ms" or "2m".'
            )
            self.wrong(name, "must say its unit", fix)
            return default
        text = self.found.substitute((*self.path, name), value)
        if text is None:
            return default
        try:
            seconds = parse_duration(text)
        except ValueError:
            self.wrong(name, "not a duration", 'Write "60s", "500ms" or "2m".')
            return default
        if seconds > MAX_DURATION_S or (seconds <= 0 and not zero):
            self.wrong(name, f"must be {'at least 0' if zero else 'above 0'} and at most 24h")
            return default
        return seconds

    def texts(self, name: str) -> list[tuple[int, str]]:
        """An array of strings, each with its position."""
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(name, f"must be an array of strings, not {_kind(value)}", f'Write {name} = ["..."].')
            return []
        result = []
        for index, item in enumerate(value):
            path = (*self.path, name, index)
            if not isinstance(item, str):
                self.found.add(path, f"must be a string, not {_kind(item)}")
            elif text := self.found.substitute(path, item):
                result.append((index, text))
        return result

    def money(self, name: str) -> str | None:
        """US dollars as a decimal in quotes: at most 6 digits before the point, for nano-dollars 9 after it."""
        value = self.members.get(name)
        if isinstance(value, int | float):
            self._take(name)
            self.wrong(name, "money is not written as a number", f'Put it in quotes: "{value}".')
            return None
        text = self.text(name)
        if text is not None and not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text):
            self.wrong(name, "must be US dollars, with at most 9 decimals", 'Write "3.00".')
            return None
        return text

    def boolean(self, name: str) -> bool | None:
        """`true` or `false`; None if absent or wrong."""
        value = self._take(name)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(name, "must be true or false")
        return None

    def table(self, name: str, *, later: str | None = None) -> _Table:
        """A table, empty if absent or wrong."""
        value = self._take(name)
        if value is not None and not isinstance(value, dict):
            # Whatever stands there may be a key: it is not shown.
            self.found.add((*self.path, name), f"must be a table, not {_kind(value)}")
            value = None
        return _Table(self.found, (*self.path, name), value or {}, later)

    def tables(self, name: str) -> Iterator[tuple[str, _Table]]:
        """The tables below table `name`, by their names."""
        outer = self.table(name)
        for inner in outer.members:
            yield inner, outer.table(inner, later=name)

    def close(self) -> None:
        """Refuse what nobody asked for. Values of unknown keys are not shown: a mistyped `api_key` holds a key."""
        for name in self.members:
            if name in self.later:
                self.found.add(
                    (*self.path, name), "is not supported yet", "Leave it out: it would have no effect."
                )
            elif name not in self.known:
                self.found.add((*self.path, name), "unknown key", _closest(name, self.known))


def _sendable(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds in `500ms`, `60s`, `1.5m`, `2h`, `1m30s`. Raises `ValueError` for anything else, also without a unit."""
    if not re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h))+", text, re.ASCII):
        raise ValueError(f"not a duration: {_quoted(text)}")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)


# --- judging ----------------------------------------------------------------------------------------------------------


def _settings(found: _Report, source: Path | None, data: Mapping[str, object], cwd: Path) -> Settings:
    root = _Table(found, (), data, "")
    folder = cwd if source is None else source.parent
    providers = _providers(found, root)
    budgets = _budget_settings(root)
    routes = _routes(found, root, providers, budgets.zone, folder)
    keys = _keys(found, root, routes, budgets.zone)
    settings = Settings(
        source=source,
        providers=MappingProxyType(providers),
        routes=MappingProxyType(routes),
        keys=MappingProxyType(keys),
        gateway=_gateway(found, root, keys),
        store=_store(root, folder),
        local=_local(found, root, folder),
        prices=MappingProxyType(_prices(found, root)),
        proxy_environ=MappingProxyType(_proxies(found.environ)),
        ca_file=Path(ca[1]) if (ca := found.variable("SSL_CERT_FILE")) else None,
        cache=_cache_settings(root),
        budgets=budgets,
    )
    root.close()
    _judge_budgets(found, settings)
    return settings


def _providers(found: _Report, root: _Table) -> dict[str, ProviderSettings]:
    """Those of the file, then the known ones that the environment has a key or an address for."""
    known = known_providers()
    providers: dict[str, ProviderSettings] = {}
    for name, table in root.tables("providers"):
        if name == LOCAL:
            found.add(table.path, "is the embedded model", "Configure it under [local].")
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            found.add(table.path, "a provider's name is letters, digits, dots, dashes and underscores")
        elif (provider := _provider(found, name, table, known.get(name))) is not None:
            providers[name] = provider
    for name, row in known.items():
        variables = [variable for variable, _ in row.keys] + list(row.host_variables)
        if name not in providers and found.variable(*variables):
            provider = _provider(found, name, None, row)
            if provider is not None:
                providers[name] = provider
    return providers


def _provider(
    found: _Report, name: str, table: _Table | None, known: KnownProvider | None
) -> ProviderSettings | None:
    """One provider from its table (None: the file does not mention it) and what is known about the name."""
    table = _Table(found, ("providers", name), {}, None) if table is None else table
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
        if not _judge_url(found, (*table.path, "base_url"), url, table.members["base_url"]):
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
                if _sendable(value[1]):
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
    keyless = auth == "none" or (known.keyless if known else _is_loopback(urlsplit(url).hostname or ""))
    return ProviderSettings(
        name=name,
        dialect=dialect,
        base_url=_trimmed(url, dialect),
        api_key=secret,
        auth="none" if secret is None and keyless else _auth(auth) or sent,
        headers=headers,
        key_variable=None if auth == "none" else variable,
        keyless=keyless,
    )


def _auth(text: str | None) -> Auth | None:
    match text:
        case "bearer" | "x-api-key" | "none":
            return text
        case _:
            return None


def _trimmed(url: str, dialect: str) -> str:
    """Without the slash at the end; for Anthropic without `/v1`, which belongs to the path of its dialect."""
    url = url.rstrip("/")
    return url.removesuffix("/v1") if dialect == "anthropic" else url


def _known_url(found: _Report, known: KnownProvider) -> str | None:
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


def _judge_url(found: _Report, path: KeyPath, url: str, written: object) -> bool:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or not _sendable(url):
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


def _headers(table: _Table) -> Headers:
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


def _routes(
    found: _Report, root: _Table, providers: dict[str, ProviderSettings], zone: str, folder: Path
) -> dict[str, Route]:
    """The routes. Known providers that only a route names are added to `providers`."""
    routes: dict[str, Route] = {}
    mentioned = set(root.table("providers").members) | {LOCAL}
    for name, table in root.tables("routes"):
        if not name or "/" in name or len(name) > 128 or not name.isprintable() or " " in name:
            found.add(
                table.path, "a route's name has no slash and no space", 'Write "provider/model" in a cascade.'
            )
        cascade = _cascade(found, table, mentioned, list(root.table("routes").members))
        usual = Route(name=name, cascade=())
        limit = table.integer("max_output_tokens", 0, 1, 10_000_000)
        routes[name] = Route(
            name=name,
            cascade=cascade,
            deadline_s=table.duration("deadline", usual.deadline_s),
            connect_s=table.duration("connect", usual.connect_s),
            first_content_s=table.duration("first_content", usual.first_content_s),
            between_events_s=table.duration("between_events", usual.between_events_s),
            max_wait_s=table.duration("max_wait", usual.max_wait_s, zero=True),
            max_output_tokens=limit or None,
            on_refusal=table.choice("on_refusal", ("stop", "next")) or usual.on_refusal,
            repair=table.boolean("repair") or False,
            breaker=table.boolean("breaker") is not False,
            mid_stream=table.choice("mid_stream", ("error", "hold", "restart")) or usual.mid_stream,
            hold_tokens=table.integer("hold_tokens", usual.hold_tokens, 1, 100_000),
            hold_s=table.duration("hold_time", usual.hold_s, zero=True),
            budgets=_budgets(table, "budget", zone),
            max_cost=_nano(table.money("max_cost_usd")),
            downgrade=table.choice("on_limit", ON_LIMIT) == "downgrade",
            cache=_cache(table),
            context=_context(table, folder),
        )
        table.close()
        for target in cascade:
            row = known_providers().get(target.provider)
            if row is not None and target.provider not in mentioned | providers.keys():
                provider = _provider(found, target.provider, None, row)
                if provider is not None:
                    providers[target.provider] = provider
    return routes


def _context(route: _Table, folder: Path) -> ContextPolicy | None:
    """How `[routes.X.context]` packs; None where there is none."""
    table = route.table("context")
    if "context" not in route.members:
        return None
    usual = ContextPolicy()
    found, shares = table.found, table.table("sections")
    paths = []
    for index, text in table.texts("documents"):
        path = _placed(text, folder, found.environ)
        if path.is_file():
            paths.append(str(path))
        else:
            found.add((*table.path, "documents", index), "there is no such file", value=text)
    policy = ContextPolicy(
        budget=table.integer("budget", 0, 64, 1_000_000_000) or None,
        trigger=table.number("trigger", usual.trigger, 0.1, 1.0),
        target=table.number("target", usual.target, 0.05, 1.0),
        summary=shares.number("summary", usual.summary, 0.0, 0.8),
        recall=shares.number("recall", usual.recall, 0.0, 0.8),
        documents=shares.number("documents", usual.documents, 0.0, 0.8),
        recall_turn=table.number("recall_turn", usual.recall_turn, 0.05, 1.0),
        margin=table.number("margin", usual.margin, 0.0, 0.5),
        output=table.integer("output", usual.output, 1, 10_000_000),
        keep_results=table.integer("keep_results", usual.keep_results, 1, 1000),
        document_paths=tuple(paths),
    )
    shares.close()
    table.close()
    if policy.target > policy.trigger:
        table.wrong("target", "must not be above trigger", "Each compaction goes down from one to the other.")
    if policy.summary + policy.recall + policy.documents > 0.8:
        found.add(
            (*table.path, "sections"), "together they leave less than a fifth for the conversation itself"
        )
    return policy


def _cache(route: _Table) -> CachePolicy | None:
    """What `[routes.X.cache]` allows; None where there is none."""
    table = route.table("cache")
    if "cache" not in route.members:
        return None
    usual = CachePolicy()
    semantic = table.boolean("semantic") or False
    if semantic:
        table.wrong("semantic", "answers to questions worded differently are not there yet", "Leave it out.")
    policy = CachePolicy(
        semantic=semantic,
        max_wrong=table.number("max_wrong", usual.max_wrong, 0.0, 0.5),
        ttl_s=table.duration("ttl", usual.ttl_s),
        volatile_ttl_s=table.duration("volatile_ttl", usual.volatile_ttl_s),
        fallback_ttl_s=table.duration("fallback_ttl", usual.fallback_ttl_s),
        max_temperature=table.number("max_temperature", usual.max_temperature, 0.0, 2.0),
        max_entry_bytes=table.integer("max_entry_bytes", usual.max_entry_bytes, 1024, 64 << 20),
        lookup_s=table.duration("lookup", usual.lookup_s),
    )
    table.close()
    return policy


def _cascade(found: _Report, table: _Table, mentioned: set[str], routes: Sequence[str]) -> tuple[Target, ...]:
    value = table._take("cascade")  # noqa: SLF001  (the one member with two forms)
    path = (*table.path, "cascade")
    if value is None:
        found.add(table.path, "has no cascade", 'Write cascade = ["provider/model"].')
        return ()
    if not isinstance(value, list) or not value:
        found.add(path, "must be an array of at least one target", 'Write cascade = ["provider/model"].')
        return ()
    targets = []
    for index, item in enumerate(value):
        if isinstance(item, str):
            level = _Table(found, path, {"target": item}, None)
            place: KeyPath = (*path, index)
            text, attempts = found.substitute(place, item), 1
        elif isinstance(item, dict):
            level = _Table(found, (*path, index), item, "routes")
            place = (*path, index, "target")
            text, attempts = level.text("target"), level.integer("attempts", 1, 1, 100)
            level.close()
            if "target" not in item:
                found.add(
                    (*path, index), "has no target", 'Write { target = "provider/model", attempts = 2 }.'
                )
        else:
            found.add(
                (*path, index), f"must be a string or a table, not {_kind(item)}", 'Write "provider/model".'
            )
            continue
        if text is None:
            continue
        written = item if isinstance(item, str) else item.get("target")
        provider, slash, model = text.partition("/")
        names = sorted(known_providers().keys() | mentioned)
        if not slash and text in routes:
            found.add(place, "a cascade names models, not routes", 'Write "provider/model".', value=written)
        elif not provider or not model or not text.isprintable() or " " in text:
            found.add(place, "must be provider/model", 'For instance "openai/gpt-5".', value=written)
        elif provider not in names:
            found.add(place, "no provider has that name", _closest(provider, names), value=written)
        else:
            targets.append(Target(provider, model, attempts))
    return tuple(targets)


def _keys(found: _Report, root: _Table, routes: Mapping[str, Route], zone: str) -> dict[str, KeySettings]:
    keys: dict[str, KeySettings] = {}
    seen: dict[Secret, str] = {}
    for name, table in root.tables("keys"):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            found.add(table.path, "a key's name is letters, digits, dots, dashes and underscores")
        value = table.secret("value", required=True)
        tenant, user, team = table.name("tenant"), table.name("user"), table.name("team")
        allowed = table.texts("routes")
        budgets = _budgets(table, "budget", zone)
        for index, route in allowed:
            if route not in routes:
                found.add((*table.path, "routes", index), "no such route", _closest(route, list(routes)))
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


ON_LIMIT = ("refuse", "downgrade")
WINDOWS = ("minute", "hour", "day", "month")


def _budget_settings(root: _Table) -> BudgetSettings:
    table = root.table("budgets")
    zone = _zone(table) or "UTC"
    total = _budgets(table, "total", zone)
    groups: dict[str, dict[str, tuple[Budget, ...]]] = {}
    for group in ("users", "teams", "tags"):
        inner = table.table(group)
        groups[group] = {name: _budgets(inner, name, zone) for name in inner.members}
        for name in inner.members if group == "tags" else ():
            if not re.fullmatch(r"[^=,]+=[^,]*", name):
                inner.wrong(name, "a tag is name=value, or name=* for each value")
    table.close()
    return BudgetSettings(zone=zone, total=total, **groups)


def _budgets(table: _Table, name: str, zone: str) -> tuple[Budget, ...]:
    """The budgets under `name`: a table or an array of tables; money and tokens in one table are two budgets."""
    value = table._take(name)  # noqa: SLF001  (one of the few members with two forms)
    if value is None:
        return ()
    path = (*table.path, name)
    items: list[tuple[KeyPath, object]] = (
        [((*path, index), item) for index, item in enumerate(value)]
        if isinstance(value, list)
        else [(path, value)]
    )
    budgets: list[Budget] = []
    for place, item in items:
        if not isinstance(item, dict):
            table.found.add(place, f"must be a table, not {_kind(item)}", _SOME_BUDGET)
            continue
        budgets += _budget(_Table(table.found, place, item, None), zone)
    seen: set[tuple[object, ...]] = set()
    for budget in budgets:
        what = budget.unit, budget.window, budget.zone, budget.hard
        if what in seen:
            said = "dollars" if budget.unit == "usd" else "tokens"
            table.found.add(path, f"has two budgets in {said} for a {budget.window}", "Keep the smaller one.")
        seen.add(what)
    return tuple(budgets)


_SOME_BUDGET = 'Write { usd = "5", window = "day" }.'


def _budget(table: _Table, zone: str) -> list[Budget]:
    money, tokens = _nano(table.money("usd")), table.integer("tokens", 0, 1, 10**15)
    window = table.choice("window", WINDOWS)
    soft = table.boolean("soft") or False
    downgrade = table.choice("on_limit", ON_LIMIT) == "downgrade"
    own = _zone(table)
    table.close()
    if "window" not in table.members:
        table.found.add(table.path, "has no window", _SOME_BUDGET)
    if not {"usd", "tokens"} & table.members.keys():
        table.found.add(table.path, "limits nothing", _SOME_BUDGET)
    amounts: list[tuple[Literal["usd", "tokens"], int]] = []
    if money is not None:
        amounts.append(("usd", money))
    if tokens:
        amounts.append(("tokens", tokens))
    return [
        Budget(
            unit=unit,
            amount=amount,
            window=window,  # type: ignore[arg-type]  # one of WINDOWS
            hard=not soft,
            downgrade=downgrade,
            zone=own or zone,
        )
        for unit, amount in amounts
        if window is not None
    ]


def _nano(dollars: str | None) -> int | None:
    """Nano-dollars in a decimal that `_Table.money` has judged."""
    if dollars is None:
        return None
    whole, _, part = dollars.partition(".")
    return int(whole) * 1_000_000_000 + int(part.ljust(9, "0"))


def _zone(table: _Table) -> str | None:
    name = table.text("timezone")
    if name is None or name == "UTC":
        return name
    import zoneinfo  # only for those who name one

    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        table.wrong(
            "timezone",
            "no such time zone here",
            'Write "Europe/Berlin"; without a database of zones only "UTC".',
        )
        return None
    return name


def _judge_budgets(found: _Report, settings: Settings) -> None:
    """Several workers share a budget through a file only; each would else have the whole of it."""
    store = settings.store
    if settings.gateway.workers == 1 or store.path is not None or store.usual is not None:
        return
    for name, route in settings.routes.items():
        if route.budgets:
            found.add(("routes", name, "budget"), _NO_FILE, _SHARE)
    for name, key in settings.keys.items():
        if key.budgets:
            found.add(("keys", name, "budget"), _NO_FILE, _SHARE)
    if settings.budgets.any:
        found.add(("budgets",), _NO_FILE, _SHARE)


_NO_FILE = "several workers would each have the whole of it"
_SHARE = 'Give them a file: [store] path = "headrace.db".'


def _gateway(found: _Report, root: _Table, keys: Mapping[str, KeySettings]) -> GatewaySettings:
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
    found: _Report,
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


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _store(root: _Table, folder: Path) -> StoreSettings:
    table = root.table("store", later="store")
    path = table.text("path")
    table.close()
    if path == IN_MEMORY:
        return StoreSettings()
    found = table.found
    data = (
        Path(value[1])
        if (value := found.variable("XDG_DATA_HOME"))
        else _home(found.environ) / ".local/share"
    )
    return StoreSettings(
        path=None if path is None else _placed(path, folder, found.environ),
        usual=data / "headrace/headrace.db",
    )


def _cache_settings(root: _Table) -> CacheSettings:
    table = root.table("cache")
    settings = CacheSettings(
        max_bytes=table.integer("max_bytes", CacheSettings().max_bytes, 1 << 20, 1 << 40)
    )
    table.close()
    return settings


def _local(found: _Report, root: _Table, folder: Path) -> LocalSettings:
    table = root.table("local")
    home = _home(found.environ)
    caches = Path(value[1]) if (value := found.variable("XDG_CACHE_HOME")) else home / ".cache"
    cache_dir = table.text("cache_dir")
    usual = LocalSettings(cache_dir=caches / "headrace")
    model = table.text("model") or usual.model
    local = LocalSettings(
        model=str(_placed(model, folder, found.environ)) if model.endswith(".gguf") else model,
        threads=table.integer("threads", usual.threads, 1, 256),
        context=table.integer("context", usual.context, 256, 1 << 20),
        parallel=table.integer("parallel", usual.parallel, 1, 64),
        cache_dir=usual.cache_dir if cache_dir is None else _placed(cache_dir, folder, found.environ),
    )
    table.close()
    return local


def _home(environ: Mapping[str, str]) -> Path:
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # a container's user without an entry in the password file
        return Path.cwd()


def _placed(text: str, folder: Path, environ: Mapping[str, str]) -> Path:
    """A path of the file: `~` is the home folder, and what is relative is so to the folder that holds the file."""
    if text == "~" or text.startswith("~/"):
        return _home(environ) / text[2:]
    return folder / text


PRICE_KINDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
"""Each is a key `<kind>_usd_per_mtok`. With the two below, the members of `headrace.prices.ModelOverride`; a test compares them."""
LIMITS = ("context_window", "max_input", "max_output")
ABILITIES = ("tools", "images", "documents", "json_schema", "reasoning", "prefill")


def _prices(found: _Report, root: _Table) -> dict[str, Mapping[str, str | int]]:
    """Judged as strictly as the catalogue will, but kept as written: the catalogue reads money, this module does not."""
    prices: dict[str, Mapping[str, str | int]] = {}
    for model, table in root.tables("prices"):
        if not re.fullmatch(r"[^/\s]+/\S+", model):
            found.add(table.path, "a price is for provider/model", 'Write [prices."openai/my-model"].')
        money = {f"{kind}_usd_per_mtok": table.money(f"{kind}_usd_per_mtok") for kind in PRICE_KINDS}
        limits = {name: table.integer(name, 0, 1, 1_000_000_000) or None for name in LIMITS}
        abilities = {name: table.boolean(name) for name in ABILITIES}
        table.close()
        missing = [name for name in list(money)[:2] if name not in table.members]
        if missing and any(name in table.members for name in money):
            found.add(table.path, f"must give {' and '.join(missing)} when it gives another price")
        row = money | limits | abilities
        prices[model] = MappingProxyType({name: value for name, value in row.items() if value is not None})
    return prices


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    return {name: environ[name] for lower in names for name in (lower, lower.upper()) if environ.get(name)}
