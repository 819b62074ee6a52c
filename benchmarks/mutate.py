"""Has damaged and hostile files read, a process for each kind, watched and under limits.

    python benchmarks/mutate.py --files 1000
    python benchmarks/mutate.py --kinds caches,heads --files 2000

Each file is a whole one with flipped bits, a cut, bytes of another place or extreme numbers, or one
made on purpose: values out of range under a right seal or checksum, links, filters, inflating
members. Each has to be refused in one line, or read with the numbers that were written where the
kind has checksums; in 5 seconds, in 512 MiB more than the file, without any other file, socket or
process, and without a traceback. The HDF5 library, onnxruntime and pyarrow open files below Python,
where no hook sees them; the first reads only Keras files, in a process of its own.
"""

import argparse
import faulthandler
import gzip
import io
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from kinembed.cache import ATTRIBUTE, SCHEMA, EmbeddingCache
from kinembed.cache.footer import _MARK, _TAIL, sealed_bytes
from kinembed.cache.verify import verify
from kinembed.cache.writer import write_cache
from kinembed.data.pair_files import read_pairs
from kinembed.errors import KinembedError
from kinembed.evaluation.calibration import Calibration, Scale, load_calibration, seal
from kinembed.evaluation.published import ATTRIBUTE as PUBLISHED
from kinembed.evaluation.published import read_published
from kinembed.heads.ensemble import EnsembleHead
from kinembed.heads.file import ATTRIBUTE as HEAD
from kinembed.heads.file import HeadRecord, read_head, save_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pair import PairHead
from kinembed.heads.same_person import SamePerson
from kinembed.heads.score_norm import ScoreNorm
from kinembed.ready import READY

ROWS, WIDTH, SECONDS, MEMORY = 500, 32, 5, 512 << 20
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 1.5, -0.5, 1e308, -1e308, 1e-320, 10**18, 10**30, -(10**40),
    10**400, "", "5", "x" * 100_000, "\ud800", "../../etc/hostname", "/etc/hostname", [], [[]], {},
    [None], ["x"], [1e308], float("nan"), float("inf"),
]  # fmt: skip
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 10**18, (1 << 64) - 1]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        suffix: of its name.
        make: the bytes of a whole one.
        read: what a file holds, to be compared; raises KinembedError.
        craft: the bytes of a hostile one.
        has_checksums: other bytes are refused, or read as what was written.
        share: of the files that are asked for, where reading one is slow.
    """

    suffix: str
    make: Callable[[], bytes]
    read: Callable[[Path], object]
    craft: Callable[[random.Random], bytes]
    has_checksums: bool = True
    share: float = 1.0


def flipped(whole: bytes, rng: random.Random) -> bytes:
    """A file with some of its bytes changed."""
    spoilt, size = bytearray(whole), len(whole)
    kind = rng.randrange(6)
    if kind == 0:
        return whole[: rng.randrange(size)]
    if kind == 1:
        start, other = rng.randrange(size), rng.randrange(size)
        spoilt[start : start + 64] = whole[other : other + 64]
    elif kind == 2:
        for _ in range(rng.randrange(1, 20)):
            spoilt[rng.randrange(min(size, 4096))] ^= rng.randrange(1, 256)
    elif kind == 3:
        number, width = rng.choice(NUMBERS), rng.choice([2, 4, 8])
        at = rng.randrange(size)
        order = rng.choice(["little", "big"])
        spoilt[at : at + width] = (number % 256**width).to_bytes(width, order)
    else:
        for _ in range(2 ** rng.randrange(8)):
            spoilt[rng.randrange(size)] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def with_odd_value(content: Any, rng: random.Random) -> Any:
    """A copy of JSON values, one of which is another, has gone, or is there once more."""
    content = json.loads(json.dumps(content))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    what = rng.randrange(8)
    if what == 0:
        del place[key]
    elif what == 1 and isinstance(place, dict):
        place["more"] = rng.choice(ODD)
    else:
        place[key] = rng.choice(ODD)
    return content


# Caches and heads


def vectors() -> np.ndarray:
    """The vectors of the cache."""
    return np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)


def provenance() -> dict[str, Any]:
    """A provenance with all that one can hold."""
    from kinembed.recipes import KIN

    return {
        "schema": SCHEMA, "model": "ab" * 32, "backbone": "sface", "dtype": "float32",
        "precision": "fp32", "device": "cpu", "input": {"framing": {"side": 112}, "pixels": {}},
        "versions": {"torch": "2.0"}, "command": {"photos": ["train"], "weights": "auto"},
        "split": {"by": "people", "fraction": 0.2, "seed": 1, "held_out": "cd" * 32},
        "finetuned": {"recipe": json.loads(json.dumps(KIN.as_record())), "view": "max",
                      "epoch_chosen_by": "nobody"},
    }  # fmt: skip


def whole_cache() -> bytes:
    """A cache of two views."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.h5"
        names = np.array([f"train/F{row:04}/MID1/a.jpg".encode() for row in range(ROWS)])
        views = {"max": [vectors()], "native": [vectors()[:, :8].astype(np.float16)]}
        write_cache(path, provenance(), names, np.zeros((ROWS, 32), np.uint8), views)
        return path.read_bytes()


