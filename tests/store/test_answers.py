"""Requests under idempotency keys, in every store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.store import MemoryStore, Store
from headrace.store.sqlite import SQLiteStore
from headrace.tickets import AnswerRow, Ticket, judge

MOST = 1 << 20


def ticket(key: str = "k", asked: str = "hi", token: str = "t1", **owner: str | None) -> Ticket:
    return Ticket(key=key.encode(), fingerprint=asked.encode(), token=token, **owner)


def test_a_request_is_claimed_once(with_store: Any) -> None:
    """The second waits, another request under the key is told so, and who lets go makes room; a stranger's release changes nothing."""

    async def body(store: Store) -> None:
        assert (await store.claim_answer(ticket(), 100.0, 160.0)).state == "mine"
        assert (await store.claim_answer(ticket(token="t2"), 101.0, 160.0)).state == "theirs"
        assert (await store.claim_answer(ticket(asked="ho", token="t2"), 101.0, 160.0)).state == "other"
        assert (await store.claim_answer(ticket("k2", "ho", "t2"), 101.0, 160.0)).state == "mine"
        store.release_answer(ticket(token="t2"))
        assert (await store.claim_answer(ticket(token="t2"), 101.0, 160.0)).state == "theirs"
        store.release_answer(ticket())
        assert (await store.claim_answer(ticket(asked="ho", token="t2"), 101.0, 160.0)).state == "mine"

    with_store(body)


def test_a_claim_ends_with_its_time(with_store: Any) -> None:
    """Whoever held it longer has lost it, and what it brings is not kept."""

    async def body(store: Store) -> None:
        await store.claim_answer(ticket(), 100.0, 160.0)
        assert (await store.claim_answer(ticket(token="t2"), 159.9, 200.0)).state == "theirs"
        assert (await store.claim_answer(ticket(token="t2"), 160.0, 200.0)).state == "mine"
        assert not await store.keep_answer(ticket(), b"late", now=161.0, until=900.0, most=MOST)
        assert await store.keep_answer(ticket(token="t2"), b"good", now=161.0, until=900.0, most=MOST)
        assert (await store.claim_answer(ticket(token="t3"), 162.0, 200.0)).body == b"good"

    with_store(body)


def test_an_answer_is_kept_until_its_time(with_store: Any) -> None:
    """Then the key is free again; a release after the end takes nothing away."""

    async def body(store: Store) -> None:
        await store.claim_answer(ticket(), 100.0, 160.0)
        assert await store.keep_answer(ticket(), b"yes", now=110.0, until=500.0, most=MOST)
        store.release_answer(ticket())
        found = await store.claim_answer(ticket(token="t2"), 499.0, 560.0)
        assert (found.state, found.body) == ("kept", b"yes")
        assert (await store.claim_answer(ticket(asked="ho", token="t2"), 499.0, 560.0)).state == "other"
        assert (await store.claim_answer(ticket(token="t2"), 500.0, 560.0)).state == "mine"

    with_store(body)


def test_what_is_over_goes_with_the_next_answer(with_store: Any) -> None:
    """No later than that; what is not over stays."""

    async def body(store: Store) -> None:
        for key, now in (("k1", 100.0), ("k2", 400.0), ("k3", 600.0)):
            await store.claim_answer(ticket(key), now, now + 60.0)
            await store.keep_answer(ticket(key), b"x", now=now, until=now + 400.0, most=MOST)
        assert await store.purge_answers(None, None) == 2

    with_store(body)


def test_the_oldest_answers_make_room(with_store: Any) -> None:
    """Of 10 answers of 100 bytes 350 bytes keep the last 3; the others say why they are not there, and none is asked again."""

    async def body(store: Store) -> None:
        for number in range(10):
            one = ticket(f"k{number}")
            await store.claim_answer(one, 100.0, 160.0)
            await store.keep_answer(one, b"x" * 100, now=100.0, until=500.0 + number, most=350)
        found = [await store.claim_answer(ticket(f"k{n}", token="t2"), 101.0, 160.0) for n in range(10)]
        assert [one.state for one in found] == ["gone"] * 7 + ["kept"] * 3
        assert "room" in found[0].why
        store.expire_answers(600.0)
        for number in range(3):
            one = ticket(f"n{number}")
            await store.claim_answer(one, 600.0, 660.0)
            await store.keep_answer(one, b"x" * 100, now=600.0, until=900.0, most=350)
        assert (await store.claim_answer(ticket("n0", token="t2"), 601.0, 660.0)).state == "kept"

    with_store(body)


