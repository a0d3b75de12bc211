"""`headrace serve`, as a real process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.testing import FakeProvider

ENVIRON = {"PATH": os.defpath, "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(
    folder: Path, write: Callable[[str], Path], provider: FakeProvider, number: signal.Signals
) -> None:
    """One line of JSON says where; a request goes through; either signal ends it with exit code 0."""
    write(
        f'[providers.fake]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
        '[routes.smart]\ncascade = ["fake/x"]\n[keys.dev]\nvalue = "${KEY}"\n'
    )
    gateway = subprocess.Popen(
        [sys.executable, "-m", "headrace", "serve", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=ENVIRON | {"HOME": str(folder), "KEY": "canary-client-key"},
    )
    try:
        assert gateway.stdout is not None
        started = json.loads(gateway.stdout.readline())
        request = urllib.request.Request(
            f"{started['url']}/v1/chat/completions",
            json.dumps({"model": "smart", "messages": [{"role": "user", "content": "hi"}]}).encode(),
            {"authorization": "Bearer canary-client-key", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.load(response)["choices"][0]["message"]["content"] == "echo: hi"
        gateway.send_signal(number)
        out, err = gateway.communicate(timeout=20)
    finally:
        gateway.kill()
        gateway.wait()
    assert gateway.returncode == 0, err
    assert b"Traceback" not in err
    assert b"canary" not in out + err


def test_a_taken_port_is_one_line(headrace: Any) -> None:
    """Exit code 2 with what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ran = headrace("serve", "--port", str(other.getsockname()[1]))
    assert ran.code == 2
    assert "--port" in ran.err
    assert "Traceback" not in ran.err


def test_other_machines_need_an_admin_key(headrace: Any) -> None:
    """Refused before anything listens."""
    ran = headrace("serve", "--host", "0.0.0.0", "--port", "0")
    assert ran.code == 2
    assert "no admin key" in ran.err
    assert "HEADRACE_ADMIN_KEY" in ran.err


def test_wrong_settings_are_told_whole(headrace: Any, write: Callable[[str], Path]) -> None:
    """Every problem with its line, as `check` has them."""
    write("[gateway]\nprot = 1\nhots = 2\n")
    ran = headrace("serve")
    assert ran.code == 2
    assert "line 2: gateway.prot" in ran.err
    assert "line 3: gateway.hots" in ran.err