def read_cache(path: Path) -> object:
    """True, if what is said to be sound is what was written."""
    found = verify(path)
    with EmbeddingCache.open(path) as cache:
        _ = cache.names, cache.people, cache.digest, cache.find(["F0001/MID1/a.jpg"])
        cache.vectors(cache.choose_view(None)).sum()
        damaged = cache.damaged_rows("views/max")
        sound = np.setdiff1d(np.arange(len(cache)), damaged)
        assert found.is_sound <= (len(damaged) == 0)
        return np.array_equal(cache.vectors("max")[sound], vectors()[sound])


def split_file(whole: bytes) -> tuple[bytes, dict[str, Any]]:
    """The HDF5 bytes of a sealed file, and its seal."""
    length = _TAIL.unpack(whole[-_TAIL.size :])[0]
    end = len(whole) - _TAIL.size - length
    return whole[:end], json.loads(whole[end : -_TAIL.size])


def sealed(body: bytes, content: Any) -> bytes:
    """HDF5 bytes with a seal that says anything."""
    text = json.dumps(content).encode()
    return body + text + _TAIL.pack(len(text), sha256(text).digest(), _MARK)


def hostile_hdf5(body: bytes, rng: random.Random) -> bytes:
    """HDF5 bytes to which the library has added what kinembed never writes."""
    file = io.BytesIO(body)
    with h5py.File(file, "r+") as opened:
        name = rng.choice(list(opened))
        kind = rng.randrange(7)
        if kind < 5:
            del opened[name]
        if kind == 0:
            opened[name] = h5py.ExternalLink("/etc/hostname", "/x")
        elif kind == 1:
            opened[name] = h5py.SoftLink(f"/{name}")
        elif kind == 2:
            opened.create_dataset(name, (ROWS,), "u1", external=[("/etc/hostname", 0, ROWS)])
        elif kind == 3:
            layout = h5py.VirtualLayout((ROWS, WIDTH), "f4")
            layout[:] = h5py.VirtualSource("/etc/hostname", "x", (ROWS, WIDTH))
            opened.create_virtual_dataset(name, layout)
        elif kind == 4:
            opened.create_dataset(name, (10**9, 10**4), "f4", chunks=(1, 10**4), compression="lzf")
        else:
            opened.attrs["more"] = "x"
    return file.getvalue()


