"""An output replaces nothing that its command reads, and no other artefact."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image

import kinembed.cli
from kinembed.backbones import find_backbone
from kinembed.cache import EmbeddingCache
from kinembed.cache.convert import convert as convert_cache
from kinembed.cache.convert import export_vectors, merge
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.compare import compare
from kinembed.config import CompareConfig, ScoreConfig
from kinembed.errors import KinembedError
from kinembed.heads.file import read_head, save_head
from kinembed.outputs import ARTEFACTS, KINDS, check_output
from kinembed.report.lettering import saved
from kinembed.score import score
from kinembed.weights import convert


@pytest.fixture
def pairs(run: Path, tmp_path: Path) -> Path:
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        one, two = (cache.names[row].decode() for row in (0, 1))
    path = tmp_path / "pairs.csv"
    path.write_text(f"a,b\n{one},{two}\n")
    return path


def contents(*folders: Path) -> dict[Path, bytes]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}


def test_scores_replace_nothing_but_scores(run: Path, pairs: Path, tmp_path: Path) -> None:
    (run / "calibration.json").write_text("not read with raw")
    own = [path for path in run.rglob("*") if path.is_file() and path.name != "submission.csv"]
    assert {"embeddings.h5", "head.h5", "model.pt", "history.csv"} <= {path.name for path in own}
    head = Path(shutil.copy(run / "head.h5", tmp_path / "other.h5"))
    (tmp_path / "link.csv").symlink_to(pairs)
    (tmp_path / "artefact.csv").symlink_to(run / "model.pt")
    os.link(pairs, tmp_path / "hard.csv")
    links = [tmp_path / name for name in ("link.csv", "artefact.csv", "hard.csv")]
    missing = [run / name for name in ("representations.h5", "evaluation.json", "heads/new.h5")]
    for out in [*own, pairs, head, *links, *missing]:
        before = contents(run, tmp_path)
        with pytest.raises(KinembedError, match="name another file for the output"):
            score(ScoreConfig(pairs, out=out, head=head, raw=True), tmp_path, run)
        assert contents(run, tmp_path) == before
    for out in (run / "submission.csv", run / "scores.csv", tmp_path / "new.csv"):
        assert score(ScoreConfig(pairs, out=out, raw=True), tmp_path, run) == out


def test_caches_and_weights_are_not_written_over_what_they_are_made_of(
    run: Path, tmp_path: Path
) -> None:
    cache = run / "embeddings.h5"
    copy = Path(shutil.copy(cache, tmp_path / "copy.h5"))
    (tmp_path / "link.h5").symlink_to(cache)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    before = contents(run, tmp_path)
    for out in (cache, copy, tmp_path / "link.h5", run / "head.h5"):
        with pytest.raises(KinembedError, match="name another file for the output"):
            merge(cache, copy, out, force=True)
    with pytest.raises(KinembedError, match="name another file for the output"):
        convert(weights, weights, "sface")
    (tmp_path / "x.csv").symlink_to(run / "history.csv")
    for out in (run / "history.csv", tmp_path / "x.csv"):
        with pytest.raises(KinembedError, match="name another file for the output"):
            export_vectors(cache, out)
    assert contents(run, tmp_path) == before | {tmp_path / "x.csv": before[run / "history.csv"]}
    assert export_vectors(cache, run / "embeddings.csv").is_file()


def test_a_drawing_is_an_svg_and_no_artefact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    for name, code in (("model.pt", 2), ("scores.svg", 1)):
        drawn = ["finetune", "--run", str(run), "--architecture", str(run / name)]
        assert command(drawn) == code
        assert capsys.readouterr().err
    assert contents(run) == before


def test_every_file_of_a_run_folder_is_known_as_an_artefact(run: Path) -> None:
    files = [path.name for path in run.iterdir() if path.is_file()]
    assert [name for name in files if not ARTEFACTS.fullmatch(name)] == []


def test_a_device_is_no_input() -> None:
    check_output(Path("/dev/null"), [Path("/dev/null")])


def is_path(option: click.Parameter) -> bool:
    kinds = option.type.types if isinstance(option.type, click.Tuple) else (option.type,)
    return any(isinstance(kind, click.Path) for kind in kinds)


def path_options(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Command and option of everything of all commands that is a path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        assert one is not None
        if isinstance(one, click.Group):
            yield from path_options(one, (*above, name))
            continue
        for option in one.params:
            if is_path(option):
                yield " ".join((*above, name)), option.opts[0]


# Options that name what is read, or a folder that a command makes and looks after.
READ = {
    *("--run", "--data", "--cache", "--head", "--people", "--people-table", "--confirmed"),
    *("--pairs", "--labels", "--model", "--onnx", "--exclude", "--card", "--kinfacew"),
    *("--protocol", "--calibration", "--against", "--keep", "--father", "--mother", "--child"),
    *("a", "b", "photo", "folder", "source", "vectors", "names", "first", "second"),
}
FOLDERS_MADE = {("align", "target"), ("demo", "--run")}
# What writes a file that the user names: its suffix, and what else the command needs.
WRITTEN = {
    ("audit", "--write"): (".csv", "audit --write OUT"),
    ("cache export", "--out"): (".csv", "cache export --csv --out OUT"),
    ("cache merge", "--out"): (".h5", "cache merge RUN/embeddings.h5 RUN/embeddings.h5 --force "
                               "--out OUT"),
    ("compare", "--explain"): (".png", "compare PHOTO OTHER --explain OUT"),
    ("compare", "--picture"): (".png", "compare PHOTO OTHER --picture OUT"),
    ("export", "--onnx"): (".onnx", "export --onnx OUT"),
    ("finetune", "--architecture"): (".svg", "finetune --architecture OUT"),
    ("head", "--publish"): (".h5", "head --publish OUT"),
    ("map", "--out"): (".html", "map --out OUT"),
    ("report", "--out"): (".html", "report --out OUT"),
    ("score", "--out"): (".csv", "score --pairs PAIRS --out OUT"),
    ("search", "--out"): (".csv", "search PHOTO --out OUT"),
    ("search", "--picture"): (".png", "search PHOTO --picture OUT"),
    ("weights convert", "target"): (".safetensors", "weights convert RUN/model.pt OUT --backbone "
                                    "sface"),
}  # fmt: skip


def test_each_path_that_a_command_takes_is_read_or_guarded() -> None:
    found = set(path_options(kinembed.cli.cli))
    outputs = {each for each in found if each[1] not in READ or each == ("export", "--onnx")}
    assert outputs - FOLDERS_MADE == set(WRITTEN)


@pytest.mark.parametrize("option", WRITTEN)
def test_no_output_replaces_data_photos_or_what_another_run_made(
    option: tuple[str, str], run: Path, data: Path, pairs: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    suffix, line = WRITTEN[option]
    another = Path(shutil.copytree(run, tmp_path / "another"))
    names = ("audit.csv", "relate.html", "confirmed.csv", "audit/copy.png", "album/faces/1.jpg")
    for name in names:
        (another / name).parent.mkdir(exist_ok=True, parents=True)
        (another / name).write_text("of another run")
    photo, second, *_ = sorted(data.rglob("*.jpg"))
    asked = [another / name for name in ("head.h5", "embeddings.h5", *names)]
    victims = [*asked, photo, data / "train_relationships.csv", data / "sample_submission.csv"]
    out = tmp_path / f"out{suffix}"
    places = {"RUN": run, "PHOTO": second, "OTHER": photo, "OUT": out, "PAIRS": pairs}
    words = [
        "/".join(str(places.get(part, part)) for part in word.split("/")) for word in line.split()
    ]
    folders = ["--run", str(run), "--data", str(data)]
    before = contents(run, another, data)
    for victim in victims:
        out.symlink_to(victim)
        code, said = command([*words, *folders]), capsys.readouterr().err
        assert code == 1 and "name another file for the output" in said, (victim, said)
        out.unlink()
    assert contents(run, another, data) == before


def cache_of(networks: dict[str, str], source: Path, path: Path) -> None:
    """Writes a cache of the same vectors that names these networks."""
    with EmbeddingCache.open(source) as cache:
        about = {**cache.provenance, "command": {**cache.provenance["command"], **networks}}
        views = {view: [cache.vectors(view)] for view in cache.views}
        write_cache(path, about, cache.names, np.array(cache.digests), views)


@pytest.mark.parametrize("option", WRITTEN)
def test_no_output_replaces_a_network_or_a_file_of_another_program(
    option: tuple[str, str], run: Path, data: Path, pairs: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The cache names each of them; they may be of kinembed and have the ending of the output."""
    suffix, line = WRITTEN[option]
    cache, named = run / "embeddings.h5", tmp_path / f"named{suffix}"
    plain = Path(shutil.move(cache, tmp_path / "plain.h5"))
    photo, second, *_ = sorted(data.rglob("*.jpg"))
    words = [
        {"PHOTO": str(second), "OTHER": str(photo), "OUT": str(named), "PAIRS": str(pairs)}.get(
            word, word.replace("RUN", str(run))
        )
        for word in line.split()
    ]
    words += ["--run", str(run), "--data", str(data)]
    own, mark = KINDS.get(suffix, (b"rank,is_related\n", b""))
    for key in ("weights", "model", "onnx", "people_table", "of a head"):
        if option[0] == "weights convert":
            break  # it works in no run folder
        cache.unlink(missing_ok=True)
        named.write_bytes(own + mark)
        if key == "of a head":  # which learnt from a cache in another place
            shutil.copy(plain, cache)
            cache_of({"onnx": str(named)}, plain, tmp_path / "other.h5")
            head, record = read_head(run / "head.h5")
            save_head(head, run / "head.h5", replace(record, caches=("../other.h5",)))
        else:
            cache_of({key: str(named)}, plain, cache)
        code, said = command(words), capsys.readouterr().err
        assert code == 1 and "name another file for the output" in said, (key, said)
        assert named.read_bytes() == own + mark
    cache.unlink(missing_ok=True)
    shutil.copy(plain, cache)
    torch_file, onnx = b"PK\x03\x04archive/data.pkl", b"\x08\x07\x12\x07pytorch"
    for content in (b"hi", torch_file, onnx, plain.read_bytes()):
        named.write_bytes(content)
        if option == ("cache merge", "--out") and content == plain.read_bytes():
            continue  # what --force is for
        code, said = command(words), capsys.readouterr().err
        assert code == 1 and "name another file for the output" in said, (content[:20], said)
        assert named.read_bytes() == content


