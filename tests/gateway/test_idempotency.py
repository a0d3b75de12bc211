"""`Idempotency-Key` as callers see it: both dialects and both official SDKs, streamed or not, over restarts and over two worker processes."""

from __future__ import annotations

import http.client
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import anthropic
import openai
import pytest
from tests.budget.served import KEY as SERVED_KEY
from tests.budget.served import Served, served
from tests.budget.served import body as served_body
from tests.gateway.gate import KEY, OTHER, PAIRS, Gate, Got, ask, config, gated, wait_for

from headrace.errors import StoreError
from headrace.testing import Answer, FakeProvider, ServerError

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
PRICED = """
[prices."openai/m"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"
[prices."anthropic/m"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"
"""


def keyed(gate: Gate, client: str, body: bytes, key: str, **headers: str) -> Got:
    return gate.post(client, body, {"idempotency-key": key, **headers})


def comments_out(body: bytes) -> bytes:
    """A stream without our own comments: the receipt is each request's own."""
    return re.sub(rb"(?m)^: [^\n]*\n\n", b"", body)


@pairs
@streamed
def test_a_repeated_key_is_answered_again(gate: Gate, client: str, provider: str, stream: bool) -> None:
    """With the same status and bytes, without asking; the replay says so, costs nothing, and has its own id."""
    gate.fresh()
    gate.provider.default = Answer("one two", tool_calls=[("f", {"a": 1})], thinking="hm")
    body, key = ask(client, f"{provider}/m", stream=stream), f"again-{client}-{provider}-{stream}"
    first = keyed(gate, client, body, key)
    again = keyed(gate, client, body, key)
    assert (first.status, again.status) == (200, 200)
    assert comments_out(first.body) == comments_out(again.body)
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-headrace-attempts"] == "0"
    assert f"entry={first.headers['x-request-id']}" in again.headers["x-headrace-cache-detail"]
    assert len(gate.provider.requests) == 1
    report = gate.report(again.headers["x-request-id"])
    assert report["attempts"] == [] and report["cache"] == "hit-idempotent"


