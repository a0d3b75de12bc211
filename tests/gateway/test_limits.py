"""What the gateway refuses, and how: in the caller's dialect, with a 4xx, at once, and never at the provider's door."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from tests.gateway.gate import KEY, OTHER, PATHS, Gate, ask, clock, config, gated, wait_for

from headrace.testing import Answer, FakeProvider

both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
either_loop = pytest.mark.parametrize("running", ["uvloop", "asyncio"], indirect=True)

LIMITS = """
max_body_bytes = 4096
max_header_bytes = 4096
max_depth = 20
header_timeout = "300ms"
body_timeout = "300ms"
idle_timeout = "300ms"
"""


@pytest.fixture(scope="module")
def narrow_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway with low limits for the whole module."""
    with (
        FakeProvider() as provider,
        gated(provider, tmp_path_factory.mktemp("narrow"), config(provider, gateway=LIMITS)) as gate,
    ):
        yield gate


@pytest.fixture
def narrow(narrow_running: Gate) -> Iterator[Gate]:
    """The gateway with low limits; nothing of the test may be left afterwards."""
    narrow_running.fresh()
    yield narrow_running
    narrow_running.settled()


def envelope(dialect: str, body: bytes) -> dict[str, Any]:
    """The error in `body`, which must be in the envelope of `dialect`."""
    value = json.loads(body)
    if dialect == "anthropic":
        assert value["type"] == "error" and value["request_id"]
    error = value["error"]
    assert type(error["message"]) is str and error["message"]
    assert type(error["type"]) is str
    assert "param" in error if dialect == "openai" else True
    return dict(error)


def head(dialect: str, *lines: str, start: str = "") -> bytes:
    """The head of a chat request, with `lines` after the usual ones."""
    usual = [
        start or f"POST {PATHS[dialect]} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {KEY}",
        "content-type: application/json",
    ]
    return "\r\n".join([*usual, *lines, "", ""]).encode("latin-1")


def statuses(data: bytes) -> list[int]:
    """The status of every answer in `data`."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


# --- bodies -----------------------------------------------------------------------------------------------------------


@contextmanager
def no_work() -> Iterator[None]:
    """The body takes less than a second of CPU, of client and gateway together: the machine may be busy. A gateway that waits for more
    is no matter of how busy it is: the client gives up first."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 1.0


NOT_JSON = {
    "empty": b"",
    "space": b" \n\t ",
    "cut": b'{"model": "M", "messages": [',
    "no value": b'{"model":}',
    "bare word": b'{"model": M}',
    "trailing": b'{"model": "M", "messages": []} x',
    "two objects": b'{"model": "M"}{"model": "M"}',
    "comma": b'{"model": "M", "messages": [],}',
    "single quotes": b"{'model': 'M'}",
    "nan": b'{"model": "M", "messages": [], "temperature": NaN}',
    "infinity": b'{"model": "M", "messages": [], "temperature": -Infinity}',
    "not utf-8": b'{"model": "M", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "utf-16": '{"model": "M", "messages": []}'.encode("utf-16"),
    "raw surrogate": b'{"model": "M", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    "control character": b'{"model": "M", "messages": [{"role": "user", "content": "a\x00b"}]}',
    "null": b"null",
    "array": b'["model", "M"]',
    "string": b'"M"',
    "number": b"1",
    "no model": b'{"messages": []}',
    "model null": b'{"model": null, "messages": []}',
    "model empty": b'{"model": "", "messages": []}',
    "model number": b'{"model": 1, "messages": []}',
    "model list": b'{"model": ["M"], "messages": []}',
    "stream text": b'{"model": "M", "messages": [], "stream": "yes"}',
}


