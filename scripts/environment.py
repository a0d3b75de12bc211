"""The project's own virtual environment, made from the lock file; standard library only.

Works where `ensurepip` is missing (a bare Debian): the environment is made without pip, and the system's pip installs into it.
The second time it costs nothing: a stamp holds the digest of what was installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / ".installed"


def say(text: str) -> None:
    """One line of progress."""
    print(f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)


def digest() -> str:
    """What the environment must have been made from."""
    sources = [LOCK, ROOT / "pyproject.toml"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources) + sys.version.encode()).hexdigest()


def pip_command() -> list[str]:
    """A pip that can install into the environment: this interpreter's, or the one on PATH."""
    for command in ([sys.executable, "-m", "pip"], [shutil.which("pip3") or shutil.which("pip") or ""]):
        if (
            command[0]
            and subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    sys.exit("no pip was found: install it (Debian: apt-get install python3-pip) and run this again")


def install(*arguments: str) -> None:
    """`pip install` into the environment, with a counter of packages while it runs."""
    total = sum(
        1 for line in LOCK.read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))
    )
    command = [
        *pip_command(),
        "--python",
        str(PYTHON),
        "install",
        "--disable-pip-version-check",
        "--no-input",
        *arguments,
    ]
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    started, seen, lines = time.monotonic(), 0, []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Collecting "):
                seen += 1
                name = line.split()[1].partition("==")[0]
                if sys.stdout.isatty():
                    print(f"\r\033[K  {seen}/{total} {name}", end="", flush=True)
                elif seen % 20 == 0:
                    say(f"  {seen}/{total} packages")
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    if process.returncode:
        sys.exit("".join(lines[-30:]) + "\ninstalling failed; the lines above are pip's")
    say(f"  done in {time.monotonic() - started:.0f} s")


def prepare() -> Path:
    """The environment's interpreter, made or brought up to date first."""
    if sys.version_info < (3, 11):  # noqa: UP036  (this file is read by whatever `python3` there is)
        sys.exit(f"Headrace needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    wanted = digest()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return PYTHON
    if not PYTHON.exists():
        say("making the virtual environment .venv")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], check=True)
    say("installing the locked packages (about a minute the first time)")
    install("--require-hashes", "-r", str(LOCK))
    say("installing headrace itself")
    install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    STAMP.write_text(wanted)
    return PYTHON


if __name__ == "__main__":
    prepare()
