"""The listing of the network, and its drawing, against the network that is trained."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from kinembed.backbones import BACKBONES, Backbone, find_backbone
from kinembed.cli import run as command
from kinembed.errors import KinembedError
from kinembed.recipes import FUSION, RECIPES, find_recipe
from kinembed.report.architecture import draw_architecture
from kinembed.training.head_modules import KinHead
from kinembed.training.siamese import SiameseNetwork
from kinembed.training.summary import Summary, summarise

SVG = "{http://www.w3.org/2000/svg}"
# What Keras' model.summary() gives for keras-vggface's networks without their top.
KERAS = {
    "vgg16": (14_714_688, 0),
    "resnet50": (23_508_032, 53_120),
    "senet50": (26_039_024, 53_120),
}
every_backbone = pytest.mark.parametrize(
    "backbone", [name for name, each in BACKBONES.items() if not each.is_onnx]
)


def built(backbone: Backbone, view: str, recipe: str) -> SiameseNetwork:
    with torch.device("meta"):
        return SiameseNetwork(backbone, backbone.build(), view, find_recipe(recipe)).eval()


def counted(network: nn.Module) -> tuple[int, int]:
    """Numbers that learn, and BatchNorm's running ones, by way of the state dict."""
    learn = sum(tensor.numel() for tensor in network.parameters())
    fixed = sum(
        tensor.numel()
        for name, tensor in network.state_dict().items()
        if name.endswith(("running_mean", "running_var"))
    )
    return learn, fixed


def totals(summary: Summary) -> tuple[int, int]:
    return (
        sum(layer.trainable for layer in summary.layers),
        sum(layer.fixed for layer in summary.layers),
    )


@every_backbone
@pytest.mark.parametrize("recipe", ["base", "regularized"])
def test_every_parameter_is_counted_once(backbone: str, recipe: str) -> None:
    record = find_backbone(backbone)
    for view in record.views:
        summary = summarise(record, view, find_recipe(recipe))
        network = built(record, view, recipe)
        trunk, head = counted(network.trunk), counted(network.head)
        assert sum(totals(summary)) + summary.unused == sum(trunk) + sum(head)
        assert summary.trunk == sum(trunk)
        if view == "native":
            assert totals(summary) == (trunk[0] + head[0], trunk[1])


@pytest.mark.parametrize(("backbone", "numbers"), KERAS.items())
def test_the_reports_networks_are_as_large_as_in_keras(
    backbone: str, numbers: tuple[int, int]
) -> None:
    summary = summarise(find_backbone(backbone), "max", RECIPES["base"])
    width = summary.width
    assert totals(summary) == (numbers[0] + width + 1, numbers[1])
    assert summary.unused == 0


@every_backbone
def test_shapes_are_those_of_a_real_pass(backbone: str) -> None:
    record = find_backbone(backbone)
    view = "native" if "native" in record.views else "max"
    summary = summarise(record, view, RECIPES["regularized"])
    trunk = record.build().eval()
    seen: list[tuple[str, tuple[int, ...]]] = []
    for name, module in trunk.named_modules(prefix="trunk"):
        if not list(module.children()):
            module.register_forward_hook(
                lambda _, __, out, name=name: seen.append((name, tuple(out.shape[1:])))
            )
    side = record.framing.side
    with torch.inference_mode():
        feature_map = trunk.feature_map(torch.zeros(1, 3, side, side))
        vector = trunk.view(view, feature_map)
    listed = [(layer.name, layer.shape) for layer in summary.layers if layer.name in dict(seen)]
    assert listed == seen
    assert summary.feature_map == tuple(feature_map.shape[1:])
    assert summary.width == vector.shape[1] == record.views[view]