@both
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_bodies_that_are_no_request(gate: Gate, dialect: str, provider: str, body: bytes) -> None:
    """Refused with 400 in the dialect, at once, and not sent on."""
    with no_work():
        got = gate.post(dialect, body.replace(b'"M"', f'"{provider}/m"'.encode()))
    assert got.status in ((400, 404) if b'""' in body else (400,)), got.body
    assert envelope(dialect, got.body)["type"] in ("invalid_request_error", "not_found_error")
    assert gate.provider.requests == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "openai/m"}', "messages"),
        (b'{"model": "openai/m", "messages": [], "stream": "y"}', "stream"),
    ],
)
def test_the_member_at_fault_is_named(gate: Gate, body: bytes, param: str) -> None:
    """OpenAI's envelope has a place for it, and its SDK reads it as `error.param`."""
    assert envelope("openai", gate.post("openai", body).body)["param"] == param


@both
@pytest.mark.parametrize("again", [b'"model": "M"', b'"mod\\u0065l": "M"', b'"model" :null'])
def test_two_models(gate: Gate, dialect: str, again: bytes) -> None:
    """Which of them the provider would take is anyone's guess: refused, wherever they stand."""
    for body in (b'{"model": "M", "messages": [], %b}', b'{%b, "messages": [], "model": "M"}'):
        got = gate.post(dialect, (body % again).replace(b'"M"', f'"{dialect}/m"'.encode()))
        assert got.status == 400
        envelope(dialect, got.body)
    assert gate.provider.requests == []


STRANGE = {
    "surrogate": b'"\\ud800"',
    "surrogates, swapped": b'"\\udc00\\ud800"',
    "huge integer": b"1" + b"0" * 4000,
    "huge exponent": b"1e999999",
    "long fraction": b"0." + b"1" * 4000,
    "long name": b'{"' + b"n" * 4000 + b'": 1}',
    "many escapes": b'"' + b"\\u0000" * 500 + b'"',
    "duplicates": b'{"a": 1, "a": 2}',
    "prototype": b'{"__proto__": {"model": "x"}}',
}


@both
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "member", ["metadata", "unknown", "temperature", "max_tokens", "messages", "tools", "stream"]
)
@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_strange_values(gate: Gate, dialect: str, provider: str, member: str, value: bytes) -> None:
    """Passed on byte for byte, or refused as the caller's fault; never a 5xx and never slow."""
    body = ask(dialect, f"{provider}/m").replace(b'"max_tokens": 64, ', b"")
    if member == "messages":
        body = body.replace(b'"hi"', value)
    else:
        body = body[:-1] + b', "%b": %b}' % (member.encode(), value)
    with no_work():
        got = gate.post(dialect, body)
    assert got.status < 500, got.body
    if got.status != 200:
        envelope(dialect, got.body)
    for request in gate.provider.requests:
        if dialect == provider:
            assert value in request.body


@both
def test_a_body_over_the_limit(narrow: Gate, dialect: str) -> None:
    """413 for one byte too many: told by the length before it is sent, or found while it comes in chunks."""
    fits = ask(dialect, f"{dialect}/m", filler="")
    fits = fits.replace(b'"filler": ""', b'"filler": "%b"' % (b"x" * (4096 - len(fits))))
    assert len(fits) == 4096
    assert narrow.post(dialect, fits).status == 200
    over = fits.replace(b"xx", b"xxx", 1)

    # A client that waits for the answer to its head gets one.
    answer = narrow.raw(head(dialect, f"content-length: {len(over)}", "expect: 100-continue"))
    assert statuses(answer) == [413] and b"100 Continue" not in answer
    envelope(dialect, answer.partition(b"\r\n\r\n")[2])

    # One that sends all the same may read it, too.
    got = narrow.post(dialect, over)
    assert got.status == 413
    assert "4096 bytes" in envelope(dialect, got.body)["message"]

    chunk = b"%x\r\n%b\r\n" % (1000, over[:1000])
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=5) as sock:
        sock.sendall(head(dialect, "transfer-encoding: chunked") + chunk * 5)
        answer = sock.recv(65536)  # while we are still sending
        assert statuses(answer) == [413]
        assert envelope(dialect, answer.partition(b"\r\n\r\n")[2])["type"]
    assert len(narrow.provider.requests) == 1


