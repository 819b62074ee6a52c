"""Framings: AUC of the plain cosine on photos that are cropped in different ways.

    python benchmarks/framing.py --kaggle DATA --kinfacew DIR --aligned DIR --weights PT

`--kaggle` has `train/` and `train_relationships.csv`; of it a few hundred people are drawn.
`--kinfacew` has `KinFaceW-I/` and `KinFaceW-II/`. `--aligned` has photos aligned on ArcFace's
template in `photos/`, and `pairs.csv`. With `--onnx` it is the network in place of `--backbone`.
`--faces` prints where eyes and mouth lie on 800 photos of each, which `LOOSE_FACE` and
`ALIGNED_FACE` of `kinembed/backbones/__init__.py` are.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.config import EmbedConfig
from kinembed.data.families import read_families
from kinembed.data.framings import look
from kinembed.data.protocols import read_kinfacew, read_labelled
from kinembed.embed import embed
from kinembed.evaluation.metrics import roc_auc

RELATIONS = 250  # of Kaggle's, drawn
PHOTO_PAIRS = 3  # of each
FACES = 800

Pairs = tuple[np.ndarray, np.ndarray]  # (K, 2) rows of the cache, (K,) labels
Reader = Callable[[EmbeddingCache], Pairs]


def kaggle(data: Path, folder: Path) -> Reader:
    """Copies the photos of some people into a folder; pairs of kin, and as many strangers."""
    families, rng = read_families(data), np.random.default_rng(0)
    drawn = rng.choice(len(families.relations), RELATIONS, replace=False)
    photos = {
        person: rng.permutation(np.flatnonzero(families.owner == person))[:2]
        for person in np.unique(families.relations[drawn])
    }
    for row in np.concatenate(list(photos.values())).tolist():
        path = folder / families.photos[row]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / families.photos[row], path)
    people = np.array(list(photos))
    pairs = [(a, b) for a, b in families.relations[drawn].tolist() for _ in range(PHOTO_PAIRS)]
    kin = len(pairs)
    while len(pairs) < 2 * kin:
        a, b = rng.choice(people, 2, replace=False).tolist()
        if families.family[a] != families.family[b]:
            pairs.append((a, b))
    names = [tuple(families.photos[rng.choice(photos[each])] for each in pair) for pair in pairs]
    labels = np.arange(len(pairs)) < kin

    def read(cache: EmbeddingCache) -> Pairs:
        rows = [cache.find([name[side] for name in names]) for side in (0, 1)]
        return np.stack(rows, 1), labels

    return read


def sets(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path, Reader]]:
    """Names, folders and pairs of the sets of photos that there are."""
    if options.kaggle:
        read = kaggle(options.kaggle, folder)
        yield "Kaggle", folder, read
    for number in ("I", "II") if options.kinfacew else ():
        root = options.kinfacew / f"KinFaceW-{number}"
        yield root.name, root / "images", lambda cache, root=root: pairs(read_kinfacew(root, cache))
    if options.aligned:
        table = options.aligned / "pairs.csv"
        yield (
            "aligned",
            options.aligned / "photos",
            lambda cache: pairs(read_labelled(table, cache)),
        )


def pairs(labelled: object) -> Pairs:
    return labelled.rows, labelled.labels


def cosine_auc(cache: EmbeddingCache, read: Reader) -> float:
    """The AUC of the cosine of the network's own vectors."""
    vectors = cache.vectors("native").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, labels = read(cache)
    return roc_auc(labels, (vectors[rows[:, 0]] * vectors[rows[:, 1]]).sum(1))


def main() -> None:
    """Prints a row for each set, a column for each framing."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--kaggle", "--kinfacew", "--aligned", "--onnx"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--weights", default="auto")
    for name in ("--mean", "--scale"):
        parser.add_argument(name, type=float, nargs=3, help="of the pixels of --onnx, R G B")
    parser.add_argument("--faces", action="store_true")
    options = parser.parse_args()
    network = {"backbone": options.backbone, "weights": options.weights}
    if options.onnx:
        network = {"onnx": options.onnx, "mean": options.mean, "scale": options.scale}
    framings = ("loose", "aligned", "whole", "auto")
    with tempfile.TemporaryDirectory() as temporary:
        print("| photos | pairs |", " | ".join(framings), "| frame of auto |")
        print("|" + "---|" * (len(framings) + 3))
        for name, folder, read in sets(options, Path(temporary) / "photos"):
            if options.faces:
                print(name, look(sorted(folder.rglob("*.jpg")), FACES))
                continue
            cells = []
            for framing in framings:
                config = EmbedConfig(
                    photos=(str(folder),), views=("native",), framing=framing, **network
                )
                path = embed(config, Path(temporary), Path(temporary) / "run")
                with EmbeddingCache.open(path) as cache:
                    cells.append(f"{cosine_auc(cache, read):.4f}")
                    count, frame = len(read(cache)[1]), cache.provenance["input"]["framing"]
            place = f"{frame['inner']} of {frame['side']} px, at {frame['left']}, {frame['top']}"
            print(f"| {name} | {count:,} |", " | ".join(cells), f"| {place} |", flush=True)


if __name__ == "__main__":
    main()
