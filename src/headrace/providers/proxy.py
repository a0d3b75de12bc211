"""Which proxy a connection goes through, and the tunnel through it."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import msgspec

from headrace.errors import ConfigError
from headrace.providers.origin import Origin, authority

__all__ = ["Proxy", "ProxyRules", "Tunnel", "TunnelRefused"]

LOOPBACK_TOO = "<-loopback>"
"""In `no_proxy`: send even loopback hosts through the proxy. The word is Chromium's."""
_ANSWER_LIMIT = 16_384
"""Bytes of a proxy's answer to CONNECT; it has no body worth reading."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy. `authorization` is the value of `proxy-authorization`, a secret that `repr` does not show."""

    tls: bool
    host: str
    port: int
    authorization: bytes | None = None

    @staticmethod
    def of(url: str) -> Proxy:
        """Read `[http[s]://][user:password@]host[:port]`; the scheme is `http` where it is left out.

        Raises:
            ConfigError: Another scheme (SOCKS is not spoken), no host, a bad port. The message shows no user or password.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in _DEFAULT_PORTS:
            raise ConfigError(
                f"the proxy's scheme is {parts.scheme!r}; only http and https proxies are supported"
            )
        try:
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
        except ValueError:
            raise ConfigError(f"the port of the proxy {parts.hostname!r} is not in 1..65535") from None
        if not parts.hostname:
            raise ConfigError("the proxy's URL names no host")
        authorization = None
        if parts.username is not None or parts.password is not None:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            authorization = b"Basic " + b64encode(pair.encode())
        return Proxy(parts.scheme == "https", parts.hostname, port, authorization)

    @property
    def authority(self) -> str:
        """`host:port`."""
        return authority(self.host, self.port)

    @property
    def authorization_line(self) -> bytes:
        """The header line with the credential, empty without one."""
        return b"" if self.authorization is None else b"proxy-authorization: " + self.authorization + b"\r\n"

    def __repr__(self) -> str:
        secret = "" if self.authorization is None else "***@"
        return f"Proxy({'https' if self.tls else 'http'}://{secret}{self.authority})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("", repr(self))]


class ProxyRules(msgspec.Struct, frozen=True):
    """Which origins go through which proxy: `https` and `http` are proxy URLs for origins of that scheme.

    `no_proxy` lists what goes direct: `*`; `host` (and everything below it); `.suffix` or `*.suffix` (only what is below);
    an address; a network (`10.0.0.0/8`); each but the network with an optional `:port`. Loopback hosts go direct unless
    `<-loopback>` is listed. `repr` shows no credentials.
    """

    https: str | None = None
    http: str | None = None
    no_proxy: tuple[str, ...] = ()

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> ProxyRules:
        """From `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; the lower-case spelling wins, as in curl.

        `HTTP_PROXY` in upper case is not read under CGI (`REQUEST_METHOD` set), where a request header could have set it.

        Raises:
            ConfigError: A proxy that is chosen by these is not usable.
        """

        def read(name: str) -> str | None:
            value = environ.get(name.lower())
            if value is None and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
                value = environ.get(name)
            return value.strip() or None if value is not None else None

        everything = read("ALL_PROXY")
        rules = ProxyRules(
            https=read("HTTPS_PROXY") or everything,
            http=read("HTTP_PROXY") or everything,
            no_proxy=tuple(entry for entry in re.split(r"[,\s]+", read("NO_PROXY") or "") if entry),
        )
        for url in (rules.https, rules.http):
            if url is not None:
                Proxy.of(url)
        return rules

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The proxy for `origin`, or None to go direct; pure. Raises `ConfigError` as `Proxy.of`."""
        url = self.https if origin.scheme == "https" else self.http
        if url is None or self._direct(origin.host.rstrip("."), origin.port):
            return None
        return Proxy.of(url)

    def _direct(self, host: str, port: int) -> bool:
        if _is_loopback(host) and LOOPBACK_TOO not in self.no_proxy:
            return True
        return any(_matches(entry.lower(), host, port) for entry in self.no_proxy)

    def __repr__(self) -> str:
        shown = [None if url is None else repr(_shown(url)) for url in (self.https, self.http)]
        return f"ProxyRules(https={shown[0]}, http={shown[1]}, no_proxy={self.no_proxy!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("", repr(self))]


def _shown(url: str) -> str:
    before, at, after = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, _ = before.partition("://")
    return f"{scheme}{slashes}***@{after}" if slashes else f"***@{after}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether a `no_proxy` entry names `host:port`."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return ip_address(host) in ip_network(entry, strict=False)
        except ValueError:
            return False
    name, port_wanted = _split_port(entry)
    if port_wanted is not None and port_wanted != port:
        return False
    try:
        return ip_address(name) == ip_address(host)
    except ValueError:
        pass
    name = name.removeprefix("*")
    if name.startswith("."):
        return host.endswith(name) and host != name
    return name != "" and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """`host:port`, `[v6]:port`, `v6`, `host`."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        return entry, None
    return name, int(port) if port.isdecimal() else None


class TunnelRefused(Exception):
    """The proxy did not open the tunnel; says why, without its headers or ours."""


class Tunnel(asyncio.Protocol):
    """Asks a proxy to CONNECT to an origin and reads its answer; afterwards the socket is the origin's."""

    __slots__ = ("_answer", "_received", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[None] = loop.create_future()
        self._received = b""

    async def open(self, origin: Origin, proxy: Proxy) -> None:
        """Returns when the tunnel is open. Raises `TunnelRefused`."""
        assert self.transport is not None
        head = f"CONNECT {origin.authority} HTTP/1.1\r\nhost: {origin.authority}\r\n".encode("ascii")
        self.transport.write(head + proxy.authorization_line + b"\r\n")
        await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if end:
            status = re.match(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r|$)", head)
            if status is None:
                self._end("its answer to CONNECT is not HTTP")
            elif not status[1].startswith(b"2"):
                self._end(f"it answered {status[1].decode()} to CONNECT")
            elif rest:
                self._end("it sent bytes before the tunnel was used")
            else:
                self._end(None)
        elif len(self._received) > _ANSWER_LIMIT:
            self._end(f"its answer to CONNECT is over {_ANSWER_LIMIT} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("it closed the connection before the tunnel was open")

    def _end(self, refusal: str | None) -> None:
        if not self._answer.done():
            if refusal is None:
                self._answer.set_result(None)
            else:
                self._answer.set_exception(TunnelRefused(refusal))
                self._answer.exception()  # looked at: whoever waited may have been cancelled, and then nobody else will
