"""`report.html`: the story of a run in one file, from its data to its doubts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinembed import __version__
from kinembed.auditing.finding import KINDS, TITLES
from kinembed.cache.provenance import frames
from kinembed.data.protocols import RELATIONS
from kinembed.errors import DataError
from kinembed.heads.fused import FusedHead
from kinembed.printable import counted, in_xml
from kinembed.recipes import REPORTED
from kinembed.report import vega_charts
from kinembed.report.html_page import html_page, page_file, table
from kinembed.report.run_cells import (
    code,
    figures_beside,
    interval,
    number,
    percent,
    rates,
    settings,
    span,
)
from kinembed.report.run_commands import run_commands, untold
from kinembed.report.run_facts import CacheFacts, RunFacts
from kinembed.report.thumbnails import thumbnail_uri

SIDE, QUALITY = 96, 75  # of a face, pixels; of its JPEG
FAMILIES, FACES = 4, 8  # example families, and faces of each
HEADS, FINDINGS = 12, 5  # rows shown; of each kind
FIGURES = {"loss": "loss", "auc": "ROC AUC", "accuracy": "accuracy"}  # of a training's history
SIDES = {"train": "training", "val": "validation"}
MOST_PHOTOS = 12  # of a person, which have a bar of their own
NOSCRIPT = (
    '<noscript><p class="notice">Charts and the threshold need this page\'s script, which asks '
    "nobody for anything. The numbers below each chart do not.</p></noscript>\n"
)
KIND_OF_PAIR = {True: "kin", False: "not kin"}


def run_page(
    facts: RunFacts,
    against: Mapping[str, Mapping[str, Any]],
    absent: Mapping[str, str],
    *,
    photos: bool,
    asked: Sequence[str],
) -> str:
    """The page as HTML.

    Args:
        facts: what the run folder tells.
        against: evaluations of other runs, by name.
        absent: other runs that have none, by name, and why.
        photos: faces may be in it.
        asked: options of the command that makes the page, but --run and --data.
    """
    page = _Page(facts, against, absent, photos, asked)
    sections = [
        *("summary", "data", "training", "heads", "figures", "threshold"),
        *("relations", "pairs", "doubts", "provenance", "commands"),
    ]
    parts = [getattr(page, f"_{name}")() for name in sections]
    title = f"Report of the run {facts.run.name or facts.run}"
    links = "".join(
        f'<li><a href="#{name}">{in_xml(heading)}</a></li>' for name, heading in page.headings
    )
    body = (
        f'<header><h1>{in_xml(title)}</h1>\n{page.lead()}<nav aria-label="Sections"><ol>{links}'
        f"</ol></nav></header>\n<main>\n{NOSCRIPT}{chr(10).join(parts)}\n</main>"
    )
    data = {"charts": page.charts, "threshold": page.slider}
    scripts = [vega_charts.vega_script(), page_file("run_page.js")]
    return html_page(title, body, page_file("run_page.css"), scripts, data)


class _Page:
    """The sections of the page; collects charts and headings as they are made."""

    def __init__(
        self,
        facts: RunFacts,
        against: Mapping[str, Mapping[str, Any]],
        absent: Mapping[str, str],
        photos: bool,
        asked: Sequence[str],
    ) -> None:
        self.facts, self.against, self.absent = facts, against, absent
        self.photos, self.asked = photos, asked
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
        where = (
            "On pairs of people whom the head did not train on"
            if evaluation["source"] == "held-out people"
            else f"On the pairs of {in_xml(evaluation['source'])}"
        )
        found = evaluation.get("auc_by_families")
        sure = f", 95 % interval {interval(found)}" if found else ""
        return (
            f"<p>{where}, a kin pair scores above an unrelated one in "
            f"<strong>{100 * evaluation['auc']:.1f} of 100 draws</strong> (ROC AUC "
            f"{evaluation['auc']:.4f}{sure}).</p>{notice}"
        )

    # Sections

    def _summary(self) -> str:
        rows = []
        for name, title, where in (
            ("cache", "embeddings", "data"), ("relations", "relations", "data"),
            ("training", "training", "training"), ("head", "head", "heads"),
            ("calibration", "calibration", "provenance"), ("evaluation", "figures", "figures"),
            ("audit", "audit", "doubts"),
        ):  # fmt: skip
            problem = self.facts.missing.get(name)
            state = "here" if problem is None else f"missing: {in_xml(problem)}"
            rows.append([f'<a href="#{where}">{title}</a>', state])
        heading = "What is here"
        return self._section("summary", heading, table(heading, ["part", "state"], rows))

    def _data(self) -> str:
        heading, facts = "Data and split", self.facts
        if not facts.caches:
            return self._missing("data", heading, "cache")
        known = [person for person in facts.people if person]
        rows = [
            ["photos", f"{len(facts.names):,}"],
            ["photos whose person is known", f"{len(known):,}"],
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
            folds = len(facts.head.folds)
            how = f" in {folds} folds, each by one member" if folds else " by all members"
            rows += [
                ["people who trained the head", f"{len(facts.head.trained):,}"],
                ["people held out", f"{len(held_out):,}{how if held_out else ''}"],
            ]
        strip = (
            self._family_strip()
            if self.photos
            else "<p>Faces are personal data: <code>--photos</code> shows some of them.</p>"
        )
        content = table(heading, ["what", "how many"], rows) + self._photos_a_person(known) + strip
        return self._section("data", heading, content)

    def _photos_a_person(self, known: Sequence[str]) -> str:
        sizes = list(Counter(known).values())
        if not sizes:
            return ""
        counts = Counter(min(size, MOST_PHOTOS) for size in sizes)
        rows = [
            {"photos": f"{size}{'+' if size == MOST_PHOTOS else ''}", "people": counts[size]}
            for size in range(1, max(counts) + 1)
        ]
        return self._chart(
            "photos-a-person",
            vega_charts.counts(rows, "photos", "people", "photos of a person"),
            f"Photos of a person: {counted(len(sizes), 'person has', 'people have')} between "
            f"{min(sizes)} and {max(sizes)}; {sizes.count(1):,} have one.",
            ["photos", "people"],
            [[str(row["photos"]), f"{row['people']:,}"] for row in rows],
        )

    def _training(self) -> str:
        history = self.facts.history
        if not history:
            return self._missing("training", "Training", "training")
        members = len({row["member"] for row in history})
        parts = []
        for key, title in FIGURES.items():
            rows = [
                {"epoch": row["epoch"], "member": row["member"], "of": name, "value": value}
                for side, name in SIDES.items()
                for row in history
                if (value := row.get(f"{side}_{key}")) is not None
            ]
            if not rows:
                continue
            names = list(dict.fromkeys(str(row["of"]) for row in rows))
            last = {(row["of"], row["member"]): row["value"] for row in rows}
            ends = [
                span([value for (of, _), value in last.items() if of == name]) + f" in {name}"
                for name in names
            ]
            found = {(row["member"], row["epoch"], row["of"]): row["value"] for row in rows}
            whose = f", a line for each of {members} members" if members > 1 else ""
            parts.append(
                self._chart(
                    f"curve-{key}", vega_charts.training_curve(rows, title),
                    f"{title[0].upper()}{title[1:]} by epoch{whose}; at the end "
                    f"{' and '.join(ends)}.",
                    ["member", "epoch", *names],
                    [[str(row["member"]), str(row["epoch"]),
                      *(number(found.get((row["member"], row["epoch"], name))) for name in names)]
                     for row in history],
                )
            )  # fmt: skip
        return self._section("training", "Training", _side_by_side(parts))

    def _heads(self) -> str:
        heading, heads = "Heads trained here", self.facts.heads
        if not heads:
            return self._missing("heads", heading, "heads")
        used = self.facts.head.digest[:12] if self.facts.head is not None else None
        best = sorted(heads, key=lambda row: (row["auc"] == "nan", -float(row["auc"])))[:HEADS]
        rows = [
            [
                in_xml(row["recipe"]) + (" (in use)" if row["head"] == used else ""),
                settings(row["settings"]), in_xml(row["view"]), in_xml(row["seed"]),
                f"{in_xml(row['auc'])} ({in_xml(row['low'])} to {in_xml(row['high'])})",
                f"<code>{in_xml(row['head'])}</code>",
            ]
            for row in best
        ]  # fmt: skip
        more = (
            f"<p>The best {HEADS} of {len(heads):,}. The best of many looks better than it is.</p>"
            if len(heads) > HEADS
            else ""
        )
        columns = ["recipe", "settings", "view", "seed", "AUC (95 %)", "head"]
        note = (
            "<p>This AUC is of pairs that the training drew of held-out people; "
            '<a href="#figures">Figures</a> are of others, so the two differ a little.</p>'
        )
        return self._section("heads", heading, more + table(heading, columns, rows) + note)

    def _figures(self) -> str:
        evaluation = self.facts.evaluation
        if evaluation is None:
            return self._missing("figures", "Figures", "evaluation")
        decision = evaluation.get("decision")
        threshold = decision["threshold"] if decision else None
        curves, shown = self._curves(), {self._own_name(): evaluation, **self.against}
        told = [f"{name} (AUC {each['auc']:.4f})" for name, each in shown.items()]
        names = " and ".join([", ".join(told[:-1]), told[-1]]).removeprefix(" and ")
        charts = [
            self._chart(
                "roc", vega_charts.roc(curves, threshold),
                f"{'ROC curves' if len(curves) > 1 else 'ROC curve'} of {names}"
                + ("; the mark is the threshold in use." if decision else "."),
                *rates(curves, "true accept rate", lambda tar: tar),
            ),
            self._chart(
                "det", vega_charts.det(curves),
                f"{'DET curves' if len(curves) > 1 else 'DET curve'} of {names}: both error rates, "
                "on scales on which normally distributed scores make a line.",
                *rates(curves, "false reject rate", lambda tar: 1 - tar),
            ),
            self._histogram(evaluation["curves"]["scores"], threshold),
            self._reliability(decision) if decision else self._undecided(evaluation),
        ]  # fmt: skip
        other = (
            '<p class="absent">These figures are of another cache than the one that is here now; '
            f"{in_xml(self.facts.completed('run kinembed evaluate again'))}.</p>"
            if self.facts.cache and evaluation.get("cache") != self.facts.cache
            else ""
        )
        columns = ["figure", *(shown if self.against else ["value"])]
        rows = table("Figures", columns, figures_beside(shown.values()))
        rows += "<p>Compare figures of the same pairs only.</p>" if self.against else ""
        rows += "".join(
            f'<p class="absent">{in_xml(name)} has no figures: {in_xml(why)}</p>'
            for name, why in self.absent.items()
        )
        content = other + rows + _side_by_side(charts) + self._beside(evaluation)
        return self._section("figures", "Figures", content)

    def _histogram(self, scores: Mapping[str, Sequence[float]], threshold: float | None) -> str:
        edges = [f"{edge:.2f}" for edge in scores["edges"]]
        line = " The line is the threshold." if threshold is not None else ""
        return self._chart(
            "scores", vega_charts.histogram(scores, threshold),
            "Scores of kin pairs and of others, as shares of each: where the two overlap, a score "
            f"does not tell.{line}",
            ["score from", "to", "kin pairs", "other pairs"],
            [[low, high, f"{kin:,}", f"{others:,}"] for low, high, kin, others in
             zip(edges[:-1], edges[1:], scores["kin"], scores["non_kin"], strict=True)],
        )  # fmt: skip

    def _reliability(self, decision: Mapping[str, Any]) -> str:
        bins = decision["reliability"]
        found = zip(bins["pairs"], bins["predicted"], bins["observed"], strict=True)
        return self._chart(
            "reliability", vega_charts.reliability(bins),
            "Reliability: on the dashed line, of 100 pairs with a probability of 70 %, 70 are kin. "
            f"The mean distance from it is {percent(decision['ece'])}.",
            ["predicted probability", "share that is kin", "pairs"],
            [[percent(predicted / pairs), percent(observed / pairs), f"{pairs:,.0f}"]
             for pairs, predicted, observed in found if pairs > 0],
        )  # fmt: skip

    def _beside(self, evaluation: Mapping[str, Any]) -> str:
        """The AUC beside other runs' and the report's Kaggle scores."""
        rows: list[dict[str, Any]] = []
        for name, found in {self._own_name(): evaluation, **self.against}.items():
            sure = found.get("auc_by_families") or {}
            rows.append({"name": name, "group": "here", "auc": found["auc"],
                         "low": sure.get("low"), "high": sure.get("high")})  # fmt: skip
        for (backbone, recipe), (public, private) in REPORTED.items():
            for auc, group in ((public, "course report, public"),
                               (private, "course report, private")):  # fmt: skip
                rows.append({"name": f"{backbone} {recipe}", "group": group, "auc": auc})
        return self._chart(
            "beside", vega_charts.scores_beside(rows),
            "Beside the course report's trainings, which published a ROC AUC each, but no curve: "
            "its best has 0.745 (public) and 0.759 (private). Kaggle's scores are of other pairs "
            "than those of this page.",
            ["which", "whose", "ROC AUC", "95 %"],
            [[in_xml(row["name"]), in_xml(row["group"]), number(row["auc"]), interval(row)]
             for row in rows],
        )  # fmt: skip

    def _threshold(self) -> str:
        heading, evaluation = "Choose a threshold", self.facts.evaluation
        if evaluation is None:
            return self._missing("threshold", heading, "evaluation")
        roc = evaluation["curves"]["roc"]
        points = [
            {"threshold": at, "far": far, "tar": tar}
            for at, far, tar in zip(roc["threshold"], roc["far"], roc["tar"], strict=True)
            if at is not None
        ]
        decision = evaluation.get("decision")
        if decision:
            at = decision["threshold"]
            start = min(range(len(points)), key=lambda n: abs(points[n]["threshold"] - at))
            begins = (
                " It begins at the point that is nearest to the threshold in use, that of two "
                f"photos alone: {_score(at)}."
            )
            if decision["how"] == "cross-fitted" or decision.get("pairs_expanded"):
                begins += (
                    " The rates above differ a little: there, each pair meets a threshold that its "
                    "families did not fit, and an expanded pair that of expanded ones."
                )
        else:
            start = max(range(len(points)), key=lambda n: points[n]["tar"] - points[n]["far"])
            begins = ""
        kin, others = evaluation["kin"], evaluation["pairs"] - evaluation["kin"]
        self.slider = {"points": points, "start": start, "kin": kin, "others": others}
        found, passed = (
            round(points[start][key] * of) for key, of in (("tar", kin), ("far", others))
        )
        score = _score(points[start]["threshold"])
        unfit = "" if decision or "folds" in evaluation else self._undecided(evaluation)
        return self._section(
            "threshold",
            heading,
            f"""<p>Pairs with a score of at least the threshold count as kin. Move it, and see
