"""`/admin/keys` and `/admin/audit`: a key's life, what it may, who may change it, and what is left of its value."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.gate import ADMIN, KEY, PATHS, ROLE_KEYS, Gate, Got, ask, config, gated, wait_for

from headrace.call import format_usd
from headrace.errors import StoreError
from headrace.testing import Answer, FakeProvider

both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])

PRICES = '[prices."openai/m"]\ninput_usd_per_mtok = "3"\noutput_usd_per_mtok = "15"\n'


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway of its own: the keys that these tests make are seen by no other."""
    with FakeProvider() as provider:
        folder = tmp_path_factory.mktemp("keys")
        with gated(provider, folder, config(provider, more=PRICES)) as made:
            yield made


def admin(gate: Gate, method: str, path: str, members: Any = None, key: str = ADMIN) -> Got:
    """A request to the admin API."""
    body = None if members is None else json.dumps(members).encode()
    return gate.http(method, f"/admin/{path}", body, key=key)


def create(gate: Gate, key: str = ADMIN, **members: Any) -> Any:
    """A new key."""
    got = admin(gate, "POST", "keys", members, key)
    assert got.status == 200, got.body
    return got.json


def send(gate: Gate, dialect: str, value: str, model: str = "openai/m", **members: Any) -> Got:
    """A model request with the key `value`."""
    return gate.http("POST", PATHS[dialect], ask(dialect, model, **members), key=value)


def refused(gate: Gate, dialect: str, value: str, *, stream: bool = False) -> None:
    """Waits, less than a second, until the key is good no more."""
    wait_for(lambda: send(gate, dialect, value, stream=stream).status == 401, within_s=1.0)


def error_type(got: Got) -> str:
    """The dialect's own word."""
    error = got.json["error"]
    return str(error.get("code") or error["type"])


@pytest.mark.parametrize(("dialect", "stream"), [("openai", False), ("anthropic", True)])
def test_a_keys_life(gate: Gate, dialect: str, stream: bool) -> None:
    """Made, shown once, used, listed without its value, rotated with a grace, revoked in less than a second, and all of it logged."""
    made = create(gate, tenant="acme", user="ann", team="core", expires="30d")
    value, path = made["key"], f"keys/{made['id']}"
    assert value.startswith("hr-") and len(value) == 46 and value.startswith(made["prefix"])
    assert (made["state"], made["role"], made["tenant"]) == ("active", "caller", "acme")
    got = send(gate, dialect, value, stream=stream)
    assert got.status == 200
    stored = gate.run(gate.engine.store.recent(1))[0]
    assert (stored.key_id, stored.tenant, stored.user, stored.team) == (made["id"], "acme", "ann", "core")
    shown = admin(gate, "GET", path).json
    assert shown == {name: member for name, member in made.items() if name != "key"}
    assert shown in admin(gate, "GET", "keys").json["keys"]
    rotated = admin(gate, "POST", f"{path}/rotate", {"grace": "1h"}).json
    assert rotated["key"] != value and rotated["former_value_until"] is not None
    assert [send(gate, dialect, v, stream=stream).status for v in (value, rotated["key"])] == [200, 200]
    last = admin(gate, "POST", f"{path}/rotate").json
    assert last["former_value_until"] is None
    refused(gate, dialect, value, stream=stream)
    refused(gate, dialect, rotated["key"], stream=stream)
    assert send(gate, dialect, last["key"], stream=stream).status == 200
    revoked = admin(gate, "POST", f"{path}/revoke").json
    assert revoked["state"] == "revoked" and revoked["revoked"] is not None
    refused(gate, dialect, last["key"], stream=stream)
    got = send(gate, dialect, last["key"], stream=stream)
    assert error_type(got) == ("invalid_api_key" if dialect == "openai" else "authentication_error")
    assert "was revoked" in got.json["error"]["message"]
    conflicts = [admin(gate, "POST", f"{path}/{again}") for again in ("revoke", "rotate")]
    assert [got.status for got in conflicts] == [409, 409]
    lines = admin(gate, "GET", f"audit?key={made['id']}").json["audit"]
    assert [(line["action"], line["result"]) for line in reversed(lines)] == [
        ("key.create", "ok"),
        ("key.rotate", "ok"),
        ("key.rotate", "ok"),
        ("key.revoke", "ok"),
        ("key.revoke", "conflict"),
        ("key.rotate", "conflict"),
    ]
    assert all(line["actor"] == "admin_key" and line["request_id"].startswith("req_") for line in lines)
    told = [(got.headers["x-request-id"], got.json["error"]["request_id"]) for got in reversed(conflicts)]
    assert told == [(line["request_id"],) * 2 for line in lines[:2]]


