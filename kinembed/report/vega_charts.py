"""Charts of a run as Vega-Lite specifications: plain JSON, drawn by Vega in the page.

https://vega.github.io/vega-lite/docs/. Colours are variables of the page's style, so that they are
right in light, in dark and on paper without another drawing; fonts are those of `run_page.js`. What
colours tell, shapes or dashes tell as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from kinembed.errors import KinembedError

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
Curves = Mapping[str, Mapping[str, Sequence[float]]]

HEIGHT = 300
IDEAL = {"type": "line", "strokeDash": [4, 4], "color": "var(--soft)"}
TITLES = {
    "far": "false accept rate", "tar": "true accept rate", "frr": "false reject rate",
    "predicted": "predicted probability", "observed": "share that is kin", "count": "pairs",
}  # fmt: skip
PAIRS = {"domain": ["not kin", "kin"], "range": ["var(--not-kin)", "var(--kin)"]}
LICENCE = "Vega, Vega-Lite and Vega-Embed, BSD 3-Clause, University of Washington"


def vega_script() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed, which defines `vegaEmbed`.

    Raises:
        KinembedError: vl-convert-python is missing.
    """
    try:
        import vl_convert
    except ModuleNotFoundError:
        raise KinembedError(
            "report needs vl-convert-python; run pip install 'kinembed[report]'"
        ) from None
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")  # which would end the page's element


def training_curve(rows: Rows, title: str) -> Spec:
    """A figure by epoch: a line for each member, in training and validation.

    Args:
        rows: `epoch`, `member`, `of` (training or validation) and `value`.
        title: of the figure.
    """
    order = list(dict.fromkeys(row["of"] for row in rows))
    chart = _chart(
        {"type": "line", "point": True},
        x=_axis("epoch", "epoch", zero=False, tickMinStep=1, format="d"),
        y=_axis("value", title, zero=False),
        detail={"field": "member", "type": "nominal"},
        **_told_apart("of", order),
        tooltip=_tooltips("of", "member", "epoch", "value"),
        height=200,
    )
    return _with_data(chart, rows)


def roc(curves: Curves, threshold: float | None) -> Spec:
    """ROC curves by name; the first is the run's, whose point at the threshold is marked."""
    rows = [
        {"run": name, "far": far, "tar": tar}
        for name, curve in curves.items()
        for far, tar in zip(curve["far"], curve["tar"], strict=True)
    ]
    chance = {
        "data": {"values": [{"far": 0, "tar": 0}, {"far": 1, "tar": 1}]},
        **_layer(IDEAL, x="far", y="tar"),
    }
    lines = {
        **_layer({"type": "line", "strokeWidth": 2}, x="far", y="tar"),
        "data": {"values": rows},
    }
    lines["encoding"] |= {
        "x": _percent("far", "false accept rate"),
        "y": _percent("tar", "true accept rate"),
        **_told_apart("run", list(curves)),
        "order": {"field": "far"},
        "tooltip": _tooltips("run", "far", "tar"),
    }
    layers = [chance, lines]
    first = next(iter(curves.values()))
    if threshold is not None:
        accepted = [
            (far, tar)
            for far, tar, at in zip(first["far"], first["tar"], first["threshold"], strict=True)
            if at is not None and at >= threshold
        ]
        if accepted:
            far, tar = accepted[-1]
            mark = {"type": "point", "size": 110, "filled": True, "opacity": 1}
            layers.append(
                {
                    **_layer(mark, x="far", y="tar"),
                    "data": {"values": [{"far": far, "tar": tar, "what": "threshold in use"}]},
                }
            )
            layers[-1]["encoding"]["tooltip"] = _tooltips("what", "far", "tar")
    return {"layer": layers, **_size()}


def det(curves: Curves) -> Spec:
    """DET curves: both error rates on normal deviate scales.

    Martin et al., "The DET curve in assessment of detection task performance", 1997.
    """
    deviate = NormalDist().inv_cdf
    rows = [
        {"run": name, "far": far, "frr": 1 - tar, "x": deviate(far), "y": deviate(1 - tar)}
        for name, curve in curves.items()
        for far, tar in zip(curve["far"], curve["tar"], strict=True)
        if 5e-4 <= far <= 0.95 and 5e-4 <= 1 - tar <= 0.95
    ]
    rates = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
    ticks = [round(deviate(rate), 4) for rate in rates]
    names = {str(t): f"{100 * rate:g} %" for t, rate in zip(ticks, rates, strict=True)}
    label = "datum.value < -3 ? '0.1 %' : " + " : ".join(
        f"abs(datum.value - {t}) < 0.01 ? '{name}'" for t, name in names.items()
    ) + " : ''"  # fmt: skip
    axis = {"values": ticks, "labelExpr": label}
    domain = {"domain": [ticks[0], ticks[-1]], "clamp": True}
    chart = _chart(
        {"type": "line", "strokeWidth": 2, "clip": True},
        x={**_axis("x", "false accept rate"), "axis": axis, "scale": domain},
        y={**_axis("y", "false reject rate"), "axis": axis, "scale": domain},
        **_told_apart("run", list(curves)),
        order={"field": "far"},
        tooltip=_tooltips("run", "far", "frr"),
    )
    return _with_data(chart, rows)


