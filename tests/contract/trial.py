"""One recording put through the gateway: in its own dialect, and asked for in the other one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.contract.caller import COOKIE, ORGANIZATION, Answer, Caller
from tests.contract.recording import Kind, Recording
from tests.contract.replay import Provider, Received
from tests.contract.running import serving
from tests.contract.view import View

from headrace import dialects

__all__ = ["Bench", "Trial", "bench"]

PROVIDER_KEY = "key-of-the-provider-98765"

SENT = {
    "accept",
    "accept-encoding",
    "anthropic-version",
    "content-length",
    "content-type",
    "host",
    "user-agent",
}
"""The headers that a provider sees, beside the one with its key."""

OF_HTTP = {"cache-control", "connection", "content-length", "content-type", "date", "transfer-encoding"}
"""Headers that may have the name of one of the provider's, since every answer has them."""

OWN = {"request-id", "retry-after", "x-accel-buffering", "x-request-id", "x-should-retry"}
"""Headers that the gateway writes itself."""

OTHER: dict[str, Kind] = {"openai-chat": "anthropic", "anthropic": "openai-chat"}


@dataclass(slots=True)
class Trial:
    """What came of it: empty lists when everything held.

    Attributes:
        same: Differences in the recording's own dialect.
        cross: Differences of the answer in the other dialect that no feature explains; None where nothing can be compared.
        lost: Features of the answer that did not reach the caller in the other dialect.
    """

    recording: Recording
    same: list[str] = field(default_factory=list)
    cross: list[str] | None = None
    lost: frozenset[str] = frozenset()


class Bench:
    """A provider, a gateway before it, and an application before each."""

    def __init__(
        self, provider: Provider, direct: Caller, through: Caller, routes: dict[tuple[str, str], str]
    ) -> None:
        self._provider = provider
        self._direct = direct
        self._through = through
        self._routes = routes

    def try_out(self, recording: Recording) -> Trial:
        """Replay `recording` both ways."""
        self._provider.play(recording)
        trial = Trial(recording)
        stream = recording.stream
        direct = first_answer(self._direct.ask(recording.kind, recording.request, stream=stream))
        self._provider.play(recording)
        route = self._route(recording)
        through = self._through.ask(recording.kind, with_model(recording.request, route), stream=stream)
        received = self._provider.received()
        trial.same += _different_answers(recording, direct, through)
        trial.same += _different_request(recording, received)
        trial.same += _leaks(recording, received, through, SENT)
        other = OTHER.get(recording.kind)
        if other is not None:
            self._provider.play(recording)
            asked = self._through.ask(other, translated(recording, other, route), stream=stream)
            received = self._provider.received()
            trial.cross, trial.lost = _different_views(direct, asked)
            trial.cross += [f"{len(received)} requests reached the provider"] if len(received) != 1 else []
            trial.cross += _leaks(recording, received, asked, SENT)
        return trial

    def _route(self, recording: Recording) -> str:
        return self._routes[dialect_of(recording.kind), recording.model]


def dialect_of(kind: Kind) -> str:
    """The dialect of an API."""
    return "openai-chat" if kind == "openai-chat" else "anthropic"


@contextmanager
def bench(provider: Provider, recordings: Iterable[Recording], folder: Path) -> Iterator[Bench]:
    """A gateway with one route for each dialect and model of `recordings`, each of one attempt."""
    routes: dict[tuple[str, str], str] = {}
    config = (
        f'[providers.chat]\ndialect = "openai-chat"\nbase_url = "{provider.url}/v1"\napi_key = "{PROVIDER_KEY}"\n'
        f'[providers.messages]\ndialect = "anthropic"\nbase_url = "{provider.url}"\napi_key = "{PROVIDER_KEY}"\n'
    )
    for recording in recordings:
        key = dialect_of(recording.kind), recording.model
        if key not in routes:
            target = f"{'chat' if key[0] == 'openai-chat' else 'messages'}/{recording.model}"
            if " " in target:  # no route may name such a model; a caller may
                routes[key] = target
                continue
            routes[key] = name = f"route-{len(routes)}"
            config += f"[routes.{name}]\ncascade = [{json.dumps(target)}]\nbreaker = false\n"
    with ExitStack() as stack:
        url, key_ = stack.enter_context(serving(config, folder))
        direct = Caller(provider.url, PROVIDER_KEY)
        stack.callback(direct.close)
        through = Caller(url, key_)
        stack.callback(through.close)
        yield Bench(provider, direct, through, routes)