def test_embeddings_are_given_again_too(gate: Gate) -> None:
    """The same bytes."""
    gate.fresh()
    body = b'{"model": "openai/m", "input": ["a", "b"]}'
    first, again = (
        gate.http("POST", "/v1/embeddings", body, {"idempotency-key": "vectors"}) for _ in range(2)
    )
    assert (first.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert first.body == again.body and len(gate.provider.requests) == 1


@streamed
def test_both_sdks_replay(gate: Gate, stream: bool) -> None:
    """By `extra_headers`: the second call of the same key reads like the first."""
    gate.fresh()
    gate.provider.default = Answer("hello there")
    hi: Any = [{"role": "user", "content": "hi"}]
    extra = {"idempotency-key": f"sdk-openai-{stream}"}
    other = {"idempotency-key": f"sdk-anthropic-{stream}"}

    def of_openai() -> str:
        chat = gate.oai.chat.completions
        if not stream:
            return (
                chat.create(model="openai/m", messages=hi, extra_headers=extra).choices[0].message.content
                or ""
            )
        chunks = chat.create(model="openai/m", messages=hi, extra_headers=extra, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    def of_anthropic() -> str:
        if not stream:
            said = gate.ant.messages.create(
                model="anthropic/m", max_tokens=9, messages=hi, extra_headers=other
            ).content[0]
            assert isinstance(said, anthropic.types.TextBlock)
            return said.text
        with gate.ant.messages.stream(
            model="anthropic/m", max_tokens=9, messages=hi, extra_headers=other
        ) as events:
            return events.get_final_text()

    assert [of_openai(), of_openai(), of_anthropic(), of_anthropic()] == ["hello there"] * 4
    assert len(gate.provider.requests) == 2


def test_sdks_raise_their_own_error_for_another_body(gate: Gate) -> None:
    """422 without a retry, in both dialects; also where only the dialect differs."""
    gate.fresh()
    extra = {"idempotency-key": "other-body"}
    ho: Any = [{"role": "user", "content": "ho"}]
    assert keyed(gate, "openai", ask("openai", "openai/m"), "other-body").status == 200
    with pytest.raises(openai.UnprocessableEntityError, match="with another request") as raised:
        gate.oai.chat.completions.create(model="openai/m", messages=ho, extra_headers=extra)
    assert raised.value.response.headers["x-headrace-error"] == "idempotency_key_reused"
    with pytest.raises(anthropic.UnprocessableEntityError, match="use a new key"):
        gate.ant.messages.create(model="openai/m", max_tokens=9, messages=ho, extra_headers=extra)
    assert len(gate.provider.requests) == 1
    # Good in both dialects: it is another request all the same.
    both = ask("anthropic", "openai/m")
    assert keyed(gate, "openai", both, "other-dialect").status == 200
    assert keyed(gate, "anthropic", both, "other-dialect").status == 422


def test_the_scope_is_the_key(gate: Gate) -> None:
    """Two callers with one idempotency key are strangers; so is the same caller without it."""
    gate.fresh()
    for key in (KEY, OTHER):
        got = gate.http(
            "POST",
            "/v1/chat/completions",
            ask("openai", "both", text=key[-3:]),
            {"idempotency-key": "shared"},
            key=key,
        )
        assert got.status == 200 and "idempotent-replayed" not in got.headers
    assert gate.post("openai", ask("openai", "both")).status == 200
    assert len(gate.provider.requests) == 3


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_a_bad_key_is_told(gate: Gate, key: str) -> None:
    """400 in the caller's dialect, and nobody is asked; the draft's quotes are no part of a key."""
    gate.fresh()
    got = keyed(gate, "anthropic", ask("anthropic", "anthropic/m"), key)
    assert got.status == 400
    assert "1 to 255 printable ASCII characters" in got.json["error"]["message"]
    assert gate.provider.requests == []


def test_the_quotes_of_the_draft(gate: Gate) -> None:
    """A structured field's string is the same key as its content."""
    gate.fresh()
    body = ask("openai", "openai/m")
    keyed(gate, "openai", body, "quoted-1")
    assert keyed(gate, "openai", body, '"quoted-1"').headers["idempotent-replayed"] == "true"


def test_an_error_is_not_kept(gate: Gate) -> None:
    """The next one asks again, and is answered."""
    gate.fresh()
    gate.provider.script(*[ServerError()] * 3, Answer("yes"))
    body = ask("openai", "openai/m")
    assert keyed(gate, "openai", body, "after-an-error").status >= 500
    got = keyed(gate, "openai", body, "after-an-error")
    assert got.status == 200 and "idempotent-replayed" not in got.headers


@streamed
def test_a_twin_under_way_gets_the_same(gate: Gate, stream: bool) -> None:
    """Four at once are one request; each has the whole answer, those who followed say so and cost nothing."""
    gate.fresh()
    gate.provider.default = Answer(chunks=["a ", "b ", "c"], delay_s=0.05, first_delay_s=0.1)
    body, key = ask("openai", "openai/m", stream=stream), f"twins-{stream}"
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: keyed(gate, "openai", body, key), range(4)))
    assert len({comments_out(one.body) for one in got}) == 1 and got[0].status == 200
    assert sorted(one.headers["x-headrace-attempts"] for one in got) == ["0", "0", "0", "1"]
    assert sum("idempotent-replayed" in one.headers for one in got) == 3
    assert len(gate.provider.requests) == 1


def test_a_streaming_twin_reads_along(gate: Gate) -> None:
    """It gets what has come, and then what comes: not only when all is there."""
    gate.fresh()
    gate.provider.default = Answer(chunks=["first ", "last"], delay_s=0.4)
    body = ask("openai", "openai/m", stream=True)
    began: list[float] = []

    def read() -> float:
        connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=10)
        headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "along", "connection": "close"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        seen = b""
        while b"first" not in seen:
            seen += response.read1()
        began.append(time.perf_counter())
        response.read()
        connection.close()
        return time.perf_counter()

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(read)
        wait_for(lambda: began)
        two = pool.submit(read)
        ended = one.result(), two.result()
    assert began[1] < ended[0] - 0.1, "the twin's first words came before the answer was whole"
    assert len(gate.provider.requests) == 1