def test_the_head_is_listed_as_it_is_trained() -> None:
    recipe = replace(RECIPES["regularized"], hidden=(9, 4, 2), dropout=0.0)
    layers = summarise(find_backbone("mtcnn-onet"), "max", recipe).layers
    head = [(layer.name, layer.shape, layer.trainable) for layer in layers if "head" in layer.name]
    width = find_backbone("mtcnn-onet").views["max"]
    assert head == [
        ("head.hidden.0", (9,), width * 9 + 9),
        ("head.hidden.1", (4,), 9 * 4 + 4),
        ("head.hidden.2", (2,), 4 * 2 + 2),
        ("head.output", (1,), 3),
    ]
    modules = {name.rpartition(".")[0] for name in KinHead(width, recipe).state_dict()}
    assert {name for name, _, _ in head} == {f"head.{name}" for name in modules}


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (("abs",), "|a - b|"),
        (("abs", "product"), "|a - b|, a * b"),
        (("sum", "square", "product", "abs"), "a + b, (a - b)^2, a * b, |a - b|"),
        (FUSION.features, "(a - b)^2, (a^2 - b^2)^2, a * b"),
    ],
)
def test_what_is_compared_by_is_listed_and_drawn(
    features: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    recipe = replace(RECIPES["dense"], features=features)
    summary = summarise(find_backbone("mtcnn-onet"), "max", recipe)
    width = find_backbone("mtcnn-onet").views["max"]
    wide = len(features) * width
    layers = {layer.name: layer for layer in summary.layers}
    assert (layers["distance"].kind, layers["distance"].shape) == (said, (wide,))
    assert layers["head.hidden.0"].trainable == (wide + 1) * 100
    assert summary.width == width
    root = ElementTree.parse(draw_architecture(summary, tmp_path / "a.svg")).getroot()
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[texts.index(said) + 1] == f"{wide:,} numbers"
    assert f"{(wide + 1) * 100:,} parameters, then dropout 0.1" in texts
    assert texts.count(f"maximum; {width:,} numbers") == 2


def test_the_command_prints_it_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path / "no weights here"))
    arguments = ["finetune", "--summary", "--data", str(tmp_path / "no data"), "--run"]
    assert command([*arguments, str(tmp_path / "run"), "--set", "hidden=50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters"]
    rows = {line.split()[0]: line.split() for line in lines[2:] if line and line[0] not in "-"}
    assert rows["head.hidden.0"][-2:] == ["50", f"{2048 * 50 + 50:,}"]
    assert rows["parameters"][-1] == f"{sum(KERAS['resnet50']) + 2048 * 50 + 50 + 51:,}"
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_it_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path / "no weights here"))
    path = tmp_path / "network.svg"
    arguments = ["finetune", "--data", str(tmp_path / "no data"), "--run", str(tmp_path / "run")]
    arguments += ["--backbone", "senet50", "--architecture", str(path)]
    assert command(arguments) == 0
    assert capsys.readouterr().out == ""
    wanted = summarise(find_backbone("senet50"), "max", RECIPES["regularized"])
    assert path.read_text() == draw_architecture(wanted, tmp_path / "b.svg").read_text()
    assert command([*arguments, "--summary", "--set", "features=l2,cosine"]) == 0
    assert "length of a - b, cosine of a and b" in capsys.readouterr().out
    assert "length of a - b, cosine of a and b" in path.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.svg", "network.svg"]
    assert command([*arguments, "--json"]) == 2
    assert command([*arguments, "--backbone", "sface", "--pixels", "report"]) == 1


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(KinembedError, match="backbone vgg16 has max, avg"):
        summarise(find_backbone("vgg16"), "min", RECIPES["base"])


@every_backbone
def test_the_drawing_is_whole_and_keeps_within_its_borders(backbone: str, tmp_path: Path) -> None:
    summary = summarise(find_backbone(backbone), "max", RECIPES["regularized"])
    root = ElementTree.parse(draw_architecture(summary, tmp_path / "a.svg")).getroot()
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    texts = [(text, text.text or "") for text in root.iter(f"{SVG}text")]
    whole = " / ".join(text for _, text in texts)
    for wanted in (backbone, "|a - b|", "dense 100", "dense 25", "dense 1", "probability of kin"):
        assert wanted in whole
    for text, words in texts:
        middle, reach = float(text.attrib["x"]), 0.3 * 16 * len(words)  # 16 px, .6 em a letter
        assert middle - reach >= 0
        assert middle + reach <= width
        assert 0 < float(text.attrib["y"]) < height
    boxes = [
        tuple(float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        for box in root.iter(f"{SVG}rect")
        if "class" in box.attrib
    ]
    assert len(boxes) > 5
    for number, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
        for a, b, c, d in boxes[:number]:
            assert x >= a + c or a >= x + w or y >= b + d or b >= y + h
    for path in root.iter(f"{SVG}path"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
        assert all(0 <= number <= max(width, height) for number in numbers)
