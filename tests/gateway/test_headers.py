"""What must not cross the gateway in either direction, and where no key may ever be seen."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.gateway.gate import ADMIN, KEY, OTHER, PAIRS, PATHS, UPSTREAM, Gate, ask

from headrace.testing import Answer, ErrorEvent, Html, Overloaded, Status

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)

PRIVATE = {
    "cookie": "session=canary-cookie",
    "x-api-key": "",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-host": "inside.example",
    "x-forwarded-proto": "https",
    "forwarded": "for=203.0.113.7",
    "x-real-ip": "203.0.113.7",
    "via": "1.1 inside",
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "1",
    "x-stainless-async": "false",
    "user-agent": "canary-agent/1",
    "referer": "https://inside.example/",
    "origin": "https://inside.example",
    "te": "trailers",
    "keep-alive": "timeout=5",
    "proxy-authorization": "Basic canary",
    "proxy-connection": "keep-alive",
    "trailer": "x-canary",
    "x-canary": "1",
    "openai-organization": "org-canary",
    "openai-project": "proj-canary",
    "x-headrace-user": "canary-user",
    "x-headrace-tags": "a=canary-tag",
    "x-headrace-timeout": "30",
    "idempotency-key": "canary-idempotency",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "accept-encoding": "br, zstd",
    "range": "bytes=0-10",
    "if-none-match": "canary",
    "content-encoding": "",
}


@pairs
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_what_never_reaches_a_provider(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """Credentials, cookies, addresses and whatever else is between the client and us: only what the dialect needs goes on."""
    headers = {name: value for name, value in PRIVATE.items() if value}
    headers["idempotency-key"] += f"-{client}-{provider}-{stream}"
    headers |= {"anthropic-beta": "beta-1", "anthropic-version": "2023-06-01", "openai-beta": "assistants=v2"}
    assert gate.post(client, ask(client, f"{provider}/m", stream=stream), headers).status == 200
    received = gate.provider.requests[0].headers
    allowed = {
        "host",
        "content-length",
        "content-type",
        "accept-encoding",
        "user-agent",
        "accept",
        "connection",
        *(("authorization",) if provider == "openai" else ("x-api-key", "anthropic-version")),
        *(("anthropic-beta", "anthropic-version", "openai-beta") if client == provider else ()),
    }
    assert set(received) <= allowed
    shown = repr(received)
    for secret in (KEY, "canary-", "203.0.113.7", "inside", "zstd"):
        assert secret not in shown.replace(UPSTREAM, "")
    assert received.get("authorization", received.get("x-api-key")) in (UPSTREAM, f"Bearer {UPSTREAM}")
    assert received["host"] == f"127.0.0.1:{gate.provider.port}"
    if client == provider:
        assert received["anthropic-beta"] == "beta-1"


@pairs
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("good", [True, False], ids=["answer", "error"])
def test_what_never_reaches_a_client(
    gate: Gate, client: str, provider: str, stream: bool, good: bool
) -> None:
    """A provider's cookies, its account's names and limits, and its connection's headers stay with us."""
    headers = {
        "set-cookie": "__cf_bm=canary; HttpOnly",
        "openai-organization": "org-canary",
        "openai-project": "proj-canary",
        "anthropic-organization-id": "org-canary",
        "x-ratelimit-remaining-tokens": "7",
        "anthropic-ratelimit-tokens-remaining": "7",
        "server": "canary",
        "cf-ray": "canary",
        "via": "canary",
        "strict-transport-security": "max-age=1",
        "access-control-allow-origin": "*",
        "x-headrace-target": "canary",
    }
    gate.provider.default = Answer("fine", headers=headers) if good else Status(400, headers=headers)
    got = gate.post(client, ask(client, f"{provider}/m", stream=stream))
    assert (got.status == 200) is good
    usual = {
        "content-type",
        "content-length",
        "connection",
        "cache-control",
        "transfer-encoding",
        "x-accel-buffering",
        "x-request-id",
        "request-id",
        "x-should-retry",
        "x-headrace-attempts",
        "x-headrace-target",
        "x-headrace-cost-usd",
        "x-headrace-error",
        "x-headrace-warnings",
    }
    assert got.headers.keys() <= usual
    assert "canary" not in repr(got.headers)
    assert got.headers["x-headrace-target"] == f"{provider}/m"


@pairs
@pytest.mark.parametrize(
    "model", ["a\r\nset-cookie: x=1", "ü 世界", "a\tb\x7f", "x" * 5000, "a;b c", "../../admin?x#y", "%0d%0a"]
)
def test_names_that_break_lines(gate: Gate, client: str, provider: str, model: str) -> None:
    """A model's name is the client's to choose: it goes into the body as it is and into a header as one harmless line."""
    got = gate.post(client, ask(client, f"{provider}/{model}"))
    assert got.status == 200, got.body
    assert "set-cookie" not in got.headers
    assert len(got.headers["x-headrace-target"]) <= 2000
    assert gate.provider.requests[0].model == model
    gate.provider.default = Overloaded()
    got = gate.post(client, ask(client, f"{provider}/{model}"))
    assert got.status == 503 and "set-cookie" not in got.headers
    assert gate.report(got.headers["x-request-id"])["attempts"][0]["target"] == f"{provider}/{model}"


