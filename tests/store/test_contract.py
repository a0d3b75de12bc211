"""What every store does; each test runs over all of them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from headrace.call import Attempt, Call
from headrace.errors import Conflict, StoreError
from headrace.gcra import MINUTE, Claim, Rate
from headrace.store import Actor, Store, StoredKey
from headrace.types import Budget, Limits, Target, Usage


def call(id_: str = "req_1", started: float = 1000.0, **more: Any) -> Call:
    return Call(id=id_, started_at=5.0, started_wall=started, **{"route": "smart", "model": "smart", **more})


def attempt(number: int = 1, **more: Any) -> Attempt:
    made = Attempt(
        number=number,
        target=Target("openai", "gpt-4o"),
        started_at=5.0,
        started_wall=1000.0 + number,
        **{
            "usage": Usage(
                input_tokens=100,
                output_tokens=20,
                cache_read_tokens=30,
                cache_write_tokens=10,
                cache_write_1h_tokens=4,
                reasoning_tokens=7,
                image_tokens=3,
            ),
            "cost": 1_230_000,
            **more,
        },
    )
    made.end("ok", 6.5)
    return made


def test_a_request_comes_back_as_it_went_in(with_store: Any) -> None:
    """Every column of the call and its attempts survives, in order, with unknown values unknown."""

    async def body(store: Store) -> None:
        asked = call(
            tenant="acme",
            key_id="k1",
            user="u",
            team="t",
            tags={"job": "näch\u2028tlich"},
            dialect="anthropic",
            stream=True,
            cache="miss",
            purpose="answer",
        )
        asked.warn("top_k was dropped")
        first = attempt(
            1,
            usage=None,
            cost=None,
            wasted=None,
            http=529,
            error_kind="overloaded",
            waited_s=0.25,
            provider_request_id="p1",
        )
        second = attempt(2, model="gpt-4o-2024-08-06", finish="stop", first_content_s=0.5)
        store.record_attempt(asked, first)
        store.record_attempt(asked, second)
        asked.end(200, 9.0)
        store.record_call(asked)
        await store.flush()
        found = await store.request("req_1", "acme")
        assert found is not None
        assert (found.request_id, found.started_wall, found.duration_s, found.status) == (
            "req_1",
            1000.0,
            4.0,
            200,
        )
        assert (found.route, found.model, found.dialect, found.stream) == (
            "smart",
            "smart",
            "anthropic",
            True,
        )
        assert (found.cache, found.warnings, found.purpose) == ("miss", ("top_k was dropped",), "answer")
        assert (found.key_id, found.tenant, found.user, found.team) == ("k1", "acme", "u", "t")
        assert found.tags == {"job": "näch\u2028tlich"}
        one, two = found.attempts
        assert (one.number, one.http, one.error_kind, one.waited_s) == (1, 529, "overloaded", 0.25)
        assert (one.input_tokens, one.cache_write_1h_tokens, one.cost_nano, one.wasted_nano) == (
            None,
            None,
            None,
            None,
        )
        assert (one.provider_request_id, one.duration_s, one.started_wall) == ("p1", 1.5, 1001.0)
        assert (two.number, two.target, two.model, two.finish) == (
            2,
            "openai/gpt-4o",
            "gpt-4o-2024-08-06",
            "stop",
        )
        assert (two.input_tokens, two.output_tokens, two.cache_read_tokens) == (100, 20, 30)
        assert (two.cache_write_tokens, two.cache_write_1h_tokens) == (10, 4)
        assert (two.reasoning_tokens, two.image_tokens, one.image_tokens) == (7, 3, None)
        assert (two.cost_nano, two.wasted_nano, two.outcome, two.first_content_s) == (1_230_000, 0, "ok", 0.5)
        assert (two.key_id, two.tenant, two.user, two.team, two.route) == ("k1", "acme", "u", "t", "smart")
        assert two.tags == found.tags
        assert found.cost_nano is None
        assert (store.dropped, store.errors) == (0, 0)

    with_store(body)


def test_a_record_is_a_snapshot(with_store: Any) -> None:
    """What happens to the call and the attempt after they were recorded is not recorded."""

    async def body(store: Store) -> None:
        asked, tried = call(tags={"a": "1"}), attempt()
        store.record_attempt(asked, tried)
        store.record_call(asked)
        tried.cost = 9
        asked.tags["a"] = "2"
        asked.warn("late")
        found = await store.request("req_1", None)
        assert found is not None and found.attempts[0].cost_nano == 1_230_000
        assert found.tags == {"a": "1"} and found.attempts[0].tags == {"a": "1"} and found.warnings == ()

    with_store(body)


def test_a_request_is_readable_at_once(with_store: Any) -> None:
    """Whoever recorded it finds it without flushing first."""

    async def body(store: Store) -> None:
        store.record_call(call())
        found = await store.request("req_1", None)
        assert found is not None and found.attempts == ()
        assert found.cost_nano == 0

    with_store(body)


def test_a_tenant_sees_only_its_own(with_store: Any) -> None:
    """Another tenant's request does not exist, even with the same id; the admin (None) sees the last one."""

    async def body(store: Store) -> None:
        for tenant, started in (("a", 1000.0), ("b", 2000.0), (None, 500.0)):
            asked = call(started=started, tenant=tenant)
            store.record_attempt(asked, attempt())
            store.record_call(asked)
        for tenant, started in (("a", 1000.0), ("b", 2000.0)):
            found = await store.request("req_1", tenant)
            assert found is not None
            assert (found.tenant, found.started_wall, len(found.attempts)) == (tenant, started, 1)
            assert found.attempts[0].tenant == tenant
        assert await store.request("req_1", "c") is None
        assert await store.request("req_2", "a") is None
        assert await store.request("req_1' OR '1'='1", None) is None
        assert await store.request("req_1", None) is not None

    with_store(body)


