"""`headrace doctor`."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import diagnosis
from headrace.clock import SystemClock
from headrace.store import StoredCircuit
from headrace.store.sqlite import SQLiteStore


def findings(ran: Any) -> dict[str, tuple[str, str, str]]:
    return {row["what"]: (row["state"], row["found"], row["fix"]) for row in ran.json["checks"]}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_bare_machine_works(headrace: Any, environ: dict[str, str], free_port: int) -> None:
    """Nothing is broken without keys and files; what is missing is a warning with its fix."""
    environ["HEADRACE_PORT"] = str(free_port)
    ran = headrace("doctor", "--json")
    found = findings(ran)
    assert (ran.code, ran.json["ok"]) == (0, True)
    assert found["python"][0] == "ok"
    assert found["clock"][0] == "ok"
    assert found["providers"][0] == "warn"
    assert "OPENAI_API_KEY" in found["providers"][2]
    assert found["local model"] == (
        "warn",
        "smollm2-135m is not on this machine",
        "headrace models pull smollm2-135m",
    )
    assert found["port"][1] == f"127.0.0.1:{free_port} is free"


def test_it_is_one_line_a_check_for_people(headrace: Any, environ: dict[str, str], free_port: int) -> None:
    """The table has every finding of the JSON."""
    environ["HEADRACE_PORT"] = str(free_port)
    lines = headrace("doctor").out.splitlines()
    for what, (state, text, fix) in findings(headrace("doctor", "--json")).items():
        assert any(
            line.startswith(what) and state in line and text in line and fix in line for line in lines
        ), what


def test_circuits_that_are_not_closed_are_told(
    headrace: Any, environ: dict[str, str], write: Callable[[str], Path]
) -> None:
    """What the gateway's workers told each other: which target, for how long, and after what; closed ones are not news."""
    environ["HEADRACE_PORT"] = "0"
    write('[store]\npath = "headrace.db"')

    async def tell() -> None:
        store = SQLiteStore(Path("headrace.db"))
        try:
            soon = SystemClock().wall() + 20.0
            for key, state in (("openai/a", "open"), ("openai/b", "closed"), ("openai/c", "limited")):
                store.record_circuit(
                    StoredCircuit(
                        key=key, state=state, until_wall=soon, trips=1, reason="overloaded", by="me"
                    )
                )
            await store.flush()
        finally:
            await store.aclose()

    asyncio.run(tell())
    found = {
        what: finding for what, finding in findings(headrace("doctor", "--json")).items() if "circuit" in what
    }
    assert found.keys() == {"circuit openai/a", "circuit openai/c"}
    state, text, _ = found["circuit openai/a"]
    assert state == "warn"
    assert re.fullmatch(r"open for (19|20) s after overloaded", text)


def test_keys_are_named_and_not_shown(
    headrace: Any, environ: dict[str, str], write: Callable[[str], Path]
) -> None:
    """A provider with a key is ok; one without is a warning that says what to set and where keys are made."""
    environ |= {"OPENAI_API_KEY": "canary-key", "HEADRACE_PORT": "0"}
    write('[routes.x]\ncascade = ["anthropic/claude-sonnet-4-5"]\n')
    ran = headrace("doctor", "--json")
    found = findings(ran)
    assert found["provider openai"][0] == "ok"
    assert "OPENAI_API_KEY" in found["provider openai"][1]
    assert found["provider anthropic"][0] == "warn"
    assert "ANTHROPIC_API_KEY" in found["provider anthropic"][2]
    assert "canary" not in ran.out


def test_broken_settings_end_the_examination(headrace: Any, write: Callable[[str], Path]) -> None:
    """What depends on the settings is not examined on wrong ones; exit code 1."""
    write("[gateway]\nport = 4\nbogus = 1\nmore = 2")
    ran = headrace("doctor", "--json")
    found = findings(ran)
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert found["settings"][0] == "fail"
    assert "gateway.bogus" in found["settings"][1]
    assert "and 1 more" in found["settings"][1]
    assert "store" not in found


