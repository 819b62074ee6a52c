"""Actors of Ray, two of which are killed, and then their driver: the bytes of one process.

    python benchmarks/ray_actors.py

Needs kinembed[ray] and Linux. Embeds synthetic photos in one process; then by two actors of Ray on
this machine, undisturbed; where `kill -9` ends an actor twice; and where it ends the driver, which
is started again. Then it scores pairs of them so. Prints how many shards were begun again, and
whether caches and submissions are equal.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from os import kill
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.heads.file import save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.synthetic import generate_dataset

RUN = "from kinembed.cli import main; main()"
WIDTH = 1024  # of representations
GIVEN = re.compile(r"shard (\d+) goes to actor")
SAID = re.compile(r"shard (\d+) (is computed|was there)")


class Driver:
    """A command of kinembed in a process of its own, and what it logs."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            command = [sys.executable, "-c", RUN, arguments[0], "-v", *arguments[1:]]
            self.process = subprocess.Popen(command, stderr=file, cwd=log.parent)

    def counts(self) -> tuple[Counter[int], Counter[int]]:
        """How often each shard was begun, and computed to its end."""
        text = self.log.read_text()
        begun = Counter(map(int, GIVEN.findall(text)))
        said = SAID.findall(text)
        begun.subtract(int(number) for number, how in said if how == "was there")
        return begun, Counter(int(number) for number, how in said if how == "is computed")

    def computed(self, count: int) -> Callable[[], bool]:
        return lambda: sum(self.counts()[1].values()) >= count

    def wait_for(self, is_time: Callable[[], bool]) -> None:
        while not is_time():
            if self.process.poll() is not None:
                sys.exit(f"it ended before it was killed\n{self.log.read_text()}")
            time.sleep(0.02)

    def computing(self) -> list[int]:
        """The actors of this driver that compute a shard now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_text()
            except OSError:
                continue
            if title.startswith("ray::Worker.compute") and self.process.pid in ancestors(folder):
                found.append(int(folder.name))
        return found

    def kill_actor(self) -> None:
        actors: list[int] = []

        def are_there() -> bool:
            actors[:] = self.computing()
            return bool(actors)

        self.wait_for(are_there)
        kill(actors[0], signal.SIGKILL)
        before = self.log.read_text().count(" failed in actor")
        self.wait_for(lambda: self.log.read_text().count(" failed in actor") > before)

    def end(self) -> float:
        start = time.perf_counter()
        if self.process.wait():
            sys.exit(self.log.read_text())
        return time.perf_counter() - start


def ancestors(folder: Path) -> set[int]:
    """The processes that a process descends from."""
    found: set[int] = set()
    while folder.name not in ("0", "1"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.add(parent)
        folder = Path("/proc") / str(parent)
    return found


class Trial:
    """One command, by one process and by actors that are killed.

    Args:
        folder: of the run folders.
        given: the command and its options, but for the run folder.
        output: its file there.
        prepare: makes a run folder.
    """

    def __init__(
        self, folder: Path, given: list[str], output: str, prepare: Callable[[Path], object]
    ) -> None:
        self.folder, self.given, self.output, self.prepare = folder, given, output, prepare
        self.name = given[0]

    def start(self, run: str, more: list[str], log: str = "log") -> Driver:
        """Starts it, and returns when actors are ready."""
        path = self.folder / f"{self.name}-{run}"
        if log == "log":
            self.prepare(path)
        while True:
            logged = self.folder / f"{path.name}.{log}"
            driver = Driver([*self.given, *more, "--run", str(path)], logged)
            while "is ready on" not in driver.log.read_text() and driver.process.poll() is None:
                time.sleep(0.02)
            # On a machine that others keep busy, Ray gives up after half a minute.
            if "timed out during startup" not in driver.log.read_text():
                return driver

    def compare(self, run: str, what: str, *drivers: Driver) -> None:
        """Prints what became of a run, and ends if its bytes are others."""
        begun: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        for driver in drivers:
            begun.update(driver.counts()[0])
            ended.update(driver.counts()[1])
        same = self.read(run) == self.read("one")
        again = sum(count - 1 for count in begun.values() if count > 1)
        twice = sum(count - 1 for count in ended.values() if count > 1)
        print(
            f"{self.name}, {what}: {len(begun)} shards, {again} begun again, {twice} finished "
            f"twice; {'the same bytes' if same else 'OTHER BYTES'}",
            flush=True,
        )
        if not same or twice:
            sys.exit(1)

    def read(self, run: str) -> bytes:
        return (self.folder / f"{self.name}-{run}" / self.output).read_bytes()

    def run(self) -> None:
        """One process; two actors; an actor killed twice; the driver killed."""
        ray = ["--engine", "ray", "--actors", "2", "--actor-cpus", ".5"]
        self.start("one", []).end()
        driver = self.start("undisturbed", ray)
        driver.end()
        self.compare("undisturbed", "two actors", driver)
        driver = self.start("actors", ray)
        for count in (2, 5):
            driver.wait_for(driver.computed(count))
            driver.kill_actor()
        driver.end()
        self.compare("actors", "an actor killed, twice", driver)
        first = self.start("driver", ray)
        first.wait_for(first.computed(3))
        first.wait_for(lambda: len(first.computing()) == 2)
        first.process.kill()
        first.process.wait()
        again = self.start("driver", ray, "again")
        again.end()
        self.compare("driver", "the driver killed, and started again", first, again)


def write_pairs(cache: Path, path: Path, count: int) -> None:
    """Writes a head of random numbers beside a cache, and random pairs of its photos."""
    with EmbeddingCache.open(cache) as opened:
        names = [name.decode() for name in opened.names.tolist()]
        width, model = opened.vectors("max").shape[1], opened.provenance["model"]
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((width, WIDTH), np.float32)
    projection = Projection(kernel, np.zeros(WIDTH, np.float32))
    save_head(MetricHead("max", model, (projection,)), cache.with_name("head.h5"))
    with path.open("w") as file:
        file.write("p1,p2\n")
        for one, other in rng.integers(0, len(names), (count, 2)).tolist():
            file.write(f"{names[one]},{names[other]}\n")


def main() -> None:
    """Prints a line for each of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=60)
    parser.add_argument("--shard-photos", type=int, default=32)
    parser.add_argument("--backbone", default="mtcnn-onet")
    parser.add_argument("--dtype", default="float32", help="number format of the cache")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--shard-pairs", type=int, default=32_768)
    parser.add_argument("--only", choices=["embed", "score"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate_dataset(
            folder / "data", families=options.families, test_families=4, photos=(2, 3), side=64
        )
        data = ["--data", str(folder / "data")]
        given = ["embed", *data, "--backbone", options.backbone, "--framing", "loose"]
        given += ["--shard-photos", str(options.shard_photos), "--dtype", options.dtype]
        trial = Trial(folder, given, "embeddings.h5", Path.mkdir)
        if options.only == "score":
            trial.start("one", []).end()
        else:
            trial.run()
        if options.only == "embed":
            return
        made = folder / "embed-one"
        write_pairs(made / "embeddings.h5", folder / "pairs.csv", options.pairs)
        given = ["score", *data, "--pairs", str(folder / "pairs.csv"), "--actor-memory", "0.002"]
        given += ["--shard-pairs", str(options.shard_pairs)]

        def copy(run: Path) -> None:
            run.mkdir()
            for each in ("embeddings.h5", "head.h5"):
                shutil.copy(made / each, run / each)

        Trial(folder, given, "submission.csv", copy).run()


if __name__ == "__main__":
    main()
