"""`report.html`: the story of a run in one file, from its data to its doubts."""

from __future__ import annotations

import base64
import io
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinembed import __version__
from kinembed.backbones import Framing
from kinembed.cache.provenance import frames
from kinembed.errors import DataError
from kinembed.printable import counted, in_xml
from kinembed.recipes import REPORTED
from kinembed.report import vega_charts
from kinembed.report.evaluation import RETRIEVAL
from kinembed.report.html_page import html_page, page_file
from kinembed.report.run_facts import RunFacts

Curves = Mapping[str, Mapping[str, Sequence[float]]]

SIDE, QUALITY = 96, 75  # of a face, pixels; of its JPEG
FAMILIES, FACES = 4, 8  # example families, and faces of each
HEADS, FINDINGS = 12, 12  # rows shown
KIND_OF_PAIR = {True: "kin", False: "not kin"}


def run_page(facts: RunFacts, against: Mapping[str, Mapping[str, Any]], *, photos: bool) -> str:
    """The page as HTML.

    Args:
        facts: what the run folder tells.
        against: evaluations of other runs, by name.
        photos: faces may be in it.
    """
    page = _Page(facts, against, photos)
    sections = [
        *("summary", "data", "training", "heads", "figures", "threshold"),
        *("relations", "pairs", "doubts", "provenance", "commands"),
    ]
    parts = [getattr(page, f"_{name}")() for name in sections]
    title = f"Report of {facts.run.name or facts.run}"
    links = "".join(
        f'<li><a href="#{name}">{in_xml(heading)}</a></li>' for name, heading in page.headings
    )
    body = (
        f'<header><h1>{in_xml(title)}</h1>\n{page.lead()}<nav aria-label="Sections"><ol>{links}'
        f"</ol></nav></header>\n<main>\n{chr(10).join(parts)}\n</main>"
    )
    data = {"charts": page.charts, "threshold": page.slider}
    scripts = [vega_charts.vega_script(), page_file("run_page.js")]
    return html_page(title, body, page_file("run_page.css"), scripts, data)