# --- requests ---------------------------------------------------------------------------------------------------------


def with_model(body: bytes, model: str) -> bytes:
    """`body` asking for another model, every other byte as it was; found by trying, so that no code of ours is trusted."""
    asked = json.loads(body)
    if "model" not in asked:
        end = body.rindex(b"}")
        return body[:end] + b',"model":' + json.dumps(model).encode() + body[end:]
    wanted = {**asked, "model": model}
    for spelled in (json.dumps(asked["model"]), json.dumps(asked["model"], ensure_ascii=False)):
        old, new = spelled.encode(), json.dumps(model).encode()
        at = body.find(old)
        while at >= 0:
            tried = body[:at] + new + body[at + len(old) :]
            if json.loads(tried) == wanted:
                return tried
            at = body.find(old, at + 1)
    raise AssertionError("the model is not found in the body")


def translated(recording: Recording, other: Kind, route: str) -> bytes:
    """A request that an application of the other dialect would make for the same answer."""
    chat = dialects.by_name(dialect_of(recording.kind)).decode_request(with_model(recording.request, route))
    chat = msgspec.structs.replace(chat, model=route, stream=recording.stream, include_usage=recording.stream)
    return dialects.by_name(other).encode_request(chat, [])


def _different_request(recording: Recording, received: list[Received]) -> list[str]:
    """What the provider got, against what the recording's provider got."""
    if len(received) != 1:
        return [f"{len(received)} requests reached the provider"]
    body, expected = received[0].body, recording.request
    if not recording.asked.get("model"):
        expected = with_model(expected, recording.model)
    options = recording.asked.get("stream_options")
    if recording.kind == "openai-chat" and recording.stream and not (options or {}).get("include_usage"):
        if options is not None:
            return (
                [] if json.loads(body) == _asking_usage(recording.asked) else ["the request's members differ"]
            )
        end = expected.rindex(b"}")
        end = len(expected[:end].rstrip())
        expected = expected[:end] + b',"stream_options":{"include_usage":true}' + expected[end:]
    return [] if body == expected else ["the request's bytes differ"]


def _asking_usage(asked: dict[str, Any]) -> dict[str, Any]:
    return {**asked, "stream_options": {**asked["stream_options"], "include_usage": True}}


# --- answers ----------------------------------------------------------------------------------------------------------


def expected_status(status: int) -> int:
    """The gateway's status for a provider's error after one attempt: its own 4xx, else 503."""
    return status if status < 500 else 503


def first_answer(answer: Answer) -> Answer:
    """`answer` as far as its terminal event: some recordings hold several answers in one body, or a marker of another dialect
    behind this one's, at which the SDK fails. The gateway relays nothing behind the end."""
    for number, event in enumerate(answer.events):
        if event.get("type") == "message_stop":
            answer.error = "" if number == len(answer.events) - 1 else answer.error
            del answer.events[number + 1 :]
            break
    return answer


def error_inside(answer: Answer) -> str:
    """The message of an error in an answer of status 200, empty without one."""
    if answer.status >= 400:
        return ""
    found = answer.error_body if answer.error else (answer.whole or {}).get("error")
    while isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    return str(found.get("message") or found) if isinstance(found, dict) else str(found or "")