def test_what_a_cache_in_shards_names_is_an_input_and_its_files_are_artefacts(
    run: Path, tmp_path: Path
) -> None:
    weights, plain = tmp_path / "w.pt", Path(shutil.move(run / "embeddings.h5", tmp_path / "a.h5"))
    weights.write_bytes(b"weights")
    cache_of({"weights": str(weights)}, plain, tmp_path / "b.h5")
    listed = convert_cache(tmp_path / "b.h5", run, None, 10)
    assert listed == run / "embeddings.json"
    shard = next(run.glob("embeddings-*/*.h5"))
    for out in (weights, listed, shard, shard.with_name("new.onnx")):
        for folders in ([run], []):
            with pytest.raises(KinembedError, match="name another file for the output"):
                check_output(out, [listed], folders)


def test_what_a_command_wrote_it_replaces_and_a_name_says_its_format(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--run", str(run), "--data", str(data), "--quiet"]
    calls = [
        ["cache", "export", "--out", str(tmp_path / "vectors.csv")],
        ["cache", "export", "--out", str(tmp_path / "vectors.npy")],
        ["finetune", "--architecture", str(tmp_path / "net.svg")],
        ["map", "--method", "pca", "--out", str(tmp_path / "map.html")],
        ["weights", "convert", str(tmp_path / "w.pt"), str(tmp_path / "w.safetensors"),
         "--backbone", "mtcnn-onet"],
    ]  # fmt: skip
    torch.save(find_backbone("mtcnn-onet").build().state_dict(), tmp_path / "w.pt")
    for words in calls * 2:
        assert command([*words, *folders]) == 0, (words, capsys.readouterr().err)
    for words in (
        ["map", "--out", "m.txt"],
        ["report", "--out", "m.pt"],
        ["export", "--onnx", "m.pt"],
    ):
        assert command([*words, *folders]) == 1
        assert "wanted a name that ends in ." in capsys.readouterr().err


def test_two_outputs_do_not_share_a_file(faces: Path, tmp_path: Path) -> None:
    one, other, *_ = sorted(faces.rglob("*.jpg"))
    out = tmp_path / "same.png"
    with pytest.raises(KinembedError, match="is named for two outputs"):
        compare(CompareConfig(a=one, b=other, picture=out, explain=out), faces, tmp_path)


def test_a_picture_lies_in_no_folder_of_a_person(faces: Path, data: Path, tmp_path: Path) -> None:
    one = next(path for path in sorted((data / "train").rglob("*.jpg"))).parent
    for picture in (one / "new.png", one / "sub" / "new.png"):
        with pytest.raises(KinembedError, match="holds photos of a person"):
            compare(CompareConfig(a=one, b=next(faces.rglob("*.jpg")), picture=picture), data,
                    tmp_path)  # fmt: skip


def test_an_output_of_an_earlier_call_is_replaced(data: Path, tmp_path: Path) -> None:
    table, page, other = data / "found.csv", data / "page.html", data / "notes.csv"
    table.write_text("rank,answer\n1,kin\n")
    page.write_text("<!DOCTYPE html>\n<title>kinembed</title>")
    other.write_text("p1,p2\n")
    for path in (table, page):
        check_output(path, [], data=data, header=["rank", "answer"])
    with pytest.raises(KinembedError, match="is a file of the data folder"):
        check_output(other, [], data=data, header=["rank", "answer"])
    with pytest.raises(KinembedError, match="no such output of kinembed; delete it first"):
        check_output(other, [], data=tmp_path / "elsewhere")
    sheet = saved(Image.new("RGB", (8, 8)), data / "sheet.png")
    check_output(sheet, [], data=data)