def crafted_sealed(attribute: str, whole: bytes, rng: random.Random) -> bytes:
    """A sealed file with other values under a right seal, or another structure."""
    body, content = split_file(whole)
    what = rng.randrange(5)
    if what == 0:
        return sealed(hostile_hdf5(body, rng), content)
    if what == 1:  # of the seal alone: types and shapes of datasets, too
        return sealed(body, with_odd_value(content, rng))
    arrays = {}
    with h5py.File(io.BytesIO(body), "r") as file:
        for name, _, _ in content["datasets"]:
            arrays[name] = np.asarray(file[name][()])
    about = content["about"]
    if what == 2 and arrays:  # odd arrays
        name = rng.choice(list(arrays))
        array = arrays[name]
        arrays[name] = rng.choice(
            [array[:1], array.reshape(-1)[:7], array.ravel().view(np.uint8), array[::-1].copy(),
             np.full(array.shape, 1e38, np.float32), np.full(array.shape, np.nan, np.float32),
             np.array([b"\xff", b"../x", b"a\x1b[2J"])]
        )  # fmt: skip
    else:
        about = with_odd_value(about, rng)
    try:
        return sealed_bytes(attribute, about, arrays)
    except ValueError:  # not even a stranger can seal that
        return sealed(body, {**content, "about": about})


def numbers(*shape: int) -> np.ndarray:
    """Numbers of a head."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def whole_head() -> bytes:
    """A metric head of two members and folds."""
    members = tuple(
        Projection(numbers(WIDTH, 8), numbers(8), (numbers(WIDTH, 4), numbers(4), numbers(4, 8)))
        for _ in range(2)
    )
    folds = (("F0001/MID1",), ("F0002/MID1", "F0002/MID2"))
    head = MetricHead(
        "max", "ab" * 32, members, weights=(1.0, 2.0), knn_view="max", trained=("F0003/MID1",),
        folds=folds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return save_head(head, Path(folder) / "head.h5").read_bytes()


def whole_fused() -> bytes:
    """A head of three networks, two of which by folds, that expands and normalises its scores."""
    projections = tuple(Projection(numbers(6, 4), numbers(4)) for _ in range(4))
    norms = tuple(ScoreNorm(numbers(4, 1), numbers(4, 4), 0.1) for _ in range(2))
    frozen = MetricHead(
        "1.max", "ab" * 32, projections[:2], norms=norms, expansion_slopes=(0.1, 0.2)
    )
    tuned = tuple(
        MetricHead(f"{number}.max", "ab" * 32, (each,))
        for number, each in zip((2, 3), projections[2:], strict=True)
    )
    pairs = tuple(PairHead("4.max", "ab" * 32, (numbers(8, 1),), (numbers(1),)) for _ in range(2))
    by_fold = FusedHead("2.max+3.max", "ab" * 32, tuned, (0.5, 0.25), by_fold=True)
    ensemble = EnsembleHead("4.max", "ab" * 32, pairs)
    both = FusedHead("4.max+4.max", "ab" * 32, (ensemble, ensemble), (1.0, 0.5), by_fold=True)
    cohort = np.eye(5, 6, dtype=np.float32)
    head = FusedHead(
        "1.max+2.max+3.max+4.max+4.max", "ab" * 32, (frozen, by_fold, both), (1.0, 2.0, 0.0),
        knn_view="1.max", same_person=SamePerson(cohort, 1.0, 1.0, 0.0, 0.5, 0.5, 0.5),
        trained=("F0003/MID1",), folds=(("F0001/MID1",), ("F0002/MID1", "F0002/MID2")),
    )  # fmt: skip
    record = HeadRecord("head", "metric", caches=("a/embeddings.h5", "b/embeddings.h5"))
    with tempfile.TemporaryDirectory() as folder:
        return save_head(head, Path(folder) / "head.h5", record).read_bytes()


def read_a_head(path: Path) -> object:
    """Digest and record; the head and its members are used, too."""
    head, record = read_head(path)
    for each in (head, *head.members()):
        represented = each.represent(np.zeros((2, each.width), np.float32))
        each.probabilities(np.asarray(represented), np.array([[0, 1]]))
        each.products(np.asarray(represented, np.float32))
        each.pool(represented, np.array([0, 1]), np.array([0]))
        assert np.isfinite(each.expansion_slope)
    return head.digest, record


def read_a_published(path: Path) -> object:
    """All but its head, and that one's digest; head and calibration are used, too."""
    published = read_published(path)
    head, calibration = published.head, published.calibration
    represented = head.represent(np.zeros((2, head.width), np.float32))
    calibration.alone.probabilities(head.score(represented, np.array([[0, 1]])))
    published.card_text()
    return head.digest, published.about()


