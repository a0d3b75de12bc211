"""Prompts as values: a system text and examples, or a file with front matter and templates; each with a version of its own."""

from __future__ import annotations

from headrace.prompts.file import FilePrompt, prompt
from headrace.prompts.prompt import Filled, Prompt

__all__ = ["FilePrompt", "Filled", "Prompt", "prompt"]
