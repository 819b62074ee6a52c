"""One network in float32 by several engines, and in int8: photos a second of one processor.

    pip install '.[onnx,sface]' onnx openvino ncnn pnnx MNN
    python benchmarks/engines.py --data DATA --backbone sface
    python benchmarks/engines.py --data DATA --backbone resnet50 --weights none --view max

Turn by turn: the folded network with the whole batch at once; kinembed's way, which takes a few
photos at once; torch.compile with freezing, for which it wants a C++ compiler; onnxruntime;
OpenVINO; ncnn and MNN, which have Winograd's convolutions; and onnxruntime in int8, scaled by other
photos of the data. A side that is not installed is left out, and said. Each has one thread, and its
processor's time is counted, so that other programs disturb little. Cosines are of the least alike
photo, to the first side.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from kinembed.backbones import find_backbone
from kinembed.backbones.embedder import FEW, Embedder
from kinembed.backbones.weights import load_trunk
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import read_photo
from kinembed.memory import reused_memory

CPU = torch.device("cpu")
BATCH = 16  # photos, as of `kinembed embed`
Side = Callable[[Tensor], np.ndarray]  # uint8 photos (N, side, side, 3) to vectors (N, D)
Ready = Callable[[Tensor], np.ndarray]  # to normalised ones (N, 3, side, side)


class Inputs(quantization.CalibrationDataReader):
    """Normalised photos, a batch at a time, for the scales of int8."""

    def __init__(self, photos: list[np.ndarray]) -> None:
        self.left = iter(photos)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch."""
        batch = next(self.left, None)
        return None if batch is None else {"photos": batch}


def of(embedder: Embedder, view: str) -> Side:
    """A view by kinembed."""
    return lambda photos: embedder(photos)[view].numpy()


def by_onnxruntime(path: Path, ready: Ready) -> Side:
    """An ONNX file run by onnxruntime in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda photos: session.run(None, {"photos": ready(photos)})[0]


def by_openvino(path: Path, ready: Ready) -> Side:
    """An ONNX file run by OpenVINO in float32 and one thread."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda photos: np.array(compiled({0: ready(photos)})[0])


def by_ncnn(network: nn.Module, example: Tensor, folder: Path, ready: Ready) -> Side:
    """A network run by ncnn in float32 and one thread, a photo at a time, as it takes them."""
    import ncnn
    import pnnx

    pnnx.export(network, str(folder / "pnnx.pt"), (example[:1].contiguous(),), fp16=False)
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(folder / "pnnx.ncnn.param"))
    net.load_model(str(folder / "pnnx.ncnn.bin"))

    def one(photo: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(photo))
        return np.array(extractor.extract("out0")[1])

    return lambda photos: np.stack([one(photo) for photo in ready(photos)])


def by_mnn(path: Path, ready: Ready) -> Side:
    """An ONNX file run by MNN in float32 and one thread."""
    import MNN

    converted = path.with_suffix(".mnn")
    command = [sys.executable, "-m", "MNN.tools.mnnconvert", "-f", "ONNX", "--modelFile", path]
    command += ["--MNNModel", converted, "--bizCode", "kinembed"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    settings = {"backend": "CPU", "precision": "high", "numThread": 1}
    manager = MNN.nn.create_runtime_manager((settings,))
    net = MNN.nn.load_module_from_file(
        str(converted), ["photos"], ["vectors"], runtime_manager=manager
    )

    def run(photos: Tensor) -> np.ndarray:
        given = MNN.expr.const(ready(photos), list(photos.permute(0, 3, 1, 2).shape), MNN.expr.NCHW)
        return np.array(net.forward([MNN.expr.convert(given, MNN.expr.NC4HW4)])[0].read())

    return run


def by_inductor(embedder: Embedder, view: str) -> Side:
    """The folded network compiled by torch for the sizes at hand, with its weights packed."""
    from torch._inductor import config

    config.freezing = True
    embedder.at_once = FEW
    embedder.folded = torch.compile(embedder.folded, dynamic=False)
    return of(embedder, view)


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
    parser.add_argument("--without", action="append", default=[], help="a side to leave out")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(1)
    backbone = find_backbone(options.backbone)
    trunk = load_trunk(backbone, options.weights).eval()
    paths = list(find_photos(("train",), options.data).paths.values())
    chosen = [paths[at] for at in np.linspace(0, len(paths) - 1, 5 * BATCH).astype(int)]
    photos = torch.from_numpy(np.stack([read_photo(path, backbone.framing)[1] for path in chosen]))
    batch, more = photos[:BATCH], photos[BATCH:]
    whole, few, compiled = (Embedder(backbone, trunk, (options.view,)) for _ in range(3))

    def ready(pixels: Tensor) -> np.ndarray:
        return whole.normalise(pixels).contiguous().numpy()

    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), reused_memory():
        path = Path(folder) / "network.onnx"
        network = nn.Sequential(OrderedDict(folded=whole.folded)).eval()
        torch.onnx.export(
            network, (torch.from_numpy(ready(batch)),), str(path),
            input_names=["photos"], output_names=["vectors"],
            dynamic_axes={"photos": {0: "count"}}, dynamo=False,
        )  # fmt: skip
        whole.optimize(CPU, "fp32")
        whole.at_once = None
        few.optimize(CPU, "fp32")
        sides = {"all at once": of(whole, options.view), "kinembed": of(few, options.view)}
        others: dict[str, Callable[[], Side]] = {
            "inductor": lambda: by_inductor(compiled, options.view),
            "onnxruntime": lambda: by_onnxruntime(path, ready),
            "OpenVINO": lambda: by_openvino(path, ready),
            "ncnn": lambda: by_ncnn(network, torch.from_numpy(ready(batch)), Path(folder), ready),
            "MNN": lambda: by_mnn(path, ready),
            "onnxruntime, int8": lambda: by_onnxruntime(
                as_int8(path, [ready(part) for part in more.split(BATCH)]), ready
            ),
        }
        for name, make in others.items():
            if name in options.without:
                continue
            try:
                sides[name] = make()
            except ImportError as error:
                print(f"{name} is left out: {error}")
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