# Models and weights


def whole_model() -> bytes:
    """A fine-tuned model of the smallest network."""
    from kinembed.backbones import find_backbone
    from kinembed.recipes import RECIPES
    from kinembed.training.siamese import SiameseNetwork, save_model

    backbone = find_backbone("mtcnn-onet")
    network = SiameseNetwork(backbone, backbone.build(), "max", RECIPES["dense"])
    network.split = {"by": "people", "fraction": 0.2, "seed": 1, "held_out": "cd" * 32}
    network.epoch = {"number": 3, "kept": "best", "chosen_by": "nobody"}
    with tempfile.TemporaryDirectory() as folder:
        return save_model(network, Path(folder) / "model.pt").read_bytes()


def read_model(path: Path) -> object:
    """All that a model says."""
    from kinembed.backbones.weights import digest
    from kinembed.training.siamese import load_model

    model = load_model(path)
    return digest(model), model.recipe, model.view, model.split, model.epoch


def crafted_model(whole: bytes, rng: random.Random) -> bytes:
    """A model with another value, or one that inflates or claims large tensors."""
    import torch

    content = torch.load(io.BytesIO(whole), weights_only=True)
    file = io.BytesIO()
    what = rng.randrange(4)
    if what == 0:
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)
            new.writestr("archive/data/99", bytes(1 << 24), zipfile.ZIP_DEFLATED)
        return file.getvalue()
    if what == 1:
        state = content[rng.choice(["trunk", "head"])]
        name = rng.choice(list(state))
        shape = state[name].shape
        state[name] = rng.choice(
            [torch.ones(1).expand(10**6, 10**6), torch.full(shape, float("nan")),
             torch.zeros(10**9, device="meta"), torch.ones(2, 2).to_sparse(), torch.ones(shape[:1]),
             torch.full(shape, 3e38), "text"]
        )  # fmt: skip
    else:
        plain = {k: v for k, v in content.items() if k not in ("trunk", "head")}
        content = {**with_odd_value(plain, rng), "trunk": content["trunk"], "head": content["head"]}
    torch.save(content, file)
    return file.getvalue()


def whole_safetensors() -> bytes:
    """Weights of the smallest network."""
    import safetensors.torch

    from kinembed.backbones import find_backbone
    from kinembed.backbones.weights import parameters

    state = parameters(find_backbone("mtcnn-onet").build())
    return safetensors.torch.save(state, {"backbone": "mtcnn-onet"})


def read_weights(path: Path) -> object:
    """Weights of the smallest network, if they are; their digest."""
    from kinembed.backbones import find_backbone
    from kinembed.backbones.weights import digest, load_trunk, read_backbone_name

    read_backbone_name(path)
    return digest(load_trunk(find_backbone("mtcnn-onet"), str(path)))


def crafted_safetensors(whole: bytes, rng: random.Random) -> bytes:
    """Weights with another header."""
    length = int.from_bytes(whole[:8], "little")
    header = json.dumps(with_odd_value(json.loads(whole[8 : 8 + length]), rng)).encode()
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


def keras_network() -> Any:
    """A network of one convolution, as Keras files name it."""
    from torch import nn

    network = nn.Module()
    network.conv1_1 = nn.Conv2d(3, 4, 3)
    return network


def whole_keras() -> bytes:
    """A Keras file of that network."""
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.attrs["layer_names"] = [b"conv1_1"]
        opened["conv1_1/conv1_1/kernel:0"] = np.ones((3, 3, 3, 4), np.float32)
        opened["conv1_1/conv1_1/bias:0"] = np.ones(4, np.float32)
    return file.getvalue()


