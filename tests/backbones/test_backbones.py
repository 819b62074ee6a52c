"""The registry, every backbone's trunk, the siamese network, and its file."""

import importlib.util
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.backbones import BACKBONES, Backbone, Framing, check_views, find_backbone
from kinembed.backbones.device import choose_device, choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.facenet import InceptionResnetV1, ONet, _facenet_module
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import digest, load_trunk
from kinembed.data.photos import read_photo
from kinembed.errors import KinembedError, RunError, WeightsError
from kinembed.limits import limited_memory
from kinembed.recipes import FUSION, KIN, METRIC, RECIPES
from kinembed.training.siamese import SiameseNetwork, load_model, save_model

ONET = BACKBONES["mtcnn-onet"]
REGULARIZED = RECIPES["regularized"]


def randomised(trunk: Trunk, seed: int = 0) -> Trunk:
    """A trunk whose BatchNorms do something, as after training."""
    torch.manual_seed(seed)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.7, 1.6)
                nn.init.normal_(module.bias, 0, 0.3)
    return trunk.eval()


@pytest.fixture(
    scope="module", params=[name for name, each in BACKBONES.items() if not each.is_onnx]
)
def built(request: pytest.FixtureRequest) -> Iterator[tuple[Backbone, Trunk]]:
    """Each backbone with random weights; tests leave it as it is."""
    backbone = BACKBONES[request.param]
    torch.manual_seed(0)
    trunk = randomised(backbone.build())
    before = digest(trunk)
    yield backbone, trunk
    assert digest(trunk) == before


