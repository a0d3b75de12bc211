"""The semantic cache: scope, exact text, canonical text, then likeness that must prove itself. See `docs/semantic-cache.md`."""
