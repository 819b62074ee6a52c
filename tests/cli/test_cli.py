"""The command line: options, exit codes, one-line problems, light imports, Ctrl-C."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from forked import Forked

import kinembed
from kinembed.cache import EmbeddingCache
from kinembed.cli import cli
from kinembed.cli import run as kin
from kinembed.config import EmbedConfig, FinetuneConfig
from kinembed.errors import DataError, KinembedError, RunError, WeightsError, WriteError

CHECKOUT = Path(kinembed.__file__).parents[1]
COMMON = {"--run", "--data", "--seed", "--shared", "--quiet", "--verbose"}
# From the design, which is a contract with other programs
CONTRACT = {
    "finetune": {
        *("--backbone", "--weights", "--recipe", "--epochs", "--steps", "--val-steps"),
        *("--batch-size", "--positive-fraction", "--split", "--device", "--resume"),
        *("--skip-unreadable", "--patience", "--precision", "--view"),
    },
    "embed": {
        *("--photos", "--views", "--backbone", "--weights", "--device", "--skip-unreadable"),
        *("--dtype", "--batch-size", "--precision"),
    },
    "score": {"--pairs", "--out"},
    "demo": set(),
}


def commands(group: click.Command = cli, name: str = "") -> dict[str, click.Command]:
    """All commands by what is typed to call them."""
    if not isinstance(group, click.Group):
        return {name: group}
    result = {}
    for part, command in group.commands.items():
        result |= commands(command, f"{name} {part}".strip())
    return result


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


def contents(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}


def short(run: Path, data: Path, *more: str) -> list[str]:
    """Arguments of a training of a second."""
    chosen = "--backbone mtcnn-onet --recipe base --split families --epochs 1 --steps 2"
    limits = "--val-steps 1 --batch-size 8 --device cpu --precision fp32 --framing loose --quiet"
    return [
        *("finetune", "--run", str(run), "--data", str(data)),
        *chosen.split(),
        *limits.split(),
        *more,
    ]


# Options


@pytest.mark.parametrize("name", CONTRACT)
def test_commands_have_the_options_of_the_contract(name: str) -> None:
    options = {option for p in commands()[name].params for option in p.opts}
    assert CONTRACT[name] <= options


@pytest.mark.parametrize("name", commands())
def test_every_command_takes_the_common_options_and_says_what_it_does(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands()[name]
    assert {option for p in command.params for option in p.opts} >= COMMON
    assert "-v" in {option for p in command.params for option in p.opts}
    assert kin([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert command.help and command.help.splitlines()[0] in " ".join(shown.split())
    assert "--run" in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert kin(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in cli.commands:
        assert f"\n  {name} " in shown
    assert kin(["-h"]) == 0


def test_defaults_are_those_of_the_stages() -> None:
    defaults = {p.name: p.default for p in commands()["finetune"].params}
    for name in ("backbone", "weights", "recipe", "epochs", "steps", "val_steps", "batch_size"):
        assert defaults[name] == getattr(FinetuneConfig, name)
    assert str(defaults["run"]) == "runs/default" and str(defaults["data"]) == "data"
    defaults = {p.name: p.default for p in commands()["embed"].params}
    assert defaults["photos"] == [",".join(EmbedConfig.photos)]
    assert [EmbedConfig().batch_of(device) for device in ("cpu", "cuda")] == [16, 128]
    assert defaults["flip"] is EmbedConfig.flip


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert kin(["--version"]) == 0
    assert capsys.readouterr().out == f"kinembed {kinembed.__version__}\n"


# Exit codes


def test_the_chain_ends_with_0_and_says_nothing_when_quiet(
    faces: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    there = ["--run", str(run), "--data", str(faces), "--quiet"]
    assert kin(short(run, faces)) == 0
    assert kin(["embed", *there, "--device", "cpu", "--views", "max, avg", "--no-flip"]) == 0
    assert kin(["score", *there, "--pairs", "sample_submission.csv"]) == 0
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        assert sorted(cache.views) == ["avg", "max"]
    lines = (run / "submission.csv").read_text().splitlines()
    assert len(lines) == len((faces / "sample_submission.csv").read_text().splitlines())


def test_words_go_to_standard_error(
    run: Path, faces: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert kin(["score", "--run", str(run), "--data", str(faces)]) == 0
    output = capfd.readouterr()
    assert output.out == ""
    assert "submission.csv: " in output.err and "pairs scored" in output.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["unheard-of"],
        ["score", "--unheard-of"],
        ["score", "surplus"],
        ["finetune", "--epochs", "0"],
        ["finetune", "--epochs", "many"],
        ["finetune", "--positive-fraction", "1"],
        ["finetune", "--split", "photos"],
        ["finetune", "--seed", "-1"],
        ["finetune", "--precision", "fp8"],
        ["finetune", "--validation-fraction", "nan"],
        ["finetune", "--minutes", "inf"],
        ["embed", "--engine", "ray", "--actor-cpus", "nan"],
        ["embed", "--batch-size", "0"],
        ["embed", "--dtype", "int4"],
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", sys.stderr)
    assert kin(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Error: " in output.err and "Usage: kinembed" in output.err


@pytest.mark.parametrize(
    "error",
    [
        KinembedError("plain problem"),
        DataError("photos: a problem"),
        WeightsError("weights: a problem"),
        RunError("run: a problem"),
        WriteError("disk: a problem"),
        OSError(28, "No space left on device"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_problem_is_one_line_and_ends_with_1(
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kinembed.score.score", fail)
    assert kin(["score", "--run", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("Error: ")
    assert (str(error) or "out of memory") in line


def test_an_interruption_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kinembed.score.score", interrupt)
    assert kin(["score"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("kinembed.score.score", bug)
    with pytest.raises(ZeroDivisionError):
        kin(["score"])


def spoil_text_photo(data: Path) -> None:
    next((data / "train").rglob("*.jpg")).write_text("not a photo")


def spoil_half_photo(data: Path) -> None:
    photo = next((data / "train").rglob("*.jpg"))
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])


def spoil_relations(data: Path) -> None:
    (data / "train_relationships.csv").write_text("p1\nF0001/MID1\n")


def spoil_families(data: Path) -> None:
    shutil.rmtree(data / "train")
    (data / "train").mkdir()


def spoil_data(data: Path) -> None:
    shutil.rmtree(data)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (spoil_text_photo, "not a photo"),
        (spoil_half_photo, "cannot be decoded"),
        (spoil_relations, "train_relationships.csv, line 1: found 'p1'"),
        (spoil_families, "no JPEG, PNG"),
        (spoil_data, "no such folder; wanted Kaggle's files"),
    ],
)
def test_bad_data_is_one_line_and_leaves_the_run_as_it_was(
    spoil: Callable[[Path], None],
    problem: str,
    data: Path,
    run: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = contents(run)
    spoil(data)
    assert kin(short(run, data)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Error: ") and problem in line
    assert contents(run) == before
    assert not (run / "finetune.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--backbone", "resnet51"], "backbone 'resnet51' is unknown; known are"),
        (["--recipe", "magic"], "recipe 'magic' is unknown; known are"),
        (["--device", "tpu"], "device 'tpu' is not on this machine"),
        (["--device", "cpu:x"], "device 'cpu:x' is not on this machine"),
        (["--backbone", "mobilefacenet", "--weights", "{run}/model.pt"], "model.pt: "),
        (["--resume"], "nothing to resume"),
        (["--batch-size", "2", "--positive-fraction", "0.1"], "0.1 of 2 pairs are kin"),
    ],
)
def test_bad_settings_are_one_line(
    arguments: list[str], problem: str, faces: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert kin(short(run, faces, *(part.format(run=run) for part in arguments))) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Error: ") and problem in line
    assert contents(run) == before


def test_a_seed_beyond_every_generator_is_wrong_usage_or_works(faces: Path, tmp_path: Path) -> None:
    assert kin(short(tmp_path, faces, "--seed", str(2**32 - 1))) == 0
    assert kin(short(tmp_path, faces, "--seed", str(10**30))) == 2


def test_a_file_in_place_of_the_run_folder_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert kin(["score", "--run", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_nothing_to_score_with_says_what_to_run(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kin(["score", "--run", str(tmp_path), "--data", str(faces)]) == 1
    assert "embeddings.h5: no such file; run kinembed embed" in capsys.readouterr().err
    assert kin(["embed", "--run", str(tmp_path), "--data", str(faces)]) == 1
    said = capsys.readouterr().err
    assert "model.pt: no such file; name a face network with --backbone NAME" in said
    assert said.endswith(f"kinembed finetune first (with --run {tmp_path} --data {faces})\n")


@pytest.mark.parametrize(
    ("given", "problem", "added"),
    [
        (["score", "--run", "runs/x"], "run kinembed head", " (with --run runs/x)"),
        (["score", "--run=a b"], "run kinembed cache verify", " (with --run 'a b')"),
        (["score", "--cache", "c.h5"], "run kinembed embed", ""),  # embed takes no --cache
        (
            ["score", "--cache", "c.h5", "--data", "d"],
            "run kinembed head, or kinembed finetune, again",
            " (with --cache c.h5 --data d)",
        ),
        (["score", "--run", "runs/x"], "no such file", ""),
        (["score"], "run kinembed embed", ""),
    ],
)
def test_the_command_that_an_error_names_has_the_places_in_use(
    given: list[str],
    problem: str,
    added: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError(problem)

    monkeypatch.setattr("kinembed.score.score", fail)
    assert kin(given) == 1
    assert capsys.readouterr().err == f"Error: {problem}{added}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["embed", "--backbone", "sfac"], "did you mean sface?"),
        (["finetune", "--recipe", "regularised"], "did you mean regularized?"),
        (["finetune", "--set", "learning-rate=1"], "did you mean learning_rate?"),
    ],
)
def test_a_misspelt_name_is_answered_at_once_with_the_nearest(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(sys.modules)
    assert kin(arguments) == 1
    assert hint in capsys.readouterr().err
    assert not {"torch", "kinembed.embed", "kinembed.finetune"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    "arguments",
    [["head", "--kind", "regularized", "--recipe", "dense"], ["cache", "export", "--npy", "--csv"]],
)
def test_options_that_contradict_each_other_are_wrong_usage(arguments: list[str]) -> None:
    assert kin(arguments) == 2


@pytest.mark.parametrize(
    ("command", "hint"),
    [("finetune", "--resume goes on"), ("embed", "the same command goes on"), ("demo", "were\n")],
)
def test_an_interrupted_command_says_how_it_goes_on(
    command: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"kinembed.{command}.{command}", interrupt)
    assert kin([command]) == 130
    said = capsys.readouterr().err
    assert hint in said and ("--resume" in said) == (command == "finetune")


# As a program

LIGHT = """
import sys
from kinembed.cli import run
code = run({arguments!r})
heavy = {{"torch", "torchvision", "sklearn", "scipy", "matplotlib", "PIL", "onnx"}} & set(sys.modules)
print("exit", code, "heavy", sorted(heavy))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["score", "--help"], ["finetune", "--help"]),
        *(["score"], ["weights", "list"], ["head", "--list"]),
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str], run: Path, faces: Path) -> None:
    if arguments[0] in ("score", "weights", "head") and "--help" not in arguments:
        arguments = [*arguments, "--run", str(run), "--data", str(faces)]
    done = python("-c", LIGHT.format(arguments=arguments))
    assert done.stdout.splitlines()[-1] == "exit 0 heavy []", done.stderr


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import kinembed; print(set(sys.modules) - before)"
    )
    assert python("-c", code).stdout == "{'kinembed'}\n"