class _Page:
    """The sections of the page; collects charts and headings as they are made."""

    def __init__(
        self, facts: RunFacts, against: Mapping[str, Mapping[str, Any]], photos: bool
    ) -> None:
        self.facts, self.against, self.photos = facts, against, photos
        self.charts: dict[str, vega_charts.Spec] = {}
        self.headings: list[tuple[str, str]] = []
        self.slider: dict[str, Any] | None = None

    def lead(self) -> str:
        """What the run is, in a sentence, before the sections."""
        evaluation = self.facts.evaluation
        notice = (
            '<p class="notice"><strong>A likeness is no proof.</strong> These figures hold for '
            "photos like those that they were measured on. No answer of this model decides about "
            "anybody's rights, identity or whereabouts.</p>"
        )
        if evaluation is None:
            return f"<p>This run has no figures yet.</p>{notice}"
        interval = _interval(evaluation.get("auc_by_families"))
        return (
            f"<p>On pairs of people whom the head did not train on, a kin pair scores above an "
            f"unrelated one in <strong>{100 * evaluation['auc']:.1f} of 100 draws</strong> (ROC "
            f"AUC {evaluation['auc']:.4f}{interval}).</p>{notice}"
        )

    # Sections

    def _summary(self) -> str:
        rows = []
        for name, title in (
            ("cache", "embeddings"), ("relations", "relations"), ("head", "head"),
            ("calibration", "calibration"), ("evaluation", "figures"), ("audit", "audit"),
        ):  # fmt: skip
            problem = self.facts.missing.get(name)
            state = "here" if problem is None else f"missing: {in_xml(problem)}"
            rows.append([title, state])
        return self._section("summary", "What is here", _table(["part", "state"], rows))

    def _data(self) -> str:
        facts = self.facts
        if facts.provenance is None:
            return self._missing("data", "Data and split", "cache")
        known = [person for person in facts.people if person]
        rows = [
            ["photos", f"{len(facts.names):,}"],
            ["photos of people who are known", f"{len(known):,}"],
            ["people", f"{len(set(known)):,}"],
        ]
        if facts.families is not None:
            families = facts.families
            rows += [
                ["families", f"{len(set(families.family_names())):,}"],
                ["relations listed", f"{families.listed:,}"],
                ["relations in use", f"{len(families.relations):,}"],
            ]
            if families.unusable:
                rows.append(["relations left out", in_xml(str(families.unusable))])
        else:
            rows.append(["relations", in_xml(facts.missing.get("relations", "none"))])
        if facts.head is not None:
            held_out = facts.head.held_out_people()
            how = f"in {len(facts.head.folds)} folds" if facts.head.folds else "from all members"
            rows += [
                ["people who trained the head", f"{len(facts.head.trained):,}"],
                ["people held out", f"{len(held_out):,} {how}"],
            ]
        strip = (
            self._family_strip()
            if self.photos
            else ("<p>Faces are personal data: <code>--photos</code> shows some of them.</p>")
        )
        counts = Counter(Counter(known).values())
        chart = ""
        if counts:
            most = max(counts)
            rows_of = [
                {"photos": size, "people": counts.get(size, 0)} for size in range(1, most + 1)
            ]
            chart = self._chart(
                "photos-a-person", vega_charts.counts(rows_of, "photos", "people"),
                f"Photos a person: {len(set(known)):,} people have between {min(counts)} and "
                f"{most}; {counts.get(1, 0):,} have one.",
            )  # fmt: skip
        return self._section(
            "data", "Data and split", _table(["what", "how many"], rows) + chart + strip
        )

    def _training(self) -> str:
        history = self.facts.history
        if not history:
            return self._missing("training", "Training", "training")
        last = history[-1]
        said = ", ".join(
            f"{key.replace('_', ' ')} {last[key]:.4g}"
            for key in ("train_loss", "val_loss", "val_auc")
            if key in last
        )
        members = len({row["member"] for row in history})
        chart = self._chart(
            "curves", vega_charts.training_curves(history),
            f"{counted(len(history), 'epoch')} of {counted(members, 'member')}; the last: {said}.",
        )  # fmt: skip
        return self._section("training", "Training", chart)

    def _heads(self) -> str:
        heads = self.facts.heads
        if not heads:
            return self._missing("heads", "Heads trained here", "heads")
        best = sorted(heads, key=lambda row: -float(row["auc"] or 0))[:HEADS]
        rows = [
            [
                in_xml(row["recipe"]), in_xml(row["settings"] or "as it is"), in_xml(row["view"]),
                f"{in_xml(row['auc'])} ({in_xml(row['low'])} to {in_xml(row['high'])})",
                f"<code>{in_xml(row['head'])}</code>",
            ]
            for row in best
        ]  # fmt: skip
        more = f"<p>The best {HEADS} of {len(heads):,}.</p>" if len(heads) > HEADS else ""
        columns = ["recipe", "settings", "view", "AUC (95 %)", "head"]
        return self._section("heads", "Heads trained here", more + _table(columns, rows))

    def _figures(self) -> str:
        evaluation = self.facts.evaluation
        if evaluation is None:
            return self._missing("figures", "Figures", "evaluation")
        rows = [
            ["pairs", f"{evaluation['pairs']:,}, {evaluation['kin']:,} of them kin"],
            ["judged on", in_xml(evaluation["source"])],
            ["ROC AUC", f"{evaluation['auc']:.4f}{_interval(evaluation.get('auc_by_families'))}"],
            ["average precision", f"{evaluation['average_precision']:.4f}"],
            ["equal error rate", f"{evaluation['eer']:.4f}"],
        ]
        for far, tar in evaluation["tar_at_far"].items():
            rows.append(
                [
                    f"true accept rate at a false accept rate of {100 * float(far):g} %",
                    f"{tar['value']:.4f}{_interval(tar['interval'])}",
                ]
            )
        decision = evaluation.get("decision")
        if decision:
            rows += [
                [f"accuracy at the threshold ({in_xml(decision['how'])})",
                 f"{decision['accuracy']:.4f}"],
                ["calibration error (ECE)", f"{decision['ece']:.4f}"],
            ]  # fmt: skip
        for key, what in RETRIEVAL.items():
            if found := (evaluation.get("retrieval") or {}).get(key):
                rows.append([what, f"{found['value']:.4f}{_interval(found['interval'])}"])
        curves = self._curves()
        threshold = decision["threshold"] if decision else None
        names = ", ".join(curves)
        charts = [
            self._chart("roc", vega_charts.roc(curves, threshold), f"ROC curves of {names}."),
            self._chart("det", vega_charts.det(curves), f"DET curves of {names}: both error "
                        "rates, on scales on which normally distributed scores make a line."),
            self._chart("scores", vega_charts.histogram(evaluation["curves"]["scores"], threshold),
                        "Scores of kin pairs lie higher than those of others, and overlap them"
                        + ("; the line is the threshold." if threshold is not None else ".")),
        ]  # fmt: skip
        if decision:
            charts.append(
                self._chart("reliability", vega_charts.reliability(decision["reliability"]),
                            "Reliability: on the dashed line, of 100 pairs with a probability of "
                            f".7, 70 are kin. The mean distance is {decision['ece']:.3f}.")
            )  # fmt: skip
        else:
            charts.append(self._absent("calibration"))
        charts.append(self._beside(evaluation))
        return self._section(
            "figures", "Figures", _table(["figure", "value"], rows) + "".join(charts)
        )

    def _beside(self, evaluation: Mapping[str, Any]) -> str:
        """The AUC beside other runs' and the report's Kaggle scores."""
        rows: list[dict[str, Any]] = []
        for name, found in {self._own_name(): evaluation, **self.against}.items():
            interval = found.get("auc_by_families") or {}
            rows.append({"name": name, "group": "held-out pairs", "auc": found["auc"],
                         "low": interval.get("low"), "high": interval.get("high")})  # fmt: skip
        for (backbone, recipe), (public, private) in REPORTED.items():
            for auc, group in ((public, "the report, Kaggle's public score"),
                               (private, "the report, Kaggle's private score")):  # fmt: skip
                rows.append({"name": f"{backbone} {recipe}", "group": group, "auc": auc})
        return self._chart(
            "beside", vega_charts.scores_beside(rows),
            "Beside the course report's trainings: its best has .745 (public) and .759 (private). "
            "Kaggle's scores are of other pairs than the held-out ones.",
        )  # fmt: skip

    def _threshold(self) -> str:
        evaluation = self.facts.evaluation
        if evaluation is None:
            return self._missing("threshold", "Choose a threshold", "evaluation")
        roc = evaluation["curves"]["roc"]
        points = [
            {"threshold": at, "far": far, "tar": tar}
            for at, far, tar in zip(roc["threshold"], roc["far"], roc["tar"], strict=True)
            if at is not None
        ]
        decision = evaluation.get("decision")
        start = 0
        if decision:
            start = sum(point["threshold"] > decision["threshold"] for point in points)
        else:
            start = max(range(len(points)), key=lambda n: points[n]["tar"] - points[n]["far"])
        start = min(start, len(points) - 1)
        kin, others = evaluation["kin"], evaluation["pairs"] - evaluation["kin"]
        self.slider = {"points": points, "start": start, "kin": kin, "others": others}
        unfit = "" if decision else self._absent("calibration")
        return self._section(
            "threshold",
            "Choose a threshold",
            f"""<p>A pair counts as kin from a score on. Move it, and see what that costs, on the
{kin:,} kin and {others:,} other pairs of this evaluation.</p>
<p><label for="slider">Threshold</label>
<input type="range" id="slider" min="0" max="{len(points) - 1}" value="{start}" step="1">
<output id="at" for="slider"></output></p>
<table class="matrix"><caption>Confusion matrix</caption>
<thead><tr><td></td><th scope="col">said to be kin</th><th scope="col">said not to be</th></tr>
</thead><tbody>
<tr><th scope="row">kin</th><td id="tp"></td><td id="fn"></td></tr>
<tr><th scope="row">not kin</th><td id="fp"></td><td id="tn"></td></tr></tbody></table>
<p id="words" role="status"></p>{unfit}""",
        )

    def _relations(self) -> str:
        evaluation = self.facts.evaluation
        if evaluation is None:
            return self._missing("relations", "By relation", "evaluation")
        found = evaluation["relations"]
        if not found:
            return self._section(
                "relations", "By relation",
                "<p>The relations of these pairs have no names (father and son, sisters), so there "
                "are no figures of each. <code>kinembed evaluate --pairs</code> takes pairs that "
                "name them, and <code>--protocol kinfacew</code> KinFaceW's.</p>",
            )  # fmt: skip
        rows = [
            [in_xml(name), f"{row['pairs']:,}", _number(row.get("auc")),
             _interval(row.get("interval")).strip(" ()") or "none", _number(row.get("accuracy"))]
            for name, row in found.items()
        ]  # fmt: skip
        columns = ["relation", "pairs", "AUC", "95 %", "accuracy"]
        return self._section("relations", "By relation", _table(columns, rows))

    def _pairs(self) -> str:
        evaluation = self.facts.evaluation
        if evaluation is None:
            return self._missing("pairs", "The surest pairs", "evaluation")
        parts = []
        for key, title in (("wrong", "Surely wrong"), ("right", "Surely right")):
            rows = [
                [
                    KIND_OF_PAIR[bool(pair["kin"])],
                    f"{pair['probability']:.3f}",
                    "".join(self._face(name) for name in pair["photos"])
                    + "<br>".join(f"<bdi>{in_xml(name)}</bdi>" for name in pair["photos"]),
                ]
                for pair in evaluation.get(key, [])
            ]
            table = _table(["in truth", "score, 0 to 1", "photos"], rows)
            parts.append(f"<details><summary>{title}: {len(rows)} pairs</summary>{table}</details>")
        intro = (
            "<p>The unrelated pairs with the highest and the kin pairs with the lowest scores, and "
            "the other way round; at most one pair of any two people.</p>"
        )
        return self._section("pairs", "The surest pairs", intro + "".join(parts))

    def _doubts(self) -> str:
        findings = self.facts.findings
        if findings is None:
            return self._missing("doubts", "What is doubtful in the data", "audit")
        kinds = Counter(row["kind"] for row in findings)
        counts = _table(["kind", "findings"], [[in_xml(k), f"{n:,}"] for k, n in kinds.items()])
        top = sorted(findings, key=lambda row: -float(row["surety"] or 0))[:FINDINGS]
        rows = [
            [in_xml(row["kind"]), in_xml(row["surety"]), in_xml(row["reason"]), in_xml(row["cure"])]
            for row in top
        ]
        table = _table(["kind", "how sure", "why", "what to do"], rows) if rows else ""
        more = f"<p>The surest {len(rows)} of {len(findings):,}; audit.csv has all.</p>"
        return self._section("doubts", "What is doubtful in the data", counts + more + table)

    def _provenance(self) -> str:
        facts = self.facts
        if facts.provenance is None:
            return self._missing("provenance", "Provenance", "cache")
        about = facts.provenance
        rows = [
            ["network", in_xml(about.get("backbone", "unknown"))],
            ["its weights", f"<code>{in_xml(about['model'])}</code>"],
            ["weights by", in_xml(about.get("command", {}).get("weights", "unknown"))],
            ["framing", in_xml("; ".join(frames(about)) or "unknown")],
            ["precision", in_xml(f"{about.get('precision')} on {about.get('device')}")],
            ["made with", in_xml(", ".join(f"{k} {v}" for k, v in about["versions"].items()))],
        ]
        if facts.head is not None:
            rows.append(["head", f"{facts.head.kind} <code>{facts.head.digest}</code>"])
        if facts.calibration is not None:
            scale = facts.calibration.alone
            people = counted(len(facts.calibration.people), "person", "people")
            rows.append(["calibration", f"{scale.map} for {scale.prior:.3g} kin, by {people}"])
        rows.append(["this page", f"kinembed {__version__}; charts by {vega_charts.LICENCE}"])
        return self._section("provenance", "Provenance", _table(["what", "which"], rows))

    def _commands(self) -> str:
        run, data = (shlex.quote(str(path)) for path in (self.facts.run, self.facts.data))
        lines = []
        if self.facts.provenance is not None:
            command = self.facts.provenance.get("command", {})
            asked = ["kinembed", "embed"]
            for key in ("backbone", "weights", "model", "onnx", "framing"):
                value = command.get(key)
                if value and value != "auto":
                    asked += [f"--{key}", str(value)]
            lines.append(f"{shlex.join(asked)} --run {run} --data {data}")
        if self.facts.record is not None and self.facts.record.stage == "head":
            record = self.facts.record
            chosen = [f"--set {shlex.quote(each)}" for each in record.settings.split(";") if each]
            recipe = f"--recipe {shlex.quote(record.recipe)}" if record.recipe else ""
            lines.append(" ".join(["kinembed head", recipe, *chosen, f"--run {run} --data {data}"]))
        for name, command in (("calibration", "calibrate"), ("evaluation", "evaluate")):
            if getattr(self.facts, name) is not None:
                lines.append(f"kinembed {command} --run {run} --data {data}")
        lines.append(f"kinembed report --run {run} --data {data}")
        listing = in_lines(lines)
        return self._section("commands", "The commands", f"<pre>{listing}</pre>")

    # Pieces

    def _curves(self) -> Curves:
        assert self.facts.evaluation is not None
        found = {self._own_name(): self.facts.evaluation["curves"]["roc"]}
        return found | {name: each["curves"]["roc"] for name, each in self.against.items()}

    def _own_name(self) -> str:
        return self.facts.run.name or str(self.facts.run)

    def _section(self, name: str, heading: str, content: str) -> str:
        self.headings.append((name, heading))
        return (
            f'<section id="{name}" aria-labelledby="{name}-title">\n'
            f'<h2 id="{name}-title">{in_xml(heading)}</h2>\n{content}\n</section>'
        )

    def _missing(self, name: str, heading: str, what: str) -> str:
        return self._section(name, heading, self._absent(what))

    def _absent(self, what: str) -> str:
        why = self.facts.missing.get(what, f"there is no {what}; run kinembed doctor")
        return f'<p class="absent">Nothing here yet: {in_xml(why)}</p>'

    def _chart(self, name: str, spec: vega_charts.Spec, text: str) -> str:
        self.charts[name] = spec
        return (
            f'<figure><div class="chart" id="chart-{name}" role="img" aria-label="{in_xml(text)}">'
            f"</div><figcaption>{in_xml(text)}</figcaption></figure>"
        )

    def _face(self, name: str) -> str:
        picture = _picture(self.facts.data / name) if self.photos else None
        if picture is None:
            return ""
        return f'<img class="face" alt="" width="{SIDE}" height="{SIDE}" src="{picture}">'

    def _family_strip(self) -> str:
        families = self.facts.families
        if families is None:
            return ""
        parts = []
        for family, faces in _example_families(families.photos, families):
            pictures = [picture for name in faces if (picture := self._face(name))]
            if pictures:
                parts.append(f"<h3>{in_xml(family)}</h3><p>{''.join(pictures)}</p>")
        return "".join(parts) or (
            f"<p>No photos of the cache lie below {in_xml(self.facts.data)}: name their folder "
            "with <code>--data</code>.</p>"
        )