def photos(side: int, count: int, seed: int = 0) -> Tensor:
    """Random uint8 photos (count, side, side, 3), smooth enough to differ after convolutions."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    scale = -(-side // 8)
    return torch.from_numpy(np.kron(coarse, np.ones((1, scale, scale, 1), np.uint8)))[
        :, :side, :side
    ].contiguous()


def siamese(backbone: Backbone, trunk: Trunk, view: str = "max", seed: int = 0) -> SiameseNetwork:
    torch.manual_seed(seed)
    return SiameseNetwork(backbone, trunk, view, REGULARIZED).eval()


# The registry


def test_records_are_keyed_by_their_names() -> None:
    assert {"inception-resnet-v1", "mobilefacenet", "mtcnn-onet"} <= set(BACKBONES)
    for name, record in BACKBONES.items():
        assert record.name == name
        assert find_backbone(name) is record
        frame = record.framing
        assert 0 <= frame.top < frame.side and 0 <= frame.left < frame.side
        # nearly all of the photo is in the frame
        assert max(frame.top, frame.left) + 0.9 * frame.inner <= frame.side
        assert record.is_onnx or {"max", "avg"} <= set(record.views)


def test_an_unknown_backbone_lists_the_known() -> None:
    with pytest.raises(KinembedError, match=r"'resnet51' is unknown; known are .*mtcnn-onet"):
        find_backbone("resnet51")


def test_views_that_a_backbone_lacks_are_refused() -> None:
    check_views(ONET, ("avg", "max"))
    with pytest.raises(KinembedError, match="view 'native': backbone mtcnn-onet has max, avg"):
        check_views(ONET, ("max", "native"))
    for views in ((), ("max", "max")):
        with pytest.raises(KinembedError, match="one or more different names"):
            check_views(ONET, views)


# Every backbone


def test_views_come_from_the_feature_map_and_have_the_recorded_widths(
    built: tuple[Backbone, Trunk],
) -> None:
    backbone, trunk = built
    side = backbone.framing.side
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        feature_map = trunk.feature_map(x)
        views = trunk.views(x, tuple(backbone.views))
    assert feature_map.ndim == 4 and len(feature_map) == 2
    assert list(views) == list(backbone.views)
    for name, vectors in views.items():
        assert vectors.shape == (2, backbone.views[name])
        assert vectors.isfinite().all()
        assert not torch.equal(vectors[0], vectors[1])
    # GlobalMaxPool of the last feature map; the VGGFace networks average it first, as published
    map_max = views.get("map-max", views["max"])
    assert torch.equal(map_max, feature_map.flatten(2).max(2).values)
    assert torch.allclose(views["avg"], feature_map.flatten(2).mean(2), atol=1e-5)
    with pytest.raises(KeyError):
        trunk.view("absent", feature_map)


def test_folding_batchnorm_changes_no_view(built: tuple[Backbone, Trunk]) -> None:
    backbone, trunk = built
    views = tuple(backbone.views)
    pixels = photos(backbone.framing.side, 2)
    embedder = Embedder(backbone, trunk, views)
    network = siamese(backbone, trunk)
    with torch.inference_mode():
        folded = embedder(pixels)
        wanted = trunk.views(network.normalise(pixels), views)
    assert list(folded) == list(views)
    for view in views:
        size = wanted[view].abs().max()
        assert size > 0
        assert (folded[view] - wanted[view]).abs().max() <= 1e-5 * size


@pytest.mark.parametrize("count", [1, 4, 9])
def test_in_float32_few_photos_go_through_at_once_and_their_batch_changes_no_view(
    count: int,
) -> None:
    trunk, views = randomised(ONET.build()).eval(), tuple(ONET.views)
    embedder, pixels = Embedder(ONET, trunk, views), photos(ONET.framing.side, count)
    embedder.optimize(torch.device("cpu"), "bf16")
    assert embedder.at_once is None
    plain, sizes = Embedder(ONET, trunk, views)(pixels), []
    embedder.optimize(torch.device("cpu"), "fp32")
    embedder.normalise.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    with torch.inference_mode():
        vectors = embedder(pixels)
        alone = [embedder(pixels[row : row + 1]) for row in range(count)]
    assert sizes == {1: [1], 4: [4], 9: [4, 4, 1]}[count] + [1] * count
    for view in views:
        assert torch.allclose(vectors[view], plain[view], rtol=1e-4, atol=1e-5)
        assert torch.allclose(vectors[view], torch.cat([each[view] for each in alone]), atol=1e-6)


def test_the_network_is_symmetric_to_the_bit(built: tuple[Backbone, Trunk]) -> None:
    backbone, trunk = built
    small = backbone.parameters < 2_000_000
    for count in (1, 5) if small else (2,) if backbone.framing.side < 224 else (1,):
        left, right = photos(backbone.framing.side, 2 * count, seed=count).chunk(2)
        for view in tuple(backbone.views) if small else ("max",):
            network = siamese(backbone, trunk, view)
            with torch.inference_mode():
                one, other = network(left, right), network(right, left)
            assert one.shape == (count,)
            assert one.numpy().tobytes() == other.numpy().tobytes()


def test_both_towers_share_one_trunk(built: tuple[Backbone, Trunk]) -> None:
    network = siamese(*built)
    trunk = sum(parameter.numel() for parameter in built[1].parameters())
    head = sum(parameter.numel() for parameter in network.head.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == trunk + head
    pixels = photos(built[0].framing.side, 1)
    with torch.inference_mode():
        same = network(pixels, pixels)
        zero = torch.zeros(1, built[0].views["max"])
        assert torch.equal(same, network.head(zero, zero))


# The single networks


def test_inception_resnet_is_that_of_its_package() -> None:
    trunk = randomised(InceptionResnetV1())
    module = _facenet_module("inception_resnet_v1")
    source = module.InceptionResnetV1(classify=False).eval()
    source.load_state_dict(trunk.state_dict())
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        native = trunk.views(x, ("native",))["native"]
        assert torch.equal(native, source(x))
    assert torch.allclose(native.norm(dim=1), torch.ones(2))
    assert not torch.allclose(native[0], native[1], atol=1e-5)


def test_the_package_is_not_left_half_imported() -> None:
    _facenet_module("inception_resnet_v1")
    for name in ("facenet_pytorch", "facenet_pytorch.models"):
        module = sys.modules.get(name)
        assert module is None or module.__file__ is not None


def wheel_onet() -> dict[str, Tensor]:
    """The state dict of the whole O-Net in facenet-pytorch's wheel."""
    spec = importlib.util.find_spec("facenet_pytorch")
    assert spec is not None and spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "data" / "onet.pt"
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def test_onet_loads_the_weights_of_the_wheel_strictly() -> None:
    published = wheel_onet()
    for name, tensor in load_trunk(ONET, "auto").state_dict().items():
        assert torch.equal(tensor, published.pop(name))
    assert set(published) == set(ONET.ignored)