def read_keras(path: Path) -> object:
    """The weights by name."""
    from kinembed.backbones.weights.keras_h5 import read_keras_state

    return {k: v.shape for k, v in read_keras_state(path, keras_network()).items()}


# Calibrations and tables


def whole_calibration() -> bytes:
    """A calibration with both scales."""
    from kinembed.evaluation.calibration import content
    from kinembed.heads.query_expansion import MakeUp

    platt = Scale(0.5, "far=0.01", "platt", ((1.5,), (-0.25,)), 0.5, 0.25, {"far": 0.01})
    knots = ((-1.0, 0.0, 2.0), (0.1, 0.1, 0.9))
    steps = Scale(-3.0, "youden", "isotonic", knots, 0.5, 0.5, {"i": {"low": 0.0, "high": 0.5}})
    make_up = MakeUp(9, 4, (1, 2, 3))
    return content(Calibration("ab" * 32, ("F1/MID1",), "nobody", platt, steps, make_up))


def read_calibration(path: Path) -> object:
    """The calibration, which is used, too."""
    read = load_calibration(path)
    scales = [read.alone, *([read.expanded] if read.expanded else [])]
    for scale in scales:
        found = scale.probabilities(np.array([-1e3, -1.0, 0.0, 1.0, 1e3]))
        assert ((found >= 0) & (found <= 1)).all()
        scale.accepts(found)
    return asdict(read)


def crafted_calibration(whole: bytes, rng: random.Random) -> bytes:
    """A calibration with another value and the right sha256."""
    about = with_odd_value(json.loads(whole), rng)
    if rng.random() < 0.9:
        about["sha256"] = seal(about)
    return json.dumps(about).encode()


PAIRS = [f"a{row}.jpg-b{row}.jpg" for row in range(2000)]


