"""Clients that stop reading: cut after a while, with everything released; slow ones are not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.gateway.gate import KEY, Gate, ask, clock, config, gated, wait_for

from headrace.testing import Answer, FakeProvider

PIECE = "x" * 65_536
LONG = Answer(chunks=[PIECE] * 320)
"""20 MB."""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway that waits a second for a client that reads nothing (its clients are looked at once a second)."""
    with FakeProvider() as provider:
        text = config(provider, gateway='client_stall = "1s"')
        with gated(provider, tmp_path_factory.mktemp("gateway"), text) as gate:
            yield gate


@contextmanager
def asking(gate: Gate) -> Iterator[socket.socket]:
    """A connection with a small buffer on which 20 MB were asked for."""
    gate.provider.reset()
    gate.provider.script(LONG)
    body = ask("openai", "openai/m", stream=True)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", gate.port))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        sock.sendall(head.encode() + body)
        yield sock


def test_a_client_that_reads_nothing_is_cut(gate: Gate) -> None:
    """Its connection and the provider's are closed, and the attempt is booked as cancelled."""
    with asking(gate):
        wait_for(lambda: gate.provider.requests)
        wait_for(lambda: gate.on_loop(lambda: not gate.gateway.server.connections), 6.0)
        gate.settled()
    (stored,) = gate.run(gate.engine.store.recent(1))
    assert [attempt.outcome for attempt in stored.attempts] == ["cancelled"]
    assert stored.status == 499


def test_a_slow_client_is_not(gate: Gate) -> None:
    """Whoever reads a little now and then, over several times the limit, gets all of it, and little of it is held."""
    with asking(gate) as sock:
        length, tail, began, most = 0, b"", clock.now(), 0
        while b"data: [DONE]\n\n" not in tail:
            while clock.now() - began < min(3.0, length / 3_000_000):
                held = gate.on_loop(
                    lambda: sum(
                        c._transport.get_write_buffer_size()
                        for c in gate.gateway.server.connections
                        if c._transport
                    )
                )
                most = max(most, held)
            piece = sock.recv(262_144)
            assert piece
            length += len(piece)
            tail = (tail + piece)[-500:]
    assert length > 320 * len(PIECE)
    assert clock.now() - began > 2.9
    assert most < 1_000_000
    gate.settled()
