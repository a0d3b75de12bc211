"""Where a URL points: the part of it that a connection belongs to."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

__all__ = ["Origin", "authority"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port. `host` is in lower case, IDNA-encoded, an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def of(url: str) -> tuple[Origin, str]:
        """The origin of a base URL, and its path without a closing slash (empty for the root).

        Raises:
            ValueError: Not `http` or `https`, no host, a port outside 1..65535, or something that a base URL cannot carry: a
                user or password, a query, a fragment, blanks. The message never shows a user or password.
        """
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        if scheme not in _DEFAULT_PORTS:
            raise ValueError(f"a base URL begins with http:// or https://, this one with {parts.scheme!r}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a base URL carries no user or password; give the key as a key")
        if parts.query or parts.fragment:
            raise ValueError("a base URL ends with its path; it has no query and no fragment")
        host = _host(parts.hostname or "")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if port == 0:
            raise ValueError(f"the port of the base URL of {host} is not in 1..65535")
        path = parts.path.rstrip("/")
        if not all("!" <= character <= "~" for character in path):
            raise ValueError(
                f"the path of the base URL of {host} has characters that must be percent-encoded"
            )
        return Origin(scheme, host, port or _DEFAULT_PORTS[scheme]), path

    @property
    def authority(self) -> str:
        """`host:port`, as connections and error messages name it."""
        return authority(self.host, self.port)

    @property
    def host_header(self) -> str:
        """The value of the `host` header: the port only where it is not the scheme's own."""
        full = self.authority
        return full.rpartition(":")[0] if self.port == _DEFAULT_PORTS[self.scheme] else full


def authority(host: str, port: int) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(host: str) -> str:
    if not host:
        raise ValueError("a base URL names a host")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{host!r} is not a host name") from None
    if not all("!" <= character <= "~" for character in host):
        raise ValueError(f"{host!r} is not a host name")
    return host.lower()
