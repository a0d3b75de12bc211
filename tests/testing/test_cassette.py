"""Record and replay: what a cassette keeps, what it does not, and how strictly it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import headrace
from headrace import engine
from headrace.clock import SystemClock
from headrace.testing import Answer, Cassette, FakeProvider, NotRecorded, NotReplayed, Overloaded
from headrace.testing.cassette import scrubbed

KEY = "sk-proj-0123456789abcdefghij"


def client(tmp_path: Path, url: str, cassette: Cassette) -> headrace.Client:
    """A client whose transport is the cassette's."""
    (tmp_path / "headrace.toml").write_text(
        f'[providers.p]\ndialect = "openai-chat"\nbase_url = "{url}"\napi_key = "{KEY}"\n'
    )
    settings = headrace.load(tmp_path / "headrace.toml", environ={})
    made = headrace.Client(settings)

    async def build() -> engine.Engine:
        tape = cassette.transport(lambda: engine._open_transport(settings, SystemClock()), [KEY])
        return engine.Engine(settings, transport=tape, random=lambda: 0.0)

    made.client._engine = made.portal.run(build())
    return made


def recorded(tmp_path: Path) -> tuple[Path, str, list[str]]:
    """A cassette of a failure, a retry and a stream; the provider's address and what was said."""
    path = tmp_path / "tape.json"
    with FakeProvider(api_key=KEY) as provider:
        provider.script(Overloaded(), Answer(f"My key is {KEY}."), Answer("one two"))
        cassette = Cassette(path, record=True)
        with client(tmp_path, provider.base_url, cassette) as llm:
            said = [llm.chat([("p/m", 2)], f"Hello, {KEY}").text]
            with llm.stream("p/m", "Count.") as stream:
                said.append("".join(stream))
        cassette.save()
        return path, provider.base_url, said


def test_what_was_recorded_is_replayed(tmp_path: Path) -> None:
    """The failure, the retry and the stream come back the same, with nobody at the other end; nothing is left over."""
    path, url, said = recorded(tmp_path)
    cassette = Cassette(path)
    with client(tmp_path, url, cassette) as llm:
        answer = llm.chat([("p/m", 2)], f"Hello, {KEY}")
        assert [a.error_kind for a in answer.attempts] == ["overloaded", None]
        with llm.stream("p/m", "Count.") as stream:
            assert "".join(stream) == said[1] == "one two"
    assert said[0] == f"My key is {KEY}." and answer.text == "My key is <key>."
    cassette.check()


def test_a_cassette_has_no_key_and_reads_well(tmp_path: Path) -> None:
    """Neither header nor body holds the key; bodies are JSON in JSON, a stream is one line an event."""
    path, _, _ = recorded(tmp_path)
    text = path.read_text()
    assert KEY not in text and "authorization" not in text.lower()
    exchanges = json.loads(text)["exchanges"]
    assert exchanges[0]["request"]["body"]["messages"][0]["content"] == "Hello, <key>"
    assert exchanges[0]["answer"]["status"] == 503
    assert all(isinstance(line, str) for line in exchanges[2]["answer"]["body"])


def test_replay_is_strict(tmp_path: Path) -> None:
    """Another word, a second time, and what was not asked for are each an error that says what."""
    path, url, _ = recorded(tmp_path)
    cassette = Cassette(path)
    with client(tmp_path, url, cassette) as llm:
        with pytest.raises(NotRecorded, match=r"(?s)nearest differs.*Count!"):
            llm.chat("p/m", "Count!")
        llm.chat([("p/m", 2)], f"Hello, {KEY}")
        with pytest.raises(NotRecorded, match="not so often"):
            llm.chat("p/m", f"Hello, {KEY}")
    with pytest.raises(NotReplayed, match="1 exchanges"):
        cassette.check()
    with pytest.raises(NotRecorded, match="--headrace-record"):
        Cassette(tmp_path / "none.json")


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-api03-AAAAAAAAAAAAAAAAAAAA",
        "gsk_abcdefghijklmnopqrst",
        "AIzaSyA0123456789012345678901234567890",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCD",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghij",
        "Bearer abcdefghijklmnop",
    ],
)
def test_keys_of_many_kinds_are_taken_out(secret: str) -> None:
    """By what they look like, in any text; ordinary words stay."""
    assert secret not in scrubbed(f"before {secret} after")
    assert scrubbed("a task-oriented risk-free bearer of news") == "a task-oriented risk-free bearer of news"