def whole_parquet(pairs: Any = PAIRS) -> bytes:
    """A submission as parquet, with checksums of its pages."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"img_pair": pairs, "is_related": np.zeros(len(pairs))})
    file = io.BytesIO()
    parquet.write_table(table, file, write_page_checksum=True)
    return file.getvalue()


def read_table(path: Path) -> object:
    """All pairs, one block after the other, as a digest."""
    sha, count = sha256(), 0
    for block in read_pairs(path, 1000):
        sha.update("\n".join(map(",".join, zip(*block.fields, strict=True))).encode() + b"\n")
        count += len(block)
    return count, sha.hexdigest()


def crafted_parquet(whole: bytes, rng: random.Random) -> bytes:
    """A small parquet file of many rows, or of one long text."""
    import pyarrow

    if rng.randrange(2):
        rows = 10 ** rng.randrange(4, 8)
        keys = pyarrow.array(np.zeros(rows, np.int8))
        return whole_parquet(pyarrow.DictionaryArray.from_arrays(keys, [rng.choice(PAIRS)]))
    return whole_parquet(["x" * 10 ** rng.randrange(4, 8)])


def whole_gzip() -> bytes:
    """A submission, compressed."""
    return gzip.compress("\n".join(["img_pair", *PAIRS, ""]).encode())


def crafted_gzip(whole: bytes, rng: random.Random) -> bytes:
    """A small compressed file of a long line, of many lines, or of one more beginning."""
    what = rng.randrange(3)
    size = 1 << rng.randrange(16, 26)
    if what == 0:
        return gzip.compress(b"img_pair\n" + b"x" * size, 1)
    if what == 1:
        return gzip.compress(b"img_pair\n" + b"\n" * (size // 8) + b'"' * 100, 1)
    return whole + bytes(rng.randrange(100)) + whole[: rng.randrange(len(whole))]


# ONNX and photos


def whole_onnx(**constants: Any) -> bytes:
    """A network of means and one product."""
    from onnx import TensorProto, helper, numpy_helper

    node, info = helper.make_node, helper.make_tensor_value_info
    weights = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        node("MatMul", ["m", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [info("y", TensorProto.FLOAT, ("n", 4))], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    for name, value in constants.items():
        setattr(model, name, value)
    return model.SerializeToString()


def read_onnx(path: Path) -> object:
    """The digest of the file, and what the network makes of two photos."""
    import torch

    from kinembed.backbones.onnx import OnnxEmbedder

    embedder = OnnxEmbedder(path, None, None, None, "rgb", torch.device("cpu"))
    side = embedder.backbone.framing.side
    embedder(torch.zeros(2, side, side, 3, dtype=torch.uint8))
    return embedder.digest


def crafted_onnx(whole: bytes, rng: random.Random) -> bytes:
    """A network that names another file, claims a large constant, or has an odd input."""
    import onnx

    model = onnx.load_model_from_string(whole)
    weights, what = model.graph.initializer[0], rng.randrange(4)
    if what == 0:
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = (
            "location",
            rng.choice(["/etc/hostname", "../../etc/hostname", "x"]),
        )
    elif what == 1:
        weights.dims[rng.randrange(2)] = rng.choice([0, -1, 10**6, 10**18])
    elif what == 2:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        dims[rng.randrange(4)].dim_value = rng.choice([0, -1, 1, 10**5, 10**9, 10**18])
    else:
        shape = onnx.numpy_helper.from_array(np.array([10 ** rng.randrange(4, 12)]), "s")
        model.graph.initializer.append(shape)
        model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["s"], ["c"]))
        model.graph.node.append(onnx.helper.make_node("ReduceSum", ["c"], ["z"]))
        model.graph.node.append(onnx.helper.make_node("Add", ["y", "z"], ["y2"]))
        model.graph.output[0].name = "y2"
    return model.SerializeToString()


def whole_photo(form: str = "JPEG", side: int = 64, **options: Any) -> bytes:
    """A photo of noise."""
    from PIL import Image

    pixels = np.random.default_rng(3).integers(256, size=(side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def read_a_photo(path: Path) -> object:
    """The pixels in the frame, as shape."""
    from kinembed.backbones import Framing
    from kinembed.data.photos import read_photo

    return read_photo(path, Framing(32, 32))[1].shape


def crafted_photo(whole: bytes, rng: random.Random) -> bytes:
    """A photo of another format, changed or not, or a small file of a large picture."""
    form = rng.choice(["PNG", "WEBP", "BMP", "TIFF", "GIF"])
    if rng.randrange(5):
        return flipped(whole_photo(form), rng)
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (rng.choice([100, 9_000, 20_000]),) * 2).save(file, "PNG")
    return file.getvalue()


CACHE, A_HEAD, FUSED = whole_cache(), whole_head(), whole_fused()
KINDS = {
    "caches": Kind(
        ".h5", lambda: CACHE, read_cache, lambda rng: crafted_sealed(ATTRIBUTE, CACHE, rng)
    ),
    "published": Kind(
        ".h5", READY.read_bytes, read_a_published, lambda rng: crafted_sealed(
            PUBLISHED, READY.read_bytes(), rng
        )
    ),
    "heads": Kind(
        ".h5", lambda: A_HEAD, read_a_head, lambda rng: crafted_sealed(HEAD, A_HEAD, rng)
    ),
    "fused": Kind(
        ".h5", lambda: FUSED, read_a_head, lambda rng: crafted_sealed(HEAD, FUSED, rng)
    ),
    "models": Kind(
        ".pt", whole_model, read_model, lambda rng: crafted_model(KEPT["models"], rng), share=0.5
    ),
    "calibrations": Kind(
        ".json", whole_calibration, read_calibration,
        lambda rng: crafted_calibration(KEPT["calibrations"], rng),
    ),
    "parquet": Kind(
        ".parquet", whole_parquet, read_table, lambda rng: crafted_parquet(KEPT["parquet"], rng),
        has_checksums=False,
    ),
    "gzip": Kind(
        ".csv.gz", whole_gzip, read_table, lambda rng: crafted_gzip(KEPT["gzip"], rng),
    ),
    "onnx": Kind(
        ".onnx", whole_onnx, read_onnx, lambda rng: crafted_onnx(KEPT["onnx"], rng),
        has_checksums=False,
    ),
    "photos": Kind(
        ".jpg", whole_photo, read_a_photo, lambda rng: crafted_photo(KEPT["photos"], rng),
        has_checksums=False,
    ),
    "safetensors": Kind(
        ".safetensors", whole_safetensors, read_weights,
        lambda rng: crafted_safetensors(KEPT["safetensors"], rng), has_checksums=False, share=0.3,
    ),
    "keras": Kind(
        ".h5", whole_keras, read_keras, lambda rng: hostile_hdf5(KEPT["keras"], rng),
        has_checksums=False, share=0.1,
    ),
}  # fmt: skip
KEPT: dict[str, bytes] = {}  # a whole file of each kind at hand


def watch(kinds: list[str], files: int, seed: int) -> None:
    """Reads files one after the other; any of the limits broken ends the process."""
    faulthandler.enable()
    sys.addaudithook(hook)
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds:
            _watch(kind, max(1, round(files * KINDS[kind].share)), seed, Path(name))


BROKEN: list[str] = []
STATE: dict[str, Any] = {"folder": None}
ROOTS = (
    *("/proc/self/", "/proc/meminfo", "/sys/fs/cgroup", "/dev/null"),  # what memory there is
    *(str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[1])),
)


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes whatever a reader has no business with."""
    folder = STATE["folder"]
    if folder is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
        if not path.startswith((folder, *ROOTS)):
            BROKEN.append(f"opened {path}")
    elif event in ("socket.connect", "os.system", "os.exec", "os.posix_spawn") or (
        event == "subprocess.Popen" and not re.search("hdf5_child|answer_parent", str(arguments))
    ):
        BROKEN.append(f"{event} {str(arguments)[:200]}")


