"""Every route with every role: who may use it, and that nobody else may."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.gateway.gate import ADMIN, KEY, OTHER, ROLE_KEYS, Gate, gated

from headrace.access import ROLES
from headrace.errors import HeadraceError
from headrace.gateway.app import App
from headrace.gateway.routes import ROUTES, RouteNote, Routes
from headrace.testing import FakeProvider

MAY: dict[tuple[str, str], str] = {
    ("POST", "/v1/chat/completions"): "caller",
    ("POST", "/v1/messages"): "caller",
    ("POST", "/v1/embeddings"): "caller",
    ("POST", "/v1/messages/count_tokens"): "caller",
    ("GET", "/v1/models"): "caller",
    ("GET", "/v1/models/{model}"): "caller",
    ("GET", "/v1/requests/{id}"): "caller",
    ("GET", "/v1/conversations/{id}"): "caller",
    ("DELETE", "/v1/conversations/{id}"): "caller",
    ("GET", "/health"): "everybody",
    ("GET", "/health/liveness"): "everybody",
    ("GET", "/health/readiness"): "everybody",
    ("GET", "/docs"): "everybody",
    ("GET", "/openapi.json"): "everybody",
    ("GET", "/metrics"): "viewer auditor operator admin",
    ("GET", "/admin"): "viewer auditor operator admin",
    ("GET", "/admin/requests"): "viewer auditor operator admin",
    ("GET", "/admin/requests/{id}"): "viewer auditor operator admin",
    ("GET", "/admin/cache"): "viewer auditor operator admin",
    ("DELETE", "/admin/cache"): "operator admin",
    ("POST", "/admin/cache/explain"): "operator admin",
    ("GET", "/admin/budgets"): "viewer auditor operator admin",
    ("GET", "/admin/cost"): "viewer auditor operator admin",
    ("GET", "/admin/keys"): "auditor operator admin",
    ("POST", "/admin/keys"): "operator admin",
    ("GET", "/admin/keys/{id}"): "auditor operator admin",
    ("POST", "/admin/keys/{id}/revoke"): "operator admin",
    ("POST", "/admin/keys/{id}/rotate"): "operator admin",
    ("GET", "/admin/audit"): "auditor admin",
}
"""Written again, so that a change of the table is a change of this one, and somebody reads both."""

DOCS = (Path(__file__).parents[2] / "docs" / "keys.md").read_text("utf-8")


PEOPLE: list[tuple[str, str | None]] = [
    ("nobody", None),
    ("stranger", "hr-not-one-of-ours-0123456789"),
    ("caller", KEY),
    ("caller", OTHER),
    *ROLE_KEYS.items(),
    ("admin", ADMIN),
]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway of its own: the keys that these tests make are seen by no other."""
    with FakeProvider() as provider, gated(provider, tmp_path_factory.mktemp("roles")) as made:
        yield made


def test_every_route_is_judged() -> None:
    """The table has a row for each judgement and none beside them; its rows are distinct, and its roles are roles."""
    assert sorted((row.method, row.path) for row in ROUTES) == sorted(MAY)
    assert all(row.roles is None or (row.roles <= set(ROLES) and row.roles) for row in ROUTES)


def test_the_documented_table_is_the_table() -> None:
    """`docs/keys.md` has every route that needs a key, with its roles."""
    head, *rows = re.findall(r"^\|(.*)\|$", DOCS[DOCS.index("## Roles") :], re.MULTILINE)
    roles = [cell.strip() for cell in head.split("|")[1:]]
    assert roles == list(ROLES)
    said: dict[tuple[str, str], str] = {}
    for row in rows:
        cells = row.split("|")
        may = " ".join(role for role, cell in zip(roles, cells[1:], strict=True) if cell.strip() == "x")
        for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", cells[0]):
            said[method, path] = may
    assert said.pop(("POST", "/v1/...")) == said.pop(("GET", "/v1/...")) == "caller"
    assert said == {
        (method, path): roles
        for (method, path), roles in MAY.items()
        if roles != "everybody" and not path.startswith("/v1")
    }