def test_an_answer_without_a_body_is_not_asked_again(with_store: Any) -> None:
    """Whoever comes hears the reason."""

    async def body(store: Store) -> None:
        await store.claim_answer(ticket(), 100.0, 160.0)
        await store.keep_answer(ticket(), None, now=110.0, until=500.0, most=MOST, why="too large")
        found = await store.claim_answer(ticket(token="t2"), 120.0, 160.0)
        assert (found.state, found.why) == ("gone", "too large")

    with_store(body)


def test_a_purge_takes_whats_under_way_too(with_store: Any) -> None:
    """By tenant, by user, or both; the answer of a claim that was purged is not kept."""

    async def body(store: Store) -> None:
        owners = [("acme", "ann"), ("acme", "bob"), ("other", "ann")]
        for number, (tenant, user) in enumerate(owners):
            one = ticket(f"k{number}", tenant=tenant, user=user)
            await store.claim_answer(one, 100.0, 160.0)
            if number:
                await store.keep_answer(one, b"x", now=100.0, until=500.0, most=MOST)
        assert await store.purge_answers("acme", "ann") == 0
        assert not await store.keep_answer(ticket("k0"), b"x", now=100.0, until=500.0, most=MOST)
        assert await store.purge_answers("acme", None) == 1
        assert await store.purge_answers(None, "ann") == 1
        assert (await store.claim_answer(ticket("k2", token="t2"), 101.0, 160.0)).state == "mine"

    with_store(body)


def test_an_answer_survives_a_restart_and_leaves_no_bytes(tmp_path: Path) -> None:
    """A claim of the process that ended does not; what is over is gone from the file, not only from the table."""
    path = tmp_path / "x.db"

    async def first() -> None:
        store = SQLiteStore(path)
        await store.claim_answer(ticket(), 100.0, 160.0)
        await store.keep_answer(ticket(), b"canary-answer", now=110.0, until=500.0, most=MOST)
        await store.claim_answer(ticket("open"), 100.0, 160.0)
        await store.aclose()

    async def second() -> None:
        store = SQLiteStore(path)
        assert (await store.claim_answer(ticket(token="t2"), 120.0, 160.0)).body == b"canary-answer"
        assert (await store.claim_answer(ticket("open", token="t2"), 120.0, 160.0)).state == "mine"
        store.expire_answers(500.0)
        await store.purge_content(None)
        await store.aclose()

    asyncio.run(first())
    assert b"canary-answer" in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    asyncio.run(second())
    assert b"canary-answer" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


@given(
    answered=st.booleans(), alike=st.booleans(), lives=st.booleans(), over=st.booleans(), body=st.booleans()
)
def test_what_follows_from_a_row(answered: bool, alike: bool, lives: bool, over: bool, body: bool) -> None:
    """A request is sent only where nobody living has it and nobody has answered it; an answer goes only to its own request."""
    row = AnswerRow(b"f", "t", "h", 10.0, answered, b"yes" if answered and body else None, None)
    found = judge(row, b"f" if alike else b"g", 10.0 if over else 9.0, lambda holder: lives)
    assert (found.state == "mine") == (over or not (answered or lives))
    assert (found.state == "other") == (not alike and found.state != "mine")
    assert (found.body == b"yes") == (found.state == "kept") == (alike and answered and body and not over)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["claim", "keep", "release"]), st.sampled_from("12")
        ),
        max_size=30,
    )
)
def test_one_holder_at_a_time(steps: list[tuple[str, str, str]]) -> None:
    """Whatever is claimed, kept and released in whatever order: a key is never two tickets', and an answer never changes."""

    async def main() -> None:
        store = MemoryStore()
        holds: dict[str, str] = {}
        said: dict[str, bytes] = {}
        for key, step, token in steps:
            one = ticket(key, token=token)
            if step == "claim":
                state = (await store.claim_answer(one, 1.0, 99.0)).state
                assert state == ("kept" if key in said else "theirs" if key in holds else "mine")
                if state == "mine":
                    holds[key] = token
            elif step == "keep" and key not in said:
                body = f"{key}{token}".encode()
                assert await store.keep_answer(one, body, now=1.0, until=99.0, most=MOST) == (
                    holds.get(key) == token
                )
                if holds.get(key) == token:
                    said[key] = body
            elif step == "release":
                store.release_answer(one)
                if holds.get(key) == token and key not in said:
                    del holds[key]
        for key, body in said.items():
            assert (await store.claim_answer(ticket(key, token="x"), 1.0, 99.0)).body == body

    asyncio.run(main())
