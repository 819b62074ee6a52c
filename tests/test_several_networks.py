"""Every command works with a run whose head takes two networks' caches, and that has none."""

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from strangers import resealed

from kinembed.cache import ATTRIBUTE
from kinembed.cache.stacked import open_caches
from kinembed.calibrate import calibrate
from kinembed.cli import run as command
from kinembed.config import CalibrateConfig, EmbedConfig, EvaluateConfig, ScoreConfig
from kinembed.doctor import doctor
from kinembed.embed import embed
from kinembed.errors import RunError
from kinembed.evaluate import evaluate
from kinembed.heads.file import HeadRecord, load_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.kept import caches_of, keep_head, learnt_from, named_from
from kinembed.heads.metric import MetricHead, Projection
from kinembed.inference.answerer import Answerer
from kinembed.ready import READY
from kinembed.report.run_commands import run_commands
from kinembed.report.run_facts import read_run
from kinembed.score import score

NAMES = ("A", "B")  # the folders of the networks, beside that of the head


def head_of(run: Path, places: list[Path]) -> FusedHead:
    """Writes a head of two networks, by hand; it holds everybody out."""
    with open_caches(places) as cache:
        people = tuple(sorted({who.decode() for who in cache.people.tolist()} - {""}))
        model = cache.provenance["model"]
        widths = {view: cache.vectors(view).shape[1] for view in ("1.max", "2.avg")}
    rng = np.random.default_rng(0)
    parts = []
    for view, width in widths.items():
        weights = rng.standard_normal((width, 8)).astype(np.float32)
        parts.append(MetricHead(view, model, (Projection(weights, np.zeros(8, np.float32), ()),)))
    head = FusedHead("1.max+2.avg", model, tuple(parts), (0.5, 0.25), held_out=people)
    keep_head(run, head, HeadRecord("head", "metric", auc=0.7, caches=named_from(run, places)))
    return head


@pytest.fixture(scope="module")
def both(made_once: Callable[..., Path], faces: Path, on_cpu: EmbedConfig) -> Path:
    """Two networks' folders, and `both`: a head of theirs with calibration and figures."""

    def make(folder: Path) -> None:
        for name, framing in zip(NAMES, ("loose", "whole"), strict=True):
            views = replace(on_cpu, backbone="mtcnn-onet", framing=framing, views=("max", "avg"))
            embed(views, faces, folder / name)
        run = folder / "both"
        run.mkdir()
        head_of(run, [folder / name / "embeddings.h5" for name in NAMES])
        calibrate(CalibrateConfig(pairs=800), faces, run)
        evaluate(EvaluateConfig(count=400), faces, run)

    return made_once("several", make)


@pytest.fixture
def run(both: Path, tmp_path: Path) -> Path:
    """A copy of it, to be written to, beside its networks."""
    return Path(shutil.copytree(both, tmp_path / "copied")) / "both"


def people_of(faces: Path) -> list[str]:
    return [str(path) for path in sorted((faces / "train").glob("*/MID*"))[:2]]


WORKS = (
    "evaluate --count 400 --no-pictures", "calibrate --pairs 400", "score --pairs PAIRS",
    "map --method pca", "audit", "compare ONE OTHER --crops --picture OUT.png",
    "search ONE --crops --out OUT.csv", "cache export --parquet", "head --list", "head --use met",
    "relate ONE --crops", "doctor",
)  # fmt: skip


