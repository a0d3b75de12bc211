"""What `import headrace` costs and does, and that its faces say what they are."""

from __future__ import annotations

import ast
import inspect
import json
import statistics
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace import config, engine
from headrace.handler import Handler, Layer, stack
from headrace.testing import ManualClock

IMPORT_LIMIT_S = 0.1
"""CPU seconds of `import headrace` beyond those of the bare interpreter."""

AUDITED = """
import json, os, sys
events, reads = [], []
def ours(name):
    frame, at = sys._getframe(2), 0
    while frame is not None and at < 6:  # whoever asked, below the helpers of the standard library
        if "headrace" in frame.f_code.co_filename:
            reads.append(name)
            return
        frame, at = (frame.f_back, at + 1) if "importlib" not in frame.f_code.co_filename else (None, at)
class Watched(type(os.environ)):
    def __getitem__(self, name):
        ours(name)
        return super().__getitem__(name)
    def __iter__(self):
        ours("*")
        return super().__iter__()
os.environ.__class__ = Watched
before = set(sys.modules)
sys.addaudithook(lambda event, _: events.append(event))
import headrace
names = [name for name in dir(headrace) if not name.startswith("_")]
for name in sys.argv[1:]:
    getattr(headrace, name)
print(json.dumps([sorted(set(sys.modules) - before), sorted(set(events)), reads, names]))
"""


def audited(*names: str) -> tuple[set[str], set[str], list[str], list[str]]:
    """A fresh interpreter imports the package and looks `names` up: modules, audit events, reads of the environment, `dir`."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", AUDITED, *names], capture_output=True, text=True, check=True, timeout=30
    )
    modules, events, reads, listed = json.loads(ran.stdout)
    return set(modules), set(events), reads, listed


def cpu(code: str) -> float:
    """CPU seconds of an interpreter that runs `code`."""
    measured = f"{code}\nimport time\nprint(time.process_time())"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", measured], capture_output=True, text=True, check=True, timeout=30
    )
    return float(ran.stdout)


def test_import_is_cheap() -> None:
    """The package itself, and with it both clients, configuration and types."""
    bare = statistics.median(cpu("pass") for _ in range(5))
    package = statistics.median(cpu("import headrace") for _ in range(5))
    assert package - bare < IMPORT_LIMIT_S


def test_import_does_nothing() -> None:
    """No socket, no process, no file written, no environment read; neither numpy nor an SDK nor asyncio is loaded."""
    modules, events, reads, listed = audited()
    assert not {
        event
        for event in events
        if event.startswith(("socket.", "subprocess.", "os.", "sqlite3.", "urllib."))
    } - {
        "os.listdir",
        "os.scandir",
    }
    assert reads == []
    heavy = {
        "asyncio",
        "ssl",
        "socket",
        "numpy",
        "openai",
        "anthropic",
        "httpx",
        "httptools",
        "sqlite3",
        "click",
        "rich",
    }
    assert not modules & heavy
    assert set(headrace.__all__) <= set(listed)


def test_the_names_themselves_bring_no_extras() -> None:
    """Every public name, looked up: still no socket, no environment, nothing of the extras."""
    modules, events, reads, _ = audited(*headrace.__all__)
    assert not {
        event
        for event in events
        if event.startswith(("socket.connect", "socket.bind", "subprocess.", "sqlite3."))
    }
    assert reads == []
    extras = {
        "numpy",
        "openai",
        "anthropic",
        "httpx",
        "aiohttp",
        "click",
        "rich",
        "prometheus_client",
        "uvloop",
        "xllamacpp",
    }
    assert not modules & extras
    assert "headrace.client" in modules


def test_public_names() -> None:
    """`__all__` is sorted, is what the type checker sees, and every name of it can be had."""
    assert list(headrace.__all__) == sorted(headrace.__all__)
    tree = ast.parse(Path(headrace.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(headrace.__all__)
    for name in headrace.__all__:
        value = getattr(headrace, name)
        assert value.__doc__, f"{name} has no docstring"
        assert value.__module__.startswith("headrace.")
    assert set(headrace.__all__) <= set(dir(headrace))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = headrace.nothing_of_the_kind


def test_every_error_that_a_caller_may_catch_has_a_parent() -> None:
    """The public errors are one tree."""
    errors = [
        value
        for name in headrace.__all__
        if isinstance(value := getattr(headrace, name), type) and issubclass(value, Exception)
    ]
    assert headrace.HeadraceError in errors
    assert all(issubclass(error, headrace.HeadraceError) for error in errors)


def test_the_stack_is_the_one_that_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine folds are the layers of `LAYERS`, in that order, around the dispatch to the providers."""
    folded: list[Any] = []

    def watched(*layers: Layer, handler: Handler) -> Handler:
        folded.extend([*layers, handler])
        return stack(*layers, handler=handler)

    monkeypatch.setattr(engine, "stack", watched)
    made = engine.Engine(config.load(environ={"HOME": str(tmp_path)}, cwd=tmp_path), clock=ManualClock())
    bottom = folded.pop()
    assert bottom == made._dispatch
    assert len(folded) == len(engine.LAYERS) - 1 and engine.LAYERS[-1].name == "provider"
    for note, layer in zip(engine.LAYERS, folded, strict=False):
        assert note.reason
        if layer(bottom) is bottom:
            continue  # switched off by these settings
        of = layer if inspect.isfunction(layer) else type(layer)
        assert note.name in (*of.__module__.split("."), of.__name__.lower()), (note.name, layer)


def _members(of: type) -> dict[str, Any]:
    return {name: value for name, value in vars(of).items() if not name.startswith("_") and callable(value)}


def test_both_clients_are_one() -> None:
    """`Client` has every public method of `AsyncClient` with the same arguments, defaults and words, and none of its own."""
    asynchronous, synchronous = _members(headrace.AsyncClient), _members(headrace.Client)
    assert {name.removeprefix("a") if name == "aclose" else name for name in asynchronous} == set(synchronous)
    for name, method in asynchronous.items():
        other = synchronous[name.removeprefix("a") if name == "aclose" else name]
        mine, theirs = inspect.signature(method), inspect.signature(other)
        assert list(mine.parameters.values())[1:] == list(theirs.parameters.values())[1:], name
        assert other.__doc__
        if name != "aclose":
            assert other.__doc__ == method.__doc__
    mine, theirs = inspect.signature(headrace.AsyncClient), inspect.signature(headrace.Client)
    assert mine.parameters == theirs.parameters


def test_answers_say_what_they_are() -> None:
    """Public attributes of an answer are documented and typed."""
    for name, value in vars(headrace.Answer).items():
        if isinstance(value, property):
            assert value.__doc__, name
            assert value.fget is not None and "return" in value.fget.__annotations__, name
    assert typing.get_type_hints(headrace.Usage)["input_tokens"] is int