def test_a_refused_client_that_goes_on_sending_is_cut(narrow: Gate) -> None:
    """After the answer a client gets a moment to read it; then the connection is closed, whatever it sends."""
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=5) as sock:
        sock.sendall(head("openai", "content-length: 999999"))
        assert statuses(sock.recv(65536)) == [413]
        wait_for(lambda: narrow.on_loop(lambda: len(narrow.gateway.server.connections)) == 0, 6)


@both
def test_heads_over_the_limit(narrow: Gate, dialect: str) -> None:
    """431 for a long value, a long name, a long target and too many headers, in the dialect of the path where it is known."""
    for lines in ([f"x: {'v' * 5000}"], [f"{'n' * 5000}: v"], [f"x-{n}: v" for n in range(250)]):
        answer = narrow.raw(head(dialect, *lines, "content-length: 0"))
        assert statuses(answer) == [431], answer[:200]
        envelope(dialect, answer.partition(b"\r\n\r\n")[2])
    answer = narrow.raw(head(dialect, start=f"POST {PATHS[dialect]}?{'q' * 5000} HTTP/1.1"))
    assert statuses(answer) == [431]


@both
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [b"false", b"true"])
@pytest.mark.parametrize("place", ["unknown", "metadata", "tools"])
@pytest.mark.parametrize("opener", ["arrays", "objects"])
def test_depth(narrow: Gate, dialect: str, provider: str, stream: bytes, place: str, opener: str) -> None:
    """The deepest allowed nesting is served, one more level is 413, in every pair of dialects; brackets in text do not count."""

    def body(depth: int) -> bytes:
        # The body itself is one level; `tools` is one, its tool another, the schema the rest.
        rest = depth - 1
        wrap = {
            "unknown": (0, b', "unknown": %b}'),
            "metadata": (
                1,
                b', "metadata": {"x": %b}}',
            ),
            "tools": (
                (2, b', "tools": [{"name": "f", "input_schema": %b}]}')
                if dialect == "anthropic"
                else (3, b', "tools": [{"type": "function", "function": {"name": "f", "parameters": %b}}]}')
            ),
        }
        used, text = wrap[place]
        levels = rest - used
        value = (
            b"[" * levels + b"]" * levels
            if opener == "arrays"
            else b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)
        )
        if place == "tools":
            value = (
                b'{"type": "object", "x": '
                + (
                    b"[" * (levels - 1) + b"]" * (levels - 1)
                    if opener == "arrays"
                    else b'{"a":' * (levels - 2) + b"{}" + b"}" * (levels - 2)
                )
                + b"}"
            )
        start = ask(dialect, f"{provider}/m", text="[" * 500)
        return start[:-1] + b', "stream": ' + stream + text % value

    got = narrow.post(dialect, body(20))
    assert got.status == 200, got.body
    got = narrow.post(dialect, body(21))
    assert got.status == 413
    assert "20" in envelope(dialect, got.body)["message"]
    assert len(narrow.provider.requests) == 1


@both
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("member", ["unknown", "model"])
def test_the_usual_depth(gate: Gate, dialect: str, provider: str, member: str) -> None:
    """The default limit of 128 holds however the body is read: also where the first look at it is not enough."""
    extra = b"[" * 127 + b"]" * 127
    for more, status in ((0, 200), (1, 413)):
        value = b"[" * more + extra + b"]" * more
        body = ask(dialect, f"{provider}/m")[:-1] + b', "unknown": %b' % value
        body += b', "nested": {"model": 1}}' if member == "model" else b"}"
        assert gate.post(dialect, body).status == status


@either_loop
@both
def test_a_bomb_of_brackets_is_cheap(gate: Gate, dialect: str) -> None:
    """Four megabytes of brackets, closed or not, are refused in a moment."""
    for bomb in (b"[" * 4_000_000, b'{"a":' * 800_000, b"[]" * 2_000_000, b"[{}," * 1_000_000):
        with no_work():
            got = gate.post(dialect, b'{"model": "openai/m", "messages": ' + bomb)
        assert 400 <= got.status < 500


