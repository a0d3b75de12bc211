"""Quality against cost, as an SVG that needs nothing to be shown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from headrace.evaluate.run import Score

__all__ = ["svg"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 60, 50, 20, 150


def svg(scores: Sequence[Score]) -> str:
    """Cost of all cases to the right (where a price is unknown: at the far right, marked), the share that passed upward with its interval."""
    priced = [score.cost / 1e9 for score in scores if score.cost is not None]
    most = max(priced, default=0.0) or 1.0

    def x(score: Score) -> float:
        share = 1.05 if score.cost is None else score.cost / 1e9 / most
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT} {TOP} V{HEIGHT - BOTTOM} H{WIDTH - RIGHT}" fill="none" stroke="#444"/>',
    ]
    for step in range(5):
        share = step / 4
        drawn.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
        at = LEFT + share * (WIDTH - LEFT - RIGHT)
        drawn.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">${share * most:.3g}</text>'
        )
    drawn.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">cost of all cases</text>'
    )
    for score in scores:
        low, high = score.interval
        at = x(score)
        drawn.append(
            f'<path d="M{at:.1f} {y(low):.1f} V{y(high):.1f}" stroke="#88a" stroke-width="2"/>'
            f'<circle cx="{at:.1f}" cy="{y(score.share):.1f}" r="5" fill="#2255aa"/>'
        )
        name = score.route + (" (no price)" if score.cost is None else "")
        drawn.append(f'<text x="{at + 9:.1f}" y="{y(score.share) + 4:.1f}">{escape(name)}</text>')
    return "\n".join([*drawn, "</svg>", ""])
