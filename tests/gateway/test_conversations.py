"""Conversations that the gateway holds: the client sends only what is new, both dialects, whole and streamed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.gate import KEY, OTHER, PATHS, Gate, Got, config, gated, wait_for

from headrace.errors import StoreError
from headrace.testing import FakeProvider, Silence, Status

both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
HEADER = "x-headrace-conversation"

ROUTES = """
[routes.packed]
cascade = ["openai/m"]
[routes.packed.context]
budget = 600
[routes.private]
cascade = ["openai/m"]
content = "hash-only"
[routes.brief]
cascade = ["openai/m"]
retention = "1h"
[keys.stranger]
value = "hr-canary-stranger-key-0123456789"
tenant = "another"
"""
STRANGER = "hr-canary-stranger-key-0123456789"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """One gateway for the module."""
    folder = tmp_path_factory.mktemp("held")
    with FakeProvider() as provider, gated(provider, folder, config(provider, more=ROUTES)) as running:
        yield running


@pytest.fixture
def gate(shared: Gate) -> Gate:
    """The gateway, with nothing asked yet."""
    shared.fresh()
    return shared


def say(
    gate: Gate,
    text: str,
    id_: str = "new",
    *,
    dialect: str = "openai",
    model: str = "",
    stream: bool = False,
    key: str = KEY,
    **members: Any,
) -> Got:
    """One new message of the user's."""
    body: dict[str, Any] = {"model": model or f"{dialect}/m", "max_tokens": 64, **members}
    if stream:
        body["stream"] = True
    body.setdefault("messages", [{"role": "user", "content": text}])
    more = {"anthropic-version": "2023-06-01"} if dialect == "anthropic" else {}
    return gate.http("POST", PATHS[dialect], json.dumps(body).encode(), {HEADER: id_} | more, key=key)


def held(gate: Gate, id_: str, *, key: str = KEY) -> Got:
    """What the gateway shows of it."""
    return gate.http("GET", f"/v1/conversations/{id_}", key=key)


