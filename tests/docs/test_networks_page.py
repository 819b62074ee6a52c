"""The page of the networks: as their records are, and its figures as those of the results."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import kinembed
from kinembed.backbones import BACKBONES

DOCS = Path(kinembed.__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    path = DOCS / "build_networks.py"
    if not path.is_file():
        pytest.skip("not run from a checkout")
    spec = importlib.util.spec_from_file_location("build_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_as_the_records_are(builder: ModuleType) -> None:
    page = (DOCS / "networks.md").read_text(encoding="utf-8")
    assert page == builder.build_networks(page), "run python docs/build_networks.py"
    lines = page.splitlines()
    for record in BACKBONES.values():
        for name, source in record.sources.items():
            start = f"| `{record.name}`"
            found = [x for x in lines if x.startswith(start) and f"| `{name}` " in x]
            assert len(found) == 2, (record.name, name)
            assert source.licence in found[1] and source.url in found[0]
    with pytest.raises(ValueError, match="found 0 times"):
        builder.build_networks("# Networks\n")


def test_the_costs_are_those_of_the_networks(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(DOCS.parent / "benchmarks"))
    gflops = importlib.import_module("networks").gflops
    names = [name for name, record in BACKBONES.items() if not record.is_onnx]
    assert {name: f"{gflops(BACKBONES[name]):.3g}" for name in names} == {
        name: cost[0] for name, cost in builder.COSTS.items()
    }


def test_the_figures_stand_in_the_results(builder: ModuleType) -> None:
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    words = {"mobilefacenet": "frozen MobileFaceNet", "sface": "frozen SFace"}
    words["dlib-resnet"] = "frozen dlib"
    for (name, _), auc in builder.MEASURED.items():
        assert any(words[name] in x and f"| {auc} " in x for x in results.splitlines()), name
