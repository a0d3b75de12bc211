"""Sending requests to providers: the interface, and the pool of kept connections behind it.

A send costs a dictionary look-up, one write and one wake-up: connections are kept per origin, the last one used is the
first one taken, and nothing on the way takes a lock, opens a cancel scope or builds a header twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from headrace.clock import Clock, SystemClock, Timer, timeout_at
from headrace.errors import ConfigError, ConnectFailed, ProviderTimeout
from headrace.providers.connection import READ, Connection, Response
from headrace.providers.dial import dial
from headrace.providers.origin import Origin
from headrace.providers.proxy import Proxy, ProxyRules, Tunnel, TunnelRefused

if TYPE_CHECKING:
    import ssl

__all__ = ["HTTPResponse", "HTTPTransport", "Origin", "ProxyRules", "Transport", "header_block"]

IDLE_S = 55.0
"""How long an unused connection is kept: under the 60 s of common load balancers (AWS ALB), so that we close first."""
MAX_IDLE_PER_ORIGIN = 100
"""Connections kept unused per origin; what the official SDKs keep."""
_HEADS_KEPT = 256
"""Distinct method and path pairs whose encoded start is kept per origin."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(r"/[!-~]*")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def header_block(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The header lines of a request, ready to send: `name: value` and CRLF each.

    Raises:
        ValueError: A name that is no token or is the transport's own to send (`host`, `content-length`, ...), or a value
            with CR, LF, NUL or characters outside Latin-1. The message names the header and never shows its value.
    """
    lines: list[str] = []
    for name, value in pairs:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name!r} is sent by the transport alone")
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the value of the header {name!r} contains CR, LF or NUL")
        if not value.isascii() and any(character > "\xff" for character in value):
            raise ValueError(f"the value of the header {name!r} has characters outside Latin-1")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


class HTTPResponse(Protocol):
    """The answer to one request: its head, and a body to be read once, by one reader. `connection.Response` is the real one."""

    @property
    def status(self) -> int:
        """Of the final answer, 200 or more; a redirect is an answer like any other."""

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; the values of repeated ones joined by `, `."""

    async def read(self, limit: int) -> bytes:
        """The whole body, decompressed. Raises `Malformed` when it is over `limit` bytes, cut short or badly framed."""

    async def read_some(self) -> bytes:
        """The next bytes, decompressed: all that is buffered, else what the next read of the socket brings.

        `b""` at the clean end only. Raises `Malformed` when the body was cut short or is badly framed.
        """

    def abort(self, error: BaseException) -> None:
        """Close the socket now; a waiting reader and every later read get `error`. Does nothing after the end."""

    def finish(self, seconds: float) -> None:
        """What matters was read: keep the connection if the message ends within `seconds`, else close it; returns at once."""

    async def aclose(self) -> None:
        """Idempotent. After a complete answer the connection is kept, else it is closed at once."""


class Transport(Protocol):
    """What sends requests to providers."""

    async def send(
        self, origin: Origin, method: str, path: str, headers: bytes, body: bytes, *, connect_s: float
    ) -> HTTPResponse:
        """Send a request; returns when the head of the answer is in.

        Args:
            path: Beginning with `/`, percent-encoded, with its query.
            headers: From `header_block`.
            connect_s: Seconds for making a connection where none is kept: DNS, TCP, proxy and TLS together.

        Raises:
            ProviderTimeout: No connection within `connect_s`; its `phase` is `connect`.
            ConnectFailed: No connection, or one that broke before the answer began.
            Malformed: The answer is not HTTP, its head over the limits or cut short.
            ValueError: A method or path that cannot be sent.
        """

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""