def words(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who said what."""
    said = []
    for message in messages:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        said.append((message["role"], text))
    return said


@both
@streamed
def test_what_was_said_stands_before_what_is_new(gate: Gate, dialect: str, stream: bool) -> None:
    """The provider gets question, answer and next question, the first message byte for byte; `GET` shows the same and the new answer."""
    first = say(
        gate,
        "My locker code is 7719.",
        dialect=dialect,
        stream=stream,
        messages=[
            {"role": "user", "content": "My locker code is 7719.", "name": "ann"}
            if dialect == "openai"
            else {"role": "user", "content": [{"type": "text", "text": "My locker code is 7719."}]}
        ],
    )
    id_ = first.headers[HEADER]
    assert first.status == 200 and id_.startswith("conv_")
    second = say(gate, "What is it?", id_, dialect=dialect, stream=stream)
    assert second.status == 200 and second.headers[HEADER] == id_
    sent = json.loads(gate.provider.requests[-1].body)["messages"]
    opening = json.loads(gate.provider.requests[0].body)["messages"]
    assert sent[0] == opening[0]
    assert [role for role, _ in words(sent)] == ["user", "assistant", "user"]
    assert words(sent)[1][1] and words(sent)[2] == ("user", "What is it?")
    shown = held(gate, id_).json
    assert (shown["id"], shown["object"]) == (id_, "conversation")
    assert shown["messages"][:3] == sent
    assert [role for role, _ in words(shown["messages"])] == ["user", "assistant"] * 2
    assert words(shown["messages"])[3][1] == "echo: What is it?"
    gate.settled()


def test_a_held_conversation_is_packed_by_its_route(gate: Gate) -> None:
    """A client that sends one message at a time gets a plan over all of them."""
    id_ = say(gate, "My locker code is 7719. " + "Sand and sun. " * 20, model="packed").headers[HEADER]
    for number in range(8):
        got = say(gate, f"Topic {number} is about things. " + "Words of it. " * 20, id_, model="packed")
        assert got.status == 200
    assert "turns in" in got.headers["x-headrace-warnings"]
    sent = json.loads(gate.provider.requests[-1].body)["messages"]
    assert len(sent) < len(held(gate, id_).json["messages"]) == 18


def test_a_conversation_is_its_tenant_s(gate: Gate) -> None:
    """Another tenant neither reads, goes on with, nor deletes it, and cannot tell it from one that never was."""
    id_ = say(gate, "A secret.").headers[HEADER]
    assert held(gate, id_).status == 200
    for key in (STRANGER, OTHER):
        never = held(gate, "conv_never", key=key)
        got = held(gate, id_, key=key)
        assert got.status == never.status == 404
        assert got.json["error"]["message"].replace(id_, "conv_never") == never.json["error"]["message"]
        assert gate.http("DELETE", f"/v1/conversations/{id_}", key=key).status == 404
    assert say(gate, "And?", id_, key=STRANGER).status == 404
    assert len(gate.provider.requests) == 1
    assert held(gate, id_).status == 200


@both
def test_an_unknown_or_senseless_id_is_refused_before_anything_is_sent(gate: Gate, dialect: str) -> None:
    """The error is the dialect's, and says how a conversation is begun."""
    got = say(gate, "hi", "conv_gone", dialect=dialect)
    assert got.status == 404 and "new" in got.json["error"]["message"]
    assert say(gate, "hi", "a/../b", dialect=dialect).status == 400
    assert say(gate, "hi", dialect=dialect, messages=[]).status == 400
    assert gate.provider.requests == []


def test_what_cannot_be_held_is_said(gate: Gate) -> None:
    """A route that keeps no content, several choices, and the other dialect are refused, each with what to do."""
    private = say(gate, "hi", model="private")
    assert private.status == 400 and "keeps no content" in private.json["error"]["message"]
    assert say(gate, "hi", n=2).status == 400
    body = json.dumps({"model": "openai/m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    both_keys = gate.post("openai", body, {HEADER: "new", "idempotency-key": "k"})
    assert both_keys.status == 400 and "leave one out" in both_keys.json["error"]["message"]
    assert gate.provider.requests == []
    id_ = say(gate, "hi").headers[HEADER]
    other = say(gate, "hi", id_, dialect="anthropic")
    assert other.status == 400 and "openai-chat" in other.json["error"]["message"]
    assert say(gate, "again", id_).status == 200


@streamed
def test_a_failed_question_leaves_nothing_behind(gate: Gate, stream: bool) -> None:
    """What was asked in vain can be asked again, from where the conversation was."""
    id_ = say(gate, "One.").headers[HEADER]
    gate.provider.script(*[Status(400)])
    assert say(gate, "Two.", id_, stream=stream).status == 400
    assert len(held(gate, id_).json["messages"]) == 2
    assert say(gate, "Two.", id_, stream=stream).status == 200
    assert [text for role, text in words(held(gate, id_).json["messages"]) if role == "user"] == [
        "One.",
        "Two.",
    ]


def test_deleting_leaves_nothing(gate: Gate) -> None:
    """It is gone for reading and for going on."""
    id_ = say(gate, "One.").headers[HEADER]
    gone = gate.http("DELETE", f"/v1/conversations/{id_}")
    assert (gone.status, gone.json) == (200, {"id": id_, "object": "conversation.deleted", "deleted": True})
    assert held(gate, id_).status == say(gate, "Two.", id_).status == 404
    assert gate.http("DELETE", f"/v1/conversations/{id_}").status == 404


def test_without_the_header_nothing_is_held(gate: Gate) -> None:
    """No id comes back, and the provider gets the caller's messages alone."""
    got = gate.post(
        "openai", json.dumps({"model": "openai/m", "messages": [{"role": "user", "content": "x"}]}).encode()
    )
    assert got.status == 200 and HEADER not in got.headers


@streamed
def test_two_at_once_are_told_apart(gate: Gate, stream: bool) -> None:
    """While one question is under way a second is refused at once and costs nothing; after its end the next goes on."""
    id_ = say(gate, "One.").headers[HEADER]
    asked = len(gate.provider.requests)
    gate.provider.script(Silence(seconds=30.0))
    client = threading.Thread(target=hang, args=(gate, id_, stream))
    client.start()
    wait_for(lambda: len(gate.provider.requests) == asked + 1)
    second = say(gate, "Two.", id_, stream=stream)
    assert second.status == 409 and second.headers["x-headrace-error"] == "conflict"
    assert gate.http("DELETE", f"/v1/conversations/{id_}").status == 409
    assert len(gate.provider.requests) == asked + 1
    client.join(10)
    gate.settled()  # the first client hung up
    assert say(gate, "Three.", id_, stream=stream).status == 200
    assert [text for role, text in words(held(gate, id_).json["messages"]) if role == "user"] == [
        "One.",
        "Three.",
    ]


def hang(gate: Gate, id_: str, stream: bool) -> None:
    """A client that gives up after a while."""
    body = {"model": "openai/m", "stream": stream, "messages": [{"role": "user", "content": "slow"}]}
    with pytest.raises(TimeoutError):
        gate.http("POST", PATHS["openai"], json.dumps(body).encode(), {HEADER: id_}, timeout=0.5)


@both
@streamed
def test_another_worker_that_went_on_first_wins(
    gate: Gate, dialect: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question and the answer that came later are not in it, and its client is told; nothing is overwritten."""
    id_ = say(gate, "One.", dialect=dialect).headers[HEADER]
    store: Any = gate.engine.store
    append = store.append_turns

    async def late(name: str, first: int, turns: list[bytes], *, until: float) -> None:
        await append(name, first, turns[:1], until=until)  # the other worker's
        await append(name, first, turns, until=until)

    monkeypatch.setattr(store, "append_turns", late)
    got = say(gate, "Two.", id_, dialect=dialect, stream=stream)
    monkeypatch.undo()
    if stream:
        assert got.status == 200 and b"went on with the conversation" in got.body
        assert b"[DONE]" not in got.body and b"message_stop" not in got.body
    else:
        assert got.status == 409 and "ask again" in got.json["error"]["message"]
    assert len(held(gate, id_).json["messages"]) == 3
    gate.settled()


def test_a_store_that_cannot_be_read_sends_no_half_conversation(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question without what was said before would be another question: it is refused, and can be asked again."""
    id_ = say(gate, "One.").headers[HEADER]

    async def broken(name: str) -> list[bytes]:
        raise StoreError("the disk is on fire")

    monkeypatch.setattr(gate.engine.store, "turns", broken)
    got = say(gate, "Two.", id_)
    monkeypatch.undo()
    assert got.status == 500 and got.headers["x-headrace-error"] == "store_error"
    assert len(gate.provider.requests) == 1
    assert say(gate, "Two.", id_).status == 200


def test_it_is_kept_for_the_retention_of_its_route(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last turn's time it is over, as a whole."""
    id_ = say(gate, "One.", model="brief").headers[HEADER]
    wall = gate.engine.clock.wall
    monkeypatch.setattr(type(gate.engine.clock), "wall", lambda self: wall() + 3_500)
    assert say(gate, "Two.", id_, model="brief").status == 200
    monkeypatch.setattr(type(gate.engine.clock), "wall", lambda self: wall() + 7_000)
    assert len(held(gate, id_).json["messages"]) == 4
    monkeypatch.setattr(type(gate.engine.clock), "wall", lambda self: wall() + 7_200)
    assert held(gate, id_).status == 404


def test_another_process_goes_on_with_it(tmp_path: Path) -> None:
    """What is held is in the store's file."""
    with FakeProvider() as provider:
        with gated(provider, tmp_path) as first:
            id_ = say(first, "One.").headers[HEADER]
        with gated(provider, tmp_path) as second:
            assert say(second, "Two.", id_).status == 200
        assert [role for role, _ in words(json.loads(provider.requests[-1].body)["messages"])] == [
            "user",
            "assistant",
            "user",
        ]


def test_the_official_sdks_pass_it(gate: Gate) -> None:
    """As an extra header; what comes back is read from the raw response."""
    raw = gate.oai.chat.completions.with_raw_response.create(
        model="openai/m", messages=[{"role": "user", "content": "One."}], extra_headers={HEADER: "new"}
    )
    id_ = raw.headers[HEADER]
    answer = gate.oai.chat.completions.create(
        model="openai/m", messages=[{"role": "user", "content": "Two."}], extra_headers={HEADER: id_}
    )
    assert answer.choices[0].message.content == "echo: Two."
    assert len(held(gate, id_).json["messages"]) == 4
