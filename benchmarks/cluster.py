"""A billion photos on a hundred GPUs, simulated: time, bytes, cost, and what is lost.

    python benchmarks/cluster.py
    python benchmarks/cluster.py --rate 400 --price 0.60

No cluster was used. A worker takes a shard, computes it, and writes it whole; whoever dies loses
the shard at hand and comes back after a while, its network loaded again. Workers differ in speed,
some are stragglers, and all fail at random (exponential times). `queue` hands the next shard to
whoever is free, as `embed --engine ray` does; `parts` gives every worker a fixed part, as `--shard
i/n` does with n workers; `many parts` gives out ten times as many parts as there are workers, as a
Slurm array with a limit on its tasks does.

What is assumed stands in the options and is printed: a GPU's photos a second are not measured here.
"""

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NAME_BYTES = 100  # of a photo: name, person, sha256 and stat
HOUR = 3600.0


@dataclass(frozen=True)
class Cluster:
    """What is assumed.

    Attributes:
        photos: how many.
        gpus: workers, one GPU each.
        rate: photos a second of a usual worker.
        spread: deviation of the logarithm of the workers' rates.
        stragglers: share of the workers that are `slow` times slower.
        slow: how much.
        mtbf: mean hours of a worker between failures.
        back: seconds until a worker is back, its network loaded.
        start: seconds of a shard beside its photos: to take it, open and seal its files.
        width: numbers of a vector.
        photo_bytes: of a photo's file, read once.
        price: of a GPU's hour.
    """

    photos: int
    gpus: int
    rate: float
    spread: float
    stragglers: float
    slow: float
    mtbf: float
    back: float
    start: float
    width: int
    photo_bytes: int
    price: float


@dataclass(frozen=True)
class Outcome:
    """What a run took.

    Attributes:
        hours: until the last shard is there.
        lost: share of the GPU's hours whose work was lost or that were spent coming back.
        idle: share of the GPU's hours in which a worker had nothing left to do.
        again: shards that were begun more than once.
    """

    hours: float
    lost: float
    idle: float
    again: int


def simulate(cluster: Cluster, shard: int, parts: int, rng: np.random.Generator) -> Outcome:
    """Runs all shards.

    Args:
        cluster: what is assumed.
        shard: photos of one.
        parts: fixed parts of the work, each of one worker at a time; 0: a queue of shards.
        rng: draws rates and failures.
    """
    shards = -(-cluster.photos // shard)
    rates = cluster.rate * np.exp(cluster.spread * rng.standard_normal(cluster.gpus))
    rates[: round(cluster.stragglers * cluster.gpus)] /= cluster.slow
    # A piece of work is a number of shards that one worker does in turn.
    sizes = (
        [len(part) for part in np.array_split(np.arange(shards), parts)] if parts else [1] * shards
    )
    return _run(cluster, shard, sizes, rates, rng)


def _run(
    cluster: Cluster, shard: int, sizes: Sequence[int], rates: np.ndarray, rng: np.random.Generator
) -> Outcome:
    mean = cluster.mtbf * HOUR
    free = [(0.0, worker) for worker in range(cluster.gpus)]
    fails = rng.exponential(mean, cluster.gpus)  # when each fails next
    lost = busy = 0.0
    again = 0
    ends = np.zeros(cluster.gpus)
    for size in sizes:
        now, worker = heapq.heappop(free)
        took = cluster.start + shard / rates[worker]
        left = size
        while left:
            done = int(min(left, max(0.0, (fails[worker] - now) // took)))
            now += done * took
            busy += done * took
            left -= done
            if left:  # it fails in the next shard
                lost += fails[worker] - now + cluster.back
                now = fails[worker] + cluster.back
                fails[worker] = now + rng.exponential(mean)
                again += 1
        ends[worker] = now
        heapq.heappush(free, (now, worker))
    last = ends.max()
    whole = last * cluster.gpus
    return Outcome(last / HOUR, lost / whole, 1 - (busy + lost) / whole, again)


def main() -> None:
    """Prints what is assumed, and a row for each way and size of shard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=1_000_000_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--rate", type=float, default=800.0)
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument("--stragglers", type=float, default=0.05)
    parser.add_argument("--slow", type=float, default=3.0)
    parser.add_argument("--mtbf", type=float, default=50.0)
    parser.add_argument("--back", type=float, default=300.0)
    parser.add_argument("--start", type=float, default=2.0)
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--photo-bytes", type=int, default=12_000)
    parser.add_argument("--price", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=5)
    options = vars(parser.parse_args())
    seeds = options.pop("seeds")
    cluster = Cluster(**options)
    ideal = cluster.photos / cluster.rate / cluster.gpus / HOUR
    print(
        f"{cluster.photos:,} photos, {cluster.gpus} GPUs of {cluster.rate:g} photos/s (assumed), "
        f"{cluster.stragglers:.0%} of them {cluster.slow:g} times slower, a failure in "
        f"{cluster.mtbf:g} h each, back after {cluster.back:g} s; without any of it {ideal:.2f} h"
    )
    per = cluster.width
    for name, size in (("float32", 4 * per), ("float16", 2 * per), ("int8", per + 4)):
        whole = cluster.photos * (size + NAME_BYTES)
        print(f"cache in {name}: {whole / 1e12:.2f} TB")
    read = cluster.photos * cluster.photo_bytes
    print(f"photos read once: {read / 1e12:.1f} TB, {read / ideal / HOUR / 1e9:.2f} GB/s\n")
    print("| work | photos a shard | hours | of the ideal | lost | idle | begun again | cost |")
    print("|---|---|---|---|---|---|---|---|")
    for name, parts in (("queue", 0), ("parts", cluster.gpus), ("many parts", 10 * cluster.gpus)):
        for shard in (1_024, 16_384, 65_536, 1_048_576):
            found = [
                simulate(cluster, shard, parts, np.random.default_rng(seed))
                for seed in range(seeds)
            ]
            hours, lost, idle, again = (
                float(np.mean([getattr(each, key) for each in found]))
                for key in ("hours", "lost", "idle", "again")
            )
            cost = hours * cluster.gpus * cluster.price
            print(
                f"| {name} | {shard:,} | {hours:.2f} | {hours / ideal:.2f} | {lost:.2%} | "
                f"{idle:.1%} | {again:.0f} of {-(-cluster.photos // shard):,} | {cost:,.0f} |"
            )


if __name__ == "__main__":
    main()