def histogram(scores: Mapping[str, Sequence[float]], threshold: float | None) -> Spec:
    """How many pairs have each score, kin and others, as shares of each."""
    edges = scores["edges"]
    rows = [
        {"pairs": name, "from": low, "to": high, "share": count / max(1, sum(scores[key]))}
        for key, name in (("non_kin", "not kin"), ("kin", "kin"))
        for low, high, count in zip(edges[:-1], edges[1:], scores[key], strict=True)
    ]
    bars = {
        **_layer({"type": "bar", "opacity": 0.55, "binSpacing": 0}, x="from", y="share"),
        "data": {"values": rows},
    }
    bars["encoding"] |= {
        "x": {**_axis("from", "score (logit)"), "bin": "binned"},
        "x2": {"field": "to"},
        "y": {**_percent("share", "share of the pairs"), "stack": None},
        "color": {"field": "pairs", "type": "nominal", "scale": PAIRS, "legend": _legend()},
        "tooltip": _tooltips("pairs", "from", "to", "share"),
    }
    layers = [bars]
    if threshold is not None:
        rule = _layer({"type": "rule", "strokeDash": [5, 3], "size": 2}, x="threshold", y=None)
        layers.append({**rule, "data": {"values": [{"threshold": threshold}]}})
    return {"layer": layers, **_size()}


def reliability(bins: Mapping[str, Sequence[float]]) -> Spec:
    """The share of kin among pairs of a probability, beside that probability."""
    rows = [
        {"predicted": predicted / pairs, "observed": observed / pairs, "count": pairs}
        for pairs, predicted, observed in zip(
            bins["pairs"], bins["predicted"], bins["observed"], strict=True
        )
        if pairs > 0
    ]
    ideal = {
        "data": {"values": [{"predicted": 0, "observed": 0}, {"predicted": 1, "observed": 1}]},
        **_layer(IDEAL, x="predicted", y="observed"),
    }
    found = {
        **_layer({"type": "line", "point": {"size": 60}}, x="predicted", y="observed"),
        "data": {"values": rows},
    }
    scale = {"scale": {"domain": [0, 1]}}
    found["encoding"] |= {
        "x": {**_percent("predicted", "predicted probability"), **scale},
        "y": {**_percent("observed", "share that is kin"), **scale},
        "tooltip": _tooltips("predicted", "observed", "count"),
    }
    return {"layer": [ideal, found], **_size()}


def scores_beside(rows: Rows) -> Spec:
    """AUCs beside each other: `name`, `group`, `auc`, and `low` and `high` of an interval."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    y = {"field": "name", "type": "nominal", "sort": None, "title": None,
         "axis": {"labelLimit": 170}}  # fmt: skip
    x = {"type": "quantitative", "title": "ROC AUC", "scale": {"zero": False},
         "axis": {"format": ".2f", "tickCount": 5}}  # fmt: skip
    colour = {"field": "group", "type": "nominal", "scale": {"domain": groups},
              "legend": _legend() if len(groups) > 1 else None}  # fmt: skip
    points = {
        "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
        "encoding": {"y": y, "x": {"field": "auc", **x}, "color": colour, "shape": colour,
                     "tooltip": _tooltips("name", "group", "auc", "low", "high")},
    }  # fmt: skip
    bars = {
        "mark": {"type": "rule", "size": 2},
        "encoding": {"y": y, "x": {"field": "low", **x}, "x2": {"field": "high"}, "color": colour},
        "transform": [{"filter": "isValid(datum.low)"}],
    }
    height = 24 * len({row["name"] for row in rows})
    return _with_data({"layer": [bars, points], **_size(height)}, rows)


def counts(rows: Rows, x: str, y: str, title: str) -> Spec:
    """Bars of counts: a row for each, in order.

    Args:
        rows: two texts or numbers each.
        x: the field of the bar's name.
        y: that of its count.
        title: of the bars' names.
    """
    bars = _chart(
        {"type": "bar"},
        x={"field": x, "type": "ordinal", "sort": None, "title": title, "axis": {"labelAngle": 0}},
        y=_axis(y, y),
        tooltip=[{"field": x, "type": "nominal"}, {"field": y, "type": "quantitative"}],
        height=180,
    )
    return _with_data(bars, rows)


def _layer(mark: Mapping[str, Any], x: str, y: str | None) -> Spec:
    encoding: Spec = {"x": {"field": x, "type": "quantitative"}}
    if y is not None:
        encoding["y"] = {"field": y, "type": "quantitative"}
    return {"mark": dict(mark), "encoding": encoding}


def _chart(mark: Mapping[str, Any], *, height: int = HEIGHT, **encoding: Any) -> Spec:
    return {"mark": dict(mark), "encoding": encoding, **_size(height)}


def _size(height: int = HEIGHT) -> Spec:
    return {"width": "container", "height": height}


def _axis(field: str, title: str, *, zero: bool = True, **axis: Any) -> Spec:
    found: Spec = {"field": field, "type": "quantitative", "title": title,
                   "scale": {"zero": zero, "nice": True}}  # fmt: skip
    return found | ({"axis": axis} if axis else {})


def _percent(field: str, title: str) -> Spec:
    return _axis(field, title, format="~%", tickCount=6)


def _told_apart(field: str, names: Sequence[str]) -> Spec:
    """Lines of several names differ in colour and dashes; one needs neither, nor a legend."""
    if len(names) < 2:
        return {"color": {"datum": names[0] if names else "", "scale": {"domain": [*names]},
                          "legend": None}}  # fmt: skip
    told = {"field": field, "type": "nominal", "scale": {"domain": [*names]}, "legend": _legend()}
    return {"color": told, "strokeDash": told}


def _legend() -> Spec:
    return {"title": None, "orient": "bottom", "columns": 1, "labelLimit": 0}


def _tooltips(*fields: str) -> list[Spec]:
    texts = {"run", "what", "pairs", "name", "group", "member", "of"}
    return [
        {"field": field, "title": TITLES.get(field, field)}
        | ({"type": "nominal"} if field in texts else {"type": "quantitative", "format": ".4~g"})
        for field in fields
    ]


def _with_data(chart: Spec, rows: Rows) -> Spec:
    return {"data": {"values": [dict(row) for row in rows]}, **chart}
