"""Photos embedded a second by the ways that facenet-pytorch and DeepFace document.

    python benchmarks/packages.py --data DATA
    python benchmarks/packages.py --data DATA --deepface others/bin/python

Both sides read the same face crops from files and give vectors of the same network.
facenet-pytorch's ways are its README's, one photo at a time, and its notebook's, all photos at
once, both without MTCNN. DeepFace's is `DeepFace.represent(img_path=...)` without a detector, of
one photo and of a list; it runs in a Python of its own, which has TensorFlow. Nothing is
downloaded: SFace's weights come with the extra `sface`, those of InceptionResnetV1 are random.

DeepFace fills the input with the photo, reduces it by another filter than Pillow's, and hands
Facenet the photo in BGR from 0 to 1, where kinembed frames the face, and hands it RGB from -1 to 1
as its authors did. So that both see the same, files are photos that need no more reducing, kinembed
has them fill the input, and DeepFace's Facenet gets copies in BGR, `normalization="Facenet2018"`
and kinembed's weights. Vectors by its defaults are compared, too.
"""

import argparse
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import nn
from turns import Comparison, compared, in_turns

from kinembed.backbones import Backbone, Framing, find_backbone
from kinembed.backbones.device import choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.facenet import _facenet_module
from kinembed.backbones.framing import named_framing
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import load_trunk
from kinembed.config import EmbedConfig
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import read_photo
from kinembed.threads import processors

CPU = torch.device("cpu")
PRECISION = choose_precision("auto", CPU)  # of kinembed; the other sides compute in float32
MODELS = {"SFace": "sface", "Facenet512": "inception-resnet-v1"}  # DeepFace's name, and ours


def by_kinembed(
    backbone: Backbone, trunk: Trunk, paths: Sequence[Path]
) -> Callable[[], np.ndarray]:
    """What embeds the files as `kinembed embed` does, in its threads, without writing a cache."""
    mapper = Mapper(Embedder(backbone, trunk, ("native",)), CPU, PRECISION)
    size = EmbedConfig().batch_of("cpu")
    batches = [paths[at : at + size] for at in range(0, len(paths), size)]

    def batch(files: Sequence[Path]) -> np.ndarray:
        return mapper.map([read_photo(path, backbone.framing)[1] for path in files])["native"]

    def run() -> np.ndarray:
        with mapper.threads(processors()) as (_, mappers):
            return np.concatenate(list(mappers.map(batch, batches)))

    return run


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least cosine of two vectors of one photo."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def compare_facenet(paths: Sequence[Path], rounds: int) -> Iterator[Comparison | str]:
    """facenet-pytorch's InceptionResnetV1 on crops, with the same random weights."""
    name = MODELS["Facenet512"]
    backbone = find_backbone(name)
    trunk = load_trunk(backbone, "none").eval()
    # As `from facenet_pytorch import InceptionResnetV1`, but without torchvision.
    resnet = _facenet_module("inception_resnet_v1").InceptionResnetV1().eval()
    resnet.load_state_dict(trunk.state_dict(), strict=False)
    side = backbone.framing.side

    def cropped(path: Path) -> torch.Tensor:
        image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 127.5) / 128.0

    def one_by_one() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([resnet(cropped(path).unsqueeze(0)) for path in paths])

    def at_once() -> torch.Tensor:
        with torch.no_grad():
            return resnet(torch.stack([cropped(path) for path in paths]))

    ours = by_kinembed(backbone, trunk, paths)
    cosine = least_cosine(ours(), at_once().numpy())  # warms up
    yield f"least cosine of kinembed's and facenet-pytorch's vectors: {cosine:.5f}"
    times = in_turns(
        {"ours": ours, "facenet-pytorch, a photo at a time": one_by_one,
         "facenet-pytorch, all at once": at_once}, rounds,
    )  # fmt: skip
    own = times.pop("ours")
    for way, other in times.items():
        what = f"embedding {len(paths)} face crops with {name}, kinembed in {PRECISION}"
        yield compared(what, way, "photos/s", own, other, len(paths))


