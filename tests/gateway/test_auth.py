"""Whose key it is: what a keyring takes, for how long, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.access import KeyTerms
from headrace.config import KeySettings, Secret, load
from headrace.errors import Forbidden, KeysUnavailable, StoreError, Unauthorized
from headrace.gateway.auth import ADMIN_KEY, FRESH_S, SEEN_LIMIT, Keyring
from headrace.gateway.serve import first_key
from headrace.store import Actor, MemoryStore, StoredKey
from headrace.testing import ManualClock, run

ME = Actor("test")


def bearer(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


async def made(store: MemoryStore, value: str, **terms: Any) -> StoredKey:
    key = StoredKey(id=f"key_{value}", prefix=value[:4], created_wall=0.0, **{"tenant": "acme", **terms})
    await store.add_key(key, store.key_hash(value), by=ME)
    return key


async def says(keyring: Keyring, value: str) -> str:
    """The id of the key, or why not."""
    try:
        return (await keyring.identify(bearer(value))).key_id
    except Unauthorized as error:
        return "repeated" if value in str(error) else str(error)


def test_three_kinds_of_keys() -> None:
    """Of the configuration, of the store, and the admin key: each has its id, its terms and its role."""
    clock, store = ManualClock(), MemoryStore()
    written = KeySettings(name="dev", value=Secret("hr-dev"), tenant="t", routes=("smart",), models=("a/*",))
    keyring = Keyring([written], Secret("hr-boss"), store=store, clock=clock)

    async def main() -> None:
        key = await made(store, "hr-made", team="core", routes=("fast",))
        dev = await keyring.identify(bearer("hr-dev"))
        assert (dev.key_id, dev.terms.tenant) == ("dev", "t")
        assert dev.allowed == {"smart", "a/*"}
        found = await keyring.identify({"x-api-key": "hr-made"})
        assert (found.key_id, found.terms) == (key.id, key)
        assert found.allowed == {"fast"}
        boss = await keyring.admit(bearer("hr-boss"), frozenset({"admin"}))
        assert (boss.key_id, boss.terms) == (ADMIN_KEY, KeyTerms(tenant=ADMIN_KEY, role="admin"))
        with pytest.raises(Forbidden, match="the role caller; this one has the role admin"):
            await keyring.admit(bearer("hr-boss"), frozenset({"caller"}))
        for headers in ({}, bearer(""), {"authorization": "Basic hr-dev"}):
            with pytest.raises(Unauthorized, match="no API key"):
                await keyring.identify(headers)
        assert "not known" in await says(keyring, "hr-none")
        assert "hr-" not in repr(boss) + repr(dev)

    run(main(), clock)


def test_a_key_ends_at_its_end() -> None:
    """Whether it is in the file or in the store, at the very second, also when it was seen just before."""
    clock, store = ManualClock(), MemoryStore()
    end = clock.wall() + 10.0
    written = KeySettings(name="dev", value=Secret("hr-dev"), tenant="t", expires_wall=end)
    keyring = Keyring([written], None, store=store, clock=clock)

    async def main() -> None:
        await made(store, "hr-made", expires_wall=end)
        await clock.sleep(9.9)
        assert [await says(keyring, value) for value in ("hr-dev", "hr-made")] == ["dev", "key_hr-made"]
        await clock.sleep(0.1)
        for value in ("hr-dev", "hr-made"):
            assert "expired on " in await says(keyring, value)

    run(main(), clock)


def test_a_revocation_holds_when_the_key_was_seen_before() -> None:
    """The store is asked again after `FRESH_S` and not before; a key that was unknown is known then, too."""
    clock, store = ManualClock(), MemoryStore()
    keyring = Keyring([], None, store=store, clock=clock)

    async def main() -> None:
        key = await made(store, "hr-made")
        assert await says(keyring, "hr-made") == key.id
        assert "not known" in await says(keyring, "hr-late")
        await store.revoke_key(key.id, clock.wall(), by=ME)
        await made(store, "hr-late")
        await clock.sleep(FRESH_S - 0.01)
        assert await says(keyring, "hr-made") == key.id
        await clock.sleep(0.01)
        assert "was revoked" in await says(keyring, "hr-made")
        assert await says(keyring, "hr-late") == "key_hr-late"

    run(main(), clock)
    assert FRESH_S <= 0.5


def test_the_value_before_a_rotation_ends_with_its_grace() -> None:
    """Both are the same key until then."""
    clock, store = ManualClock(), MemoryStore()
    keyring = Keyring([], None, store=store, clock=clock)

    async def main() -> None:
        key = await made(store, "hr-one")
        now = clock.wall()
        await store.rotate_key(key.id, store.key_hash("hr-two"), "hr-t", now, until=now + 60.0, by=ME)
        assert [await says(keyring, value) for value in ("hr-one", "hr-two")] == [key.id] * 2
        await clock.sleep(60.0)
        assert "expired" in await says(keyring, "hr-one")
        assert await says(keyring, "hr-two") == key.id

    run(main(), clock)


class DownStore(MemoryStore):
    """Cannot be read."""

    async def find_key(self, hash: bytes) -> StoredKey | None:  # noqa: A002
        raise StoreError("disk on fire")


def test_without_the_store_nobody_unknown_gets_in() -> None:
    """Keys of the store are refused with 503 and a time to come back; those of the configuration go on."""
    clock, store = ManualClock(), DownStore()
    written = KeySettings(name="dev", value=Secret("hr-dev"), tenant="t")
    keyring = Keyring([written], None, store=store, clock=clock)

    async def main() -> None:
        assert await says(keyring, "hr-dev") == "dev"
        with pytest.raises(KeysUnavailable) as caught:
            await keyring.identify(bearer("hr-made"))
        assert (caught.value.http_status, caught.value.retry_after_s) == (503, 1.0)

    run(main(), clock)


def test_guesses_do_not_fill_the_memory() -> None:
    """However many values are tried, what is remembered of them is bounded, and a good key goes on."""
    clock, store = ManualClock(), MemoryStore()
    keyring = Keyring([], None, store=store, clock=clock)

    async def main() -> None:
        key = await made(store, "hr-made")
        for number in range(SEEN_LIMIT + 5):
            assert "not known" in await says(keyring, f"hr-guess-{number}")
        assert len(keyring._seen) <= SEEN_LIMIT
        assert await says(keyring, "hr-made") == key.id

    run(main(), clock)


def test_the_first_key_is_a_callers() -> None:
    """It is made where no caller has a key, whatever keys there are for the admin API; and only once, also when it was revoked since."""
    clock, store = ManualClock(), MemoryStore()
    settings = load(environ={}, cwd=Path("/"))

    async def main() -> None:
        await made(store, "hr-boss", role="admin")
        value = await first_key(store, settings, clock)
        assert value is not None
        assert await first_key(store, settings, clock) is None
        keyring = Keyring([], None, store=store, clock=clock)
        identity = await keyring.identify(bearer(value))
        assert (identity.terms.role, identity.terms.tenant) == ("caller", "default")
        await store.revoke_key(identity.key_id, clock.wall(), by=ME)
        assert await first_key(store, settings, clock) is None
        assert [row.actor for row in await store.audit(9, identity.key_id)] == ["test", "headrace serve"]

    run(main(), clock)