def _different_answers(recording: Recording, direct: Answer, through: Answer) -> list[str]:
    """The SDK's parse of the direct answer, against its parse of the gateway's."""
    if recording.status >= 400:
        return _different_errors(direct, through)
    inside = error_inside(direct)
    if inside and through.status >= 400:  # nothing of an answer had come: the gateway says it with a status
        told = inside in json.dumps(through.error_body, ensure_ascii=False)
        return [] if told else [f"the error {inside!r} became {through.error_body}"]
    found: list[str] = []
    if direct.error != through.error:
        found.append(f"error {through.error or 'none'} {through.error_body}, not {direct.error or 'none'}")
    elif direct.whole != through.whole:
        found.append("the parsed answer differs")
    options = recording.asked.get("stream_options") or {}
    expected = direct.events
    if recording.kind == "openai-chat" and not options.get("include_usage"):
        expected = [event for event in expected if event.get("choices") or not event.get("usage")]
    if recording.kind != "openai-chat" and expected and expected[-1].get("type") != "message_stop":
        expected = [*expected, {"type": "message_stop"}]  # cut in its last line: the gateway ends it
    if through.events != expected and through.events != direct.events:
        found.append(f"{len(through.events)} parsed events differ from {len(expected)}")
    return found


def _different_errors(direct: Answer, through: Answer) -> list[str]:
    if through.error_body == direct.error_body and through.error == direct.error:
        return []  # a final error, passed through
    expected = expected_status(direct.status)
    if through.status != expected:
        return [f"status {through.status}, not {expected}: {through.error_body}"]
    if direct.status == expected and through.error != direct.error:
        return [f"{through.error}, not {direct.error}"]
    said = json.dumps(through.error_body)
    if through.error_body != direct.error_body and not re.search(r"(attempts|the only attempt) failed", said):
        return ["the error's body is neither the provider's nor ours"]
    return []


def _leaks(recording: Recording, received: list[Received], answer: Answer, allowed: set[str]) -> list[str]:
    """Headers that crossed the gateway and must not."""
    found: list[str] = []
    for request in received:
        with_key = "authorization" if recording.kind == "openai-chat" else "x-api-key"
        names = request.headers.keys() - allowed - {with_key}
        if names:
            found.append(f"headers sent to the provider: {sorted(names)}")
        sent = " ".join(request.headers.values())
        if (
            COOKIE in sent
            or ORGANIZATION in sent
            or request.headers.get(with_key, "").removeprefix("Bearer ") != PROVIDER_KEY
        ):
            found.append("the caller's credentials reached the provider, or the provider's own did not")
    recorded = {name.lower() for name, _ in recording.headers}
    crossed = (answer.headers.keys() & recorded) - OF_HTTP - OWN
    if crossed:
        found.append(f"headers of the provider's answer: {sorted(crossed)}")
    ids = {value for name, value in recording.headers if name.lower() in ("x-request-id", "request-id")}
    if ids & set(answer.headers.values()):
        found.append("the provider's request id is the answer's")
    return found


def _different_views(direct: Answer, asked: Answer) -> tuple[list[str], frozenset[str]]:
    if error_inside(direct):
        return ([] if asked.error else ["a broken answer ended cleanly"]), frozenset()
    if direct.error:
        expected = expected_status(direct.status)
        return (
            [] if asked.status == expected else [f"status {asked.status}, not {expected}: {asked.error_body}"]
        ), frozenset()
    if asked.error:
        return [f"{asked.error} {asked.status}: {asked.error_body}"], frozenset()
    if not direct.events and not direct.whole:
        return ["nothing to compare"], frozenset()
    wanted, got = direct.view, asked.view
    found = [
        f"{name}: {getattr(got, name)!r:.200}, not {getattr(wanted, name)!r:.200}"
        for name in ("text", "thinking", "calls", "stop")
        if getattr(wanted, name) != getattr(got, name)
    ]
    if not _same_usage(wanted, got):
        found.append(f"usage: {got.usage}, not {wanted.usage}")
    return found, wanted.features - got.features


def _same_usage(wanted: View, got: View) -> bool:
    return got.usage == wanted.usage or (wanted.usage is None and got.usage in (None, (0, 0, 0)))