def test_the_module_and_the_checkouts_script_are_the_command(tmp_path: Path) -> None:
    for start in (["-m", "kinembed"], [str(CHECKOUT / "cli.py")]):
        done = python(*start, "--version", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"kinembed {kinembed.__version__}\n")
        done = python(*start, "score", "--run", "none", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1


def interrupted(
    python: Path, arguments: list[str], started: Path
) -> subprocess.CompletedProcess[str]:
    """Runs kinembed until a path exists, presses Ctrl-C, waits for the end."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = Forked(
        [python, "-m", "kinembed", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        deadline = time.monotonic() + 600
        while not started.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        assert started.exists()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_ctrl_c_in_finetune_ends_with_130_and_leaves_the_run_as_it_was(
    run: Path, faces: Path, forked: Path
) -> None:
    before = contents(run)
    started = run / "finetune.partial" / "history.csv"
    done = interrupted(forked, short(run, faces, "--epochs", "100000"), started)
    assert done.returncode == 130
    assert "Interrupted" in done.stderr and "Traceback" not in done.stderr
    assert contents(run) == before
    assert started.is_file()  # whole epochs are kept for --resume


def test_ctrl_c_in_embed_ends_with_130_and_leaves_the_run_as_it_was(
    run: Path, faces: Path, tmp_path: Path, forked: Path
) -> None:
    before = contents(run)
    album = tmp_path / "album"
    album.mkdir()
    photo = next((faces / "test").iterdir()).read_bytes()
    for number in range(3000):  # each of other bytes, or it would be embedded once
        (album / f"{number}.jpg").write_bytes(photo + str(number).encode())
    arguments = "embed --backbone mobilefacenet --weights none --device cpu --precision fp32"
    arguments += " --framing loose"
    arguments_ = [*arguments.split(), "--run", str(run), "--photos", str(album)]
    done = interrupted(forked, arguments_, run / "embed.partial")
    assert done.returncode == 130
    assert "Interrupted" in done.stderr and "Traceback" not in done.stderr
    assert contents(run) == before
    # Only finished shards are left for the next time.
    left = run / "embed.partial"
    assert not left.exists() or list(left.glob("[0-9]*.json"))


# Small shards; once the first is finished, no other is until the test has sent its signal.
WAITING = """
import os, sys, time
from kinembed.cli import main

def replace(source, target, place=os.replace):
    place(source, target)
    while str(target).endswith("000000.json") and not os.path.exists(sent):
        time.sleep(0.01)

sent = sys.argv.pop()
os.replace = replace
main()
"""


def test_sigterm_in_embed_ends_with_143_and_leaves_what_is_finished(
    run: Path, faces: Path, tmp_path: Path, forked: Path
) -> None:
    before = contents(run)
    arguments = ["embed", "--backbone", "mtcnn-onet", "--batch-size", "1", "--device", "cpu"]
    arguments += ["--run", str(run), "--data", str(faces), "--shard-photos", "4"]
    arguments += ["--framing", "loose"]
    start = [forked, "-c", WAITING, *arguments, str(tmp_path / "sent")]
    process = Forked(start, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (run / "embed.partial" / "000000.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.terminate()
    (tmp_path / "sent").touch()
    _, error = process.communicate(timeout=600)
    assert process.returncode == 143
    assert "Terminated" in error and "Traceback" not in error
    assert contents(run) == before
    assert (run / "embed.partial" / "000000.json").exists()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from kinembed.cli import run
sys.exit(run({arguments!r}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits as Linux has them")
@pytest.mark.parametrize(("command", "limit"), [("embed", 20_000), ("score", 1_000)])
def test_a_disk_that_takes_no_more_is_one_line_and_leaves_the_run_as_it_was(
    run: Path, faces: Path, command: str, limit: int, forked: Path
) -> None:
    before = contents(run)
    arguments = [command, "--run", str(run), "--data", str(faces), "--quiet"]
    if command == "embed":
        arguments += ["--device", "cpu", "--framing", "loose"]
    full = FULL.format(limit=limit, arguments=arguments)
    done = subprocess.run([forked, "-c", full], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and "cannot be written" in line
    assert contents(run) == before
    assert sorted(p.name for p in run.iterdir()) == sorted([*before, "heads"])


def test_artefacts_are_for_their_owner_alone_unless_they_are_shared(
    faces: Path, tmp_path: Path
) -> None:
    umask = os.umask(0o022)
    try:
        for option, file_mode, folder_mode in ((), 0o600, 0o700), (("--shared",), 0o644, 0o755):
            run_folder = tmp_path / "-".join(["runs", *option]) / "default"
            embedding = ("embed", "--data", str(faces), "--run", str(run_folder), *option)
            network = ("--backbone", "mtcnn-onet", "--weights", "none", "--quiet")
            network += ("--framing", "loose")
            assert kin([*embedding, *network]) == 0
            assert kin(["head", "--data", str(faces), "--run", str(run_folder), *option,
                        "--quiet", "--epochs", "1", "--steps", "1", "--folds", "0"]) == 0  # fmt: skip
            files = [path for path in run_folder.rglob("*") if path.is_file()]
            folders = [
                run_folder.parent,
                *(path for path in run_folder.rglob("*") if path.is_dir()),
            ]
            assert len(files) > 3
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {file_mode}
            assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {folder_mode}
    finally:
        os.umask(umask)


# Closed and broken standard files


def shell(line: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of a shell, in which KIN is the command; its last output is the exit code."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "KIN": f"{sys.executable} -m kinembed",
    }
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=environment
    )


EMBED = "$KIN embed --backbone mtcnn-onet --weights none --framing loose --photos test --data {data} --run run"
CONVERT = "$KIN cache convert {run}/embeddings.h5 --dtype float16 --run run"


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        *((EMBED, ">&-"), (EMBED, "<&- >&- 2>&-")),
        *((CONVERT, "2>&-"), (CONVERT, "<&-"), (CONVERT, "2>/dev/full")),
    ],
    ids=["embed-stdout", "embed-all", "convert-stderr", "convert-stdin", "convert-full"],
)
def test_a_command_works_without_standard_files(
    tmp_path: Path, faces: Path, tuned: Path, command: str, closed: str
) -> None:
    done = shell(f"{command.format(data=faces, run=tuned)} {closed}", tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    with EmbeddingCache.open(tmp_path / "run" / "embeddings.h5") as cache:
        assert len(cache)  # nothing was printed into it
    assert not any("seal" in text for text in (done.stdout, done.stderr))


@pytest.mark.parametrize("command", ["weights list", "weights list --json", "--help", "--version"])
def test_a_result_that_nobody_reads_is_a_quiet_end(tmp_path: Path, command: str) -> None:
    done = shell(f"(sleep 0.2; $KIN {command}; echo $? >code) | true", tmp_path)
    assert (tmp_path / "code").read_text() in ("141\n", "1\n") and done.stderr == ""


@pytest.mark.parametrize(
    ("place", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
def test_a_result_that_cannot_be_printed_is_a_problem(
    tmp_path: Path, place: str, reason: str
) -> None:
    for command in ("weights list", "weights list --json"):
        done = shell(f"$KIN {command} {place}", tmp_path)
        assert done.returncode == 1
        assert done.stderr == f"Error: standard output: the result cannot be printed ({reason})\n"


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_a_problem_ends_with_its_code_even_if_nobody_can_be_told(
    tmp_path: Path, closed: str
) -> None:
    assert shell(f"$KIN score --run nowhere {closed}", tmp_path).returncode == 1
    assert shell(f"$KIN head --unheard-of {closed}", tmp_path).returncode == 2


def test_scores_go_to_standard_output_as_they_go_to_a_file(
    tmp_path: Path, run: Path, faces: Path
) -> None:
    score = f"$KIN score --quiet --run {run} --data {faces} --pairs sample_submission.csv"
    assert shell(f"{score} --out file.csv", tmp_path).returncode == 0
    wanted = (tmp_path / "file.csv").read_bytes()
    assert shell(f"{score} --out /dev/stdout | cat >piped.csv", tmp_path).returncode == 0
    assert (tmp_path / "piped.csv").read_bytes() == wanted
    assert shell(f"(echo 1; {score} --out /dev/stdout) >all.csv", tmp_path).returncode == 0
    assert (tmp_path / "all.csv").read_bytes() == b"1\n" + wanted
    done = shell(f"{score} --out /dev/null", tmp_path)
    assert done.returncode == 0 and stat.S_ISCHR(os.stat("/dev/null").st_mode)