# --- headers of ours --------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "abc", "", "1,2", "٣"])
def test_a_timeout_that_is_none(gate: Gate, dialect: str, value: str) -> None:
    """400 that quotes it."""
    got = gate.post(
        dialect, ask(dialect, "openai/m"), {"x-headrace-timeout": value.encode().decode("latin-1")}
    )
    assert got.status == 400
    assert "x-headrace-timeout" in envelope(dialect, got.body)["message"]
    assert gate.provider.requests == []


@either_loop
@both
def test_paths_and_methods(gate: Gate, dialect: str) -> None:
    """404 and 405 in the dialect, and the head alone for HEAD."""
    path = PATHS[dialect]
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        got = gate.http(method, path)
        assert got.status == 405, method
        assert "POST" in envelope(dialect, got.body)["message"]
    for wrong in (
        f"{path}/x",
        f"{path}/",
        f"/{path}",
        path.upper(),
        f"{path}%20",
        "/v2",
        "/v1/../admin",
        "/",
    ):
        assert gate.http("POST", wrong, b"{}").status == 404, wrong
    with closing(http.client.HTTPConnection("127.0.0.1", gate.port, timeout=5)) as connection:
        for other, status in (("/health", 200), ("/v1/models", 401), ("/nowhere", 404), (path, 405)):
            connection.request("HEAD", other)
            response = connection.getresponse()
            assert response.status == status
            assert int(response.headers["content-length"]) > 0
            assert response.read() == b""
        connection.request("GET", "/health")  # the connection is still in step
        assert json.loads(connection.getresponse().read())["status"] == "ok"


@both
def test_keys_are_asked_for(gate: Gate, dialect: str) -> None:
    """No key, an empty one and a wrong one are 401; either header takes ours; two keys are refused."""
    body = ask(dialect, "openai/m")
    for headers in (
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"x-api-key": "x"},
        {"x-api-key": ""},
        {"authorization": "Bearer " + "é".encode().decode("latin-1")},
    ):
        got = gate.http("POST", PATHS[dialect], body, headers, key=None)
        assert got.status == 401, headers
        assert envelope(dialect, got.body)["type"] == (
            "authentication_error" if dialect == "anthropic" else envelope(dialect, got.body)["type"]
        )
        assert b"canary" not in got.body
    assert gate.provider.requests == []
    for headers in ({"x-api-key": KEY}, {"authorization": f"bearer {KEY}"}):
        assert gate.http("POST", PATHS[dialect], body, headers, key=None).status == 200
    answer = gate.raw(head(dialect, f"authorization: Bearer {OTHER}", "content-length: 0"))
    assert statuses(answer) == [400]


# --- HTTP itself ------------------------------------------------------------------------------------------------------

BODY = ask("openai", "openai/m")
N = len(BODY)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (N, BODY)

