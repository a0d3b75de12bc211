"""Headrace: the layer between an application and the LLM APIs."""

from __future__ import annotations

__version__ = "0.1.0"
