"""The rooms: which module may import which, read from the source."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

import kinembed

ROOT = Path(kinembed.__file__).parent
CHECKOUT = ROOT.parent
HEAVY = {"torch", "torchvision", "facenet_pytorch", "onnxruntime", "onnx"}
NUMPY_ROOMS = (
    *(
        "errors",
        "printable",
        "config",
        "recipes",
        "io",
        "progress",
        "score",
        "calibrate",
        "evaluate",
    ),
    *("data", "data.families", "data.splits", "data.samplers", "data.photos", "data.protocols"),
    "data.photo_formats",
    *("arrays", "threads", "views", "data.photo_files", "data.reader"),
    *("data.crops", "data.aligner", "data.faces_table", "data.aligned_folder", "backbones.faces"),
    *("data.columns", "data.tables", "data.relations"),
    "evaluation.publishing",
    *("scoring.scorer", "scoring.by_ray", "scoring.submission"),
    *("embedding.shards", "embedding.plan", "embedding.kept_listing", "embedding.joining"),
    *("embedding.settings", "embedding.frames", "embedding.pipeline"),
    *("cache.joined", "cache.provenance", "cache.stacked", "cache.verify"),
    *(
        "cache",
        "cache.footer",
        "cache.convert",
        "cache.photo_table",
        "evaluation.photo_scores",
        "heads.pair",
        "heads.ensemble",
        "heads.metric",
        "heads.file",
    ),
    *("heads.made_up_cohort", "evaluation.published", "heads.cells", "heads.same_person"),
    *("audit", "auditing.copies", "auditing.relations", "auditing.doubles", "data.exclusions"),
    *("heads.kept", "evaluation.kept_calibrations", "evaluation.in_use"),
    *("heads.person_scores", "backbones", "backbones.published_weights", "report.charts"),
    *("report.curves", "report.experiments", "report.plots"),
    *(
        "inference.album",
        "inference.clusters",
        "inference.confirmed",
        "inference.face_marks",
        "inference.links",
    ),
    *("inference.flat_map", "embedding_map", "report.map_page"),
    *("cluster.pool", "cluster.ray_pool", "cluster.worker", "heads.pair_shards"),
    *("inference.kept_vectors", "inference.relating", "relate"),
    *("inference.screen", "inference.gallery", "inference.ranking"),
    *("evaluation.retrieval", "memory", "doctor", "diagnosis.machine", "diagnosis.installed"),
    *("diagnosis.weights", "diagnosis.data_folder", "diagnosis.run_folder"),
    *("evaluation.metrics", "evaluation.calibration", "evaluation.out_of_fold"),
    *("evaluation.figures", "evaluation.cross_fitting", "data.labelled_pairs", "report.evaluation"),
)
STAGES = {
    "search",
    "finetune",
    "embed",
    "head",
    "calibrate",
    "evaluate",
    "score",
    "align",
    "compare",
    "relate",
    "audit",
    "demo",
    "weights",
    "doctor",
    "export",
    "run_report",
    "serve",
    "embedding_map",
    "app",
}
CHAINS = {"demo", "experiments"}


@cache
def modules() -> dict[str, Path]:
    """Files of the package by module name below it (`heads.network`; `heads` is its init)."""
    result = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, *, at_import: bool) -> frozenset[str]:
    """Full names of what a file imports; with `at_import`, only what runs when it is imported."""
    result: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            result.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            result.update(f"{node.module}.{alias.name}" for alias in node.names)
            result.add(str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree_of(path))
    return frozenset(result)


def own(names: Iterable[str]) -> set[str]:
    """Which modules of the package are among imported names."""
    known = modules()
    return {
        name.removeprefix("kinembed.")
        for name in names
        if name.removeprefix("kinembed.") in known and name.startswith("kinembed.")
    }


def reached(module: str) -> set[str]:
    """What importing a module of the package imports in the end: own and other modules."""
    known, seen, queue = modules(), set(), [module]
    others: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        result = imports(known[name], at_import=True)
        others |= {full.split(".")[0] for full in result} - {"kinembed"}
        queue += own(result)
        queue += [parent for parent in (name.rpartition(".")[0],) if parent]
    return seen | others


def test_the_walk_sees_what_there_is() -> None:
    assert {"cli", "finetune", "heads", "heads.pair", "training.siamese"} <= set(modules())
    assert "torch" in reached("finetune") and "backbones.trunk" in reached("embed")
    assert "kinembed.finetune" in imports(modules()["cli.stages"], at_import=False)
    assert "kinembed.finetune" not in imports(modules()["cli.stages"], at_import=True)
    assert "kinembed.backbones.trunk" not in imports(modules()["backbones"], at_import=True)


@pytest.mark.parametrize("room", NUMPY_ROOMS)
def test_numpy_rooms_reach_no_torch(room: str) -> None:
    assert not reached(room) & (HEAVY | {"matplotlib", "sklearn", "scipy"})


def test_backbones_know_no_stage_and_no_cache() -> None:
    for name, path in modules().items():
        if name.split(".")[0] == "backbones":
            result = own(imports(path, at_import=False))
            assert not result & (STAGES | CHAINS | {"cli", "cache", "data"}), name


def test_rooms_know_no_stage() -> None:
    for name, path in modules().items():
        if name.split(".")[0] not in STAGES | CHAINS | {"cli", "__main__"}:
            result = own(imports(path, at_import=False))
            assert not result & (STAGES | CHAINS | {"cli"}), name


def test_stages_do_not_know_each_other() -> None:
    for stage in sorted(STAGES - CHAINS):
        result = own(imports(modules()[stage], at_import=False))
        assert not result & (STAGES | CHAINS | {"cli"}), stage


def test_each_stage_is_a_function_of_its_modules_name() -> None:
    for stage in sorted(STAGES - {"weights"}):
        tree = tree_of(modules()[stage])
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert stage in functions


def test_only_the_command_line_knows_click() -> None:
    users = {
        name
        for name, path in modules().items()
        if any(full.split(".")[0] == "click" for full in imports(path, at_import=False))
    }
    assert {name.split(".")[0] for name in users} == {"cli"}


def test_the_command_line_imports_stages_inside_its_commands() -> None:
    light = {"config", "recipes", "errors", "io", "printable", "progress", "threads"}
    rooms = {name: path for name, path in modules().items() if name.split(".")[0] == "cli"}
    for name, path in rooms.items():
        assert own(imports(path, at_import=True)) <= light | set(rooms), name
    within = set().union(*(own(imports(path, at_import=False)) for path in rooms.values()))
    assert within >= (STAGES | CHAINS) - {"weights"}


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    words = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "tools"}
    for name in modules():
        assert not set(name.replace("_", ".").split(".")) & words, name


def test_nothing_loads_pickles() -> None:
    for name, path in modules().items():
        result = imports(path, at_import=False)
        assert not result & {"pickle.load", "pickle.loads", "joblib", "dill", "cloudpickle"}, name
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = [k.arg for k in node.keywords if ast.unparse(k.value) == "True"]
                assert "weights_only" in safe, name
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                safe = [k.arg for k in node.keywords if ast.unparse(k.value) == "False"]
                assert "allow_pickle" in safe, name


def test_the_checkouts_cli_is_the_packages() -> None:
    path = CHECKOUT / "cli.py"
    if not path.is_file():
        pytest.skip("not run from a checkout")
    assert len(path.read_text().splitlines()) < 10
    assert own(imports(path, at_import=False)) == {"cli"}
