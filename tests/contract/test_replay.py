"""Recorded exchanges with providers, replayed through the gateway with the official SDKs as callers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.recording import Recording, committed
from tests.contract.register import DOCUMENT, document, figures, listed, try_shared
from tests.contract.replay import SHARED, replaying
from tests.contract.trial import Bench, Trial, bench

COMMITTED = committed()


@pytest.fixture(scope="module")
def trying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Our own replay server behind a gateway."""
    with replaying() as provider, bench(provider, COMMITTED, tmp_path_factory.mktemp("replay")) as made:
        yield made


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    """Every recording beside the repository, replayed once for all tests."""
    if not (SHARED / "data" / "providers").is_dir():
        pytest.skip("the folder with all recordings is not beside the repository")
    return try_shared(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("recording", COMMITTED, ids=lambda recording: recording.name)
def test_a_committed_recording_survives_the_gateway(trying: Bench, recording: Recording) -> None:
    """Its answer is the same in its own dialect, and in the other one but for what the register lists."""
    trial = trying.try_out(recording)
    assert not trial.same
    assert not trial.cross
    expected = {
        feature for feature, name in listed(DOCUMENT.read_text(encoding="utf-8")) if name == recording.name
    }
    assert trial.lost == expected, "run python -m tests.contract.register"


def test_the_committed_recordings_show_both_apis_whole_and_streamed() -> None:
    """What runs everywhere is at least sixty exchanges, of both dialects, whole and streamed, good and bad."""
    assert len(COMMITTED) >= 60
    shown = {(r.kind, r.answered_stream, r.status >= 400) for r in COMMITTED}
    for kind in ("openai-chat", "anthropic"):
        assert shown >= {(kind, False, False), (kind, True, False), (kind, False, True)}
    assert any(r.kind == "count-tokens" for r in COMMITTED)


def test_every_recording_has_a_notice() -> None:
    """Each source of a committed recording is named with its licence."""
    notice = (Path(__file__).resolve().parents[1] / "recordings" / "NOTICE.md").read_text(encoding="utf-8")
    for source in {recording.name.partition("/")[0] for recording in COMMITTED}:
        assert f"## {source.replace('+', '/', 1)}\n" in notice


@pytest.mark.timeout(300)
def test_every_recording_is_the_same_in_its_own_dialect(trials: list[Trial]) -> None:
    """Answers, the bytes that the provider got and headers, for every exchange of both APIs."""
    print("\n" + figures(trials))
    assert {trial.recording.name: trial.same for trial in trials if trial.same} == {}


@pytest.mark.timeout(300)
def test_every_recording_survives_the_other_dialect(trials: list[Trial]) -> None:
    """Text, thinking, tool calls, tokens and stop reason arrive, whatever else the other dialect has no place for."""
    assert {trial.recording.name: trial.cross for trial in trials if trial.cross} == {}


@pytest.mark.timeout(300)
def test_the_register_is_up_to_date(trials: list[Trial]) -> None:
    """The document lists exactly the recordings that lose something, and the figures as they are."""
    assert document(trials) == DOCUMENT.read_text(encoding="utf-8"), "run python -m tests.contract.register"
