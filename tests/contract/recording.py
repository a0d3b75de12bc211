"""One recorded exchange with a provider, and where recordings come from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["COMMITTED", "Kind", "Recording", "committed", "of_exchanges"]

COMMITTED = Path(__file__).resolve().parents[1] / "recordings" / "exchanges.jsonl"
"""The recordings that are part of the repository; `NOTICE.md` beside it says whose they are."""

Kind = Literal["openai-chat", "anthropic", "count-tokens"]

PATHS: Mapping[str, Kind] = {
    "/chat/completions": "openai-chat",
    "/v1/messages": "anthropic",
    "/v1/messages/count_tokens": "count-tokens",
}
"""What a path ends with, and the API that this makes of the exchange, whoever the provider is."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was sent and what came back.

    Attributes:
        name: The file below the recordings' folder, and the number of the exchange in it from the second one on.
        answered_stream: The answer is a stream of events (an error is not, even when a stream was asked for).
        headers: Of the answer.
    """

    name: str
    kind: Kind
    provider: str
    request: bytes
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    answered_stream: bool

    @property
    def asked(self) -> dict[str, Any]:
        """The request's body."""
        value: dict[str, Any] = json.loads(self.request)
        return value

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return self.asked.get("stream") is True

    @property
    def model(self) -> str:
        """The model that was asked for; some servers of one model are asked without."""
        return str(self.asked.get("model") or "only-model")

    def line(self) -> str:
        """The recording as a line of `COMMITTED`; texts stay readable for whoever reviews them."""
        members = {
            "name": self.name,
            "kind": self.kind,
            "provider": self.provider,
            "request": _text(self.request),
            "status": self.status,
            "headers": self.headers,
            "body": _text(self.body),
            "answered_stream": self.answered_stream,
        }
        return json.dumps(members, ensure_ascii=False)


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(value: str | dict[str, str]) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])


def committed() -> list[Recording]:
    """The recordings in the repository."""
    found = []
    for line in COMMITTED.read_text(encoding="utf-8").split("\n"):
        if line:
            value = json.loads(line)
            value["request"], value["body"] = _bytes(value["request"]), _bytes(value["body"])
            value["headers"] = tuple((name, text) for name, text in value["headers"])
            found.append(Recording(**value))
    return found


def of_exchanges(exchanges: Iterable[Any]) -> list[tuple[Recording, Any]]:
    """The recordings of the two APIs among what the replay server's loader gives, each with the value it was made of."""
    found: list[tuple[Recording, Any]] = []
    count: dict[str, int] = {}
    for exchange in exchanges:
        count[exchange.source] = number = count.get(exchange.source, 0) + 1
        kinds = [kind for end, kind in PATHS.items() if exchange.path.rstrip("/").endswith(end)]
        if exchange.method != "POST" or not kinds:
            continue
        recording = Recording(
            name=exchange.source if number == 1 else f"{exchange.source}#{number}",
            kind=kinds[0],
            provider=exchange.provider,
            request=exchange.req_body,
            status=exchange.status,
            headers=tuple((name, text) for name, text in exchange.headers),
            body=exchange.body,
            answered_stream=bool(exchange.stream),
        )
        found.append((recording, exchange))
    return found