@pytest.mark.shared
def test_onets_map_tells_faces_by_the_dense_layers_left_out(shared: Callable[[str], Path]) -> None:
    """The map is right if MTCNN's own classifier, fed with it, takes faces for faces."""
    published = wheel_onet()
    files = sorted(shared("rfiw/test").glob("*.jpg"))[:40]
    faces = torch.from_numpy(np.stack([read_photo(path, ONET.framing)[1] for path in files]))
    noise = torch.randint(0, 256, faces.shape, dtype=torch.uint8)
    network = siamese(ONET, load_trunk(ONET, "auto"))
    shares = []
    for pixels in (faces, noise, faces.flip(1)):
        with torch.inference_mode():
            x = network.trunk.feature_map(network.normalise(pixels))
            x = x.permute(0, 3, 2, 1).flatten(1)  # as its dense layers read the map
            x = functional.linear(x, published["dense5.weight"], published["dense5.bias"])
            x = functional.prelu(x, published["prelu5.weight"])
            x = functional.linear(x, published["dense6_1.weight"], published["dense6_1.bias"])
        shares.append(float((x.softmax(1)[:, 1] > 0.5).float().mean()))
    upright, noisy, upside_down = shares
    assert upright > 0.9 and noisy == 0 and upside_down < 0.8


