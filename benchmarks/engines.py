"""One network in float32 by several engines, and in int8: photos a second of one processor.

    pip install '.[onnx,sface]' onnx openvino
    python benchmarks/engines.py --data DATA --backbone sface

Turn by turn: the folded network with the whole batch at once; kinembed's way, which takes a few
photos at once; onnxruntime; OpenVINO; and onnxruntime in int8, scaled by other photos of the data.
Each has one thread, and its processor's time is counted, so that other programs disturb little.
Cosines are of the least alike photo, to the first side.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from kinembed.backbones import find_backbone
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.weights import load_trunk
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import read_photo

CPU = torch.device("cpu")
BATCH = 16  # photos, as of `kinembed embed`
Side = Callable[[Tensor], np.ndarray]  # uint8 photos (N, side, side, 3) to vectors (N, D)


class Inputs(quantization.CalibrationDataReader):
    """Normalised photos, a batch at a time, for the scales of int8."""

    def __init__(self, photos: list[np.ndarray]) -> None:
        self.left = iter(photos)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch."""
        batch = next(self.left, None)
        return None if batch is None else {"photos": batch}


def by_onnxruntime(path: Path, ready: Callable[[Tensor], np.ndarray]) -> Side:
    """An ONNX file run by onnxruntime in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda photos: session.run(None, {"photos": ready(photos)})[0]


def by_openvino(path: Path, ready: Callable[[Tensor], np.ndarray]) -> Side:
    """An ONNX file run by OpenVINO in float32 and one thread."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda photos: np.array(compiled({0: ready(photos)})[0])


def as_int8(path: Path, photos: list[np.ndarray]) -> Path:
    """The same network in int8: scales for each channel of weights, and of maps by percentiles."""
    ready, out = path.with_suffix(".ready"), path.with_suffix(".int8")
    quant_pre_process(path, ready, skip_symbolic_shape=True)
    quantization.quantize_static(
        ready, out, Inputs(photos), per_channel=True,
        calibrate_method=quantization.CalibrationMethod.Percentile,
    )  # fmt: skip
    return out


def main() -> None:
    """Prints photos a second of one processor, ratios to the first side, and cosines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--view", default="native")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(1)
    backbone = find_backbone(options.backbone)
    trunk = load_trunk(backbone, options.weights).eval()
    paths = list(find_photos(("train",), options.data).paths.values())
    chosen = [paths[at] for at in np.linspace(0, len(paths) - 1, 5 * BATCH).astype(int)]
    photos = torch.from_numpy(np.stack([read_photo(path, backbone.framing)[1] for path in chosen]))
    batch, others = photos[:BATCH], photos[BATCH:]
    whole, few = (Embedder(backbone, trunk, (options.view,)) for _ in range(2))

    def ready(pixels: Tensor) -> np.ndarray:
        return whole.normalise(pixels).contiguous().numpy()

    def of(embedder: Embedder) -> Side:
        return lambda pixels: embedder(pixels)[options.view].numpy()

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            nn.Sequential(whole.folded).eval(), (torch.from_numpy(ready(batch)),), str(path),
            input_names=["photos"], dynamic_axes={"photos": {0: "count"}}, dynamo=False,
        )  # fmt: skip
        whole.optimize(CPU, "fp32")
        whole.at_once = None
        few.optimize(CPU, "fp32")
        int8 = as_int8(path, [ready(part) for part in others.split(BATCH)])
        sides = {
            "all at once": of(whole),
            "kinembed": of(few),
            "onnxruntime": by_onnxruntime(path, ready),
            "OpenVINO": by_openvino(path, ready),
            "onnxruntime, int8": by_onnxruntime(int8, ready),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        found = {name: side(batch) for name, side in sides.items()}  # warms up
        for _ in range(options.rounds):
            for name, side in sides.items():
                start = time.process_time()
                side(batch)
                seconds[name].append(time.process_time() - start)
    first, vectors = (next(iter(each.values())) for each in (seconds, found))
    for name, each in seconds.items():
        ratio = float(np.median(np.array(first) / each))
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(found[name], axis=1)
        cosine = ((vectors * found[name]).sum(1) / lengths).min()
        print(
            f"{options.backbone} {name}: {BATCH / np.median(each):.0f} photos/s, "
            f"ratio {ratio:.2f}, least cosine {cosine:.5f}"
        )


if __name__ == "__main__":
    main()
