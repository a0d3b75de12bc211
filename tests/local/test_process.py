from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import Clock, SystemClock
from headrace.errors import (
    ConfigError,
    ConnectFailed,
    ModelNotFound,
    Permanent,
    ProviderUnavailable,
    What,
    disposition,
)
from headrace.local import LocalModel
from headrace.local.process import BACKOFF_S, STARTS_A_MINUTE, next_start
from headrace.testing.clock import ManualClock

CHILD = Path(__file__).parent / "child.py"


class JumpingClock(ManualClock):
    """Sleeping takes no time but moves the clock."""

    async def sleep(self, seconds: float) -> None:
        """Move at once."""
        self.sleeps.append(seconds)
        self.advance(seconds)


class Scene:
    """A scripted child and the log of its starts."""

    def __init__(self, folder: Path) -> None:
        self.weights = folder / "tiny.gguf"
        self.weights.write_bytes(b"GGUF")
        self.log = folder / "log"

    def model(
        self, mode: str, *, clock: Clock | None = None, environment: Mapping[str, str] | None = None
    ) -> LocalModel:
        return LocalModel(
            str(self.weights),
            cache_dir=self.weights.parent,
            clock=clock or SystemClock(),
            environment=environment,
            command=[sys.executable, "-I", "-S", str(CHILD), mode, str(self.log)],
        )

    @property
    def starts(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A scripted child in a folder of its own."""
    return Scene(tmp_path)


async def until(true: Callable[[], object]) -> None:
    """Give the outside world (a real process) at most ten seconds."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  (the outside sets no event)
            await asyncio.sleep(0.002)  # noqa: TID251  (real processes keep real time)


def gone(pid: int) -> bool:
    """Whether no such process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_first_use_starts_the_child(scene: Scene) -> None:
    """Nothing runs until the first use; then the URL has the child's port and the key that it was given."""

    async def main() -> None:
        model = scene.model("serve")
        assert model.pid is None and scene.starts == []
        url, key = await model.base_url()
        [start] = scene.starts
        assert url == f"http://127.0.0.1:{start['pid']}" and model.pid == start["pid"]
        assert key == start["key"] and len(key) >= 32
        assert await model.base_url() == (url, key)
        await model.aclose()
        assert gone(start["pid"]) and len(scene.starts) == 1

    asyncio.run(main())


def test_child_gets_its_options_and_no_secrets(scene: Scene) -> None:
    """The key is not on the command line, and of the environment only what finds Python gets through."""
    environment = {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "OPENAI_API_KEY": "sk-secret",
        "HEADRACE_ADMIN_KEY": "secret",
    }

    async def main() -> None:
        model = scene.model("serve", environment=environment)
        _, key = await model.base_url()
        await model.aclose()
        [start] = scene.starts
        assert key not in " ".join(start["arguments"])
        assert start["arguments"] == [
            *("--model", str(scene.weights), "--alias", "tiny", "--port", "0"),
            *("--threads", "1", "--context", "2048", "--parallel", "2"),
        ]
        seen = start["environment"]
        assert {name: seen[name] for name in ("PATH", "HOME", "LANG", "TMPDIR")} == {
            name: environment[name] for name in ("PATH", "HOME", "LANG", "TMPDIR")
        }
        assert "secret" not in json.dumps(seen) and key not in json.dumps(seen)
        assert key not in repr(model)

    asyncio.run(main())


def test_concurrent_callers_share_one_start(scene: Scene) -> None:
    """Twenty callers at once start one child, and one that gives up does not take it from the others."""

    async def main() -> None:
        model = scene.model("serve")
        tasks = [asyncio.create_task(model.base_url()) for _ in range(20)]
        await asyncio.sleep(0)  # noqa: TID251  (one turn)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert len(set(answers[1:])) == 1 and not isinstance(answers[1], BaseException)
        assert len(scene.starts) == 1
        await model.aclose()

    asyncio.run(main())


def test_interrupt_of_the_terminal_does_not_reach_the_child(scene: Scene) -> None:
    """The child has a session of its own, so Ctrl-C leaves it to the gateway, which drains first."""

    async def main() -> None:
        model = scene.model("serve")
        await model.base_url()
        await model.aclose()
        [start] = scene.starts
        assert start["session"] == start["pid"] != os.getsid(0)

    asyncio.run(main())


def test_start_goes_on_when_every_caller_left(scene: Scene) -> None:
    """A start that nobody waits for any more still ends well, and the next caller finds it."""

    async def main() -> None:
        model = scene.model("serve")
        task = asyncio.create_task(model.base_url())
        await asyncio.sleep(0)  # noqa: TID251  (one turn)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: model.pid)
        await model.base_url()
        assert len(scene.starts) == 1
        await model.aclose()

    asyncio.run(main())


def test_dead_child_is_replaced(scene: Scene) -> None:
    """After a SIGKILL the next use starts another child at once, with another key."""

    async def main() -> None:
        model = scene.model("serve", clock=ManualClock())
        first, first_key = await model.base_url()
        pid = model.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: model.pid is None)
        second, second_key = await model.base_url()
        assert second != first and second_key != first_key
        assert len(scene.starts) == 2
        await model.aclose()

    asyncio.run(main())


