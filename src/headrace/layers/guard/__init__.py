"""Keeps what must not leave from leaving, and puts it back in the answer. See docs/guards.md."""

from __future__ import annotations

from headrace.layers.guard.layer import Guard, ModelJudge

__all__ = ["Guard", "ModelJudge"]
