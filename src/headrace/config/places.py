"""`[store]` and `[local]`: where files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace.config.problem import Report
from headrace.config.settings import LocalSettings, StoreSettings
from headrace.config.table import Table

IN_MEMORY = ":memory:"
"""The path of a store that keeps nothing beyond the process."""


def read_store(root: Table, folder: Path) -> StoreSettings:
    table = root.table("store", later="store")
    path = table.text("path")
    table.close()
    if path == IN_MEMORY:
        return StoreSettings()
    found = table.found
    data = (
        Path(value[1])
        if (value := found.variable("XDG_DATA_HOME"))
        else home_of(found.environ) / ".local/share"
    )
    return StoreSettings(
        path=None if path is None else placed(path, folder, found.environ),
        usual=data / "headrace/headrace.db",
    )


def read_local(found: Report, root: Table, folder: Path) -> LocalSettings:
    table = root.table("local")
    home = home_of(found.environ)
    caches = Path(value[1]) if (value := found.variable("XDG_CACHE_HOME")) else home / ".cache"
    cache_dir = table.text("cache_dir")
    usual = LocalSettings(cache_dir=caches / "headrace")
    model = table.text("model") or usual.model
    local = LocalSettings(
        model=str(placed(model, folder, found.environ)) if model.endswith(".gguf") else model,
        threads=table.integer("threads", usual.threads, 1, 256),
        context=table.integer("context", usual.context, 256, 1 << 20),
        parallel=table.integer("parallel", usual.parallel, 1, 64),
        cache_dir=usual.cache_dir if cache_dir is None else placed(cache_dir, folder, found.environ),
    )
    table.close()
    return local


def home_of(environ: Mapping[str, str]) -> Path:
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # a container's user without an entry in the password file
        return Path.cwd()


def placed(text: str, folder: Path, environ: Mapping[str, str]) -> Path:
    """A path of the file: `~` is the home folder, and what is relative is so to the folder that holds the file."""
    if text == "~" or text.startswith("~/"):
        return home_of(environ) / text[2:]
    return folder / text