def test_backoff_grows_then_refuses(scene: Scene) -> None:
    """A child that dies again and again is restarted more and more slowly, then not until a minute is over."""

    async def main() -> None:
        clock = JumpingClock()
        model = scene.model("die", clock=clock)
        for _ in range(STARTS_A_MINUTE):
            with pytest.raises(ProviderUnavailable, match="exited with status 3"):
                await model.base_url()
        assert clock.sleeps == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S]
        with pytest.raises(ProviderUnavailable, match="5 times within a minute") as refused:
            await model.base_url()
        assert refused.value.retry_after_s == pytest.approx(60 - sum(clock.sleeps))
        assert len(scene.starts) == STARTS_A_MINUTE
        clock.advance(60)
        with pytest.raises(ProviderUnavailable, match="exited with status 3"):
            await model.base_url()
        await model.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("starts", "now", "expected"),
    [
        ([], 100.0, 100.0),
        ([99.0], 100.0, 100.0),
        ([98.0, 99.9], 100.0, 100.4),
        ([98.0, 99.0], 100.0, 100.0),
        ([97.0, 98.0, 99.9], 100.0, 100.9),
        ([90.0, 97.0, 98.0, 99.9], 100.0, 101.9),
        ([80.0, 90.0, 97.0, 98.0, 99.9], 100.0, 140.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 100.0, 100.0),
        ([1.0, 2.0, 3.0, 4.0, 99.0], 100.0, 100.0),
    ],
)
def test_next_start(starts: list[float], now: float, expected: float) -> None:
    """Only the starts of the last minute count; the wait doubles with each, and five are the most."""
    assert next_start(starts, now) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("die", "exited with status 3"),
        ("killed", "exited with status -9"),
        ("error", "the file is not a model"),
        ("garbage", "does not speak the protocol"),
        ("flood", "does not speak the protocol"),
    ],
)
def test_child_that_cannot_start(scene: Scene, mode: str, why: str) -> None:
    """Each way to fail before serving is a typed error that says why, and leaves no process behind."""

    async def main() -> None:
        model = scene.model(mode)
        with pytest.raises(ProviderUnavailable, match=why) as failed:
            await model.base_url()
        assert failed.value.code == "start_failed"
        await model.aclose()
        assert gone(scene.starts[0]["pid"])

    asyncio.run(main())


def test_command_that_does_not_exist(scene: Scene, tmp_path: Path) -> None:
    """A child that the system cannot even start is a typed error too."""

    async def main() -> None:
        model = LocalModel(
            str(scene.weights), cache_dir=tmp_path, clock=SystemClock(), command=[str(tmp_path / "nothing")]
        )
        with pytest.raises(ProviderUnavailable, match="No such file"):
            await model.base_url()
        await model.aclose()

    asyncio.run(main())


