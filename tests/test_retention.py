"""What is left of prompts and answers in files: searched for in their bytes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.budget.test_layers import budgeted, request
from tests.cache.test_parts import entry
from tests.gateway.gate import ADMIN, Gate

import headrace
from headrace.cache.stores.sqlite import SQLiteEntries, scrub
from headrace.cli.root import run
from headrace.config import load
from headrace.engine import as_route
from headrace.handler import Route
from headrace.store import Store
from headrace.store.memory import MemoryStore
from headrace.store.sqlite import SQLiteStore
from headrace.testing import Answer, FakeProvider, ManualClock
from headrace.types import Message, Target, Text

CACHED = "[routes.r.cache]"
CONTEXT = "[routes.r.context]\nbudget = 1000"


def left(folder: Path, *words: str) -> list[str]:
    """Which of `words` stand in the bytes of some file."""
    data = b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())
    return [word for word in words if word.encode() in data]


def asked(gate: Gate, question: str, answer: str, user: str, key: str) -> str:
    """One question with its answer; how the cache answered."""
    gate.provider.script(Answer(answer))
    body = request(messages=[{"role": "user", "content": question}])
    got = gate.http("POST", "/v1/chat/completions", body, {"x-headrace-user": user}, key=key)
    assert got.status == 200
    return got.headers["x-headrace-cache"]


def written(gate: Gate) -> None:
    """What the cache keeps is in its file."""
    entries: Any = gate.engine._entries
    assert entries.flush()


def two_tenants(gate: Gate) -> None:
    """Two questions of acme, by ann and bob, and one of another tenant."""
    keys = [
        gate.http("POST", "/admin/keys", json.dumps({"tenant": tenant}).encode(), key=ADMIN).json["key"]
        for tenant in ("acme", "other")
    ]
    asked(gate, "canary-q-ann", "canary-a-ann", "ann", keys[0])
    asked(gate, "canary-q-bob", "canary-a-bob", "bob", keys[0])
    asked(gate, "canary-q-eve", "canary-a-eve", "eve", keys[1])
    written(gate)


ALL = [f"canary-{what}-{who}" for who in ("ann", "bob", "eve") for what in "qa"]


@pytest.mark.parametrize(
    ("options", "gone"),
    [(["--tenant", "acme"], 4), (["--user", "ann"], 2), (["--tenant", "other", "--user", "ann"], 0)],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_purge_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    gone: int,
    running: bool,
) -> None:
    """Of the tenant or the user in no file, whether a gateway runs or not; of others nothing is lost, and it is in the audit log."""
    monkeypatch.chdir(tmp_path)

    def purge() -> None:
        assert run(["data", "purge", "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["cache_entries"] == gone // 2

    with budgeted(tmp_path, route=CACHED) as gate:
        two_tenants(gate)
        assert left(tmp_path, *ALL) == ALL
        if running:
            purge()
            assert len(left(tmp_path, *ALL)) == 6 - gone
            log = gate.http("GET", "/admin/audit?limit=1", key=ADMIN).json["audit"]
            assert log[0]["action"] == "data.purge"
    if not running:
        purge()
    found = left(tmp_path, *ALL)
    assert len(found) == 6 - gone
    assert {"canary-q-eve", "canary-a-eve"} <= set(found)


def test_hash_only_writes_nothing(tmp_path: Path) -> None:
    """The cache answers from memory; no file has the question or the answer, while it runs and after."""
    with budgeted(tmp_path, route=f'content = "hash-only"\n{CACHED}\n{CONTEXT}') as gate:
        key = gate.http("POST", "/admin/keys", b"{}", key=ADMIN).json["key"]
        assert asked(gate, "canary-q-ann", "canary-a-ann", "ann", key) == "miss"
        gate.provider.reset()
        assert asked(gate, "canary-q-ann", "canary-other", "ann", key) == "hit-exact"
        written(gate)
        assert left(tmp_path, *ALL) == []
    assert left(tmp_path, *ALL) == []


def test_an_entry_lives_no_longer_than_the_retention(tmp_path: Path) -> None:
    """Where that is shorter than its own time; and whatever has expired leaves the bytes without anybody asking."""
    with budgeted(tmp_path, route=f'retention = "5m"\n{CACHED}') as gate:
        two_tenants(gate)
    file = tmp_path / "headrace.cache.db"
    with closing(sqlite3.connect(file)) as connection:
        lives = [end - begin for begin, end in connection.execute("SELECT created, expires FROM entries")]
    assert len(lives) == 3 and all(200 < life <= 300 for life in lives)
    wall = [0.0]
    entries = SQLiteEntries(file, wall=lambda: wall[0])
    entries.load(0.0)
    entries._rounds, wall[0] = 10**6, 9e12
    entries.put(entry("canary-new"))
    assert entries.flush()
    entries.close()
    assert left(tmp_path, *ALL, "canary-new") == []


def settings(folder: Path, provider: FakeProvider, route: str = "") -> headrace.Settings:
    (folder / "headrace.toml").write_text(
        f'[providers.openai]\nbase_url = "{provider.base_url}"\napi_key = "sk-x"\n'
        f'[routes.r]\ncascade = ["openai/m"]\n{route}\n[store]\npath = "headrace.db"\n'
    )
    return load(folder / "headrace.toml", environ={})


def test_a_conversation_is_purged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its turns, also long ones, and its plans are in no file; another conversation goes on."""
    monkeypatch.chdir(tmp_path)
    long = "canary-long " * 2_000

    async def main() -> None:
        async with headrace.AsyncClient(made) as llm:
            provider.script(Answer("canary-a-ann"), Answer("canary-a-eve"))
            one = headrace.AsyncConversation(llm, "r", id="one", system="canary-system")
            await one.ask("canary-q-ann")
            await one.add(Message(role="user", content=(Text(text=long),)))
            await headrace.AsyncConversation(llm, "r", id="two").ask("canary-q-eve")

    with FakeProvider() as provider:
        made = settings(tmp_path, provider)
        asyncio.run(main())
        words = ("canary-q-ann", "canary-a-ann", "canary-system", "canary-long", "canary-q-eve")
        assert left(tmp_path, *words) == list(words)
        assert run(["data", "--json"]) == 0
        counts = {
            "cache_entries": 0,
            "conversations": 2,
            "conversation_turns": 6,
            "plans": 0,
            "idempotent_answers": 0,
        }
        assert json.loads(capsys.readouterr().out) == counts
        assert run(["data", "purge", "--conversation", "one", "--vacuum", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["conversation_turns"] == 4
        assert left(tmp_path, *words) == ["canary-q-eve"]
    assert run(["data", "purge"]) == 2


def test_purging_needs_no_vacuum(tmp_path: Path) -> None:
    """What this version deletes is overwritten where it stood, between rows that stay."""

    async def main() -> None:
        store = SQLiteStore(tmp_path / "headrace.db")
        for number in range(50):
            for name in ("gone", "stays"):
                turn = f"canary-{name} ".encode() * (1 + number * 20 % 700)
                await store.append_turns(name, number, [turn], until=9e12)
        store.record_plan(b"k", b"canary-plan" * 3, now=0.0, until=9e12)
        await store.flush()
        assert await store.purge_content("gone") == 50
        assert left(tmp_path, "canary-gone", "canary-plan", "canary-stays") == ["canary-stays"]
        assert len(await store.turns("stays")) == 50
        await store.aclose()

    asyncio.run(main())


def test_a_tenants_held_conversations_go_with_it(tmp_path: Path) -> None:
    """Those of the gateway, named `tenant/id`; another tenant's, whose name begins alike, stay; both stores agree."""

    async def main(store: Store) -> None:
        for name in ("acme/one", "acme/two", "acme2/one", "acme"):
            await store.append_turns(name, 0, [f"canary-{name}".encode()], until=9e12)
        assert await store.purge_content(None, tenant="acme") == 2
        assert [len(await store.turns(name)) for name in ("acme/one", "acme2/one", "acme")] == [0, 1, 1]
        assert await store.purge_content("acme", tenant=None) == 1
        await store.aclose()

    asyncio.run(main(MemoryStore()))
    asyncio.run(main(SQLiteStore(tmp_path / "headrace.db")))
    assert left(tmp_path, "canary-acme/", "canary-acme2/") == ["canary-acme2/"]


def test_a_conversation_ends_with_its_retention(tmp_path: Path) -> None:
    """After its last turn, as a whole, and out of the bytes of the database."""
    clock = ManualClock()

    async def main(read: str) -> list[Message]:
        async with headrace.AsyncClient(made) as llm:
            llm.engine.clock = clock
            conversation = headrace.AsyncConversation(llm, "r", id=read)
            if read == "one":
                await conversation.add(Message(role="user", content=(Text(text="canary-turn"),)))
            return await conversation.turns()

    with FakeProvider() as provider:
        made = settings(tmp_path, provider, 'retention = "12h"')
        assert len(asyncio.run(main("one"))) == 1
        clock.advance(11 * 3600)
        assert len(asyncio.run(main("one"))) == 2
        clock.advance(11 * 3600)
        assert len(asyncio.run(main("one"))) == 3
        clock.advance(13 * 3600)
        assert asyncio.run(main("two")) == []
        assert left(tmp_path, "canary-turn") == []


def test_a_hash_only_conversation_is_in_no_file(tmp_path: Path) -> None:
    """It goes on in its object."""

    async def main() -> None:
        async with headrace.AsyncClient(made) as llm:
            conversation = headrace.AsyncConversation(llm, "r", system="canary-s")
            await conversation.ask("canary-q")
            assert len(await conversation.turns()) == 3

    with FakeProvider() as provider:
        made = settings(tmp_path, provider, 'content = "hash-only"')
        asyncio.run(main())
        assert provider.requests
    assert left(tmp_path, "canary") == []


def test_the_strictest_of_several_routes_holds() -> None:
    """No cascade of routes keeps what one of them forbids."""
    routes = {
        "a": Route(name="a", cascade=(Target("p", "a"),), retention_s=5.0),
        "b": Route(name="b", cascade=(Target("p", "b"),), stores_content=False),
    }
    both = as_route(["a", "b"], routes.__getitem__)
    assert (both.retention_s, both.stores_content) == (5.0, False)


@pytest.mark.parametrize(
    "wrong", ['retention = "soon"', 'retention = "1s"', "retention = 30", 'content = "none"']
)
def test_mistakes_are_named(tmp_path: Path, wrong: str) -> None:
    """With the key."""
    with (
        FakeProvider() as provider,
        pytest.raises(headrace.ConfigError, match=f"routes.r.{wrong.split()[0]}"),
    ):
        settings(tmp_path, provider, wrong)


def test_scrubbing_waits_for_nobody(tmp_path: Path) -> None:
    """A reader in the file does not make a purge fail."""
    file = tmp_path / "c.db"
    entries = SQLiteEntries(file)
    with closing(sqlite3.connect(file)) as reader, closing(sqlite3.connect(file, timeout=0)) as other:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entries").fetchall()
        scrub(other)
    entries.load(0.0)
    entries.close()
