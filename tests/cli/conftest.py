"""A folder without settings and an environment without keys, and one way to run a command in them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from headrace.cli.root import run
from headrace.testing import FakeProvider


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


class Headrace(Protocol):
    def __call__(self, *arguments: str, stdin: str = "") -> Ran: ...


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment that the commands see."""
    values = {"HOME": str(tmp_path / "home")}
    monkeypatch.setattr("os.environ", values)
    return values


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory of the commands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def headrace(
    folder: Path,
    environ: Mapping[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Headrace:
    """Run a command in this process; standard input is a pipe with `stdin`."""

    def call(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider on a real socket."""
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def write(folder: Path) -> Callable[[str], Path]:
    """Write `headrace.toml` into the working directory."""

    def put(text: str) -> Path:
        path = folder / "headrace.toml"
        path.write_text(text, "utf-8")
        return path

    return put
