"""Record what providers answered, once, and replay it: tests without keys, network or cost, and a file that reads well in a diff.

A cassette is JSON: for each exchange the request (method, address, body) and the answer (status, a few headers, body). Request headers
are not kept at all, so no key can get in by them; what looks like a key anywhere else is replaced. Replay is strict: a request that
is not in the cassette, to the letter of its JSON, is an error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from headrace.errors import Malformed
from headrace.providers.origin import Origin
from headrace.providers.transport import HTTPResponse, Transport

__all__ = ["Cassette", "NotRecorded", "NotReplayed", "scrubbed"]

VERSION = 1

KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")
"""Of an answer: what decides something. Request ids, dates, cookies and organisations are not kept."""

SECRETS: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|nvapi|tgp|pplx|csk|r8)[-_][A-Za-z0-9_-]{12,}"), "<key>"),
    (re.compile(r"\bAIza[A-Za-z0-9_-]{30,}"), "<key>"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "<key>"),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}"), "<key>"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}"), "<token>"),
    (re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{12,}=*"), "Bearer <key>"),
    (re.compile(r"(?i)([?&](?:key|api_key|token|access_token)=)[^&\s\"]+"), r"\1<key>"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL),
        "<key>",
    ),
)
"""What keys look like (the prefixes that providers give theirs), and what stands for them in a cassette."""


class NotRecorded(AssertionError):
    """A request that the cassette has not, or no longer."""


class NotReplayed(AssertionError):
    """Exchanges of the cassette that nobody asked for."""


def scrubbed(text: str, known: Sequence[str] = ()) -> str:
    """`text` without anything that looks like a key, nor any of the `known` ones."""
    for secret in known:
        if secret:
            text = text.replace(secret, "<key>")
    for pattern, stand_in in SECRETS:
        text = pattern.sub(stand_in, text)
    return text


class _Exchange(msgspec.Struct):
    """One request with its answer, as a cassette has it."""

    request: dict[str, Any]
    answer: dict[str, Any]


class Cassette:
    """A recording in one file.

    Args:
        path: The file; made on `save`, with its folder.
        record: Ask the providers and keep what they answer, in place of what the file has; else replay the file alone.
        scrub: Also applied to every text that is kept, after our own.
        secrets: Values that must not be kept wherever they occur.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        record: bool = False,
        scrub: Callable[[str], str] = lambda text: text,
        secrets: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.record = record
        self._scrub = scrub
        self._secrets = list(secrets)
        self._exchanges: list[_Exchange] = [] if record else _load(self.path)
        self._used: set[int] = set()

    def transport(self, real: Callable[[], Transport], secrets: Sequence[str] = ()) -> Transport:
        """The transport for an engine: `real` is made only to record; `secrets` are its settings' keys."""
        self._secrets += secrets
        return _Recording(self, real()) if self.record else _Replaying(self)

    def save(self) -> None:
        """Write what was recorded; nothing when replaying. Same traffic, same bytes."""
        if not self.record:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = {
            "version": VERSION,
            "exchanges": [msgspec.to_builtins(exchange) for exchange in self._exchanges],
        }
        self.path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def check(self) -> None:
        """Raises `NotReplayed` when replaying has left exchanges over."""
        left = [self._exchanges[i] for i in range(len(self._exchanges)) if i not in self._used]
        if left and not self.record:
            first = json.dumps(left[0].request, ensure_ascii=False)
            raise NotReplayed(
                f"{self.path} has {len(left)} exchanges that nobody asked for; the first: {first:.300}"
            )

    # --- for the transports

    def request(self, origin: Origin, method: str, path: str, body: bytes) -> dict[str, Any]:
        """A request as it is kept and compared."""
        url = f"{origin.scheme}://{origin.authority}{path}"
        return {"method": method, "url": self.clean(url), "body": self._readable(body)}

    def clean(self, text: str) -> str:
        """`text` without secrets."""
        return self._scrub(scrubbed(text, self._secrets))

    def _readable(self, body: bytes) -> Any:
        """JSON as JSON, else text as lines."""
        text = self.clean(body.decode("utf-8", "replace"))
        try:
            return json.loads(text)
        except ValueError:
            return text.splitlines(keepends=True)

    def keep(self, request: dict[str, Any], status: int, headers: dict[str, str], body: bytes) -> None:
        """One more exchange."""
        kept = {name: self.clean(headers[name]) for name in KEPT_HEADERS if name in headers}
        self._exchanges.append(
            _Exchange(request, {"status": status, "headers": kept, "body": self._readable(body)})
        )

    def find(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to `request`: of equal ones the first that was not given yet. Raises `NotRecorded`."""
        for number, exchange in enumerate(self._exchanges):
            if number not in self._used and exchange.request == request:
                self._used.add(number)
                return exchange.answer
        raise NotRecorded(self._why(request))

    def _why(self, request: dict[str, Any]) -> str:
        wanted = json.dumps(request, indent=2, ensure_ascii=False, sort_keys=True)
        if any(exchange.request == request for exchange in self._exchanges):
            return f"{self.path} has this request, but not so often:\n{wanted}"
        others = [
            json.dumps(exchange.request, indent=2, ensure_ascii=False, sort_keys=True)
            for number, exchange in enumerate(self._exchanges)
            if number not in self._used
        ]
        if not others:
            return f"{self.path} does not have this request (record it with --headrace-record):\n{wanted}"
        nearest = max(others, key=lambda other: difflib.SequenceMatcher(None, other, wanted).quick_ratio())
        lines = difflib.unified_diff(
            nearest.splitlines(), wanted.splitlines(), "recorded", "asked", lineterm="", n=2
        )
        return f"{self.path} does not have this request; the nearest differs:\n" + "\n".join(lines)


def _load(path: Path) -> list[_Exchange]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise NotRecorded(f"there is no cassette {path}: record it with --headrace-record") from None
    if data.get("version") != VERSION:
        raise NotRecorded(f"{path} is of version {data.get('version')!r}, not {VERSION}: record it anew")
    return msgspec.convert(data["exchanges"], list[_Exchange])


class _Replaying:
    """Answers from a cassette."""

    def __init__(self, cassette: Cassette) -> None:
        self._cassette = cassette

    async def send(
        self, origin: Origin, method: str, path: str, headers: bytes, body: bytes, *, connect_s: float
    ) -> HTTPResponse:
        answer = self._cassette.find(self._cassette.request(origin, method, path, body))
        said = answer["body"]
        text = (
            "".join(said)
            if isinstance(said, list) and all(isinstance(s, str) for s in said)
            else json.dumps(said)
        )
        return _Replayed(answer["status"], dict(answer["headers"]), text.encode())

    async def aclose(self) -> None:
        """Nothing is open."""


class _Replayed:
    """A recorded answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def read(self, limit: int) -> bytes:
        if len(self._body) > limit:
            raise Malformed(f"the answer is over {limit} bytes")
        body, self._body = self._body, b""
        return body

    async def read_some(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def abort(self, error: BaseException) -> None:
        self._body = b""

    def finish(self, seconds: float) -> None:
        """It is whole."""

    async def aclose(self) -> None:
        """Nothing is open."""


class _Recording:
    """Asks a real transport and keeps what it answers."""

    def __init__(self, cassette: Cassette, real: Transport) -> None:
        self._cassette = cassette
        self._real = real

    async def send(
        self, origin: Origin, method: str, path: str, headers: bytes, body: bytes, *, connect_s: float
    ) -> HTTPResponse:
        request = self._cassette.request(origin, method, path, body)
        response = await self._real.send(origin, method, path, headers, body, connect_s=connect_s)
        return _Recorded(self._cassette, request, response)

    async def aclose(self) -> None:
        await self._real.aclose()


class _Recorded:
    """A real answer that is kept once it is whole, or as far as it was read."""

    def __init__(self, cassette: Cassette, request: dict[str, Any], response: HTTPResponse) -> None:
        self._cassette = cassette
        self._request = request
        self._response = response
        self._pieces: list[bytes] = []
        self._kept = False

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> dict[str, str]:
        return self._response.headers

    async def read(self, limit: int) -> bytes:
        body = await self._response.read(limit)
        self._pieces.append(body)
        self._keep()
        return body

    async def read_some(self) -> bytes:
        piece = await self._response.read_some()
        self._pieces.append(piece)
        if not piece:
            self._keep()
        return piece

    def abort(self, error: BaseException) -> None:
        self._keep()
        self._response.abort(error)

    def finish(self, seconds: float) -> None:
        self._keep()
        self._response.finish(seconds)

    async def aclose(self) -> None:
        self._keep()
        await self._response.aclose()

    def _keep(self) -> None:
        if not self._kept:
            self._kept = True
            self._cassette.keep(self._request, self.status, self.headers, b"".join(self._pieces))