def test_every_command_works_with_it(
    run: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = people_of(faces)
    words = {"ONE": one, "OTHER": other, "PAIRS": "sample_submission.csv"}
    for line in WORKS:
        if "parquet" in line:
            pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        given = [words.get(w, w.replace("OUT", str(tmp_path / "out"))) for w in line.split()]
        assert command([*given, "--run", str(run), "--data", str(faces)]) == 0, line
        said = capsys.readouterr().err
        assert "embeddings.h5: no such file" not in said, line
    made = ("submission.csv", "map.html", "audit.csv", "relate.html", "gallery.h5")
    assert all((run / name).is_file() for name in (*made, "embeddings.parquet"))
    assert not (run / "embeddings.h5").exists()


def test_its_scores_are_those_of_the_caches_by_name(run: Path, faces: Path, tmp_path: Path) -> None:
    caches = tuple(run.parent / name / "embeddings.h5" for name in NAMES)
    pairs = ScoreConfig(faces / "sample_submission.csv")
    found = score(pairs, faces, run).read_bytes()
    named = score(replace(pairs, caches=caches, out=tmp_path / "named.csv"), faces, run)
    assert found == named.read_bytes()


def test_its_caches_in_another_order_are_refused(
    run: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are of one network, so the head's digest of the networks does not tell them apart."""
    a, b = (run.parent / name / "embeddings.h5" for name in NAMES)
    (link := tmp_path / "link.h5").symlink_to(b)
    about = ["--run", str(run), "--data", str(faces), "--cache", str(link), "--cache", str(a)]
    for line in ("score --pairs sample_submission.csv", "calibrate", "evaluate", "search F0001"):
        assert command([*line.split(), *about]) == 1, line
        said = capsys.readouterr().err.strip()
        assert f"wanted --cache {a} --cache {b}" in said and "\n" not in said, said


def test_what_it_lacks_is_a_line_that_says_where_it_is(
    run: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx, folder = str(tmp_path / "a.onnx"), run.parent
    where = f"--run {folder / 'A'}"
    for line, wanted in (
        ("cache info", where), ("cache views", where), ("cache verify", where),
        ("cache export", where), (f"export --onnx {onnx}", f"export --no-head {where}"),
        (f"export --onnx {onnx} --no-head", f"export --no-head {where}"),
        (f"head --publish {tmp_path / 'p.h5'}", f"head --cache {folder / 'A' / 'embeddings.h5'}"),
    ):  # fmt: skip
        assert command([*line.split(), "--run", str(run), "--data", str(faces)]) == 1, line
        said = capsys.readouterr().err.strip()
        assert wanted in said and "\n" not in said, said
    assert not (tmp_path / "a.onnx").exists() and not (tmp_path / "p.h5").exists()
    shutil.copy(folder / "A" / "embeddings.h5", run / "embeddings.h5")  # of one of them
    assert command(["export", "--onnx", onnx, "--run", str(run)]) == 1
    assert "is fused of 2 heads" in capsys.readouterr().err


def test_the_report_names_each_network_and_the_commands_that_made_it(
    run: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vl_convert", reason="the extra report is not installed")
    assert command(["report", "--run", str(run), "--data", str(faces)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Network 1 of 2: mtcnn-onet" in page and "Network 2 of 2: mtcnn-onet" in page
    facts = read_run(run, faces)
    assert not {"cache", "head", "calibration", "evaluation"} & facts.missing.keys()
    made = [shlex.split(line) for line in run_commands(facts, [])]
    assert [words[1] for words in made] == ["embed", "embed", "head", "calibrate", "evaluate",
                                            "report"]  # fmt: skip
    folders = [words[words.index("--run") + 1] for words in made]
    assert folders == [*(str(run.parent / name) for name in NAMES), *[str(run)] * 4]
    framings = [words[words.index("--framing") + 1] for words in made[:2]]
    assert framings == ["loose", "whole"]
    head = made[2]
    named = [(head[at], head[at + 1]) for at in range(len(head)) if head[at] in
             ("--view", "--cache", "--folds")]  # fmt: skip
    caches = [("--cache", str(run.parent / name / "embeddings.h5")) for name in NAMES]
    assert named == [("--view", "1.max"), ("--view", "2.avg"), ("--folds", "0"), *caches]
    # What a reader copies trains: the same views of the same caches.
    again = [*head[1:-4], "--run", str(run.parent / "again"), "--data", str(faces)]
    short = ["--ensemble", "1", "--epochs", "1", "--steps", "1"]
    assert command([*again, *short]) == 0
    trained = load_head(run.parent / "again" / "head.h5")
    assert isinstance(trained, FusedHead) and trained.view == "1.max+2.avg"


def test_a_cache_that_is_gone_is_named_with_what_to_run(
    run: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = run.parent / "B"
    (gone / "embeddings.h5").unlink()  # its folder's record tells what made it
    assert command(["evaluate", "--run", str(run), "--data", str(faces)]) == 1
    options = "--backbone mtcnn-onet --framing whole --views avg,max --no-flip --precision fp32"
    error = capsys.readouterr().err
    assert f"make it again with kinembed embed --run {gone} {options}, or train" in error
    assert command([*f"embed --run {gone} --data {faces} --quiet".split(), *options.split()]) == 0
    assert command([*f"evaluate --run {run} --data {faces} --no-pictures".split()]) == 0
    capsys.readouterr()
    shutil.rmtree(gone)
    one, other = people_of(faces)
    said = f"learnt from {gone / 'embeddings.h5'}, which is not there"
    for line in (
        "evaluate", "calibrate", "score --pairs sample_submission.csv", "audit", "map", "head",
        f"compare {one} {other} --crops", f"search {one} --crops", f"relate {one} --crops",
        "cache export --parquet", "head --publish p.h5",
    ):  # fmt: skip
        assert command([*line.split(), "--run", str(run), "--data", str(faces)]) == 1, line
        error = capsys.readouterr().err.strip()
        assert said in error and f"kinembed embed --run {gone} and the --backbone" in error, error
        assert "\n" not in error and f"(with --run {run}" not in error, error
    assert command(["head", "--run", str(run), "--use", "metric"]) == 0
    assert "not there now" in capsys.readouterr().err
    assert command(["head", "--run", str(run), "--list"]) == 0
    output = capsys.readouterr()
    assert "1.max+2.avg" in output.out and "the first and second --cache" in output.err
    facts = read_run(run, faces)
    assert said in facts.missing["cache"] and facts.head is not None
    assert f"kinembed embed --data {faces} --run {gone} and" in facts.missing["cache"]
    found = doctor(faces, run)
    left = run.parent / "A" / "embeddings.h5"
    assert found.next == f"kinembed head --cache {left} --run {run} --data {faces}"
    assert str(gone / "embeddings.h5") in found.why and "bring it back" in found.why
    assert any(said in finding.fact for finding in found.findings if finding.state == "wrong")


def test_the_doctor_looks_at_the_caches_and_names_the_next_command(run: Path, data: Path) -> None:
    found = doctor(data, run)
    assert found.next == f"kinembed score --pairs sample_submission.csv --run {run} --data {data}"
    facts = [finding.fact for finding in found.findings]
    assert any("head.h5" in fact and fact.endswith("fits the caches") for fact in facts)
    next((data / "train").rglob("*.jpg")).unlink()
    stale = doctor(data, run)
    words = shlex.split(stale.next)
    assert words[:2] == ["kinembed", "embed"] and str(run.parent / "A") in words
    path = run.parent / "B" / "embeddings.h5"
    path.write_bytes(path.read_bytes()[:-9])
    (run.parent / "A" / "embeddings.h5").unlink()
    unsound = [finding for finding in doctor(data, run).findings if finding.state == "wrong"]
    assert any(str(path) in finding.fact for finding in unsound)


def test_folders_that_are_moved_together_or_linked_are_found(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    run.parent.rename(moved)
    assert caches_of(moved / "both", head=moved / "both" / "head.h5") == [
        moved / name / "embeddings.h5" for name in NAMES
    ]
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(moved / "both")
    caches = caches_of(link, head=link / "head.h5")
    assert all(cache.is_file() for cache in caches)
    (kept,) = (link / "heads").glob("*.h5")
    assert learnt_from(kept) == caches


@pytest.mark.parametrize("name", ["pipe.h5", "/dev/zero", "x" * 5000, "folder", "\0", "../both"])
def test_what_a_stranger_s_head_names_is_opened_only_if_it_is_a_file(
    run: Path, faces: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(run / "pipe.h5")
    (run / "folder").mkdir()
    resealed(run / "head.h5", "head", lambda _, about: about["record"].update(caches=[name]))
    one, other = people_of(faces)
    for line in ("evaluate", f"compare {one} {other} --crops", "map", "cache info"):
        assert command([*line.split(), "--run", str(run), "--data", str(faces)]) == 1, line
        assert "Error: " in capsys.readouterr().err
    assert any(finding.state == "wrong" for finding in doctor(faces, run).findings)


def test_a_network_elsewhere_that_a_named_cache_names_is_not_opened(run: Path, faces: Path) -> None:
    path = run.parent / "B" / "embeddings.h5"
    (theirs := run.parent / "theirs.pt").write_bytes(b"no weights")
    resealed(path, ATTRIBUTE, lambda _, about: about["command"].update(weights=str(theirs)))
    Answerer.open(run, READY)  # the packaged head has a network of its own
    with pytest.raises(RunError, match=f"{path}: .*names a network elsewhere"):
        Answerer.open(run)