@pytest.mark.parametrize(("role", "key"), PEOPLE, ids=[f"{role}-{n}" for n, (role, _) in enumerate(PEOPLE)])
@pytest.mark.parametrize(("method", "path"), MAY, ids=[f"{method} {path}" for method, path in MAY])
def test_who_may_use_it(gate: Gate, method: str, path: str, role: str, key: str | None) -> None:
    """With a role that the table names: an answer of the endpoint. Without a key of ours 401, with another role 403, and a log of
    the try where it would have changed something."""
    before = audit_lines(gate)
    filled = path.replace("{model}", "both").replace("{id}", "unknown")
    got = gate.http(method, filled, b"[" if method == "POST" else None, key=key)
    allowed = MAY[method, path]
    if allowed == "everybody":
        assert got.status == 200
    elif role in ("nobody", "stranger"):
        assert got.status == 401
    elif role in allowed.split():
        assert got.status == (404 if "unknown" in filled else 200 if method == "GET" else 400)
    else:
        assert got.status == 403
        assert f"this one has the role {role}" in got.json["error"]["message"]
    changes = method != "GET" and path.startswith("/admin") and path != "/admin/cache/explain"
    assert audit_lines(gate) - before == (1 if changes and role not in ("nobody", "stranger") else 0)
    assert gate.provider.requests == []


def audit_lines(gate: Gate) -> int:
    with closing(sqlite3.connect(gate.folder / "headrace.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM audit").fetchone()[0])


@pytest.mark.parametrize("row", ROUTES, ids=[f"{row.method} {row.path}" for row in ROUTES])
def test_a_route_without_a_row_is_denied_to_all(gate: Gate, row: RouteNote) -> None:
    """Its endpoint stands there, and nobody gets to it: not with any key."""

    def others() -> App:
        rows = tuple(other for other in ROUTES if other is not row)
        return App(gate.engine, gate.gateway.app.keyring, rows)

    app = gate.on_loop(others)
    served = gate.gateway.server
    usual, served.application = served.application, app
    try:
        path = row.path.replace("{model}", "both").replace("{id}", "unknown")
        for _, key in PEOPLE:
            got = gate.http(row.method, path, b"{}" if row.method == "POST" else None, key=key)
            assert got.status in (404, 405), (key, got.body)
            if got.status == 404:
                assert "there is no" in got.json["error"]["message"]
    finally:
        served.application = usual


def test_a_row_without_an_endpoint_does_not_start(gate: Gate) -> None:
    """A table that promises what nobody answers is a mistake that is told at the start."""
    row = RouteNote("GET", "/admin/secrets", frozenset({"admin"}), "Nothing")
    with pytest.raises(AssertionError, match="/admin/secrets"):
        gate.on_loop(lambda: App(gate.engine, gate.gateway.app.keyring, (*ROUTES, row)))


def test_paths_are_found() -> None:
    """A text in the middle of a path has no slash, one at its end may; both are decoded; HEAD is as GET."""
    routes = Routes()

    def found(method: str, path: str) -> tuple[str, str]:
        row, argument = routes.find(method, path)
        return row.path, argument

    assert found("GET", "/v1/models/openai/gpt-5%20x") == ("/v1/models/{model}", "openai/gpt-5 x")
    assert found("HEAD", "/admin/keys/k") == ("/admin/keys/{id}", "k")
    assert found("POST", "/admin/keys/a%2Fb/revoke") == ("/admin/keys/{id}/revoke", "a/b")
    assert found("GET", "/admin/keys/a/revoke") == ("/admin/keys/{id}", "a/revoke")
    for method, path, status in (
        ("POST", "/admin/keys/a/b/revoke", 405),
        ("DELETE", "/admin/keys/a", 405),
        ("DELETE", "/health", 405),
        ("GET", "/admin/keys/", 404),
        ("GET", "/admin/", 404),
        ("GET", "/ADMIN", 404),
    ):
        with pytest.raises(HeadraceError) as caught:
            routes.find(method, path)
        assert caught.value.http_status == status, path