@streamed
def test_who_leaves_may_come_back(gate: Gate, stream: bool) -> None:
    """The caller hangs up before the answer; it is finished, kept, and there when the same key comes again."""
    gate.fresh()
    gate.provider.default = Answer("worth waiting", first_delay_s=0.2)
    body, key = ask("openai", "openai/m", stream=stream), f"left-{stream}"
    with pytest.raises(TimeoutError):
        gate.http("POST", "/v1/chat/completions", body, {"idempotency-key": key}, timeout=0.1)
    gate.settled()
    assert len(gate.provider.requests) == 1
    got = keyed(gate, "openai", body, key)
    assert b"worth" in got.body and got.headers["idempotent-replayed"] == "true"
    assert len(gate.provider.requests) == 1


def test_a_replay_is_above_the_rate_limit_and_tells_what_it_saved(tmp_path: Path) -> None:
    """The second and third of one request a minute are replays; the report has their cost as saved."""
    with FakeProvider() as provider:
        provider.default = Answer("yes", usage=(1000, 1000))
        text = config(provider, more=PRICED).replace(
            f'value = "{KEY}"', f'value = "{KEY}"\nlimits = {{ rpm = 1 }}'
        )
        with gated(provider, tmp_path, text) as gate:
            got = [keyed(gate, "openai", ask("openai", "openai/m"), "k") for _ in range(3)]
            assert [one.status for one in got] == [200, 200, 200]
            assert keyed(gate, "openai", ask("openai", "openai/m"), "k2").status == 429
            assert got[0].headers["x-headrace-cost-usd"] == "0.018"
            assert got[1].headers["x-headrace-cost-usd"] == "0"
            assert "saved-usd=0.018" in got[1].headers["x-headrace-cache-detail"]
            (avoided,) = gate.run(gate.engine.store.avoided(0.0, 1e12))
            assert (avoided.hits, avoided.saved) == (2, 2 * 18_000_000)


@streamed
def test_a_restart_forgets_nothing(tmp_path: Path, stream: bool) -> None:
    """The second gateway on the same file gives the answer of the first, byte for byte."""
    body = ask("anthropic", "openai/m", stream=stream)
    with FakeProvider() as provider:
        provider.default = Answer("kept")
        with gated(provider, tmp_path, config(provider)) as gate:
            first = keyed(gate, "anthropic", body, "k")
        with gated(provider, tmp_path, config(provider)) as gate:
            again = keyed(gate, "anthropic", body, "k")
        assert again.headers["idempotent-replayed"] == "true"
        assert comments_out(first.body) == comments_out(again.body)
        assert len(provider.requests) == 1


def test_the_time_of_an_answer_is_over(tmp_path: Path) -> None:
    """After `retention` the key is free."""
    with FakeProvider() as provider:
        text = config(provider, more='[idempotency]\nretention = "50ms"')
        with gated(provider, tmp_path, text) as gate:
            keyed(gate, "openai", ask("openai", "openai/m"), "k")
            time.sleep(0.06)
            assert "idempotent-replayed" not in keyed(gate, "openai", ask("openai", "openai/m"), "k").headers
            time.sleep(0.06)
        with gated(provider, tmp_path, text) as gate:
            assert gate.run(gate.engine.store.purge_answers(None, None)) == 0, "a start deletes what is over"


def test_a_route_that_keeps_nothing_is_not_asked_twice(tmp_path: Path) -> None:
    """With `content = "hash-only"` the answer is in no file, its caller is warned, and the key is refused afterwards with a reason."""
    with FakeProvider() as provider:
        provider.default = Answer("canary-private")
        text = config(provider, more='[routes.private]\ncascade = ["openai/m"]\ncontent = "hash-only"')
        with gated(provider, tmp_path, text) as gate:
            first = keyed(gate, "openai", ask("openai", "private"), "k")
            assert "not kept" in first.headers["x-headrace-warnings"]
            got = keyed(gate, "openai", ask("openai", "private"), "k")
            assert (got.status, got.headers["x-headrace-error"]) == (409, "idempotency_answer_not_kept")
            assert got.headers["x-should-retry"] == "false" and "hash-only" in got.json["error"]["message"]
        assert len(provider.requests) == 1
        assert not any(b"canary-private" in file.read_bytes() for file in tmp_path.glob("headrace.db*"))


def test_without_a_store_nothing_is_sent(gate: Gate) -> None:
    """A key that cannot be looked up is refused with 503 and may be tried again; requests without one go on."""
    gate.fresh()
    down = mock.AsyncMock(side_effect=StoreError("disk"))
    with mock.patch.object(gate.engine.store, "claim_answer", down):
        got = keyed(gate, "anthropic", ask("anthropic", "anthropic/m"), "down")
        assert gate.post("openai", ask("openai", "openai/m")).status == 200
    assert (got.status, got.headers["x-headrace-error"]) == (503, "idempotency_unavailable")
    assert got.headers["retry-after"] == "1" and "x-should-retry" not in got.headers
    assert len(gate.provider.requests) == 1