@pytest.mark.shared
def test_mobilefacenet_agrees_with_its_onnx_export(shared: Callable[[str], Path]) -> None:
    import onnxruntime

    backbone = BACKBONES["mobilefacenet"]
    trunk = load_trunk(backbone, str(shared("weights/mobilefacenet.pt"))).eval()
    session = onnxruntime.InferenceSession(
        shared("weights/mobilefacenet.onnx"), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    for photo in photos(112, 4):
        x = siamese(backbone, trunk, "native").normalise(photo[None])
        with torch.inference_mode():
            result = trunk.views(x, ("native",))["native"].numpy()
        (wanted,) = session.run(None, {name: x.contiguous().numpy()})
        assert np.abs(wanted).max() > 0.1
        assert np.abs(result - wanted).max() < 1e-4


# Weights, as far as every backbone has them in common


def test_random_weights_are_the_seeds() -> None:
    torch.manual_seed(5)
    one = load_trunk(ONET, "none")
    torch.manual_seed(5)
    same = load_trunk(ONET, "none")
    other = load_trunk(ONET, "none")
    assert digest(one) == digest(same) != digest(other)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(load_trunk(ONET, "auto").state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.pt: not weights of mobilefacenet") as error:
        load_trunk(BACKBONES["mobilefacenet"], str(path))
    assert "\n" not in str(error.value)


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch.save"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, plain: bool) -> None:
    path = tmp_path / "model.pt"
    content = {"conv1.weight": Trap(tmp_path / "sprung")}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"model\.pt: not a PyTorch file of tensors") as error:
        load_trunk(ONET, str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match=r"model\.pt: not a PyTorch file of tensors"):
        load_model(path)
    assert not (tmp_path / "sprung").exists()


def test_the_digest_is_of_the_tensors(tmp_path: Path) -> None:
    trunk = load_trunk(ONET, "auto")
    before = digest(trunk)
    path = tmp_path / "copy.pt"
    torch.save(trunk.state_dict(), path, _use_new_zipfile_serialization=False)
    assert digest(load_trunk(ONET, str(path))) == before
    assert digest(trunk.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        trunk.get_submodule("conv4").bias[3] += 1e-6
    assert digest(trunk) != before


# The network's file


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_comes_back_from_its_file(tmp_path: Path, recipe: str) -> None:
    torch.manual_seed(1)
    trunk = randomised(ONet())
    network = SiameseNetwork(ONET, trunk, "avg", RECIPES[recipe]).eval()
    path = save_model(network, tmp_path / "model.pt")
    assert isinstance(torch.load(path, weights_only=True), dict)
    result = load_model(path).eval()
    assert (result.backbone, result.view, result.recipe) == (ONET, "avg", RECIPES[recipe])
    assert digest(result) == digest(network)
    left, right = photos(48, 6).chunk(2)
    with torch.inference_mode():
        assert torch.equal(result(left, right), network(left, right))


def test_a_composite_view_is_its_parts_side_by_side(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = SiameseNetwork(ONET, randomised(ONet()), "max+avg", FUSION).eval()
    result = load_model(save_model(network, tmp_path / "model.pt")).eval()
    assert (result.view, result.recipe, ONET.width("max+avg")) == ("max+avg", FUSION, 256)
    left, right = photos(48, 6).chunk(2)
    with torch.inference_mode():
        maps = [result.feature_map(side) for side in (left, right)]
        a, b = (torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1) for x in maps)
        assert torch.equal(result.embed(left), a)
        squares = [(a - b) ** 2, (a * a - b * b) ** 2, a * b]
        hidden = torch.relu(result.head.hidden[0](torch.cat(squares, 1)))
        wanted = result.head.output(hidden).squeeze(1)
        assert torch.allclose(result(left, right), wanted, rtol=1e-5)
        assert torch.equal(result(left, right), network(left, right))
        assert torch.equal(result(left, right), result(right, left))


def test_a_model_with_batchnorm_keeps_its_statistics(tmp_path: Path) -> None:
    backbone = BACKBONES["mobilefacenet"]
    network = siamese(backbone, randomised(backbone.build()), "native")
    result = load_model(save_model(network, tmp_path / "model.pt")).eval()
    left, right = photos(112, 2).chunk(2)
    with torch.inference_mode():
        assert torch.equal(result(left, right), network(left, right))


def test_no_model_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model\.pt: no such file; run kinembed finetune"):
        load_model(tmp_path / "model.pt")


def change(**values: object) -> Callable[[dict], dict]:
    return lambda saved: {**saved, **values}


def recipe(**values: object) -> Callable[[dict], dict]:
    return lambda saved: {**saved, "recipe": {**saved["recipe"], **values}}


def lost(name: str) -> dict[str, torch.Tensor]:
    """A state with a number that is none."""
    state = ONet().state_dict()
    state[name][0] = torch.nan
    return state


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda saved: saved["trunk"], "not a kinembed model"),
        (lambda saved: {k: v for k, v in saved.items() if k != "head"}, "not a kinembed model"),
        (lambda saved: [saved], "holds a list, wanted a dict"),
        (change(kinembed=3), "found schema 3, wanted 5: .*; run kinembed finetune again"),
        (change(backbone="resnet51"), "backbone 'resnet51' is unknown"),
        (change(view="native"), "not a kinembed model"),
        (change(recipe={"kind": "pair", "name": "x", "learning": 3}), "not a kinembed model"),
        (change(recipe={"name": "x"}), "not a kinembed model"),
        (change(recipe={"kind": "x", "name": "x"}), "kind: found 'x', wanted pair or contrastive"),
        (recipe(dropout=2), "dropout: found 2, wanted 0 or more, below 1"),
        (recipe(hidden=[65_536] * 100), "hidden.1.weight|is \\(100, "),
        (recipe(hidden=[65_536] * 10**4), "wanted at most 100 values"),
        (change(recipe={**KIN.as_record(), "temperature": 0}), "temperature: found 0, wanted"),
        (change(kinembed=torch.ones(2)), "Boolean value of Tensor"),
        (change(backbone=torch.ones(2)), "not a kinembed model"),
        (change(view="max+native"), "view 'native': backbone mtcnn-onet has max, avg"),
        (change(view="max+max"), "wanted one or more different names"),
        (change(view="max+avg"), "not a kinembed model"),
        (change(view=["max"]), "view: found \\['max'\\], wanted a text"),
        (change(trunk=lost("conv1.weight")), "not a kinembed model"),
        (change(split={"by": "age", "seed": 1}), "by: found 'age', wanted people or families"),
        (change(split=torch.ones(2)), "split: found tensor"),
        (change(epoch={"number": "1"}), "number: found '1', wanted a whole number"),
        (change(head={"output.weight": torch.ones(1).expand(10**6, 10**6)}), "more than it stores"),
        (change(recipe=METRIC.as_record()), "a recipe of kind metric"),
        (change(recipe=RECIPES["base"].as_record()), "not a kinembed model"),
        (change(trunk={}), "not a kinembed model"),
        (change(photos={"framing": {}, "pixels": {}}), "not a kinembed model"),
        (change(photos={"framing": {"side": 48, "inner": 48}}), "photos were prepared otherwise"),
        (change(photos={"framing": {"side": 48, "inner": 1e9}}), "not a kinembed model"),
    ],
)
def test_a_malformed_model_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[dict], object], problem: str
) -> None:
    path = save_model(siamese(ONET, ONet()), tmp_path / "model.pt")
    torch.save(spoil(torch.load(path, weights_only=True)), path)
    with pytest.raises(KinembedError, match=problem) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def deflated(source: Path, target: Path) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)
    return target


