"""What the test files share: synthetic families, one short training, settings of hypothesis."""

import fcntl
import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

# Both are read when numpy and torch are imported, so set before, and hold for subprocesses too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread leaves its core to others
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: a thread for each
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import numpy as np
import pytest
from fewer_draws import draw_fewer
from forked import forking
from hypothesis import HealthCheck, settings
from sketched import PLOTTING, sketch

from kinembed.config import CalibrateConfig, EmbedConfig, EvaluateConfig, FinetuneConfig
from kinembed.data import framings
from kinembed.data.framings import look
from kinembed.synthetic import generate_dataset

_LOOKS: dict[bytes, framings.Faces] = {}

# Bytecode is kept, whatever the environment says: else every worker and every process that a test
# starts compiles the package again, and pytest rewrites the asserts of all tests again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Python looks for cycles after each 700 new objects, which takes a tenth of the time of all tests.
gc.set_threshold(50_000, 10, 10)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    *("tests/training/test_ranks.py", "tests/docs/", "tests/stages/test_experiments.py"),
    *("tests/browser/", "tests/test_strangers.py", "tests/test_no_network.py"),
)
SHARED = Path(__file__).resolve().parents[2] / "shared"

# The same examples in every run, and nothing written into the checkout.
settings.register_profile(
    "kinembed",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("kinembed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files whose tests take longest, or a worker ends with one while others idle."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_collection_finish() -> None:
    """Python's own collections leave alone what was imported and collected: no test frees it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Finds a file or folder of `../shared`; skips the test where there is none."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{path} is not on this machine")
        return path

    return find


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder once for all workers of pytest-xdist: the others wait for the first."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers of this session

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def forks(made_once: Callable[..., Path]) -> Path:
    """A folder of two programs that begin with torch imported; one server for all workers."""
    return made_once("forks", forking)


@pytest.fixture(scope="session")
def forked(forks: Path) -> Path:
    """The program `python` among them, for `-c`, `-m` or a file."""
    return forks / "python" / "python"


@pytest.fixture(autouse=True)
def _sketched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a sketch in place of each figure, unless the test is marked `drawn`."""
    if request.node.get_closest_marker("drawn") is None:
        for room in PLOTTING:
            monkeypatch.setattr(f"{room}.write_plot", sketch)


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws behind intervals and three-way answers."""
    draw_fewer(monkeypatch)


@pytest.fixture(autouse=True)
def _looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for faces on the same photos once: where they lie is the same each time."""
    monkeypatch.setattr(framings, "look", _look)


def _look(paths: Sequence[Path], sample: int = framings.SAMPLE) -> framings.Faces:
    whole = sha256(str(sample).encode())
    for path in sorted(paths):
        whole.update(sha256(path.read_bytes() if path.is_file() else b"").digest())
    if (key := whole.digest()) not in _LOOKS:
        _LOOKS[key] = look(paths, sample)
    return _LOOKS[key]


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """Takes back what a command of the test before did to the package's logger."""
    logger = logging.getLogger("kinembed")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


@pytest.fixture(scope="session")
def faces(made_once: Callable[..., Path]) -> Path:
    """A small synthetic dataset in Kaggle's layout; tests leave it as it is."""
    few = {"families": 10, "test_families": 2, "photos": (2, 3), "side": 64, "seed": 1}
    return made_once("faces", lambda out: generate_dataset(out, **few))


@pytest.fixture(scope="session")
def short() -> FinetuneConfig:
    """A training of a second: every part of the real one, on the CPU, in float32."""
    return FinetuneConfig(
        backbone="mtcnn-onet",
        recipe="dense",
        epochs=2,
        steps=3,
        val_steps=2,
        batch_size=8,
        split="families",
        keep="best",
        device="cpu",
        precision="fp32",
        framing="loose",  # which painted faces are as they are; looking at them takes a while
        seed=3,
    )


@pytest.fixture(scope="session")
def on_cpu() -> EmbedConfig:
    """Embedding on the CPU in float32, without mirrored photos."""
    return EmbedConfig(device="cpu", precision="fp32", flip=False, framing="loose")


@pytest.fixture(scope="session")
def tuned(
    made_once: Callable[..., Path], faces: Path, short: FinetuneConfig, on_cpu: EmbedConfig
) -> Path:
    """A run folder after `finetune` and `embed`; tests leave it as it is."""
    from kinembed.embed import embed
    from kinembed.finetune import finetune

    def make(run: Path) -> None:
        finetune(short, faces, run)
        embed(replace(on_cpu, views=("max", "avg")), faces, run)

    return made_once("tuned", make)


@pytest.fixture(scope="session")
def answering(made_once: Callable[..., Path], faces: Path, on_cpu: EmbedConfig) -> Path:
    """A run folder with everything that answers: a cache, a head by hand, and its calibration."""
    from kinembed.cache import EmbeddingCache
    from kinembed.calibrate import calibrate
    from kinembed.embed import embed
    from kinembed.heads.file import save_head
    from kinembed.heads.metric import MetricHead, Projection

    def make(run: Path) -> None:
        embed(replace(on_cpu, backbone="mtcnn-onet", views=("max", "avg")), faces, run)
        with EmbeddingCache.open(run / "embeddings.h5") as cache:
            width = cache.vectors("avg").shape[1]
            people = {who.decode() for who in np.array(cache.people).tolist() if who}
            model = cache.provenance["model"]
        rng = np.random.default_rng(0)
        projection = Projection(
            rng.standard_normal((width, 16)).astype(np.float32), np.zeros(16, np.float32), ()
        )
        head = MetricHead("avg", model, (projection,), held_out=tuple(sorted(people)))
        save_head(head, run / "head.h5")
        calibrate(CalibrateConfig(pairs=800), faces, run)

    return made_once("answering", make)


@pytest.fixture(scope="session")
def judged(made_once: Callable[..., Path], answering: Path, faces: Path) -> Path:
    """That run folder with an evaluation; tests leave it as it is."""
    from kinembed.evaluate import evaluate

    def make(run: Path) -> None:
        shutil.copytree(answering, run)
        evaluate(EvaluateConfig(count=400), faces, run)

    return made_once("judged", make)


@pytest.fixture
def run(tuned: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, to be written to."""
    return Path(shutil.copytree(tuned, tmp_path / "run"))


@pytest.fixture
def data(faces: Path, tmp_path: Path) -> Path:
    """A writable copy of the synthetic dataset."""
    return Path(shutil.copytree(faces, tmp_path / "data"))