class HTTPTransport:
    """HTTP/1.1 over kept connections; belongs to the event loop that first uses it.

    Args:
        clock: For idle times and the time to connect.
        proxies: Which origins go through which proxy.
        ca_file: PEM file with the authorities to trust instead of certifi's.
        max_idle_per_origin: Connections kept unused per origin; 0 keeps none.
        idle_s: Seconds that an unused connection is kept.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        proxies: ProxyRules | None = None,
        ca_file: str | None = None,
        max_idle_per_origin: int = MAX_IDLE_PER_ORIGIN,
        idle_s: float = IDLE_S,
    ) -> None:
        self._clock = clock or SystemClock()
        self._proxies = proxies or ProxyRules()
        self._ca_file = ca_file
        self._max_idle = max_idle_per_origin
        self._idle_s = idle_s
        self._pools: dict[Origin, _Pool] = {}
        self._tls: ssl.SSLContext | None = None
        self._room = memoryview(bytearray(READ))
        self._closed = False

    @property
    def open_connections(self) -> int:
        """Sockets that are connected, in use or not."""
        return sum(len(pool.open) for pool in self._pools.values())

    @property
    def idle_connections(self) -> int:
        """Connections that wait for a request."""
        return sum(len(pool.idle) for pool in self._pools.values())

    async def send(
        self, origin: Origin, method: str, path: str, headers: bytes, body: bytes, *, connect_s: float
    ) -> Response:
        """As `Transport.send`. A kept connection that turns out to be dead is replaced by a fresh one, once and unseen."""
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = _Pool(
                origin, self._proxies.proxy_for(origin), self._clock, self._max_idle, self._idle_s
            )
        head = pool.heads.get((method, path)) or pool.head(method, path)
        if body or method != "GET":
            request = b"".join((head, headers, b"content-length: %d\r\n\r\n" % len(body), body))
        else:
            request = b"".join((head, headers, b"\r\n"))
        idle = pool.idle
        while idle:
            connection = idle.pop()
            if not connection.usable:
                connection.discard()
                continue
            response = await connection.exchange(request)
            if response is not None:
                return response
            break
        connection = await self._connect(pool, connect_s)
        response = await connection.exchange(request)
        assert response is not None, "only a used connection can be stale"
        return response

    async def aclose(self) -> None:
        """Close every connection; who still reads an answer gets `ConnectFailed`. Returns when the sockets are closed."""
        self._closed = True
        for pool in self._pools.values():
            pool.drop_all(ConnectFailed("the transport was closed"))
        for pool in self._pools.values():
            await pool.emptied()

    # --- connecting ------------------------------------------------------------------------------------------------

    async def _connect(self, pool: _Pool, connect_s: float) -> Connection:
        if self._closed:
            raise RuntimeError("the transport is closed")
        connection = Connection(pool.origin.authority, pool, asyncio.get_running_loop(), self._room)
        through = "" if pool.proxy is None else f" through the proxy {pool.proxy.authority}"
        what = f"cannot connect to {pool.origin.authority}{through}"
        try:
            async with timeout_at(self._clock, self._clock.now() + connect_s):
                await self._dial(pool, connection)
            if self._closed or not connection.usable:
                reason = (
                    "the transport was closed"
                    if self._closed
                    else "it was closed before the request was sent"
                )
                raise ConnectFailed(f"{what}: {reason}")
        except TimeoutError:
            connection.discard()
            timeout = ProviderTimeout(f"{what} within {connect_s:g} s")
            timeout.phase = "connect"
            raise timeout from None
        except (OSError, TunnelRefused, UnicodeError) as error:
            connection.discard()
            raise ConnectFailed(f"{what}: {_reason(error)}") from None
        except BaseException:
            connection.discard()
            raise
        # Only now, not in `connection_made`: uvloop never calls `connection_lost` for a connection whose making was
        # cancelled just after it was made.
        pool.open.add(connection)
        return connection

    async def _dial(self, pool: _Pool, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        origin, proxy = pool.origin, pool.proxy
        tls = origin.scheme == "https"
        if proxy is None:
            await self._open_socket(loop, connection, origin.host, origin.port, tls)
        elif not tls:
            await self._open_socket(loop, connection, proxy.host, proxy.port, proxy.tls)
        else:
            tunnel = Tunnel(loop)
            try:
                await self._open_socket(loop, tunnel, proxy.host, proxy.port, proxy.tls)
                await tunnel.open(origin, proxy)
                assert tunnel.transport is not None
                secured = await loop.start_tls(
                    tunnel.transport, connection, self._context(), server_hostname=origin.host
                )
            except BaseException:
                if tunnel.transport is not None:
                    tunnel.transport.abort()
                raise
            if secured is None:
                raise ConnectionResetError("the connection was closed during the TLS handshake")
            connection.connection_made(secured)

    async def _open_socket(
        self, loop: asyncio.AbstractEventLoop, protocol: Connection | Tunnel, host: str, port: int, tls: bool
    ) -> None:
        context = self._context() if tls else None
        sock = await dial(host, port)
        try:
            await loop.create_connection(
                lambda: protocol, sock=sock, ssl=context, server_hostname=host if tls else None
            )
        except BaseException:
            sock.close()
            raise

    def _context(self) -> ssl.SSLContext:
        """Made once, at the first https origin: reading the authorities takes some 15 ms. Raises `ConfigError`."""
        if self._tls is None:
            import ssl

            import certifi

            ca_file = self._ca_file or certifi.where()
            try:
                context = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise ConfigError(
                    f"the certificate authorities in {ca_file} cannot be used: {error}"
                ) from None
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            self._tls = context
        return self._tls


class _Pool:
    """The connections to one origin; their keeper."""

    __slots__ = (
        "_clock",
        "_emptied",
        "_idle_s",
        "_max_idle",
        "_target",
        "_timer",
        "heads",
        "idle",
        "open",
        "origin",
        "proxy",
    )

    def __init__(
        self, origin: Origin, proxy: Proxy | None, clock: Clock, max_idle: int, idle_s: float
    ) -> None:
        self.origin = origin
        self.proxy = proxy
        self._clock = clock
        self._max_idle = max_idle
        self._idle_s = idle_s
        # A plain-http origin behind a proxy is named in every request (RFC 9112, absolute-form).
        self._target = "" if proxy is None or origin.scheme == "https" else f"http://{origin.host_header}"
        self.heads: dict[tuple[str, str], bytes] = {}
        self.idle: list[Connection] = []  # the last one used is taken first, so that the others can expire
        self.open: set[Connection] = set()
        self._timer: Timer | None = None
        self._emptied: asyncio.Event | None = None

    def head(self, method: str, path: str) -> bytes:
        """The request line and the headers that are ours. Raises `ValueError`."""
        if method not in _METHODS:
            raise ValueError(f"the method {method!r} is not one of {', '.join(sorted(_METHODS))}")
        if _PATH.fullmatch(path) is None:
            raise ValueError(
                f"a path begins with / and has no blanks or other characters to be escaped: {path!r}"
            )
        lines = f"{method} {self._target}{path} HTTP/1.1\r\nhost: {self.origin.host_header}\r\naccept-encoding: identity\r\n"
        head = lines.encode("ascii")
        if self._target and self.proxy is not None:
            head += self.proxy.authorization_line
        if len(self.heads) >= _HEADS_KEPT:
            self.heads.clear()
        self.heads[method, path] = head
        return head

    # --- as keeper -------------------------------------------------------------------------------------------------

    def closed(self, connection: Connection) -> None:
        self.open.discard(connection)
        if not self.open and self._emptied is not None:
            self._emptied.set()

    def spoiled(self, connection: Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)

    def returned(self, connection: Connection) -> None:
        idle = self.idle
        connection.idle_since = self._clock.now()
        idle.append(connection)
        if len(idle) > self._max_idle:
            idle.pop(0).discard()
        elif self._timer is None:
            self._arm(connection.idle_since)

    # --- expiry ----------------------------------------------------------------------------------------------------

    def _arm(self, since: float) -> None:
        self._timer = self._clock.call_at(since + self._idle_s, self._expire)

    def _expire(self) -> None:
        """Close what has been idle for too long; look again when the next one could be: one timer, not one a connection."""
        self._timer = None
        idle = self.idle
        now = self._clock.now()
        while (
            idle and idle[0].idle_since + self._idle_s <= now
        ):  # the timer's own sum: another one rounds otherwise
            idle.pop(0).discard()
        if idle:
            self._arm(idle[0].idle_since)

    # --- closing ---------------------------------------------------------------------------------------------------

    def drop_all(self, error: BaseException) -> None:
        """Close every connection and keep no more."""
        self._max_idle = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.idle.clear()
        for connection in tuple(self.open):
            connection.fail(error)

    async def emptied(self) -> None:
        """Returns when no socket is open."""
        while self.open:
            self._emptied = asyncio.Event()
            await self._emptied.wait()


def _reason(error: Exception) -> str:
    """Why a connection was not made, in the words of the system, the resolver or TLS."""
    verify = getattr(error, "verify_message", None)  # of ssl.SSLCertVerificationError, without importing ssl
    if verify:
        return f"the certificate is not trusted: {verify}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
