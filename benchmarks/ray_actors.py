"""Actors of Ray, two of which are killed, and then their driver: the bytes of one process.

    python benchmarks/ray_actors.py

Needs kinembed[ray] and Linux. Embeds synthetic photos in one process; then by two actors of Ray on
this machine, undisturbed; where `kill -9` ends an actor twice; and where it ends the driver, which
is started again. Prints how many shards were begun again, and whether the caches are equal.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from os import kill
from pathlib import Path

from kinembed.synthetic import generate_dataset

RUN = "from kinembed.cli import main; main()"
GIVEN = re.compile(r"shard (\d+) goes to actor")
SAID = re.compile(r"shard (\d+) (is computed|was there)")


class Driver:
    """A `kinembed embed` in a process of its own, and what it logs."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            command = [sys.executable, "-c", RUN, "embed", "-v", *arguments]
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


def main() -> None:
    """Prints a line for each of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=60)
    parser.add_argument("--shard-photos", type=int, default=32)
    parser.add_argument("--backbone", default="mtcnn-onet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate_dataset(
            folder / "data", families=options.families, test_families=4, photos=(2, 3), side=64
        )
        given = ["--data", str(folder / "data"), "--backbone", options.backbone]
        given += ["--framing", "loose"]
        given += ["--shard-photos", str(options.shard_photos)]
        ray = ["--engine", "ray", "--actors", "2", "--actor-cpus", ".5"]

        def start(run: str, more: list[str], log: str = "log") -> Driver:
            while True:
                driver = Driver(
                    [*given, *more, "--run", str(folder / run)], folder / f"{run}.{log}"
                )
                while "is ready on" not in driver.log.read_text() and driver.process.poll() is None:
                    time.sleep(0.02)
                # On a machine that others keep busy, Ray gives up after half a minute.
                if "timed out during startup" not in driver.log.read_text():
                    return driver

        def compare(run: str, what: str, *drivers: Driver) -> None:
            begun: Counter[int] = Counter()
            ended: Counter[int] = Counter()
            for driver in drivers:
                begun.update(driver.counts()[0])
                ended.update(driver.counts()[1])
            same = (folder / run / "embeddings.h5").read_bytes() == wanted
            again = sum(count - 1 for count in begun.values() if count > 1)
            twice = sum(count - 1 for count in ended.values() if count > 1)
            print(
                f"{what}: {len(begun)} shards, {again} begun again, {twice} finished twice; "
                f"{'the same bytes' if same else 'OTHER BYTES'}",
                flush=True,
            )
            if not same or twice:
                sys.exit(1)

        start("one", []).end()
        wanted = (folder / "one" / "embeddings.h5").read_bytes()
        driver = start("undisturbed", ray)
        driver.end()
        compare("undisturbed", "two actors", driver)
        driver = start("actors", ray)
        for count in (2, 5):
            driver.wait_for(driver.computed(count))
            driver.kill_actor()
        driver.end()
        compare("actors", "an actor killed, twice", driver)
        first = start("driver", ray)
        first.wait_for(first.computed(3))
        first.wait_for(lambda: len(first.computing()) == 2)
        first.process.kill()
        first.process.wait()
        again = start("driver", ray, "again")
        again.end()
        compare("driver", "the driver killed, and started again", first, again)


if __name__ == "__main__":
    main()