def test_a_taken_port(headrace: Any, environ: dict[str, str]) -> None:
    """Someone else listens there: told with the fix."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        environ["HEADRACE_PORT"] = str(other.getsockname()[1])
        ran = headrace("doctor", "--json")
    assert ran.code == 1
    assert findings(ran)["port"][0] == "fail"
    assert "--port" in findings(ran)["port"][2]


def test_an_address_of_another_machine(headrace: Any, environ: dict[str, str]) -> None:
    """The gateway could not listen there."""
    environ |= {"HEADRACE_HOST": "192.0.2.1", "HEADRACE_PORT": "0", "HEADRACE_ADMIN_KEY": "0123456789abcdef"}
    assert findings(headrace("doctor", "--json"))["port"][0] == "fail"


def test_the_store(
    headrace: Any, environ: dict[str, str], write: Callable[[str], Path], folder: Path
) -> None:
    """In turn: no such folder, a new file, a private one, one that others can read."""
    environ["HEADRACE_PORT"] = "0"
    write('[store]\npath = "data/headrace.db"\n')
    assert findings(headrace("doctor", "--json"))["store"][0] == "fail"
    (folder / "data").mkdir()
    assert findings(headrace("doctor", "--json"))["store"][:2] == (
        "ok",
        f"{folder}/data/headrace.db will be made",
    )
    database = folder / "data" / "headrace.db"
    database.touch(0o600)
    assert findings(headrace("doctor", "--json"))["store"][0] == "ok"
    database.chmod(0o644)
    assert findings(headrace("doctor", "--json"))["store"][::2] == ("warn", f"chmod 600 {database}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_folder_that_cannot_be_written(
    headrace: Any, environ: dict[str, str], write: Callable[[str], Path], folder: Path
) -> None:
    """The database could not be made."""
    environ["HEADRACE_PORT"] = "0"
    write('[store]\npath = "data/headrace.db"\n')
    (folder / "data").mkdir(0o500)
    assert findings(headrace("doctor", "--json"))["store"][0] == "fail"


def test_proxies(headrace: Any, environ: dict[str, str]) -> None:
    """The variables are named, their values (which may hold a password) are not; nonsense fails."""
    environ |= {"HEADRACE_PORT": "0", "HTTPS_PROXY": "http://u:canary@proxy:3128", "no_proxy": "localhost"}
    ran = headrace("doctor", "--json")
    assert findings(ran)["proxy"][:2] == ("ok", "used: HTTPS_PROXY, no_proxy")
    environ["HTTPS_PROXY"] = "socks5://u:canary@proxy"
    broken = headrace("doctor", "--json")
    assert findings(broken)["proxy"][0] == "fail"
    assert "canary" not in ran.out + broken.out


def test_certificates(headrace: Any, environ: dict[str, str], folder: Path) -> None:
    """A missing file and one without a certificate both fail."""
    environ |= {"HEADRACE_PORT": "0", "SSL_CERT_FILE": str(folder / "ca.pem")}
    assert findings(headrace("doctor", "--json"))["certificates"][0] == "fail"
    (folder / "ca.pem").write_text("not a certificate")
    assert findings(headrace("doctor", "--json"))["certificates"][0] == "fail"
    import certifi

    environ["SSL_CERT_FILE"] = certifi.where()
    assert findings(headrace("doctor", "--json"))["certificates"][0] == "ok"


def test_local_models(
    headrace: Any, environ: dict[str, str], write: Callable[[str], Path], folder: Path
) -> None:
    """An unknown name and a missing file fail; a file that is there is ok."""
    environ["HEADRACE_PORT"] = "0"
    write('[local]\nmodel = "smolm2"\n')
    assert findings(headrace("doctor", "--json"))["local model"][0] == "fail"
    write('[local]\nmodel = "own.gguf"\n')
    assert findings(headrace("doctor", "--json"))["local model"][0] == "fail"
    (folder / "own.gguf").touch()
    assert findings(headrace("doctor", "--json"))["local model"][:2] == ("ok", str(folder / "own.gguf"))


def test_a_clock_in_the_past_and_an_old_python() -> None:
    """Both fail with what to do."""
    assert diagnosis._clock(0.0).state == "fail"
    assert diagnosis._python((3, 10, 9)).state == "fail"
