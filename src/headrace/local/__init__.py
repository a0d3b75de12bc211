"""The embedded model: pinned weights, a child process that serves them, and its keeper."""

from __future__ import annotations

from headrace.local.process import LocalModel
from headrace.local.weights import DEFAULT, MODELS, PullProgress, Weights, find, lookup, pull

__all__ = ["DEFAULT", "MODELS", "LocalModel", "PullProgress", "Weights", "find", "lookup", "pull"]