def test_an_id_used_twice_is_two_requests(with_store: Any) -> None:
    """A caller may choose an id again: the last one is found, with its own attempts only."""

    async def body(store: Store) -> None:
        for started, tries in ((1000.0, 3), (2000.0, 1)):
            asked = call(started=started, tenant="a")
            for number in range(1, tries + 1):
                store.record_attempt(asked, attempt(number))
            store.record_call(asked)
        found = await store.request("req_1", "a")
        assert found is not None
        assert (found.started_wall, len(found.attempts)) == (2000.0, 1)
        assert [len(one.attempts) for one in await store.recent(9)] == [1, 3]

    with_store(body)


def test_a_request_that_runs_has_no_status(with_store: Any) -> None:
    """Attempts without an end are shown: in flight, or its process died."""

    async def body(store: Store) -> None:
        old = call(tenant="a")
        store.record_attempt(old, attempt())
        old.end(200, 9.0)
        store.record_call(old)
        store.record_attempt(call(started=2000.0, tenant="a"), attempt(1, cost=5))
        found = await store.request("req_1", "a")
        assert found is not None
        assert (found.status, found.started_wall, found.route, found.cost_nano) == (None, 2000.0, "smart", 5)

    with_store(body)


def test_recent_gives_the_newest_first(with_store: Any) -> None:
    """The last `limit` requests that ended."""

    async def body(store: Store) -> None:
        for number in range(5):
            store.record_call(call(f"req_{number}", 1000.0 + number))
        assert [one.request_id for one in await store.recent(3)] == ["req_4", "req_3", "req_2"]
        assert len(await store.recent(100)) == 5

    with_store(body)


def test_hostile_text_is_kept_as_data(with_store: Any) -> None:
    """Quotes, NUL, lone surrogates and huge text neither break a row nor hold up the others."""

    async def body(store: Store) -> None:
        texts = ["'; DROP TABLE attempts; --", "a\0b", "\ud800 lone", "é" * 100_000, ""]
        for number, text in enumerate(texts):
            asked = call(f"req_{number}", 1000.0 + number, user=text, tags={"t": text})
            asked.warn(text)
            store.record_attempt(asked, attempt())
            store.record_call(asked)
        await store.flush()
        assert (store.dropped, store.errors) == (0, 0)
        for number, text in enumerate(texts):
            found = await store.request(f"req_{number}", None)
            assert found is not None
            if number != 2:
                assert found.user == text and found.tags == {"t": text}

    with_store(body)


KEY = StoredKey(
    id="k1",
    name="smart",
    prefix="hr-abc",
    created_wall=1.5,
    tenant="acme",
    user="u",
    team="t",
    role="operator",
    routes=("smart", "fast"),
    models=("openai/*",),
    budgets=(Budget(unit="tokens", amount=5, window="day", hard=False, downgrade=True, zone="Asia/Tokyo"),),
    limits=Limits(rpm=60),
    expires_wall=99.5,
)
PLAIN = StoredKey(id="k0", prefix="hr-xyz", created_wall=0.5, tenant="b")
ME = Actor("key_boss", "req_9")


