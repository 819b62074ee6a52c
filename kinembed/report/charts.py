"""The figures of an evaluation, as SVG: `roc.svg`, `det.svg`, `scores.svg`, `reliability.svg`.

Written by hand: matplotlib takes longer to import than an evaluation takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from kinembed.evaluation.metrics import Flags, Numbers, RankedScores, equal_error_rate
from kinembed.io import write_bytes

SIDE = 360  # of the plot, pixels
LEFT, TOP, RIGHT, BOTTOM = 70, 44, 24, 58
KIN, OTHERS, GREY = "#cb8a32", "#4580c2", "#93a1ae"

STYLE = """
  text { font-family: "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif;
         font-size: 13px; fill: #1c2733 }
  .title { font-size: 16px; font-weight: 600 }
  .frame { fill: none; stroke: #5d6b78; stroke-width: 1 }
  .grid { stroke: #e3e8ed; stroke-width: 1 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
"""

Tick = tuple[float, str]


def draw_evaluation(
    labels: Flags, logits: Numbers, decision: dict[str, Any] | None, folder: Path
) -> list[Path]:
    """Draws ROC and DET curves and the scores' histogram; with a decision, its reliability.

    Args:
        labels: (N,) True for kin.
        logits: (N,) scores.
        decision: of an evaluation: its `threshold`, and the bins of `reliability`.
        folder: where the SVGs go.
    """
    ranked = RankedScores(labels, logits)
    curve = ranked.curve()
    threshold = None if decision is None else decision["threshold"]
    charts = {
        "roc.svg": _roc(curve.far, curve.tar, ranked.auc()),
        "det.svg": _det(curve.far, curve.tar, equal_error_rate(curve)),
        "scores.svg": _scores(labels, logits, threshold),
    }
    if decision is not None:
        charts["reliability.svg"] = _reliability(decision)
    return [write_bytes(folder / name, chart.svg().encode()) for name, chart in charts.items()]


def _roc(far: Numbers, tar: Numbers, auc: float) -> "Chart":
    ticks = _shares(0, 0.2, 0.4, 0.6, 0.8, 1)
    chart = Chart(f"ROC: area {auc:.3f}", "false accept rate", "true accept rate", ticks, ticks)
    chart.line([0, 1], [0, 1], GREY, dashed=True)
    chart.line(*_thinned(far, tar), KIN)
    return chart


def _det(far: Numbers, tar: Numbers, eer: float) -> "Chart":
    """On the scales of the normal deviate, where normal scores make a straight line.

    Martin et al., "The DET curve in assessment of detection task performance", 1997.
    """
    deviate = NormalDist().inv_cdf
    shares = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
    ticks = [
        (deviate(share), f"{share:.1%}" if share < 0.01 else f"{share:.0%}") for share in shares
    ]
    chart = Chart(
        f"DET: equal error rate {eer:.3f}", "false accept rate", "false reject rate", ticks, ticks
    )
    chart.line([ticks[0][0], ticks[-1][0]], [ticks[0][0], ticks[-1][0]], GREY, dashed=True)
    x, y = _thinned(far, 1 - tar)
    shown = [(a, b) for a, b in zip(x, y, strict=True) if 0.001 <= a <= 0.95 and 0.001 <= b <= 0.95]
    chart.line([deviate(a) for a, _ in shown], [deviate(b) for _, b in shown], KIN)
    return chart


def _scores(labels: Flags, logits: Numbers, threshold: float | None) -> "Chart":
    low, high = np.quantile(logits, [0.001, 0.999]).tolist()
    if not high > low:
        low, high = low - 1, high + 1
    edges = np.linspace(low, high, 41)
    counts = {
        side: np.histogram(logits[labels == side].clip(low, high), edges)[0]
        / max(1, (labels == side).sum())
        for side in (False, True)
    }
    top = max(float(count.max()) for count in counts.values())
    chart = Chart("Scores", "score (logit)", "share of pairs", _round(low, high), _round(0, top))
    for side, colour, name in ((False, OTHERS, "non-kin"), (True, KIN, "kin")):
        x, y = np.repeat(edges, 2), np.concatenate([[0], np.repeat(counts[side], 2), [0]])
        chart.line(x.tolist(), y.tolist(), colour, filled=True, name=name)
    if threshold is not None and low <= threshold <= high:
        chart.line([threshold] * 2, [0, chart.top], "#1c2733", dashed=True, name="threshold")
    return chart


def _reliability(decision: dict[str, Any]) -> "Chart":
    ticks = _shares(0, 0.2, 0.4, 0.6, 0.8, 1)
    chart = Chart(
        f"Reliability: calibration error {decision['ece']:.3f}",
        "predicted probability", "share of kin pairs", ticks, ticks,
    )  # fmt: skip
    chart.line([0, 1], [0, 1], GREY, dashed=True)
    keys = ("pairs", "predicted", "observed")
    pairs, predicted, observed = (np.array(decision["reliability"][key]) for key in keys)
    there = pairs > 0
    x, y, count = predicted[there] / pairs[there], observed[there] / pairs[there], pairs[there]
    chart.line(x.tolist(), y.tolist(), KIN)
    for at, level, number in zip(x, y, count, strict=True):
        chart.dot(float(at), float(level), 3 + 7 * float(number / count.max()) ** 0.5)
    return chart


@dataclass
class Chart:
    """A square plot with axes, grid and a legend.

    Attributes:
        title: above it.
        x_name: below it.
        y_name: beside it.
        x_ticks: values and what they are called, rising; the first and the last bound the axis.
        y_ticks: the same of the other axis.
    """

    title: str
    x_name: str
    y_name: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    _marks: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str]] = field(default_factory=list)

    @property
    def top(self) -> float:
        """The upper end of the vertical axis."""
        return self.y_ticks[-1][0]

    def line(
        self,
        x: Sequence[float],
        y: Sequence[float],
        colour: str,
        *,
        dashed: bool = False,
        filled: bool = False,
        name: str | None = None,
    ) -> None:
        """A line through points, filled down to the axis if wanted."""
        points = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, y, strict=True))
        style = f'stroke="{colour}"' + (' stroke-dasharray="5 4"' if dashed else "")
        fill = f' style="fill:{colour};fill-opacity:.25"' if filled else ""
        self._marks.append(f'<polyline class="line" {style}{fill} points="{points}"/>')
        if name is not None:
            self._legend.append((name, colour))

    def dot(self, x: float, y: float, radius: float) -> None:
        """A dot."""
        self._marks.append(
            f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:.1f}" '
            f'fill="{KIN}" fill-opacity=".8"/>'
        )

    def svg(self) -> str:
        """The drawing."""
        width, height = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            _text(LEFT + SIDE / 2, 28, self.title, "middle", "title"),
        ]
        for value, name in self.x_ticks:
            x = self._x(value)
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{TOP + SIDE}"/>')
            parts.append(_text(x, TOP + SIDE + 20, name, "middle"))
        for value, name in self.y_ticks:
            y = self._y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + SIDE}"/>')
            parts.append(_text(LEFT - 8, y + 4, name, "end"))
        parts += self._marks
        parts.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>')
        parts.append(_text(LEFT + SIDE / 2, TOP + SIDE + 44, self.x_name, "middle"))
        middle = TOP + SIDE / 2
        parts.append(
            f'<text x="18" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 18 {middle})">{escape(self.y_name)}</text>'
        )
        for row, (name, colour) in enumerate(self._legend):
            y = TOP + 20 + 20 * row
            x = LEFT + SIDE - 100
            parts.append(f'<path stroke="{colour}" stroke-width="4" d="M{x} {y - 4}h18"/>')
            parts.append(_text(x + 26, y, name, "start"))
        return "\n".join([*parts, "</svg>", ""])

    def _x(self, value: float) -> float:
        low, high = self.x_ticks[0][0], self.x_ticks[-1][0]
        return LEFT + SIDE * (value - low) / (high - low)

    def _y(self, value: float) -> float:
        low, high = self.y_ticks[0][0], self.y_ticks[-1][0]
        return TOP + SIDE * (1 - (value - low) / (high - low))


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _shares(*values: float) -> list[Tick]:
    return [(value, f"{value:g}") for value in values]


def _round(low: float, high: float) -> list[Tick]:
    """About five round values that hold an interval."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [(at * step, f"{at * step:.6g}") for at in range(first, last + 1)]


def _thinned(x: Numbers, y: Numbers, most: int = 1000) -> tuple[list[float], list[float]]:
    """A curve of at most so many points, in equal steps along both axes."""
    if len(x) > most:
        along = np.cumsum(np.append(0, np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most)))
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()