SMUGGLING: dict[str, tuple[bytes, bytes]] = {
    "length and chunked": (head("openai", f"content-length: {N}", "transfer-encoding: chunked"), CHUNKED),
    "chunked and length": (head("openai", "transfer-encoding: chunked", "content-length: 4"), CHUNKED),
    "two lengths": (head("openai", f"content-length: {N}", f"content-length: {N + 1}"), BODY),
    "the same length twice": (head("openai", f"content-length: {N}", f"content-length: {N}"), BODY),
    "a list of lengths": (head("openai", f"content-length: {N}, {N}"), BODY),
    "a signed length": (head("openai", f"content-length: +{N}"), BODY),
    "a negative length": (head("openai", "content-length: -1"), BODY),
    "a hexadecimal length": (head("openai", f"content-length: 0x{N:x}"), BODY),
    "a huge length": (head("openai", f"content-length: {'9' * 40}"), BODY),
    "chunked twice": (head("openai", "transfer-encoding: chunked, chunked"), CHUNKED),
    "two encodings": (head("openai", "transfer-encoding: chunked", "transfer-encoding: identity"), CHUNKED),
    "an unknown encoding": (head("openai", "transfer-encoding: xchunked"), CHUNKED),
    "chunked not last": (head("openai", "transfer-encoding: chunked, gzip"), CHUNKED),
    "vertical tab": (head("openai", "transfer-encoding: \x0bchunked"), CHUNKED),
    "space before the colon": (head("openai", "transfer-encoding : chunked"), CHUNKED),
    "folded line": (head("openai", "x-folded: a", " b: c", f"content-length: {N}"), BODY),
    "folded encoding": (head("openai", "transfer-encoding:", " chunked"), CHUNKED),
    "bare line feeds": (head("openai", f"content-length: {N}").replace(b"\r\n", b"\n"), BODY),
    "bare carriage return": (head("openai", f"x: a\rb: c\r\ncontent-length: {N}"), BODY),
    "nul in a value": (head("openai", "x: a\x00b", f"content-length: {N}"), BODY),
    "nul in a name": (head("openai", "x\x00: a", f"content-length: {N}"), BODY),
    "no name": (head("openai", ": a", f"content-length: {N}"), BODY),
    "bad chunk size": (head("openai", "transfer-encoding: chunked"), b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "signed chunk size": (
        head("openai", "transfer-encoding: chunked"),
        b"+%x\r\n%b\r\n0\r\n\r\n" % (N, BODY),
    ),
    "huge chunk size": (head("openai", "transfer-encoding: chunked"), b"f" * 20 + b"\r\n" + BODY),
    "chunk without its end": (
        head("openai", "transfer-encoding: chunked"),
        b"%x\r\n%bXX0\r\n\r\n" % (N, BODY),
    ),
    "chunk size with a line feed": (
        head("openai", "transfer-encoding: chunked"),
        b"%x\n%b\r\n0\r\n\r\n" % (N, BODY),
    ),
    "two hosts": (head("openai", "host: y", f"content-length: {N}"), BODY),
    "no host": (head("openai", f"content-length: {N}").replace(b"host: x\r\n", b""), BODY),
    "no version": (head("openai", start="POST /v1/chat/completions"), BODY),
    "version 2": (head("openai", start="POST /v1/chat/completions HTTP/2.0"), BODY),
    "version 1.2": (head("openai", f"content-length: {N}", start="POST /v1/chat/completions HTTP/1.2"), BODY),
    "space in the target": (head("openai", start="POST /v1/chat completions HTTP/1.1"), BODY),
    "no target": (head("openai", start="POST HTTP/1.1"), BODY),
    "unknown method": (head("openai", start="EAT /v1/chat/completions HTTP/1.1"), BODY),
    "lower case method": (head("openai", start="post /v1/chat/completions HTTP/1.1"), BODY),
    "absolute target": (
        head("openai", "content-length: 0", "connection: close", start="POST http://x/v1/messages HTTP/1.1"),
        BODY,
    ),
    "tunnel": (head("openai", start="CONNECT x:80 HTTP/1.1"), b""),
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100, b""),
    "noise": (b"\x00\xff\xfe\r\n\r\n", b""),
}


@either_loop
@pytest.mark.parametrize("case", SMUGGLING.values(), ids=SMUGGLING)
def test_requests_that_two_servers_could_read_differently(gate: Gate, case: tuple[bytes, bytes]) -> None:
    """One answer, a 4xx, then the connection is closed; what is behind is never taken for a second request."""
    smuggled = head("openai", f"content-length: {N}") + BODY
    with no_work():
        answer = gate.raw(case[0] + case[1] + smuggled)
    assert len(statuses(answer)) == 1, answer
    assert 400 <= statuses(answer)[0] < 500
    body = answer.partition(b"\r\n\r\n")[2]
    assert json.loads(body)["error"]["message"]
    assert gate.provider.requests == []