def test_keys_are_found_by_hash_and_revoked(with_store: Any) -> None:
    """A key comes back whole; revoking it says whether it did anything, and keeps the row."""

    async def body(store: Store) -> None:
        hash_ = store.key_hash("hr-abcdef")
        await store.add_key(KEY, hash_, by=ME)
        await store.add_key(PLAIN, store.key_hash("hr-xyz"), by=ME)
        assert await store.find_key(hash_) == KEY
        assert await store.find_key(store.key_hash("hr-abcdeg")) is None
        assert await store.list_keys() == [PLAIN, KEY]
        assert await store.revoke_key("k1", 7.25, by=ME) is True
        assert await store.revoke_key("k1", 9.0, by=ME) is False
        assert await store.revoke_key("nobody", 9.0, by=ME) is False
        found = await store.find_key(hash_)
        assert found is not None and found.revoked_wall == 7.25

    with_store(body)


def test_a_key_cannot_be_added_twice(with_store: Any) -> None:
    """Neither the id, nor the value, nor the name while it is not revoked; the store goes on working."""

    async def body(store: Store) -> None:
        await store.add_key(KEY, b"1", by=ME)
        other = replace(PLAIN, id="k2")
        for key, hash_ in ((KEY, b"2"), (other, b"1"), (replace(other, name="smart"), b"2")):
            with pytest.raises(Conflict, match="already"):
                await store.add_key(key, hash_, by=ME)
        await store.add_key(other, b"2", by=ME)
        await store.revoke_key("k1", 9.0, by=ME)
        await store.add_key(replace(other, id="k3", name="smart"), b"3", by=ME)
        assert len(await store.list_keys()) == 3
        assert [row.subject for row in await store.audit(9)] == ["k3", "k1", "k2", "k1"]
        assert store.errors == 0

    with_store(body)


def test_the_value_before_a_rotation_ends_when_it_was_told_to(with_store: Any) -> None:
    """It is found as a key that expires then, never after the key itself; a second rotation ends it, and so does none at all."""

    async def body(store: Store) -> None:
        await store.add_key(KEY, b"1", by=ME)
        assert await store.rotate_key("k1", b"2", "hr-two", 10.0, until=50.0, by=ME)
        rotated = replace(KEY, prefix="hr-two", old_until_wall=50.0)
        assert await store.find_key(b"2") == rotated
        assert await store.find_key(b"1") == replace(rotated, expires_wall=50.0)
        assert await store.rotate_key("k1", b"3", "hr-three", 20.0, until=1000.0, by=ME)
        assert await store.find_key(b"1") is None
        former = await store.find_key(b"2")
        assert former is not None and former.expires_wall == 99.5
        assert await store.rotate_key("k1", b"4", "hr-four", 30.0, until=30.0, by=ME)
        assert [await store.find_key(hash_) for hash_ in (b"1", b"2", b"3")] == [None] * 3
        assert await store.find_key(b"4") == replace(KEY, prefix="hr-four")
        assert await store.rotate_key("k1", b"5", "hr-five", 40.0, until=60.0, by=ME)
        assert await store.revoke_key("k1", 41.0, by=ME)
        for hash_ in (b"4", b"5"):
            found = await store.find_key(hash_)
            assert found is not None and found.revoked_wall == 41.0
        assert not await store.rotate_key("k1", b"6", "hr-six", 42.0, until=42.0, by=ME)
        assert not await store.rotate_key("nobody", b"6", "hr-six", 42.0, until=42.0, by=ME)
        assert len(await store.list_keys()) == 1

    with_store(body)


def test_the_audit_log_has_every_change_and_what_was_refused(with_store: Any) -> None:
    """Who, what, which key, when, with what result, in which request; the newest first, of one key or of all; no hash, no value."""

    async def body(store: Store) -> None:
        await store.add_key(KEY, store.key_hash("hr-canary"), by=ME)
        await store.add_key(PLAIN, b"0", by=Actor("cli:ann"))
        await store.rotate_key("k1", b"2", "hr-two", 10.0, until=70.0, by=ME)
        await store.revoke_key("k1", 11.0, by=ME)
        refused = Actor("key_x", "req_10").did("key.revoke", "k0", 12.0, result="forbidden")
        await store.add_audit(refused)
        rows = await store.audit(99)
        assert rows[0] == refused
        assert [(row.actor, row.action, row.subject, row.at_wall, row.result) for row in rows[1:]] == [
            ("key_boss", "key.revoke", "k1", 11.0, "ok"),
            ("key_boss", "key.rotate", "k1", 10.0, "ok"),
            ("cli:ann", "key.create", "k0", 0.5, "ok"),
            ("key_boss", "key.create", "k1", 1.5, "ok"),
        ]
        assert [row.request_id for row in rows] == ["req_10", "req_9", "req_9", None, "req_9"]
        assert rows[4].detail == (
            "prefix hr-abc, role operator, tenant acme, name smart, user u, team t, may use smart, fast, openai/*"
        )
        assert rows[2].detail == "prefix hr-two, the former value ends in 60 s"
        assert await store.audit(2) == rows[:2]
        assert await store.audit(9, "k0") == [rows[0], rows[3]]
        assert "canary" not in repr(rows)

    with_store(body)