@both
@streamed
def test_what_a_key_may_ask_for(gate: Gate, dialect: str, stream: bool) -> None:
    """Its routes and its models by name, cascades of them, and nothing else: 403 in the dialect's words, and no attempt."""
    key = create(gate, routes=["both"], models=["openai/*", "anthropic/m"])["key"]
    gate.provider.reset()
    for model in ("both", "openai/m", "openai/x", "anthropic/m", "openai/x,anthropic/m", "both,openai/m"):
        assert send(gate, dialect, key, model, stream=stream).status == 200, model
    sent = len(gate.provider.requests)
    for model in ("quick", "anthropic/x", "local/default", "openai/m,anthropic/x", "quick,openai/m"):
        got = send(gate, dialect, key, model, stream=stream)
        assert got.status == 403, model
        assert error_type(got) == ("permission_denied" if dialect == "openai" else "permission_error")
        assert "may use anthropic/m, both, openai/*" in got.json["error"]["message"]
    assert len(gate.provider.requests) == sent
    names = [model["id"] for model in gate.http("GET", "/v1/models", key=key).json["data"]]
    assert names[0] == "both" and all(name == "both" or name.startswith("openai/") for name in names)
    assert gate.http("GET", "/v1/models/quick", key=key).status == 403
    body = ask("anthropic", "quick")
    assert gate.http("POST", "/v1/messages/count_tokens", body, key=key).status == 403


@streamed
def test_the_official_sdks_raise_what_they_raise_elsewhere(gate: Gate, stream: bool) -> None:
    """For a key that is not allowed, one that is revoked and one that never was: their own types, and no second try."""
    may, gone = create(gate, routes=["both"]), create(gate)
    admin(gate, "POST", f"keys/{gone['id']}/revoke")

    def oai(value: str) -> None:
        client = openai.OpenAI(base_url=f"{gate.url}/v1", api_key=value)
        client.chat.completions.create(
            model="quick", messages=[{"role": "user", "content": "x"}], stream=stream
        )

    def ant(value: str) -> None:
        client = anthropic.Anthropic(base_url=gate.url, api_key=value)
        client.messages.create(
            model="quick", max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=stream
        )

    for ask_with, sdk in ((oai, openai), (ant, anthropic)):
        with pytest.raises(sdk.PermissionDeniedError, match="may use both"):
            ask_with(may["key"])
        with pytest.raises(sdk.AuthenticationError, match="was revoked"):
            ask_with(gone["key"])
        with pytest.raises(sdk.AuthenticationError, match="not known here"):
            ask_with("hr-never")


@both
def test_a_keys_budget_holds(gate: Gate, dialect: str) -> None:
    """Money for one answer buys one; the next is refused with 402, and so is the value after a rotation: the spend is the key's."""
    gate.provider.default = Answer("yes", usage=(10, 64))
    made = create(gate, budget=[{"usd": "0.0015", "window": "month"}, {"tokens": 100_000, "window": "day"}])
    assert send(gate, dialect, made["key"], max_tokens=64).status == 200
    assert send(gate, dialect, made["key"], max_tokens=64).status == 402
    bill = 10 * 3_000 + 64 * 15_000

    def used() -> Any:
        return admin(gate, "GET", f"keys/{made['id']}").json["budget"][0]["used"]

    wait_for(lambda: used() == format_usd(bill))
    new = admin(gate, "POST", f"keys/{made['id']}/rotate").json["key"]
    got = send(gate, dialect, new, max_tokens=64)
    assert got.status == 402
    assert f"key {made['id']} may use $0.0015 a month" in got.json["error"]["message"]
    gate.provider.reset()