class DeepFace:
    """DeepFace in another Python, which waits for its turns.

    Args:
        python: that has it.
        model: DeepFace's name of a network.
        paths: of the photos as they are.
        alike: of what kinembed sees of each, for this network.
        folder: for weights, in place of its `~`, and for what it answers.
        weights: the file of SFace, or arrays for Facenet.
    """

    def __init__(
        self,
        python: Path,
        model: str,
        paths: Sequence[Path],
        alike: Sequence[Path],
        folder: Path,
        weights: Path,
    ) -> None:
        listed, self.answer = folder / "photos.txt", folder / "vectors.npy"
        listed.write_text("\n".join(map(str, [*paths, *alike])))
        side = Path(__file__).with_name("packages_side.py")
        command = [python, side, model, listed, folder, weights]
        self.errors = folder / "errors.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.read("ready")

    def read(self, wanted: str) -> None:
        """Waits for a line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:  # other lines are DeepFace's own
            if line.strip() == wanted:
                return
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"DeepFace ended: {lines[-1] if lines else 'without a reason'}")

    def turn(self, way: str) -> np.ndarray:
        """Vectors of all photos: `one` at a time, as a `list`, or by its `defaults` as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{way}\n")
        self.process.stdin.flush()
        self.read("done")
        vectors: np.ndarray = np.load(self.answer)
        return vectors

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def as_seen(paths: Sequence[Path], framing: Framing, folder: Path, bgr: bool) -> list[Path]:
    """Copies of photos, of the input's side and without loss; in BGR for a network so fed."""
    folder.mkdir()
    copies = []
    for number, path in enumerate(paths):
        pixels = read_photo(path, framing)[1]
        copies.append(folder / f"{number:05}.png")
        Image.fromarray(pixels[..., ::-1] if bgr else pixels).save(copies[-1])
    return copies


def weights_of(model: str, trunk: Trunk, folder: Path) -> Path:
    """A file of weights for DeepFace's network: SFace's own, or Facenet's arrays, in their order.

    BatchNorm's numbers are left out, as random weights leave it as it starts.
    """
    if model == "SFace":
        from sface import published, runnable

        path = folder / "sface.onnx"
        path.write_bytes(runnable(published()))
        return path
    layers = (m for m in trunk.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    arrays = [each.detach().numpy() for layer in layers for each in layer.parameters()]
    np.savez(folder / "facenet.npz", *arrays)
    return folder / "facenet.npz"


def compare_deepface(
    python: Path, model: str, paths: Sequence[Path], rounds: int
) -> Iterator[Comparison | str]:
    """`DeepFace.represent` of the files, by a network that both have."""
    backbone = find_backbone(MODELS[model])
    trunk = load_trunk(backbone, "auto" if model == "SFace" else "none").eval()
    whole = replace(backbone, framing=named_framing(backbone, "whole"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        seen = as_seen(paths, whole.framing, folder / "rgb", False)
        alike = seen if model == "SFace" else as_seen(paths, whole.framing, folder / "bgr", True)
        deepface = DeepFace(python, model, paths, alike, folder, weights_of(model, trunk, folder))
        ours = by_kinembed(whole, trunk, seen)
        cosine = least_cosine(ours(), deepface.turn("list"))
        yield f"least cosine of kinembed's and DeepFace's vectors: {cosine:.5f}"
        cosine = least_cosine(by_kinembed(backbone, trunk, paths)(), deepface.turn("defaults"))
        yield f"the same of files as they are, by the defaults of both: {cosine:.5f}"
        times = in_turns(
            {"ours": ours, "represent, a photo at a time": lambda: deepface.turn("one"),
             "represent, a list": lambda: deepface.turn("list")}, rounds,
        )  # fmt: skip
        deepface.close()
    mine = times.pop("ours")
    for way, other in times.items():
        what = f"embedding {len(paths)} face crops with {backbone.name}, kinembed in {PRECISION}"
        yield compared(what, f"DeepFace's {way}", "photos/s", mine, other, len(paths))


def main() -> None:
    """Prints photos a second of all sides and the median ratios of their turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--deepface", type=Path, help="a python with DeepFace and TensorFlow")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    paths = list(find_photos(("train",), options.data).paths.values())[: options.photos]
    rows = [compare_facenet(paths, options.rounds)]
    if options.deepface is not None:
        rows += [compare_deepface(options.deepface, m, paths, options.rounds) for m in MODELS]
    for each in rows:
        for row in each:
            print(row, flush=True)


if __name__ == "__main__":
    main()