def in_lines(lines: Sequence[str]) -> str:
    """Lines of text for a `pre`, each escaped."""
    return "\n".join(in_xml(line) for line in lines)


def _example_families(photos: Sequence[str], families: Any) -> Iterator[tuple[str, list[str]]]:
    """The first families of three people or more, and the first photo of each of their people."""
    found: dict[str, list[str]] = {}
    for person, start in zip(families.people, families.photo_start.tolist(), strict=False):
        found.setdefault(person.split("/")[0], []).append(photos[start])
    large = [(family, faces) for family, faces in found.items() if len(faces) > 2]
    yield from ((family, faces[:FACES]) for family, faces in large[:FAMILIES])


def _picture(path: Path) -> str | None:
    """A photo as a data URI; None where it cannot be read."""
    from PIL import Image

    from kinembed.data.photos import read_photo

    try:
        pixels = read_photo(path, Framing(SIDE, SIDE))[1]
    except DataError:
        return None
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML; the first of a row is its header."""
    head = "".join(f'<th scope="col">{in_xml(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )  # fmt: skip
    return (
        f'<div class="scrolled" tabindex="0" role="group" aria-label="Table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _interval(found: Mapping[str, float] | None) -> str:
    return "" if not found else f" ({found['low']:.4f} to {found['high']:.4f})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
