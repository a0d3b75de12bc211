"""`headrace keys`: made, listed, rotated, revoked and looked back upon, in the store's own file."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.cache.stores import sqlite
from headrace.clock import SystemClock
from headrace.config import load
from headrace.errors import Unauthorized
from headrace.gateway.auth import Keyring
from headrace.store.sqlite import SQLiteStore

SETTINGS = """
[routes.smart]
cascade = ["openai/gpt-5"]
[store]
path = "headrace.db"
[keys.dev]
value = "hr-canary-dev-key-0123456789"
routes = ["smart"]
"""


@pytest.fixture(autouse=True)
def settings(write: Callable[[str], Path]) -> Path:
    return write(SETTINGS)


def owner(folder: Path, value: str) -> str:
    """Whose key a gateway takes `value` for, or why it does not."""

    async def main() -> str:
        store = SQLiteStore(folder / "headrace.db")
        try:
            keyring = Keyring([], None, store=store, clock=SystemClock())
            return (await keyring.identify({"x-api-key": value})).key_id
        except Unauthorized as error:
            return str(error)
        finally:
            await store.aclose()

    return asyncio.run(main())


def test_the_value_is_all_that_standard_output_gets(headrace: Any, folder: Path) -> None:
    """So that a script can take it; it is good, and it is shown never again: not in a list, not in the log, not in the file."""
    ran = headrace("keys", "create", "--name", "batch")
    value = ran.out.strip()
    assert ran.code == 0 and value.startswith("hr-") and "\n" not in value
    assert "shown only now" in ran.err and value not in ran.err
    assert owner(folder, value).startswith("key_")
    for verb in (["keys"], ["keys", "list", "--all"], ["keys", "audit"]):
        for flag in ([], ["--json"]):
            ran = headrace(*verb, *flag)
            assert ran.code == 0 and value not in ran.out + ran.err and value[9:] not in ran.out + ran.err
    for file in folder.glob("headrace.db*"):
        assert value[9:].encode() not in file.read_bytes()


def test_a_key_has_the_terms_that_it_was_given(headrace: Any) -> None:
    """Each option is a member of the key; amounts, windows and ends are understood as in the settings."""
    ran = headrace(
        *(
            "keys",
            "create",
            "--json",
            "--name",
            "batch",
            "--tenant",
            "acme",
            "--user",
            "ann",
            "--team",
            "search",
        ),
        *("--route", "smart", "--model", "openai/*", "--model", "local/default", "--expires", "2099-01-31"),
        *(
            "--budget",
            "usd=5,window=day",
            "--budget",
            "tokens=100, window=month, soft=true, timezone=Asia/Tokyo",
        ),
    )
    made = ran.json
    assert {
        name: made[name] for name in ("name", "tenant", "user", "team", "role", "routes", "models", "expires")
    } == {
        "name": "batch",
        "tenant": "acme",
        "user": "ann",
        "team": "search",
        "role": "caller",
        "routes": ["smart"],
        "models": ["openai/*", "local/default"],
        "expires": "2099-01-31T00:00:00Z",
    }
    usual = {"used": "0", "soft": False, "on_limit": "refuse", "timezone": "UTC"}
    assert made["budget"] == [
        usual | {"usd": "5", "window": "day"},
        usual | {"tokens": 100, "used": 0, "window": "month", "soft": True, "timezone": "Asia/Tokyo"},
    ]
    listed = headrace("keys", "--json").json["keys"]
    assert listed[0] == {name: member for name, member in made.items() if name != "key"}
    assert [(key["name"], key["source"]) for key in listed] == [("batch", "store"), ("dev", "configuration")]
    table = headrace("keys").out
    for cell in (
        "batch",
        "acme",
        "$0 of $5 a day",
        "0 of 100 tokens a month (soft)",
        "smart, openai/*",
        "2099-01-31",
        "(settings)",
    ):
        assert cell in table, cell


def test_limits_of_a_key(headrace: Any) -> None:
    """Requests and tokens a minute, shown in words and in JSON."""
    made = headrace("keys", "create", "--json", "--rpm", "60", "--tpm", "1000")
    assert made.json["limits"] == {"rpm": 60, "tpm": 1000}
    assert "60 requests, 1,000 tokens" in " ".join(headrace("keys").out.split())
    assert headrace("keys", "create", "--rpm", "0").code == 2


def test_rotate_and_revoke(headrace: Any, folder: Path) -> None:
    """The former value is good for the grace or not at all; a key that is revoked is good no more, nor is it changed again."""
    first = headrace("keys", "create", "--name", "batch").out.strip()
    ran = headrace("keys", "rotate", "batch", "--grace", "7d")
    second = ran.out.strip()
    assert "former value is good until 20" in ran.err
    assert owner(folder, first) == owner(folder, second) != ""
    ran = headrace("keys", "rotate", "batch")
    third = ran.out.strip()
    assert "good no more" in ran.err
    assert "not known" in owner(folder, first) and "not known" in owner(folder, second)
    assert owner(folder, third).startswith("key_")
    # By its value: what was found in a log is ended with what was found.
    assert headrace("keys", "revoke", third).code == 0
    assert "was revoked" in owner(folder, third)
    for verb in ("revoke", "rotate"):
        ran = headrace("keys", verb, "batch")
        assert ran.code == 2 and "revoked" in ran.err
    assert headrace("keys", "list", "--json").json["keys"][0]["name"] == "dev"
    assert "1 more is revoked or expired" in headrace("keys").err
    assert headrace("keys", "--all", "--json").json["keys"][0]["state"] == "revoked"


def test_the_audit_log_says_who(headrace: Any) -> None:
    """Every change, the newest first, with the system's account; of one key, also when it is revoked."""
    headrace("keys", "create", "--name", "one")
    headrace("keys", "create", "--name", "two")
    headrace("keys", "rotate", "one")
    headrace("keys", "revoke", "one")
    headrace("keys", "revoke", "nobody")
    rows = headrace("keys", "audit", "--json").json["audit"]
    me = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert [(row["actor"], row["action"], row["result"]) for row in rows] == [
        (me, action, "ok") for action in ("key.revoke", "key.rotate", "key.create", "key.create")
    ]
    one = headrace("keys", "audit", "--key", "one", "--json").json["audit"]
    assert [row["action"] for row in one] == ["key.revoke", "key.rotate", "key.create"]
    assert headrace("keys", "audit", "--limit", "1", "--json").json["audit"] == rows[:1]
    table = headrace("keys", "audit").out
    assert "key.rotate" in table and me in table
    assert headrace("keys", "audit", "--key", "nobody").code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--route", "nowhere"), "Known: smart"),
        (("create", "--model", "gpt-5"), "provider/*"),
        (("create", "--budget", "usd"), "usd=5,window=day"),
        (("create", "--budget", "usd=5,usd=6,window=day"), "usd=5,window=day"),
        (("create", "--budget", "usd=5,window=week"), "one of minute"),
        (("create", "--budget", "tokens=many,window=day"), "whole number"),
        (("create", "--expires", "2001-01-01"), "is past"),
        (("create", "--role", "root"), "caller"),
        (("create", "--role", "viewer", "--route", "smart"), "asks no models"),
        (("create", "--name", "dev"), "configuration"),
        (("create", "--name", "a b"), "letters"),
        (("rotate", "nobody"), "no key"),
        (("rotate", "dev"), "configuration"),
        (("rotate", "dev", "--grace", "soon"), "24h"),
        (("rotate", "batch", "--grace", "31d"), "30d"),
        (("revoke", "dev"), "configuration"),
    ],
)
def test_what_cannot_be_is_refused(headrace: Any, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, what was wrong and what to write; nothing is changed."""
    headrace("keys", "create", "--name", "batch")
    before = headrace("keys", "--all", "--json").out
    ran = headrace("keys", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert json.loads(headrace("keys", *arguments, "--json").out)["error"]["message"]
    assert headrace("keys", "--all", "--json").out == before


def test_looking_makes_no_file(headrace: Any, folder: Path) -> None:
    """Where there is none yet there are no keys but those of the settings; a store in memory has none that could be reached."""
    assert [key["name"] for key in headrace("keys", "--json").json["keys"]] == ["dev"]
    assert headrace("keys", "audit", "--json").json == {"audit": []}
    assert not list(folder.glob("*.db*"))
    (folder / "headrace.toml").write_text('[store]\npath = ":memory:"\n')
    ran = headrace("keys", "create")
    assert ran.code == 2 and "[store] path" in ran.err


def test_without_a_file_named_it_is_the_gateways_usual_one(headrace: Any, folder: Path) -> None:
    """The verbs and the gateway mean the same file."""
    (folder / "headrace.toml").write_text("")
    assert headrace("keys", "create").code == 0
    usual = load(folder / "headrace.toml", environ={"HOME": str(folder / "home")}).store.usual
    assert usual is not None and usual.is_file()


def test_a_purge_of_the_cache_is_in_the_log(headrace: Any, folder: Path) -> None:
    """With what was thrown away, but not with the words of a question."""
    sqlite.SQLiteEntries(sqlite.beside(folder / "headrace.db")).close()
    assert headrace("cache", "purge", "--tenant", "acme", "--prefix", "my secret").code == 0
    (row,) = headrace("keys", "audit", "--json").json["audit"]
    assert (row["action"], row["subject"], row["detail"]) == (
        "cache.purge",
        "tenant=acme&prefix=...",
        "0 entries",
    )
