"""Charts of a run as Vega-Lite specifications: plain JSON, drawn by Vega in the page.

https://vega.github.io/vega-lite/docs/. Colours and fonts are the page's: see `run_page.js`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from kinembed.errors import KinembedError

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

HEIGHT = 280
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


def training_curves(history: Rows) -> Spec:
    """Loss and validation AUC by epoch, a line for each member."""
    panels = []
    for key, title in (("train_loss", "training loss"), ("val_loss", "validation loss"),
                       ("val_auc", "validation AUC")):  # fmt: skip
        if any(row.get(key) is not None for row in history):
            panels.append(
                _chart(
                    {"type": "line", "point": True},
                    x=_axis("epoch", "epoch", tickMinStep=1),
                    y=_axis(key, title, zero=False),
                    detail={"field": "member", "type": "nominal"},
                    tooltip=_tooltips("member", "epoch", key),
                    height=180,
                )
            )
    return _with_data({"vconcat": panels}, history)


def roc(curves: Mapping[str, Mapping[str, Sequence[float]]], threshold: float | None) -> Spec:
    """ROC curves by name; the first is the run's, whose point at the threshold is marked."""
    rows = [
        {"run": name, "far": far, "tar": tar}
        for name, curve in curves.items()
        for far, tar in zip(curve["far"], curve["tar"], strict=True)
    ]
    chance = {
        "data": {"values": [{"far": 0, "tar": 0}, {"far": 1, "tar": 1}]},
        **_layer({"type": "line", "strokeDash": [4, 4], "color": "#8a94a0"}, x="far", y="tar"),
    }
    lines = {
        **_layer({"type": "line", "strokeWidth": 2}, x="far", y="tar"),
        "data": {"values": rows},
    }
    lines["encoding"] |= {
        "x": _axis("far", "false accept rate"),
        "y": _axis("tar", "true accept rate"),
        "color": _colour("run", curves),
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
            layers.append(
                {
                    **_layer({"type": "point", "size": 90, "filled": True}, x="far", y="tar"),
                    "data": {"values": [{"far": far, "tar": tar, "what": "threshold in use"}]},
                }
            )
            layers[-1]["encoding"]["tooltip"] = _tooltips("what", "far", "tar")
    return {"layer": layers, **_size()}


def det(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Spec:
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
        color=_colour("run", curves),
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
        "y": {**_axis("share", "share of the pairs"), "stack": None},
        "color": _colour("pairs", ("not kin", "kin")),
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
        {"predicted": predicted / pairs, "observed": observed / pairs, "pairs": pairs}
        for pairs, predicted, observed in zip(
            bins["pairs"], bins["predicted"], bins["observed"], strict=True
        )
        if pairs > 0
    ]
    ideal = {
        "data": {"values": [{"predicted": 0, "observed": 0}, {"predicted": 1, "observed": 1}]},
        **_layer({"type": "line", "strokeDash": [4, 4], "color": "#8a94a0"}, x="predicted",
                 y="observed"),
    }  # fmt: skip
    found = {
        **_layer({"type": "line", "point": {"size": 60}}, x="predicted", y="observed"),
        "data": {"values": rows},
    }
    scale = {"scale": {"domain": [0, 1]}}
    found["encoding"] |= {
        "x": {**_axis("predicted", "predicted probability"), **scale},
        "y": {**_axis("observed", "share that is kin"), **scale},
        "tooltip": _tooltips("predicted", "observed", "pairs"),
    }
    return {"layer": [ideal, found], **_size()}


def scores_beside(rows: Rows) -> Spec:
    """AUCs with intervals beside each other; `group` tells the run from the report's trainings."""
    y = {"field": "name", "type": "nominal", "sort": None, "title": None,
         "axis": {"labelLimit": 220}}  # fmt: skip
    x = {"type": "quantitative", "title": "ROC AUC", "scale": {"zero": False}}
    colour = {"field": "group", "type": "nominal", "title": None,
              "legend": {"orient": "bottom", "columns": 1}}  # fmt: skip
    points = {
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {"y": y, "x": {"field": "auc", **x}, "color": colour,
                     "tooltip": _tooltips("name", "group", "auc", "low", "high")},
    }  # fmt: skip
    bars = {
        "mark": {"type": "rule", "size": 2},
        "encoding": {"y": y, "x": {"field": "low", **x}, "x2": {"field": "high"}, "color": colour},
        "transform": [{"filter": "isValid(datum.low)"}],
    }
    chart = {"layer": [bars, points], "width": "container", "height": {"step": 22}}
    return _with_data(chart, rows)


def counts(rows: Rows, x: str, y: str) -> Spec:
    """Bars of counts."""
    bars = _chart({"type": "bar"}, x={**_axis(x, f"{x} a person"), "bin": {"maxbins": 30}},
                  y={"field": y, "type": "quantitative", "aggregate": "sum", "title": y},
                  height=160)  # fmt: skip
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


def _colour(field: str, order: Any) -> Spec:
    legend = {"title": None, "orient": "bottom", "columns": 1, "labelLimit": 260}
    return {"field": field, "type": "nominal", "scale": {"domain": [*order]}, "legend": legend}


def _tooltips(*fields: str) -> list[Spec]:
    texts = {"run", "what", "pairs_of", "name", "group", "member"}
    return [
        {"field": field}
        | ({} if field in texts else {"format": ".4~g"})
        | ({"type": "nominal"} if field in texts else {"type": "quantitative"})
        for field in fields
    ]


def _with_data(chart: Spec, rows: Rows) -> Spec:
    return {"data": {"values": [dict(row) for row in rows]}, **chart}