@either_loop
def test_trailers_are_not_headers(gate: Gate) -> None:
    """What comes behind a chunked body changes nothing: neither the key nor the target."""
    lines = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\n" % (N, BODY)
    answer = gate.raw(lines.encode() + body + f"authorization: Bearer {KEY}\r\n\r\n".encode())
    assert statuses(answer) == [401]


@either_loop
def test_old_clients(gate: Gate) -> None:
    """HTTP/1.0 gets an answer without chunks that ends with the connection, buffered and streamed."""
    for stream in (False, True):
        body = ask("openai", "openai/m", stream=stream)
        data = head(
            "openai",
            f"content-length: {len(body)}",
            "connection: keep-alive",
            start="POST /v1/chat/completions HTTP/1.0",
        )
        answer = gate.raw(data + body)
        assert statuses(answer) == [200]
        assert b"chunked" not in answer
        assert answer.endswith(b"data: [DONE]\n\n") is stream


@either_loop
def test_an_upgrade_that_we_do_not_know_is_ignored(gate: Gate) -> None:
    """Java's client offers HTTP/2 with every request in plain text; it gets its answer by HTTP/1.1."""
    for body in (BODY, b""):
        start = "" if body else "GET /health HTTP/1.1"
        data = head(
            "openai",
            "connection: Upgrade, HTTP2-Settings",
            "upgrade: h2c",
            "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
            f"content-length: {len(body)}",
            start=start,
        )
        with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as sock:
            sock.sendall(data + body)
            assert statuses(answer := sock.recv(65536)) == [200], answer


@either_loop
def test_pipelined_requests_are_answered_in_order(gate: Gate) -> None:
    """Three in one write, the first of them slow; a fourth that cannot be read is refused after them."""
    gate.provider.script(Answer("a", first_delay_s=0.1), Answer("b"), Answer("c"))
    one = head("openai", f"content-length: {N}") + BODY
    last = head("openai", f"content-length: {N}", "connection: close") + BODY
    answer = gate.raw(one + one + last)
    assert statuses(answer) == [200, 200, 200]
    assert [answer.index(b'"content":"%b"' % letter) for letter in (b"a", b"b", b"c")] == sorted(
        answer.index(b'"content":"%b"' % letter) for letter in (b"a", b"b", b"c")
    )
    assert len(gate.provider.requests) == 3


@either_loop
def test_continue(gate: Gate) -> None:
    """A client that waits for `100 Continue` gets it once its head is fine."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as sock:
        sock.sendall(head("openai", f"content-length: {N}", "expect: 100-continue"))
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert statuses(answer := sock.recv(65536)) == [200], answer


def test_slow_clients_are_cut(narrow: Gate) -> None:
    """Nothing sent, half a head, a head byte by byte, half a body, an idle kept connection: each is closed in time."""
    socks = [socket.create_connection(("127.0.0.1", narrow.port), timeout=5) for _ in range(30)]
    data = head("anthropic", f"content-length: {N}")
    try:
        for at, sock in enumerate(socks):
            match at % 5:
                case 1:
                    sock.sendall(data[:40])
                case 2:
                    sock.sendall(data + BODY[:20])
                case 3:
                    sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                case 4:
                    sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /hea")
        began, sent = clock.now(), 0
        slow = socket.create_connection(("127.0.0.1", narrow.port), timeout=5)
        socks.append(slow)
        slow.settimeout(0.05)
        while True:  # a byte every 50 ms would take ten seconds
            try:
                slow.sendall(data[sent : sent + 1])
                sent += 1
                if slow.recv(65536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert clock.now() - began < 8  # on a busy machine; the default limit is 10 s too
        for at, sock in enumerate(socks[:-1]):
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            match at % 5:
                case 1 | 2:
                    assert statuses(answer) == [408]
                    envelope("anthropic", answer.partition(b"\r\n\r\n")[2])
                case 3:
                    assert statuses(answer) == [200]
                case 4:
                    assert statuses(answer)[0] == 200
    finally:
        for sock in socks:
            sock.close()
    wait_for(lambda: narrow.on_loop(lambda: len(narrow.gateway.server.connections)) == 0)
