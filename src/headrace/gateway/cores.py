"""No core dumps: a process that crashes would write its memory, with every key in it, to the disk or to whoever collects them."""

from __future__ import annotations

import ctypes
import logging
import sys
from contextlib import suppress

__all__ = ["no_core_dumps"]

_log = logging.getLogger("headrace.gateway")

_PR_SET_DUMPABLE = 4
"""`linux/prctl.h`."""


def no_core_dumps() -> None:
    """For this process and those that it forks: core files of no size, and on Linux a process that is not dumpable, which neither a
    collector of cores nor a debugger of the same user can read (core(5), prctl(2)). What cannot be had is told and not fatal."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError) as error:
        _log.warning("core dumps cannot be switched off: %s", error)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without it
            if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
                _log.warning("this process stays dumpable: prctl failed")