def _watch(name: str, files: int, seed: int, folder: Path) -> None:
    kind = KINDS[name]
    whole = KEPT[name] = kind.make()
    path = folder / f"file{kind.suffix}"
    path.write_bytes(whole)
    wanted = kind.read(path)  # imports what it needs
    path.write_bytes(whole[:-1])
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        path.write_bytes(content)
        with suppress(KinembedError):
            kind.read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    counts = {"refused": 0, "read": 0}
    for number in range(files):
        rng = random.Random(f"{seed} {name} {number}")
        content = kind.craft(rng) if number % 3 == 0 else flipped(whole, rng)
        path.write_bytes(content)
        print(f"{name} {number}", flush=True)
        STATE["folder"] = str(folder)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY + len(content)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        signal.alarm(SECONDS)  # whose default ends the process
        try:
            found = kind.read(path)
            counts["read"] += 1
            if kind.has_checksums and number % 3 and found != wanted:
                BROKEN.append("other numbers were read")
        except KinembedError as error:
            counts["refused"] += 1
            if not str(error) or "\n" in str(error) or len(str(error)) > 2000:
                BROKEN.append(f"an error of {len(str(error))} characters: {str(error)[:200]!r}")
        finally:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            STATE["folder"] = None
        if BROKEN:
            sys.exit(f"{path}: {name} {number}: {'; '.join(BROKEN)}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{name}: {files} files, {counts}, grew by {grown:.0f} MiB", flush=True)


def main() -> None:
    """Starts a process for each kind, and says where one ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="all kinds in one process")
    parser.add_argument("--watch", action="store_true", help="be that process")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if options.watch:
        watch(kinds, options.files, options.seed)
        return
    failed = False
    for group in [kinds] if options.together else [[kind] for kind in kinds]:
        command = [
            *(sys.executable, __file__, "--watch", "--kinds", ",".join(group)),
            *("--files", str(options.files), "--seed", str(options.seed)),
        ]
        last = ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                last = line.strip()
                if ":" in line:
                    print(last, flush=True)
        if process.returncode:  # negative: a crash, or -14: the time
            print(f"{last}: ended with {process.returncode}", flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
