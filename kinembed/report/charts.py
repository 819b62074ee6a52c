"""The figures of an evaluation, as SVG: `roc.svg`, `det.svg`, `scores.svg`, `reliability.svg`.

Plain SVG: importing matplotlib takes longer than an evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from kinembed.evaluation.curves import curves, thinned
from kinembed.evaluation.metrics import Flags, Numbers, RankedScores, equal_error_rate
from kinembed.io import write_bytes
from kinembed.printable import in_xml

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
    ticks = _ticks(0, 0.2, 0.4, 0.6, 0.8, 1)
    chart = Chart(f"ROC: area {auc:.3f}", "false accept rate", "true accept rate", ticks, ticks)
    chart.line([0, 1], [0, 1], GREY, dashed=True)
    chart.line(*_thinned(far, tar), KIN)
    return chart


def _det(far: Numbers, tar: Numbers, eer: float) -> "Chart":
    """On normal deviate scales, on which normally distributed scores make a straight line.

    Martin et al., "The DET curve in assessment of detection task performance", 1997.
    """
    deviate = NormalDist().inv_cdf
    rates = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
    ticks = [(deviate(rate), f"{rate:.1%}" if rate < 0.01 else f"{rate:.0%}") for rate in rates]
    chart = Chart(
        f"DET: equal error rate {eer:.3f}", "false accept rate", "false reject rate", ticks, ticks
    )
    chart.line([ticks[0][0], ticks[-1][0]], [ticks[0][0], ticks[-1][0]], GREY, dashed=True)
    x, y = _thinned(far, 1 - tar)
    inside = [(a, b) for a, b in zip(x, y, strict=True) if 1e-3 <= a <= 0.95 and 1e-3 <= b <= 0.95]
    chart.line([deviate(a) for a, _ in inside], [deviate(b) for _, b in inside], KIN)
    return chart


def _scores(labels: Flags, logits: Numbers, threshold: float | None) -> "Chart":
    found = curves(labels, logits)["scores"]
    edges = np.array(found["edges"])
    low, high = float(edges[0]), float(edges[-1])
    counts = {
        side: np.array(found[name]) / max(1, sum(found[name]))
        for side, name in ((False, "non_kin"), (True, "kin"))
    }
    top = max(float(count.max()) for count in counts.values())
    chart = Chart("Scores", "score (logit)", "fraction of pairs", _round(low, high), _round(0, top))
    for side, colour, name in ((False, OTHERS, "non-kin"), (True, KIN, "kin")):
        x, y = np.repeat(edges, 2), np.concatenate([[0], np.repeat(counts[side], 2), [0]])
        chart.line(x.tolist(), y.tolist(), colour, filled=True, name=name)
    if threshold is not None and low <= threshold <= high:
        chart.line([threshold] * 2, [0, chart.top], "#1c2733", dashed=True, name="threshold")
    return chart


def _reliability(decision: dict[str, Any]) -> "Chart":
    ticks = _ticks(0, 0.2, 0.4, 0.6, 0.8, 1)
    chart = Chart(
        f"Reliability: calibration error {decision['ece']:.3f}",
        "predicted probability", "fraction of kin pairs", ticks, ticks,
    )  # fmt: skip
    chart.line([0, 1], [0, 1], GREY, dashed=True)
    keys = ("pairs", "predicted", "observed")
    pairs, predicted, observed = (np.array(decision["reliability"][key]) for key in keys)
    full = pairs > 0  # (bins,)
    x, y, count = predicted[full] / pairs[full], observed[full] / pairs[full], pairs[full]
    chart.line(x.tolist(), y.tolist(), KIN)
    for a, b, number in zip(x, y, count, strict=True):
        chart.dot(float(a), float(b), 3 + 7 * float(number / count.max()) ** 0.5)
    return chart


@dataclass
class Chart:
    """A square plot with axes, grid and a legend.

    Attributes:
        title: the title.
        x_name: label of the x axis.
        y_name: label of the y axis.
        x_ticks: values and labels, in increasing order; the first and last bound the axis.
        y_ticks: the same for the y axis.
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
        """A line through points, optionally filled down to the axis."""
        points = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, y, strict=True))
        style = f'stroke="{colour}"' + (' stroke-dasharray="5 4"' if dashed else "")
        fill = f' style="fill:{colour};fill-opacity:.25"' if filled else ""
        self._marks.append(f'<polyline class="line" {style}{fill} points="{points}"/>')
        if name is not None:
            self._legend.append((name, colour))

    def dot(self, x: float, y: float, radius: float, colour: str = KIN) -> None:
        """A dot."""
        self._marks.append(
            f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:.1f}" '
            f'fill="{colour}" fill-opacity=".8"/>'
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
            f'transform="rotate(-90 18 {middle})">{in_xml(self.y_name)}</text>'
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
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{in_xml(text)}</text>'
    )


def _ticks(*values: float) -> list[Tick]:
    return [(value, f"{value:g}") for value in values]


def _round(low: float, high: float) -> list[Tick]:
    """About five round values that enclose an interval."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [(k * step, f"{k * step:.6g}") for k in range(first, last + 1)]


def _thinned(x: Numbers, y: Numbers) -> tuple[list[float], list[float]]:
    """At most 1,000 points of a curve."""
    kept = thinned(x, y, 1000)
    return x[kept].tolist(), y[kept].tolist()