@both
@streamed
def test_a_store_that_cannot_be_read_lets_nobody_in(
    gate: Gate, dialect: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of the store get 503 and a time to come back, in the dialect's words; those of the configuration are served."""

    async def broken(hash: bytes) -> None:  # noqa: A002
        raise StoreError("the disk is on fire")

    made = create(gate)
    monkeypatch.setattr(gate.engine.store, "find_key", broken)
    got = send(gate, dialect, made["key"], stream=stream)
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    assert "cannot be looked up" in got.json["error"]["message"] and b"fire" not in got.body
    assert send(gate, dialect, KEY, stream=stream).status == 200


def test_what_goes_wrong_inside_is_in_the_log_too(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that broke off has a line; a log that cannot be written does not hide why the change was refused."""
    made = create(gate)
    store = gate.engine.store

    async def bug(*_: object, **__: object) -> bool:
        raise RuntimeError("a bug")

    async def full(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "revoke_key", bug)
        assert admin(gate, "POST", f"keys/{made['id']}/revoke").status == 500
        patch.setattr(store, "revoke_key", full)
        patch.setattr(store, "add_audit", full)
        got = admin(gate, "POST", f"keys/{made['id']}/revoke")
        assert got.status == 500 and "disk is full" in got.json["error"]["message"]
        assert admin(gate, "POST", "keys/nobody/revoke").status == 404
    lines = admin(gate, "GET", f"audit?key={made['id']}").json["audit"]
    assert [line["result"] for line in lines] == ["internal_error", "ok"]


def test_only_an_admin_changes_who_is_one(gate: Gate) -> None:
    """An operator makes, rotates and ends callers' keys; a role it neither gives nor takes, nor sees the value of one that has it."""
    operator = ROLE_KEYS["operator"]
    boss = create(gate, role="admin")
    for role in ("viewer", "auditor", "operator", "admin", "root"):
        assert admin(gate, "POST", "keys", {"role": role}, operator).status == 403
    for change in ("revoke", "rotate"):
        assert admin(gate, "POST", f"keys/{boss['id']}/{change}", key=operator).status == 403
    assert admin(gate, "GET", "audit", key=boss["key"]).status == 200
    mine = create(gate, operator, role="caller")
    assert admin(gate, "POST", f"keys/{mine['id']}/rotate", key=operator).status == 200
    assert admin(gate, "POST", f"keys/{mine['id']}/revoke", key=operator).status == 200
    lines = admin(gate, "GET", f"audit?key={boss['id']}").json["audit"]
    assert [(line["actor"], line["action"], line["result"]) for line in lines] == [
        ("a-operator", "key.rotate", "forbidden"),
        ("a-operator", "key.revoke", "forbidden"),
        ("admin_key", "key.create", "ok"),
    ]
    # The new admin changes keys, and does not call models.
    made = create(gate, boss["key"], role="viewer")
    assert admin(gate, "GET", "keys", key=made["key"]).status == 403
    assert gate.http("GET", "/metrics", key=made["key"]).status == 200
    assert send(gate, "openai", boss["key"]).status == 403


def test_names(gate: Gate) -> None:
    """A key is called by its id or its name; a name is free again when its key is revoked; an id is never mistaken for a name."""
    first = create(gate, name="batch")
    assert first["tenant"] == "batch"
    got = admin(gate, "POST", "keys", {"name": "batch"})
    assert got.status == 409 and "'batch'" in got.json["error"]["message"]
    trap = create(gate, name=first["id"])
    assert admin(gate, "GET", f"keys/{first['id']}").json["name"] == "batch"
    assert admin(gate, "POST", f"keys/{trap['id']}/revoke").json["id"] == trap["id"]
    assert admin(gate, "POST", "keys/batch/revoke").json["id"] == first["id"]
    second = create(gate, name="batch")
    assert admin(gate, "GET", "keys/batch").json["id"] == second["id"]
    assert admin(gate, "POST", "keys/batch/rotate").status == 200


def test_keys_of_the_configuration_are_changed_there(gate: Gate) -> None:
    """They are listed, and a change is refused with where to make it; no key is made with the name of one."""
    shown = {key["id"]: key for key in admin(gate, "GET", "keys").json["keys"]}
    assert (shown["two"]["source"], shown["two"]["routes"], shown["two"]["prefix"]) == (
        "configuration",
        ["both"],
        None,
    )
    assert shown["a-admin"]["role"] == "admin"
    for change in ("revoke", "rotate"):
        got = admin(gate, "POST", f"keys/two/{change}")
        assert got.status == 409 and "configuration" in got.json["error"]["message"]
    assert admin(gate, "POST", "keys", {"name": "two"}).status == 409
    assert gate.http("GET", "/v1/models").status == 200


@pytest.mark.parametrize(
    ("path", "members", "said"),
    [
        ("keys", {"routes": ["nowhere"]}, "no such route"),
        ("keys", {"budget": {"usd": "5"}}, "no window"),
        ("keys", {"expires": "2001-01-01"}, "is past"),
        ("keys", {"tenant": "${HOME}"}, "HOME is not set"),
        ("keys", ["x"], "JSON object"),
        ("keys/batch-2/rotate", {"grace": "31d"}, "from 0s to 30d"),
        ("keys/batch-2/rotate", {"grace": "soon"}, "24h"),
        ("keys/batch-2/rotate", {"grace": 5}, "24h"),
        ("keys/batch-2/rotate", {"until": "5s"}, "24h"),
    ],
)
def test_what_cannot_be_is_refused(gate: Gate, path: str, members: Any, said: str) -> None:
    """400 with what was wrong; nothing is made or changed."""
    if path.startswith("keys/batch-2") and admin(gate, "GET", "keys/batch-2").status == 404:
        create(gate, name="batch-2")
    before = admin(gate, "GET", "keys").json
    got = admin(gate, "POST", path, members)
    assert got.status == 400
    assert said in got.json["error"]["message"]
    assert admin(gate, "GET", "keys").json == before


def test_the_audit_log_is_read_by_pieces(gate: Gate) -> None:
    """The newest first, as many as are asked for; a limit that is none is refused."""
    create(gate)
    create(gate)
    one = admin(gate, "GET", "audit?limit=1").json["audit"]
    two = admin(gate, "GET", "audit?limit=2").json["audit"]
    assert len(two) == 2 and two[0] == one[0]
    for limit in ("0", "1001", "x", "-1", "", "9" * 40):
        assert admin(gate, "GET", f"audit?limit={limit}").status == (200 if limit == "" else 400)


def test_values_are_seen_nowhere(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """A key's value is in the one answer that shows it: in no other answer, no log at any level, no error, no repr, and in no byte of
    the store's files; nor is it in the audit log when somebody takes it for the key's name."""
    caplog.set_level(logging.DEBUG)
    first = create(gate, name="canary", user="x")
    values = [first["key"]]
    seen: list[bytes] = []
    for dialect in PATHS:
        for model in ("openai/m", "nowhere", "both"):
            for stream in (False, True):
                got = send(gate, dialect, values[0], model, stream=stream)
                seen += [got.body, repr(got.headers).encode()]
    rotation = admin(gate, "POST", "keys/canary/rotate", {"grace": "1h"})
    assert rotation.headers["cache-control"] == "no-store"
    values.append(rotation.json["key"])
    seen.append(send(gate, "openai", values[1][:-1]).body)
    seen.append(admin(gate, "POST", f"keys/{values[1][:-1]}/revoke").body)
    seen.append(admin(gate, "GET", f"keys/{values[1][:-1]}").body)
    seen.append(admin(gate, "POST", "keys", {"name": values[1]}).body)
    seen.append(admin(gate, "POST", "keys", {"value": values[0]}).body)
    seen.append(admin(gate, "POST", f"keys/{values[1]}/revoke").body)
    assert b'"revoked"' in seen[-1]
    for value in values:
        refused(gate, "anthropic", value)
        seen.append(send(gate, "anthropic", value).body)
    for path in ("", "/requests", "/keys", "/keys/canary", f"/keys/{first['id']}", "/audit?limit=1000"):
        seen.append(gate.http("GET", f"/admin{path}", key=ADMIN).body)
    seen += [gate.http("GET", path, key=ADMIN).body for path in ("/metrics", "/docs", "/openapi.json")]
    seen += [repr(vars(gate.engine)).encode(), repr(vars(gate.gateway.app)).encode()]
    keyring = gate.gateway.app.keyring
    seen.append(repr([getattr(keyring, name) for name in keyring.__slots__]).encode())
    gate.run(gate.engine.store.flush())
    files = [path for path in gate.folder.iterdir() if path.name.startswith("headrace.db")]
    assert len(files) >= 2
    seen += [path.read_bytes() for path in files]
    assert any("key.rotate canary by admin_key" in record.getMessage() for record in caplog.records)
    seen += [record.getMessage().encode() + repr(record.exc_info).encode() for record in caplog.records]
    for value in (*values, values[1][:-1], ADMIN, KEY, *ROLE_KEYS.values()):
        # The prefix that is shown is no secret: what comes after it is.
        for secret in (value, value[9:]):
            hits = [text for text in seen if secret.encode() in text]
            assert hits == [], secret
