"""The stage `doctor`: facts, and whatever is missing or broken as a line with its cure."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import kinembed
from kinembed.backbones import BACKBONES
from kinembed.backbones.published_weights import locate
from kinembed.cli import run as run_command
from kinembed.config import EmbedConfig, HeadConfig
from kinembed.diagnosis import installed, machine
from kinembed.diagnosis.finding import Finding, examined, of_error
from kinembed.doctor import Diagnosis, as_text, doctor
from kinembed.embed import embed
from kinembed.errors import KinembedError
from kinembed.evaluation import cross_fitting
from kinembed.head import head
from kinembed.heads.file import read_head, save_head

CHECKOUT = Path(kinembed.__file__).parents[1]


def of(found: Diagnosis, topic: str, text: str = "") -> list[Finding]:
    return [each for each in found.findings if each.topic == topic and re.search(text, each.fact)]


def one(found: Diagnosis, topic: str, text: str) -> Finding:
    (finding,) = of(found, topic, text)
    return finding


def wrong(found: Diagnosis, *topics: str) -> list[str]:
    return [each.fact for each in found.findings if each.state == "wrong" and each.topic in topics]


def command(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line, with modules of `path` before all others."""
    places = [str(each) for each in (path, CHECKOUT) if each is not None]
    return subprocess.run(
        [sys.executable, "-m", "kinembed", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        cwd=CHECKOUT,
    )


@pytest.fixture(autouse=True)
def _two_families_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads of these tests hold out two families, too few for a calibration."""
    monkeypatch.setattr("kinembed.diagnosis.run_folder.FEWEST", 2)


# What is there


def test_a_run_that_is_whole_has_no_problem(tuned: Path, faces: Path) -> None:
    found = doctor(faces, tuned)
    assert not wrong(found, "data", "run")
    assert one(found, "run", r"embeddings\.h5: .* sound").values["photos"] == len(
        list(faces.glob("t*/**/*.jpg"))
    )
    assert one(found, "run", "fits the cache").values["fits"]
    assert one(found, "data", "relations").values["usable"] > 0
    assert one(found, "data", "pairs to score").values["photos_missing"] == 0
    assert one(found, "data", "of a sample of").values["unreadable"] == 0
    assert found.next == f"kinembed calibrate --run {tuned} --data {faces}"


def test_it_writes_nothing(run: Path, data: Path) -> None:
    def state() -> dict[str, int]:
        paths = [*run.rglob("*"), *data.rglob("*")]
        return {str(path): path.stat().st_mtime_ns for path in paths}

    before = state()
    doctor(data, run)
    assert state() == before


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = doctor(tmp_path / "data", tmp_path / "run")
    about = {key: value for each in found.findings for key, value in each.values.items()}
    assert about["kinembed"] == kinembed.__version__
    assert about["processors"] >= 1 and about["free"] > 0 and about["device"]
    assert about["precision"] in ("bf16", "fp32")
    assert found.seconds >= found.torch_seconds >= 0
    states = {each.values["extra"]: each.state for each in of(found, "extras")}
    assert states.keys() == installed.EXTRAS.keys()
    topics = [
        "versions",
        "extras",
        "processors",
        "memory",
        "device",
        "precision",
        "weights",
        "room",
    ]
    assert {*topics, "data", "run"} <= {each.topic for each in found.findings}


def test_requirements_are_those_of_the_package() -> None:
    path = CHECKOUT / "pyproject.toml"
    if not path.is_file():
        pytest.skip("not run from a checkout")
    text = path.read_text()

    def listed(title: str) -> dict[str, str]:
        block = re.search(rf"^{title} = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
        assert block is not None
        return dict(re.findall(r'^ *"([\w-]+)>=([\d.]+)', block[1], re.MULTILINE))

    assert listed("dependencies") == installed.NEEDED
    extras = re.findall(r"^(\w+) = \[$", text.partition("[project.optional")[2], re.MULTILINE)
    wanted = [name for name in extras if name not in ("docs", "dev", "select", "ignore")]
    found = {name: packages for name, (packages, _) in installed.EXTRAS.items()}
    assert {name: listed(name) for name in wanted if name in found} == found
    assert {*found} <= {*wanted}
    assert {name for name in wanted if listed(name)} == {*found}


def test_json_has_the_same_facts(
    tuned: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "--run", str(tuned), "--data", str(faces)]
    assert run_command(words) == 0
    shown = capsys.readouterr()
    assert run_command([*words, "--json"]) == 0
    answer = capsys.readouterr()
    found = json.loads(answer.out)
    for finding in found["findings"]:
        if finding["topic"] in ("versions", "extras", "weights", "data", "run"):
            assert finding["fact"] in shown.out
            assert finding["cure"] in shown.out
    assert found["next"] in shown.out and "importing torch" in shown.out
    assert not shown.err and not answer.err


def test_a_gpu_is_described_and_one_that_torch_cannot_use_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(machine, "DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    finding = one(doctor(tmp_path, tmp_path / "run"), "device", "NVIDIA GPU, but torch is a build")
    assert finding.state == "wrong" and finding.cure.startswith("pip install")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert of(doctor(tmp_path, tmp_path / "run"), "device", "but torch finds none")
    for name, value in (
        ("is_available", True),
        ("is_bf16_supported", True),
        ("get_device_name", "H100"),
        ("mem_get_info", (70 * 10**9, 80 * 10**9)),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=value, **__: answer)
    found = doctor(tmp_path, tmp_path / "run")
    assert one(found, "device", "cuda: H100, 70.0 GB free of 80.0 GB").state == "fine"
    assert one(found, "precision", "auto is bf16: this GPU computes bf16 itself")


# What comes next


def test_each_state_of_a_run_has_its_next_command(
    data: Path, tmp_path: Path, on_cpu: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "new"
    places = f"--run {run} --data {data}"
    here = ["sface"]
    monkeypatch.setattr("kinembed.diagnosis.weights.weights_here", lambda: here)
    assert doctor(data, run).next == f"kinembed embed --backbone sface {places}"
    here[:] = ["mtcnn-onet", "mobilefacenet"]
    assert doctor(data, run).next == f"kinembed embed --backbone mobilefacenet {places}"
    here.clear()
    assert doctor(data, run).next == "pip install 'kinembed[sface]'"
    embed(replace(on_cpu, backbone="mtcnn-onet"), data, run)
    assert doctor(data, run).next == f"kinembed head {places}"
    head(HeadConfig(recipe="base", epochs=1, steps=1, val_steps=1), data, run)
    trained, record = read_head(run / "head.h5")
    save_head(trained, run / "head.h5", replace(record, auc=0.7))  # one step may leave less than .5
    found = doctor(data, run)
    assert found.next == f"kinembed calibrate {places}" and not wrong(found, "run")
    photo = next(data.glob("test/*.jpg"))
    shutil.copy(photo, photo.with_name("face99999.jpg"))
    found = doctor(data, run)
    assert one(found, "run", "photos came").values == {"new": 1, "gone": 0, "changed": 0}
    assert found.next == (f"kinembed embed --backbone mtcnn-onet --framing loose {places}")


def test_a_head_of_too_few_held_out_families_is_not_sent_to_calibrate(
    run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinembed.diagnosis.run_folder.FEWEST", cross_fitting.FEWEST)
    found = doctor(faces, run)
    assert found.next.startswith("kinembed evaluate ")
    assert found.why.endswith(
        "; calibrate is left out: it wants 6 held-out families, and the head has 2"
    )


def test_a_head_no_better_than_chance_is_not_sent_to_calibrate(run: Path, faces: Path) -> None:
    head, record = read_head(run / "head.h5")
    save_head(head, run / "head.h5", replace(record, auc=0.48))
    found = doctor(faces, run)
    assert found.next == f"kinembed head --run {run} --data {faces}"
    assert "no better than chance (AUC 0.480)" in found.why and "calibrate refuses it" in found.why
    save_head(head, run / "head.h5", replace(record, auc=0.52))
    assert doctor(faces, run).next.startswith("kinembed calibrate ")


def test_photos_without_families_are_an_album(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ["sface"]
    monkeypatch.setattr("kinembed.diagnosis.weights.weights_here", lambda: here)
    shutil.copytree(faces / "test", tmp_path / "album")
    assert doctor(tmp_path / "album", tmp_path / "run").next == f"kinembed relate {tmp_path}/album"
    found = doctor(tmp_path / "none", tmp_path / "run")
    assert found.next == "kinembed compare A.jpg B.jpg"
    assert one(found, "data", "no such folder").cure.startswith(
        "compare needs none; else name yours"
    )
    here.clear()
    assert doctor(tmp_path / "album", tmp_path / "run").next == "pip install 'kinembed[sface]'"


def test_a_run_of_an_album_is_known(faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "relate.csv").touch()
    shutil.copytree(faces / "test", tmp_path / "album")
    found = doctor(tmp_path / "album", run)
    assert one(found, "run", r"relate\.csv: an album") and not of(found, "run", "not there yet")
    assert found.next == f"kinembed relate {tmp_path}/album --run {run}"
    assert doctor(tmp_path / "none", run).next == f"kinembed relate ALBUM --run {run}"


def test_without_relations_a_head_may_lack_its_calibration(run: Path, data: Path) -> None:
    for name in ("train_relationships.csv", "sample_submission.csv"):
        (data / name).unlink()
    (run / "calibration.json").unlink(missing_ok=True)
    found = doctor(data, run)
    line = one(found, "data", "no such file; head, calibrate and evaluate need it")
    assert line.state == "note" and "wanted" not in line.cure and "p1,p2" in line.cure
    assert found.why == "the head has no calibration, which needs relations"
    (run / "calibration.json").write_text("{}")
    found = doctor(data, run)
    assert found.wrong and "all artefacts are there and fit" not in found.why


def test_what_an_error_wanted_is_no_cure() -> None:
    wanted, cured = (of_error("data", KinembedError(f"a: b; {each}")) for each in ("wanted c", "d"))
    assert (wanted.fact, wanted.cure) == ("a: b; wanted c", "")
    assert (cured.fact, cured.cure) == ("a: b", "d")


def test_what_answers_without_a_run_is_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = doctor(tmp_path, tmp_path / "run")
    assert one(found, "head", "packaged: .*sface").state == "fine"
    assert one(found, "weights", "networks that find faces").state == "fine"
    monkeypatch.setattr("kinembed.ready.READY", tmp_path / "sface.h5")
    (tmp_path / "sface.h5").write_bytes(b"no head")
    monkeypatch.setattr("kinembed.backbones.detection.SHA256", dict.fromkeys("pro", "0"))
    found = doctor(tmp_path, tmp_path / "run")
    assert one(found, "head", "sface.h5").state == "wrong"
    assert any(each.state == "wrong" for each in of(found, "weights"))


def test_an_interrupted_embedding_is_gone_on_with(
    data: Path, tmp_path: Path, on_cpu: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("kinembed.embedding.joining.join", stop)
        embed(replace(on_cpu, backbone="mtcnn-onet"), data, run)
    found = doctor(data, run)
    assert "goes on from there" in one(found, "run", "an interrupted embedding, 1 shard").cure
    places = f"--run {run} --data {data}"
    assert found.next == f"kinembed embed --backbone mtcnn-onet --framing loose {places}"
    with (run / "embed.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = doctor(data, run)
        assert of(found, "run", "another kinembed embeds into it now")
        assert found.next.startswith("kinembed doctor")


# What is broken


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart"),
        ("raise ImportError('cannot import name x from partially initialized module')", "partial"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms"),
    ],
)
def test_a_broken_torch_is_a_line_with_its_cure(tmp_path: Path, code: str, text: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(code)
    places = ("--run", str(tmp_path / "run"), "--data", str(tmp_path / "data"))
    done = command(*places, "--json", path=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr + done.stdout
    found = json.loads(done.stdout)
    (line,) = [each for each in found["findings"] if "torch cannot be imported" in each["fact"]]
    assert line["state"] == "wrong" and text in line["fact"]
    assert found["next"] == "pip install --force-reinstall torch"


def test_packages_that_are_missing_old_or_mixed_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"scipy": "", "numpy": "1.20.1", "onnx": "", "torch": "2.13.0+cpu"}
    real = installed.installed
    monkeypatch.setattr(installed, "installed", lambda name: versions.get(name, real(name)))
    found = doctor(tmp_path, tmp_path / "run")
    assert one(found, "versions", "scipy is missing").cure == "pip install 'scipy>=1.12'"
    assert one(found, "versions", "numpy 1.20.1 is older than 1.26").state == "wrong"
    assert one(found, "extras", "sface").cure == "pip install 'kinembed[sface]'"

    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "torchvision" / "version.py").write_text("__version__ = '0.28.0+cu130'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor(tmp_path, tmp_path / "run")
    assert one(found, "versions", "torchvision is a build for cu130, torch one for cpu").cure


def test_whatever_an_examination_raises_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> object:
        yield Finding("device", "before")
        raise ZeroDivisionError("of\nall things")

    monkeypatch.setattr(machine, "examine_device", broken)
    first, second = examined("device", "machine:examine_device")
    assert first.fact == "before"
    assert second.fact == "cannot be examined: ZeroDivisionError: of all things"
    (missing,) = examined("data", "nowhere:nothing")
    assert missing.state == "wrong"
    monkeypatch.setattr(machine, "examine_processors", lambda: 1 / 0)
    assert of(doctor(tmp_path, tmp_path / "run"), "processors", "ZeroDivisionError")


def test_little_room_and_missing_rights_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LEAST_ROOM", 1 << 62)
    found = doctor(tmp_path, tmp_path / "run")
    assert len(wrong(found, "room")) == 3
    assert one(found, "room", "run folder").cure == "make room, or name another with --run"
    (tmp_path / "file").touch()
    found = doctor(tmp_path, tmp_path / "file" / "run")
    assert one(found, "room", "run folder.*cannot be written to").state == "wrong"


def test_changed_weights_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path))
    _, path = locate(BACKBONES["mobilefacenet"].sources["ms-celeb-1m"])
    assert path is not None
    path.write_bytes(b"of somebody else")
    finding = one(doctor(tmp_path, tmp_path / "run"), "weights", re.escape(str(path)))
    assert finding.state == "wrong" and finding.cure == f"delete {path} to download it again"


@pytest.mark.parametrize(
    ("name", "content", "text", "cure"),
    [
        ("embeddings.h5", b"", "not an embedding cache", "run kinembed embed again"),
        (
            "embeddings.h5",
            b"\x89HDF\r\n\x1a\n" + bytes(999),
            "not an embedding cache",
            "kinembed embed",
        ),
        ("head.h5", b"x" * 999, "not a head", "kinembed head"),
        ("calibration.json", b"{}", "schema", "kinembed calibrate"),
        (
            "calibration.json",
            b"\xff\xfe",
            "is no calibration of this version",
            "kinembed calibrate",
        ),
        ("evaluation.json", b"[]", "not the figures of this version", "kinembed evaluate"),
        ("model.pt", b"no model", "is a text", "kinembed finetune"),
        ("model.pt", b"PK\x03\x04" + bytes(99), "a damaged ZIP archive", "kinembed finetune"),
    ],
)
def test_files_that_are_not_theirs_are_said(
    run: Path, data: Path, name: str, content: bytes, text: str, cure: str
) -> None:
    (run / name).write_bytes(content)
    found = doctor(data, run)
    finding = one(found, "run", text)
    assert finding.state == "wrong" and cure in finding.cure and name in finding.fact


def test_artefacts_that_do_not_fit_are_said(
    run: Path, data: Path, on_cpu: EmbedConfig, tmp_path: Path
) -> None:
    whole = (run / "embeddings.h5").read_bytes()
    (run / "embeddings.h5").write_bytes(whole.replace(b'"schema": 5', b'"schema": 3', 1))
    assert one(doctor(data, run), "run", "embedding cache").state == "wrong"

    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1  # in the middle lie vectors
    (run / "embeddings.h5").write_bytes(damaged)
    finding = one(doctor(data, run), "run", "damaged")
    assert finding.state == "wrong" and "kinembed cache verify --repair" in finding.cure
    for content in (damaged, b"no cache"):
        (run / "embeddings.h5").write_bytes(content)
        found = doctor(tmp_path / "none", run)
        assert found.next == f"kinembed cache verify --run {run} --data {tmp_path / 'none'}"

    (run / "embeddings.h5").unlink()
    embed(replace(on_cpu, backbone="mtcnn-onet"), data, run)  # not by the network of the head
    found = doctor(data, run)
    assert one(found, "run", "the head is of model").state == "wrong"
    assert found.next.startswith("kinembed head ")


def test_leftovers_and_kept_files_that_cannot_be_read_are_said(run: Path, data: Path) -> None:
    (run / ".head.h5.0123456789ab-0123456789abcdef.tmp").touch()
    (run / "heads").mkdir(exist_ok=True)
    (run / "heads" / "old.h5").write_bytes(b"old")
    (run / "calibrations").mkdir(exist_ok=True)
    (run / "calibrations" / "old.json").write_text('{"schema": 3}')
    found = doctor(data, run)
    assert one(found, "run", "1 file of killed commands").values == {"leftovers": 1}
    assert one(found, "run", "heads: .* cannot be read").values["unreadable"] == 1
    line = one(found, "run", "calibrations: .* cannot be read")
    assert "run kinembed" not in line.fact and line.cure == "delete what you do not need"


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(
    run: Path, data: Path, tmp_path: Path
) -> None:
    for name in ("embeddings.h5", "head.h5", "model.pt"):
        (run / name).unlink()
        (run / name).mkdir()
    found = doctor(data, run)
    assert len(wrong(found, "run")) >= 3
    (tmp_path / "file").touch()
    found = doctor(tmp_path / "file", tmp_path / "file")
    assert wrong(found, "data") and wrong(found, "run")


# What is odd in the data


def test_oddities_of_the_data_are_counted(data: Path, tmp_path: Path) -> None:
    photos = sorted(data.glob("train/*/*/*.jpg"))
    photos[0].write_bytes(b"\xff\xd8\xff no photo")
    (data / "train" / "notes.doc").touch()
    relations = data / "train_relationships.csv"
    relations.write_text(relations.read_text() + "F9999/MID1,F9999/MID2\n", encoding="utf-16")
    pairs = data / "sample_submission.csv"
    pairs.write_text(pairs.read_text() + "face98765.jpg-face98766.jpg,0\n")
    found = doctor(data, tmp_path / "run")
    assert one(found, "data", "of a sample of").values["unreadable"] == 1
    assert one(found, "data", "left out: 1 other file").state == "note"
    assert one(found, "data", "UTF-16").state == "note"
    assert one(found, "data", "name people without photos").values["unusable"] == 1
    assert one(found, "data", "2 photos of them are missing").values["photos_missing"] == 2


@pytest.mark.parametrize("name", ["train_relationships.csv", "sample_submission.csv"])
def test_tables_that_are_no_tables_are_said(data: Path, tmp_path: Path, name: str) -> None:
    before = (data / name).read_bytes()
    (data / name).write_bytes(before + b"M\xfcller/MID1,F0001/MID2\n")
    found = doctor(data, tmp_path / "run")
    assert "iconv" in one(found, "data", r"line \d+: not UTF-8$").cure
    (data / name).write_bytes(b"")
    assert any(name in fact for fact in wrong(doctor(data, tmp_path / "run"), "data"))


def test_folders_that_cannot_be_read_are_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, real = data / "train" / "F0001", os.scandir

    def scandir(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("kinembed.data.folders.os.scandir", scandir)
    finding = one(doctor(data, tmp_path / "run"), "data", "folders that cannot be read")
    assert finding.state == "wrong" and "F0001" in finding.fact


def test_names_of_strangers_are_escaped(data: Path, tmp_path: Path) -> None:
    (data / "train" / "a\x1b[2J.doc").touch()
    text = as_text(doctor(data, tmp_path / "run"))
    assert "\x1b" not in text and "\\x1b[2J" in text


@pytest.mark.shared
def test_real_data_is_without_problem(shared: Callable[[str], Path], tmp_path: Path) -> None:
    found = doctor(shared("rfiw"), tmp_path / "run")
    assert not wrong(found, "data")
    assert one(found, "data", "18,661 photos, 2,316 people, 470 families")
    assert one(found, "data", "5,310 pairs to score")