def test_an_answer_that_cannot_be_kept_is_given_with_a_warning(gate: Gate) -> None:
    """It is paid for; the claim is let go."""
    gate.fresh()
    full = mock.AsyncMock(side_effect=StoreError("disk full"))
    with mock.patch.object(gate.engine.store, "keep_answer", full):
        got = keyed(gate, "openai", ask("openai", "openai/m"), "full")
    assert got.status == 200 and "could not be kept" in got.headers["x-headrace-warnings"]
    assert keyed(gate, "openai", ask("openai", "openai/m"), "full").status == 200
    assert len(gate.provider.requests) == 2


# --- two worker processes -------------------------------------------------------------------------------------------------


def post(gateway: Served, key: str, **members: Any) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own, which some worker takes; status 0 where it broke."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    headers = {"authorization": f"Bearer {SERVED_KEY}", "idempotency-key": key, "connection": "close"}
    try:
        connection.request("POST", "/v1/chat/completions", served_body(**members), headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, {}, b""
    finally:
        connection.close()


def test_twins_at_two_workers_are_one_request(tmp_path: Path) -> None:
    """Every key comes four times at once, over two processes that both get some: each is asked once."""
    with FakeProvider() as provider, served(provider, tmp_path, workers=2, budgets="") as gateway:
        provider.default = Answer("yes", first_delay_s=0.2)
        wait_for(lambda: len(gateway.workers()) == 2)
        keys = 0
        while len(gateway.query("SELECT DISTINCT holder FROM kept_answers")) < 2:
            assert keys < 60, "both workers must have answered some"
            named = [f"k{keys + number % 12}" for number in range(48)]
            with ThreadPoolExecutor(48) as pool:
                got = list(pool.map(lambda key: post(gateway, key), named))
            keys += 12
            assert {status for status, _, _ in got} == {200}
            assert sum("idempotent-replayed" in headers for _, headers, _ in got) == 36
        assert len(provider.requests) == keys


def test_a_worker_that_dies_is_followed(tmp_path: Path) -> None:
    """kill -9 in the middle of the call: who waits at the other worker asks again and is answered well before the lease ends, and the ledger has both
    attempts."""
    with FakeProvider() as provider, served(provider, tmp_path, workers=2, budgets="") as gateway:
        provider.default = Answer("never", first_delay_s=20.0)
        wait_for(lambda: len(gateway.workers()) == 2)
        with ThreadPoolExecutor(40) as pool:
            asking = [pool.submit(post, gateway, "k")]
            wait_for(lambda: len(provider.requests) == 1)
            ((holder,),) = gateway.query("SELECT holder FROM kept_answers")
            (other,) = set(gateway.workers()) - {dying := _owner(holder, gateway.workers())}
            idle = len(_open(other, "socket:"))
            while len(_open(other, "socket:")) == idle:
                assert len(asking) < 40, "one worker takes all connections"
                asking.append(pool.submit(post, gateway, "k"))
                time.sleep(0.05)
            provider.default = Answer("yes", usage=(10, 10))
            os.kill(dying, signal.SIGKILL)
            statuses = [one.result()[0] for one in asking]
        assert set(statuses) == {0, 200}, "those of the dead worker broke, those of the other were answered"
        status, headers, _ = post(gateway, "k")
        assert status == 200 and headers["idempotent-replayed"] == "true"
        assert len(provider.requests) == 2
        wait_for(lambda: gateway.query("SELECT count(*) FROM attempts WHERE outcome = 'lost'") == [(1,)])
        gateway.stop()
        assert gateway.query("SELECT outcome FROM attempts ORDER BY outcome") == [("lost",), ("ok",)]


def _open(pid: int, name: str) -> list[str]:
    """What a process has open whose name has `name` in it."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(link.readlink()))
    return [one for one in found if name in one]


def _owner(holder: str, workers: list[int]) -> int:
    """The process that has the journal `holder` open."""
    return next(pid for pid in workers if _open(pid, f"-ledger-{holder}."))