def test_tags_and_users(gate: Gate) -> None:
    """They are kept in the ledger as they came, however odd they are."""
    for tags in (
        "team=search, experiment=7",
        "a",
        "=",
        ",,,",
        "a=b=c",
        "x" * 3000,
        "ü=1".encode().decode("latin-1"),
    ):
        got = gate.post(
            "openai", ask("openai", "openai/m"), {"x-headrace-tags": tags, "x-headrace-user": tags}
        )
        assert got.status == 200
        assert gate.report(got.headers["x-request-id"])["status"] == 200


@pairs
def test_a_page_is_no_error_body(gate: Gate, client: str, provider: str) -> None:
    """What a proxy before the provider says in HTML, and a body that we cut, are not handed on as if they were the dialect."""
    cut = Status(400, body=b'{"error": {"message": "' + b"x" * 100_000 + b'"}}')
    for fault in (
        Html(400),
        cut,
        Status(400, body=b"["),
        Status(400, body=b"\xff"),
        Status(400, body=b"[" * 60_000),
    ):
        gate.provider.default = fault
        got = gate.post(client, ask(client, f"{provider}/m"))
        assert got.status == 400
        assert got.json["error"]["message"]
        assert b"<html" not in got.body


ECHO = f"Incorrect API key provided: {UPSTREAM}. You can find your API key at https://provider.example"


@pairs
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_keys_are_seen_nowhere(
    gate: Gate, client: str, provider: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in an error that repeats our key, in no log at any level, no admin answer, no byte of the store's files."""
    caplog.set_level(logging.DEBUG)
    seen: list[bytes] = []
    for code in (400, 401, 403, 404, 429, 500):
        error: Any = {"error": {"message": ECHO, "type": "x", "code": ECHO, "param": ECHO}}
        gate.provider.default = Status(
            code, body=error, headers={"x-request-id": UPSTREAM, "request-id": UPSTREAM}
        )
        got = gate.post(client, ask(client, f"{provider}/m", stream=stream))
        assert got.status >= 400
        seen += [got.body, repr(got.headers).encode()]
    gate.provider.default = ErrorEvent(after=1, message=ECHO)
    got = gate.post(client, ask(client, f"{provider}/m", stream=stream))
    seen += [got.body, repr(got.headers).encode()]
    for key in (KEY[:-1], f"{KEY} {KEY}", OTHER + "x", ADMIN, UPSTREAM):
        got = gate.http(
            "POST", PATHS[client], ask(client, f"{provider}/m"), {"authorization": f"Bearer {key}"}, key=None
        )
        assert got.status == (403 if key == ADMIN else 401)
        seen.append(got.body)
    got = gate.post(client, ask(client, f"{provider}/m"), {"x-headrace-user": "someone"})
    for path in ("/admin", "/admin/requests", "/metrics", f"/admin/requests/{got.headers['x-request-id']}"):
        admin = gate.http("GET", path, key=ADMIN)
        assert admin.status == 200
        seen.append(admin.body)
    seen.append(repr(gate.gateway.settings).encode())
    seen.append(repr(gate.engine.__dict__).encode())
    gate.run(gate.engine.store.flush())
    files = [path for path in gate.folder.iterdir() if path.name.startswith("headrace.db")]
    assert files
    seen += [path.read_bytes() for path in files]
    seen += [record.getMessage().encode() + repr(record.exc_info).encode() for record in caplog.records]
    for secret in (KEY, OTHER, ADMIN, UPSTREAM, UPSTREAM[:20], KEY[:20]):
        for text in seen:
            assert secret.encode() not in text, text[max(0, text.index(secret.encode()) - 200) :][:400]


def test_others_requests_are_nobodys_business(gate: Gate) -> None:
    """A request is shown to the keys of its tenant and to the admin; to others it does not exist."""
    got = gate.post("openai", ask("openai", "both"))
    path = f"/v1/requests/{got.headers['x-request-id']}"
    assert gate.http("GET", path).status == 200
    assert gate.http("GET", path, key=OTHER).status == 404
    assert gate.http("GET", path, key=None).status == 401
    assert gate.http("GET", f"/admin{path.removeprefix('/v1')}", key=ADMIN).status == 200
    for admin in ("/admin", "/admin/requests", f"/admin{path.removeprefix('/v1')}", "/metrics"):
        assert gate.http("GET", admin, key=KEY).status == 403
        assert gate.http("GET", admin, key=None).status == 401