def test_silent_child_times_out(scene: Scene) -> None:
    """A child that never says that it serves is ended after the timeout."""

    async def main() -> None:
        clock = ManualClock()
        model = scene.model("silent", clock=clock)
        task = asyncio.create_task(model.base_url())
        await until(lambda: scene.starts)
        clock.advance(59.9)
        assert not task.done()
        clock.advance(0.2)
        with pytest.raises(ConnectFailed, match="did not serve within 60 s"):
            await task
        assert gone(scene.starts[0]["pid"])
        await model.aclose()

    asyncio.run(main())


def test_stubborn_child_is_killed(scene: Scene) -> None:
    """A child that ignores SIGTERM gets two seconds, then SIGKILL."""

    async def main() -> None:
        clock = ManualClock()
        model = scene.model("stubborn", clock=clock)
        await model.base_url()
        closing = asyncio.create_task(model.aclose())
        await until(lambda: clock.waiting)
        clock.advance(1.9)
        await asyncio.sleep(0.02)  # noqa: TID251  (long enough for a signal that must not have come)
        assert not closing.done() and not gone(scene.starts[0]["pid"])
        clock.advance(0.2)
        await closing
        assert gone(scene.starts[0]["pid"])

    asyncio.run(main())


def test_close_during_the_start(scene: Scene) -> None:
    """Closing while the child loads ends it, and who waited for it learns that the model is closed."""

    async def main() -> None:
        model = scene.model("silent")
        task = asyncio.create_task(model.base_url())
        await until(lambda: scene.starts)
        await model.aclose()
        with pytest.raises(ProviderUnavailable, match="closed"):
            await task
        assert gone(scene.starts[0]["pid"])
        with pytest.raises(ProviderUnavailable, match="closed"):
            await model.base_url()
        await model.aclose()

    asyncio.run(main())


def test_on_the_loop_of_the_gateway(scene: Scene) -> None:
    """uvloop's subprocesses report their ends in another order; starting, dying and ending work there as well."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        for _ in range(10):
            failing = scene.model("die")
            with pytest.raises(ProviderUnavailable, match="exited with status 3"):
                await failing.base_url()
            await failing.aclose()
        model = scene.model("serve")
        await model.base_url()
        pid = model.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: model.pid is None)
        await model.base_url()
        await model.aclose()
        assert gone(scene.starts[-1]["pid"]) and len(scene.starts) == 12

    uvloop.run(main())


def test_close_before_the_first_use(scene: Scene) -> None:
    """Closing what never started does nothing."""
    asyncio.run(scene.model("serve").aclose())
    assert scene.starts == []


def test_missing_weights_say_what_to_run(tmp_path: Path) -> None:
    """Weights that are not there send the cascade on, and the message has the command."""

    async def main() -> None:
        model = LocalModel("default", cache_dir=tmp_path, clock=SystemClock())
        with pytest.raises(ModelNotFound, match="headrace models pull smollm2-135m") as missing:
            await model.base_url()
        assert disposition(missing.value).what is What.NEXT
        with pytest.raises(ModelNotFound, match=r"there is no file .*nothing\.gguf"):
            await LocalModel(
                str(tmp_path / "nothing.gguf"), cache_dir=tmp_path, clock=SystemClock()
            ).base_url()

    asyncio.run(main())


def test_missing_runtime_says_what_to_install(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error has the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    async def main() -> None:
        model = LocalModel(str(scene.weights), cache_dir=scene.weights.parent, clock=SystemClock())
        with pytest.raises(Permanent, match=r"pip install 'headrace\[local\]'") as missing:
            await model.base_url()
        assert disposition(missing.value).what is What.NEXT

    asyncio.run(main())


def test_unknown_model_is_a_configuration_error(tmp_path: Path) -> None:
    """A name that nobody knows is refused when the model is made, with the names there are."""
    with pytest.raises(ConfigError, match=r"'gpt-5'.*smollm2-135m, qwen2\.5-coder-0\.5b"):
        LocalModel("gpt-5", cache_dir=tmp_path, clock=SystemClock())
