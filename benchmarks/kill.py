"""Kills kinembed at random moments, runs it again, and compares with an undisturbed run.

    python benchmarks/kill.py --kills 200

Every kill is SIGKILL; after each of them the artefact is the old one, the new one or not there
yet. It works on synthetic families, with the network that comes with pip.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.cache.verify import verify
from kinembed.heads.file import load_head
from kinembed.synthetic import generate_dataset

# Small shards, for many interruptible moments.
RUN = "import sys; from kinembed.cli import run; sys.exit(run(sys.argv[1:]))"


def content(run: Path) -> tuple[bytes, ...]:
    """Names, digests and vectors of a sound cache, byte for byte."""
    path = run / "embeddings.h5"
    found = verify(path)
    if not found.is_sound:
        sys.exit(f"not sound: {found}")
    with EmbeddingCache.open(path) as cache:
        views = [cache.vectors(view).tobytes() for view in cache.views]
        return cache.names.tobytes(), cache.digests.tobytes(), *views


def main() -> None:
    """Prints how many kills there were, and how many of them met a run that was not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=list(NAMES), default=list(NAMES))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = generate_dataset(
            folder / "data", families=60, test_families=4, photos=(2, 2), side=64
        )
        train = ["finetune", "--data", data, "--run", folder / "undisturbed", "--epochs", "1"]
        train += ["--backbone", "mtcnn-onet", "--steps", "2", "--val-steps", "1"]
        train += ["--split", "families"]
        kinembed(*train)
        shutil.copytree(folder / "undisturbed", folder / "run")
        stages = {
            "embed": [
                "embed",
                "--shard-photos",
                "16",
                "--batch-size",
                "8",
                "--views",
                "max,avg",
                "--data",
                data,
            ],
            "head": ["head", "--data", data, "--kind", "l1"],
            "calibrate": ["calibrate", "--data", data, "--pairs", "2000"],
            "score": ["score", "--data", data],
        }
        for stage, arguments in stages.items():
            start = time.perf_counter()
            kinembed(*arguments, "--run", folder / "undisturbed")
            seconds = time.perf_counter() - start
            wanted = result(stage, folder / "undisturbed")
            if stage not in options.stages:
                kinembed(*arguments, "--run", folder / "run")
                continue
            # finetune has left a head of its own: an old artefact that is another.
            old = folder / "run" / NAMES[stage]
            before = result(stage, folder / "run") if old.exists() else wanted
            kills = met = done = 0
            while kills < options.kills:
                process = kinembed(*arguments, "--run", folder / "run", wait=False)
                time.sleep(rng.uniform(0.3 if stage == "embed" else 0, 1.1) * seconds)
                met += process.poll() is None
                process.kill()
                process.wait()
                kills += 1
                artefact = folder / "run" / NAMES[stage]
                if artefact.exists():
                    found = result(stage, folder / "run")
                    if found == before != wanted:
                        continue
                    if found != wanted:
                        sys.exit(f"{stage}: kill {kills} left something else")
                    artefact.unlink()
                    done += 1
            kinembed(*arguments, "--run", folder / "run")
            if result(stage, folder / "run") != wanted:
                sys.exit(f"{stage}: ends otherwise than undisturbed")
            left = sorted(p.name for p in (folder / "run").iterdir() if p.name.startswith("."))
            print(
                f"{stage}: {kills} kills, {met} of them while it ran, {done} after its artefact "
                f"was there; the end equals the undisturbed run; left behind: {left or 'nothing'}"
            )


NAMES = {
    "embed": "embeddings.h5",
    "head": "head.h5",
    "calibrate": "calibration.json",
    "score": "submission.csv",
}


def result(stage: str, run: Path) -> object:
    """The contents of a stage's artefact."""
    if stage == "embed":
        return content(run)
    if stage == "head":
        return load_head(run / NAMES[stage]).digest
    return hashlib.sha256((run / NAMES[stage]).read_bytes()).hexdigest()


def kinembed(*arguments: object, wait: bool = True) -> subprocess.Popen:
    """Starts a command in a process of its own."""
    command = [sys.executable, "-c", RUN, *map(str, arguments), "--quiet"]
    process = subprocess.Popen(command)
    if wait and process.wait():
        sys.exit(f"{arguments[0]} failed")
    return process


if __name__ == "__main__":
    main()