def test_a_file_that_inflates_is_refused_before_it_does(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(50_000_000)}, tmp_path / "large.pt")
    path = deflated(tmp_path / "large.pt", tmp_path / "model.pt")
    (tmp_path / "large.pt").unlink()
    assert path.stat().st_size < 1_000_000
    for read in (lambda: load_trunk(ONET, str(path)), lambda: load_model(path)):
        with pytest.raises(WeightsError, match=r"not a PyTorch file of tensors \(it is compressed"):
            read()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit")
def test_memory_that_a_file_asks_for_is_limited(tmp_path: Path) -> None:
    """The pickle of an older PyTorch may ask for a storage of any size."""
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(8)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    wanted = b"K\x08Nt"  # of eight numbers
    assert content.count(wanted) == 1
    path.write_bytes(content.replace(wanted, b"J" + (1 << 30).to_bytes(4, "little") + b"Nt"))
    with pytest.raises(WeightsError, match="not a PyTorch file of tensors") as error:
        load_trunk(ONET, str(path))
    assert "\n" not in str(error.value)
    large = np.ones(1 << 28, np.uint8)  # and afterwards there is no limit
    with limited_memory(1 << 20), pytest.raises(MemoryError):
        np.ones(1 << 28, np.uint8)
    assert len(large) + len(np.ones(1 << 28, np.uint8)) == 1 << 29


def test_pixels_other_than_the_models_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_model(siamese(ONET, ONet()), tmp_path / "model.pt")
    pixels = replace(ONET.pixels, mean=(0.0, 0.0, 0.0))
    for other in (replace(ONET, pixels=pixels), replace(ONET, framing=Framing(64, 64))):
        monkeypatch.setitem(BACKBONES, "mtcnn-onet", other)
        with pytest.raises(WeightsError, match="prepared otherwise"):
            load_model(path)


def test_a_model_keeps_the_frame_of_its_training(tmp_path: Path) -> None:
    network = siamese(ONET, ONet())
    network.framing, network.asked_framing = Framing(48, 40, 3, -2), "whole"
    read = load_model(save_model(network, tmp_path / "model.pt"))
    assert (read.framing, read.asked_framing) == (network.framing, "whole")


# Devices


def test_a_device_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(KinembedError, match="device 'tpu' is not on this machine; there is .*cpu"):
        choose_device("tpu")
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cuda", "mps", "cpu")


def test_float32_on_a_gpu_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as torch has it, and after this
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose_device("cpu")
    assert torch.backends.cudnn.allow_tf32
    assert choose_device("auto").type == "cuda"
    assert not torch.backends.cudnn.allow_tf32


def test_precision_is_what_is_asked_for() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("fp32", "bf16")
