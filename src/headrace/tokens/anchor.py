"""A provider's own count of a request as the anchor of the next: only what has been added since is estimated."""

from __future__ import annotations

from msgspec import Struct

from headrace.tokens.estimate import Estimate

__all__ = ["Anchor"]


class Anchor(Struct, frozen=True):
    """A request that the provider counted as `reported` input tokens, and we as `likely`."""

    reported: int
    likely: int

    def __call__(self, suffix: Estimate) -> Estimate:
        """The tokens of that request with `suffix` after it.

        The likely count of the suffix is corrected by what the conversation itself has taught, reported / likely; neither figure is
        claimed to be above what the estimate's own bound allows.
        """
        ratio = self.reported / self.likely if self.likely > 0 else 1.0
        added = min(suffix.bound, round(suffix.likely * ratio))
        return Estimate(self.reported + added, self.reported + suffix.bound)
