"""The stage `demo`: the whole chain on synthetic families, without downloads."""

import csv
import io
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kinembed.config import EmbedConfig, FinetuneConfig, ScoreConfig
from kinembed.embed import embed
from kinembed.evaluation.metrics import roc_auc
from kinembed.finetune import finetune
from kinembed.io import make_folder, write_bytes
from kinembed.progress import Progress, silent
from kinembed.score import score
from kinembed.synthetic import generate_dataset

log = logging.getLogger(__name__)

EPOCHS = 3  # one cycle of the recipe's rate; half a minute of two cores


@dataclass(frozen=True)
class DemoResult:
    """The demo's result on pairs of held-out families.

    Attributes:
        auc: of the network's scores.
        colour_auc: of the photos' mean colour difference, a baseline without a network.
        pairs: number of test pairs, half of them kin.
        files: the artefacts.
    """

    auc: float
    colour_auc: float
    pairs: int
    files: dict[str, Path]


def demo(run: Path, *, seed: int = 0, progress: Progress = silent) -> DemoResult:
    """Generates families, then fine-tunes, embeds and scores as on the Kaggle files.

    Args:
        run: the run folder; the photos go into its folder `faces`.
        seed: of the families and the training.
        progress: shows the progress.
    """
    data = run / "faces"
    log.info("generating families in %s", data)
    make_folder(run)
    beside = run / "faces.partial"
    shutil.rmtree(beside, ignore_errors=True)
    generate_dataset(beside, seed=seed)
    shutil.rmtree(data, ignore_errors=True)
    beside.rename(data)
    sheet = draw_sheet(data / "train", run / "families.png")
    # Always float32: bf16, where a processor has it, would change the result.
    config = FinetuneConfig(
        backbone="mtcnn-onet",
        recipe="kin",
        epochs=EPOCHS,
        device="cpu",
        precision="fp32",
        framing="whole",  # the faces are painted where they should be
        seed=seed,
    )
    model = finetune(config, data, run, progress=progress)
    cache = embed(
        EmbedConfig(device="cpu", precision="fp32", framing="whole"), data, run, progress=progress
    )
    submission = score(ScoreConfig(Path("sample_submission.csv")), data, run)
    labels = np.array(_is_related(data / "test_labels.csv"))
    colours = [_colour_difference(data, pair) for pair in _pairs(submission)]
    curves = run / "curves.png"  # where matplotlib is installed
    return DemoResult(
        auc=roc_auc(labels, np.array(_is_related(submission))),
        colour_auc=roc_auc(labels, -np.array(colours)),
        pairs=len(labels),
        files={
            "photos": sheet,
            "network": model,
            "training": curves if curves.exists() else run / "history.csv",
            "embeddings": cache,
            "scores": submission,
        },
    )


def draw_sheet(train: Path, path: Path, families: int = 6, people: int = 4) -> Path:
    """Writes a PNG sheet with two photos of each of some people, one family per row."""
    size = 112
    sheet = Image.new("RGB", (2 * people * size, families * size))
    for row, family in enumerate(sorted(train.iterdir())[:families]):
        for column, person in enumerate(sorted(family.iterdir())[:people]):
            for offset, photo in enumerate(sorted(person.iterdir())[:2]):
                with Image.open(photo) as image:
                    corner = ((2 * column + offset) * size, row * size)
                    sheet.paste(image.resize((size, size)), corner)
    picture = io.BytesIO()
    sheet.save(picture, "PNG")
    return write_bytes(path, picture.getvalue())


def _is_related(path: Path) -> list[float]:
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["is_related"]) for row in csv.DictReader(file)]


def _pairs(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row["img_pair"].split("-") for row in csv.DictReader(file)]
    return [(left, right) for left, right in rows]


def _colour_difference(data: Path, pair: tuple[str, str]) -> float:
    """The distance between the mean colours of two test photos."""
    means = []
    for name in pair:
        with Image.open(data / "test" / name) as image:
            means.append(np.asarray(image, np.float64).mean((0, 1)))
    return float(np.linalg.norm(means[0] - means[1]))