what that costs, on the {kin:,} kin and {others:,} other pairs of this evaluation.{begins}</p>
<p class="slider"><label for="slider">Threshold</label>
<input type="range" id="slider" min="0" max="{len(points) - 1}" value="{start}" step="1">
<output id="at" for="slider">{score}</output></p>
<table class="matrix"><caption>Confusion matrix</caption>
<thead><tr><td></td><th scope="col">said to be kin</th><th scope="col">said not to be</th></tr>
</thead><tbody>
<tr><th scope="row">kin</th><td id="tp">{found:,}</td><td id="fn">{kin - found:,}</td></tr>
<tr><th scope="row">not kin</th>
<td id="fp">{passed:,}</td><td id="tn">{others - passed:,}</td></tr>
</tbody></table>
<p id="words" role="status"></p>{unfit}""",
        )

    def _relations(self) -> str:
        heading, evaluation = "By relation", self.facts.evaluation
        if evaluation is None:
            return self._missing("relations", heading, "evaluation")
        found = evaluation["relations"]
        if not found:
            return self._section(
                "relations", heading,
                "<p>The relations of these pairs have no names (father and son, sisters), so there "
                "are no figures of each. <code>kinembed evaluate --pairs</code> takes pairs that "
                "name them, and <code>--protocol kinfacew</code> KinFaceW's.</p>",
            )  # fmt: skip
        names = {name: RELATIONS.get(name, name) for name in found}
        rows = [
            [in_xml(names[name]), f"{row['pairs']:,}", number(row.get("auc")),
             interval(row.get("interval")), in_xml(row.get("against", "")),
             number(row.get("accuracy"))]
            for name, row in found.items()
        ]  # fmt: skip
        columns = ["relation", "pairs", "AUC", "95 %", "against", "accuracy"]
        if all(row.get("accuracy") is None for row in found.values()):
            columns, rows = columns[:-1], [row[:-1] for row in rows]
        content = table(heading, columns, rows) + (
            "<p>Against: each relation's own unrelated pairs, or all where it has none.</p>"
        )
        with_auc = [
            {"name": names[name], "group": "here", "auc": row["auc"],
             **(row.get("interval") or {"low": None, "high": None})}
            for name, row in found.items() if row.get("auc") is not None
        ]  # fmt: skip
        if with_auc:
            content += self._chart(
                "by-relation", vega_charts.scores_beside(with_auc),
                "ROC AUC of each relation, with its 95 % interval.",
                columns[:4], [row[:4] for row in rows],
            )  # fmt: skip
        if folds := evaluation.get("folds"):
            content += "<h3>By the protocol's folds</h3>" + table(
                "Accuracy by folds",
                ["relation", "accuracy", "95 %", "each fold"],
                [[in_xml(RELATIONS.get(name, name)), number(row["accuracy"]),
                  interval(row.get("interval")),
                  " ".join(f"{each:.3f}" for each in row["folds"])]
                 for name, row in folds.items()],
            )  # fmt: skip
        return self._section("relations", heading, content)

    def _pairs(self) -> str:
        heading, evaluation = "The most confident pairs", self.facts.evaluation
        if evaluation is None:
            return self._missing("pairs", heading, "evaluation")
        parts = []
        for key, title in (("wrong", "Most confident errors"), ("right", "Most confident hits")):
            rows = [
                [
                    KIND_OF_PAIR[bool(pair["kin"])],
                    in_xml(RELATIONS.get(pair["relation"], pair["relation"])),
                    f"{pair['probability']:.3f}",
                    self._photos_of(pair["photos"]),
                ]
                for pair in evaluation[key]
            ]
            columns = ["in truth", "relation", "score, 0 to 1", "photos"]
            if not any(row[1] for row in rows):
                columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
            parts.append(_details(f"{title}: {counted(len(rows), 'pair')}", columns, rows))
        intro = (
            "<p>The unrelated pairs with the highest and the kin pairs with the lowest scores, and "
            "the other way round; at most one pair of any two people.</p>"
        )
        return self._section("pairs", heading, intro + "".join(parts))

    def _doubts(self) -> str:
        heading, findings = "What is doubtful in the data", self.facts.findings
        if findings is None:
            return self._missing("doubts", heading, "audit")
        parts = []
        for kind in KINDS:
            own = [row for row in findings if row["kind"] == kind]
            if not own:
                continue
            own.sort(key=lambda row: -float(row["surety"] or 0))
            likely = sum(float(row["surety"] or 0) >= 0.5 for row in own)
            rows = [
                [
                    f"<div>{_people(row)}</div>"
                    + self._photos_of([row[key] for key in ("photo", "other_photo") if row[key]]),
                    percent(float(row["surety"])) if row["surety"] else "too few people to say",
                    f"{in_xml(row['reason'])}; {in_xml(row['cure'])}",
                ]
                for row in own[:FINDINGS]
            ]  # fmt: skip
            title = (
                f"{TITLES[kind]}: {counted(len(own), 'finding')}, {likely:,} of them likelier "
                "than not"
            )
            parts.append(_details(title, ["who", "how sure", "why, and what to do"], rows))
        content = (
            f"<p>The surest {FINDINGS} of each kind; audit.csv has all {len(findings):,}.</p>"
            if findings
            else "<p>The audit found nothing.</p>"
        )
        if self.facts.not_judged:
            skipped = "; ".join(f"{kind} ({why})" for kind, why in self.facts.not_judged.items())
            content += f"<p>Not judged: {in_xml(skipped)}.</p>"
        return self._section("doubts", heading, content + "".join(parts))

    def _provenance(self) -> str:
        heading, facts = "Provenance", self.facts
        if not facts.caches:
            return self._missing("provenance", heading, "cache")
        several = len(facts.caches) > 1
        rows = [] if several else _network(facts.caches[0])
        if facts.finetuning is not None:
            recipe = facts.finetuning["recipe"]["name"]
            weights = facts.finetuning["weights"]
            rows.append(["fine-tuned here", f"recipe {in_xml(recipe)} from {in_xml(weights)}"])
        if facts.head is not None:
            rows.append(["head", f"{in_xml(facts.head.kind)} {code(facts.head.digest)}"])
        if isinstance(facts.head, FusedHead):
            parts = zip(facts.head.parts, facts.head.gains, strict=True)
            told = [f"{gain:.3g} times that of the {part.kind} head on {in_xml(part.view)}"
                    for part, gain in parts]  # fmt: skip
            rows.append(["its logit", "; ".join(told)])
        if facts.record is not None and facts.record.recipe:
            record = facts.record
            told = [f"recipe {in_xml(record.recipe)}", settings(record.settings)]
            if record.epoch is not None:
                by = record.epoch_chosen_by
                how = "the last" if by == "nobody" else by and f"chosen by {in_xml(by)}"
                told.append(f"epoch {record.epoch}" + (f", {how}" if how else ""))
            rows.append(["its training", "; ".join(told)])
        if facts.calibration is not None:
            scale = facts.calibration.alone
            people = counted(len(facts.calibration.people), "person", "people")
            rows.append(
                ["calibration", f"map {scale.map}, threshold for {in_xml(scale.target)}, "
                 f"{percent(scale.prior)} kin; by {people}"]
            )  # fmt: skip
        rows.append(["this page", f"kinembed {__version__}; charts by {vega_charts.LICENCE}"])
        networks = "".join(
            _details(
                f"Network {number} of {len(facts.caches)}: {cache.provenance.get('backbone')} of "
                f"{cache.path}",
                ["what", "which"], _network(cache),
            )
            for number, cache in enumerate(facts.caches if several else (), 1)
        )  # fmt: skip
        content = networks + table(heading, ["what", "which"], rows)
        return self._section("provenance", heading, content)

    def _commands(self) -> str:
        lines = "\n".join(in_xml(line) for line in run_commands(self.facts, self.asked))
        items = "".join(f"<li>{in_xml(text)}</li>" for text in untold(self.facts))
        more = f"<p>Not on record, so perhaps missing above:</p><ul>{items}</ul>" if items else ""
        return self._section("commands", "The commands", f'<pre tabindex="0">{lines}</pre>{more}')

    # Pieces

    def _curves(self) -> vega_charts.Curves:
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

    def _undecided(self, evaluation: Mapping[str, Any]) -> str:
        """Why there are no figures at the threshold."""
        if why := evaluation.get("undecided"):
            return f'<p class="absent">No figures at the threshold: {in_xml(why)}</p>'
        return self._absent("calibration")

    def _absent(self, what: str) -> str:
        advice = self.facts.completed(f"there is no {what}; run kinembed doctor")
        why = self.facts.missing.get(what, advice)
        return f'<p class="absent">Nothing here yet: {in_xml(why)}</p>'

    def _chart(
        self,
        name: str,
        spec: vega_charts.Spec,
        text: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
    ) -> str:
        """A chart, what it shows in words, and its numbers: a table of texts, cells as HTML."""
        self.charts[name] = spec
        said = in_xml(text)
        return (
            f'<figure><div role="img" aria-label="{said}">'
            f'<div class="chart" id="chart-{name}"></div></div>\n'
            f"<figcaption>{said}</figcaption>"
            f"{_details('The numbers', columns, rows, label=text)}</figure>"
        )

    def _photos_of(self, names: Sequence[str]) -> str:
        return "".join(
            f'<span class="photo">{self._face(name)}<bdi>{in_xml(name)}</bdi></span>'
            for name in names
        )

    def _face(self, name: str) -> str:
        path = Path(name)  # of anybody's evaluation.json: it shows nothing beside the data folder
        inside = not path.is_absolute() and ".." not in path.parts
        if not (self.photos and inside):
            return ""
        try:
            picture = thumbnail_uri(self.facts.data / path, SIDE, QUALITY)
        except DataError:
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


def _example_families(photos: Sequence[str], families: Any) -> Iterator[tuple[str, list[str]]]:
    """The first families of three people or more, and the first photo of each of their people."""
    found: dict[str, list[str]] = {}
    for person, start in zip(families.people, families.photo_start.tolist(), strict=False):
        found.setdefault(person.split("/")[0], []).append(photos[start])
    large = [(family, faces) for family, faces in found.items() if len(faces) > 2]
    yield from ((family, faces[:FACES]) for family, faces in large[:FAMILIES])


def _network(cache: CacheFacts) -> list[list[str]]:
    """Rows on the network that made a cache."""
    about = cache.provenance
    weights = str(about.get("command", {}).get("weights", "unknown"))
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    views = in_xml(", ".join(cache.views))
    rows = [
        ["network", in_xml(about.get("backbone", "unknown"))],
        ["its weights", code(about["model"])],
        ["weights from", "the publisher" if weights == "auto" else in_xml(weights)],
        ["framing", in_xml("; ".join(frames(about)) or "unknown")],
        ["precision", in_xml(f"{about.get('precision')} on {about.get('device')}")],
        ["made with", in_xml(versions)],
        ["embeddings", f"{code(cache.digest)}; views {views}"],
    ]
    if "imported" in about:
        rows[2:5] = [["imported from", in_xml(about["imported"].get("vectors"))]]
    return rows


def _details(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], label: str = ""
) -> str:
    shown = table(label or title, columns, rows)
    return f"<details><summary>{in_xml(title)}</summary>{shown}</details>"


def _score(score: float) -> str:
    """A score as the page's script writes it."""
    return f"{score:.3f}".replace("-", "\N{MINUS SIGN}")


def _people(finding: Mapping[str, str]) -> str:
    names = [finding[key] for key in ("person", "other_person") if finding[key]]
    return " and ".join(f"<bdi>{in_xml(name)}</bdi>" for name in names)


def _side_by_side(parts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(parts)}</div>'