def test_key_hashes_are_keyed(with_store: Any) -> None:
    """Equal for equal keys within a store, 32 bytes, and not the plain SHA-256."""
    import hashlib

    async def body(store: Store) -> None:
        assert store.key_hash("a") == store.key_hash("a") != store.key_hash("b")
        assert len(store.key_hash("a")) == 32
        assert store.key_hash("a") != hashlib.sha256(b"a").digest()
        assert len(store.key_hash("\udcff")) == 32

    with_store(body)


def test_rate_limits_are_counted(with_store: Any) -> None:
    """All claims or none; what was not used comes back; a closed store says that it is."""

    async def body(store: Store) -> None:
        requests, tokens = Rate("a", "key a", "requests", 60), Rate("b", "key a", "tokens", 1000)
        claims, now = [Claim(requests, 1), Claim(tokens, 600)], 1_800_000_000 * 10**9
        first = await store.admit(claims, now)
        assert [one.left for one in first.standings] == [59, 400]
        second = await store.admit(claims, now)
        assert second.refused == Claim(tokens, 600)
        assert second.wait == MINUTE * 200 // 1000
        assert [one.left for one in second.standings] == [59, 400]
        store.settle_rates([(grant, 1) for grant in first.grants], now)
        await store.flush()
        assert [one.left for one in (await store.admit(claims, now)).standings] == [58, 399]
        await store.aclose()
        store.settle_rates([], now)
        with pytest.raises(StoreError):
            await store.admit(claims, now)

    with_store(body)


def test_closing_is_idempotent_and_visible(with_store: Any) -> None:
    """A closed store is not ready; what is recorded after is counted, never raised."""

    async def body(store: Store) -> None:
        assert store.ready()
        await store.aclose()
        await store.aclose()
        assert not store.ready()
        store.record_attempt(call(), attempt())
        store.record_call(call())
        assert store.dropped == 2

    with_store(body)


def test_the_last_plan_state_of_several_is_found(with_store: Any) -> None:
    """By its place among the keys that were asked for; a later state replaces the one under the same key."""

    async def body(store: Store) -> None:
        assert await store.find_plan([b"a", b"b"]) is None
        for key, state in ((b"a", b"1"), (b"c", b"3"), (b"a", b"2")):
            store.record_plan(key, state, now=0.0, until=9e9)
        await store.flush()
        assert await store.find_plan([b"a", b"b"]) == (0, b"2")
        assert await store.find_plan([b"a", b"b", b"c", b"d"]) == (2, b"3")
        assert await store.find_plan([b"x"]) is None

    with_store(body)


def test_plan_states_are_bounded(with_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first."""
    monkeypatch.setattr("headrace.store.plans.KEPT", 3)
    monkeypatch.setattr("headrace.store.memory.KEPT", 3)

    async def body(store: Store) -> None:
        for number in range(5):
            store.record_plan(b"%d" % number, b"s", now=0.0, until=9e9)
        await store.flush()
        assert [await store.find_plan([b"%d" % number]) is not None for number in range(5)] == [False] * 2 + [
            True
        ] * 3

    with_store(body)


def test_turns_of_a_conversation_are_added_at_its_end_alone(with_store: Any) -> None:
    """Whoever is at another place is told; nothing of what it adds is kept."""

    async def body(store: Store) -> None:
        assert await store.turns("c") == []
        await store.append_turns("c", 0, [b"one", b"two"], until=9e9)
        with pytest.raises(StoreError, match="has 2 turns, not 1"):
            await store.append_turns("c", 1, [b"other"], until=9e9)
        await store.append_turns("c", 2, [b"three"], until=9e9)
        await store.append_turns("d", 0, [b"else"], until=9e9)
        assert await store.turns("c") == [b"one", b"two", b"three"]

    with_store(body)
