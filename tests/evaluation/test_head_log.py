"""The head log: its rows, files that are none, and writes that fail."""

import csv
import datetime
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinembed.errors import RunError, WriteError
from kinembed.evaluation.head_log import COLUMNS, log_head, read_head_log

HEADER = "when,recipe,settings,view,seed,folds,pairs,auc,low,high,epoch_chosen_by,seconds,head\n"


def row(seed: int, **changes: object) -> dict[str, object]:
    return {
        "recipe": "metric",
        "settings": "rank=8;dropout=0.1",
        "view": "avg",
        "seed": seed,
        "folds": 5,
        "pairs": 1200,
        "auc": 0.81239,
        "low": 0.79999,
        "high": 0.9,
        "epoch_chosen_by": "nobody",
        "seconds": 12.34567,
        "head": "0123456789ab",
        **changes,
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two rows."""
    path = tmp_path / "run" / "heads.csv"
    for seed in range(2):
        log_head(path, row(seed))
    return path


def is_only_file(path: Path) -> bool:
    """Whether the folder holds nothing else."""
    return [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_log_is_begun_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "heads.csv"
    assert log_head(path, row(3)) == path
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert lines[0] == HEADER == ",".join(COLUMNS) + "\n"
    when, _, rest = lines[1].partition(",")
    assert rest == (
        "metric,rank=8;dropout=0.1,avg,3,5,1200,0.8124,0.8000,0.9000,nobody,12.3457,0123456789ab\n"
    )
    assert len(lines) == 2 and is_only_file(path)
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(when)
    assert datetime.timedelta(seconds=-2) < age < datetime.timedelta(minutes=5)


def test_rows_are_kept_in_their_order_and_as_they_were(log: Path) -> None:
    for seed in range(2, 6):
        before = log.read_bytes()
        log_head(log, row(seed, recipe=f"recipe {seed}"))
        assert log.read_bytes().startswith(before)
    with log.open(newline="") as file:
        slow = [dict(zip(COLUMNS, fields, strict=True)) for fields in csv.reader(file)][1:]
    assert [each["seed"] for each in slow] == ["0", "1", "2", "3", "4", "5"]
    assert read_head_log(log) == slow


TEXTS = st.text(
    st.one_of(st.sampled_from(",;\"'\n =é"), st.characters(exclude_categories=("Cs", "Cc")))
)


@settings(max_examples=20)  # each row waits for the disk
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text_is_read_as_it_was_entered(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("log") / "heads.csv"
    for seed, text in enumerate(texts):
        log_head(path, row(seed, settings=text))
    assert [each["settings"] for each in read_head_log(path)] == texts


def test_a_log_from_a_spreadsheet_is_continued(log: Path) -> None:
    before = read_head_log(log)
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n"))
    log_head(log, row(2))
    assert read_head_log(log)[:2] == before and len(read_head_log(log)) == 3


def test_a_header_alone_is_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "heads.csv"
    path.write_text(HEADER)
    assert read_head_log(path) == []
    log_head(path, row(7))
    assert [each["seed"] for each in read_head_log(path)] == ["7"]


def test_an_unknown_column_is_refused(log: Path) -> None:
    before = log.read_bytes()
    with pytest.raises(ValueError, match="colour"):
        log_head(log, row(2, colour="blue"))
    assert log.read_bytes() == before and is_only_file(log)


LINE = "2024-01-01T00:00:00+00:00,metric,,avg,0,5,9,0.5000,0.4000,0.6000,nobody,1.0000,abc"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"recipe,loss\nbase,0.5\n",
        HEADER.replace("auc,low", "low,auc").encode(),
        HEADER.replace("head", "head,more").encode(),
        HEADER.replace(",head", "").encode(),
        f"{HEADER}{LINE},more\n".encode(),
        f"{HEADER}{LINE}\n{LINE[:40]}".encode(),
        f"{HEADER}{LINE}\n".encode() + b"\xff\xfe\n",
        f"{HEADER}{'x' * 200_000}\n".encode(),
        b"\x89PNG\r\n\x1a\n\x00\x00",
        ("n" * 5000 + "\n").encode(),
        b'"two\nlines",b\n1,2\n',
    ],
    ids=[
        *("empty", "blank", "another table", "columns turned", "a column more", "a column less"),
        *("a field more", "cut off", "not UTF-8", "a field too long", "a picture", "a long name"),
        "a name of two lines",
    ],
)
def test_a_file_that_is_no_log_is_named_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "heads.csv"
    path.write_bytes(content)
    for act in (lambda: read_head_log(path), lambda: log_head(path, row(0))):
        with pytest.raises(RunError) as error:
            act()
        message = str(error.value)
        assert message.startswith(f"{path}: ") and message.endswith("move it away")
        assert "\n" not in message and len(message) < len(str(path)) + 400
    assert path.read_bytes() == content and is_only_file(path)


def test_a_folder_of_that_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "heads.csv"
    path.mkdir()
    with pytest.raises(RunError, match="cannot be read .*; move it away$") as error:
        log_head(path, row(0))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert path.is_dir() and is_only_file(path)


# Writes that fail


@pytest.mark.parametrize("raised", [WriteError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_rows_that_were_there(
    log: Path, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt if raised is KeyboardInterrupt else OSError(28, "No space left")

    monkeypatch.setattr("kinembed.io.os.replace", fail)
    with pytest.raises(raised):
        log_head(log, row(2))
    assert log.read_bytes() == before and is_only_file(log)


KILLED = """
import os, signal, sys
from pathlib import Path
from kinembed import io as files
from kinembed.evaluation.head_log import log_head, read_head_log

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def half(number, *_):
    os.write(number, b"when,recipe")
    kill()

if sys.argv[2] == "in the middle":
    files.os.fdopen = half
else:
    files.os.replace = kill
path = Path(sys.argv[1])
row = read_head_log(path)[0]
row.pop("when")
log_head(path, row)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
@pytest.mark.parametrize("moment", ["in the middle", "at the end"])
def test_a_killed_write_leaves_the_rows_that_were_there(log: Path, moment: str) -> None:
    before = log.read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(log), moment], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert log.read_bytes() == before
    assert not is_only_file(log), "it was killed before it had begun to write"
    log_head(log, row(2))  # sweeps
    assert log.read_bytes().startswith(before)
    assert [each["seed"] for each in read_head_log(log)] == ["0", "1", "2"]
    assert is_only_file(log)