SUITE = """
import socket
import pytest
import headrace
from headrace.testing import Status

def test_fake(headrace_fake):
    headrace_fake.provider.script(Status(429, retry_after=30))
    assert headrace_fake.chat("openai/gpt-5", "hi").text == "echo: hi"
    with pytest.raises(AssertionError, match="may not reach"):
        socket.create_connection(("203.0.113.1", 80), timeout=1)
    with pytest.raises(AssertionError, match="may not reach"):
        socket.getaddrinfo("example.org", 80)

def test_tape(headrace_replay):
    with headrace.Client() as llm:
        assert llm.chat("openai/gpt-5", "hi").text == "echo: hi"
"""


PLUGIN = (
    ()
    if any(entry.value == "headrace.testing.pytest_plugin" for entry in entry_points(group="pytest11"))
    else ("-p", "headrace.testing.pytest_plugin")
)
"""Named only where the installation does not bring it."""


def run_pytest(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """pytest with the plugin in a folder of its own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *PLUGIN,
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), "PYTHONPATH": str(Path(headrace.__file__).parents[1])}
        | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_plugin(tmp_path: Path) -> None:
    """Without a cassette the test fails and says how to record; recorded once, it passes without key, network and provider."""
    (tmp_path / "test_app.py").write_text(SUITE)
    ran = run_pytest(tmp_path)
    assert "--headrace-record" in ran.stdout and "1 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    with FakeProvider(api_key=KEY) as provider:
        url = provider.base_url
        ran = run_pytest(tmp_path, "--headrace-record", OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url)
        assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    tape = tmp_path / "cassettes" / "test_app.test_tape.json"
    assert KEY not in tape.read_text()
    ran = run_pytest(tmp_path, OPENAI_BASE_URL=url)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    tape.write_text(tape.read_text().replace('"hi"', '"ho"'))
    ran = run_pytest(tmp_path, OPENAI_BASE_URL=url)
    assert "1 failed" in ran.stdout and "nearest differs" in ran.stdout


STRAY = """
import sys
import pytest
import headrace

def ask():
    with headrace.Client() as llm:
        return llm.chat([("openai/gpt-5", 1)], "hi", timeout=5).text

def test_stray():
    with pytest.raises(AssertionError, match="headrace_network"):
        ask()

@pytest.mark.headrace_network
def test_meant():
    with pytest.raises(headrace.HeadraceError):  # nobody is there, and that is all
        ask()
"""


def test_no_test_reaches_a_provider_by_accident(tmp_path: Path) -> None:
    """Without any fixture a client reaches this machine only; a mark or the setting lifts it."""
    (tmp_path / "test_app.py").write_text(STRAY)
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://no-such-host.invalid/v1"}
    ran = run_pytest(tmp_path, **environ)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    (tmp_path / "pytest.ini").write_text("[pytest]\nheadrace_network = true\n")
    ran = run_pytest(tmp_path, **environ)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_plugin_costs_a_test_run_nothing(tmp_path: Path) -> None:
    """pytest loads it in every run of everybody who has Headrace: it brings in nothing but itself."""
    code = "import sys, headrace.testing.pytest_plugin; print(*[m for m in sys.modules if m.startswith('headrace')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(ran.stdout.split()) == [
        "headrace",
        "headrace.reach",
        "headrace.testing",
        "headrace.testing.pytest_plugin",
    ]
