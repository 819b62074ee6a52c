"""`kinembed serve` under load: one client and fifty, and what its memory does meanwhile.

    python benchmarks/serve.py --run RUN --photos DATA/test --seconds 60

Starts the server as its own process, on a port of its own. Each client compares two photos, drawn
at random, as soon as its last answer is there. The clients compute beside the server, on the same
cores. With --crops no faces are looked for.
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

BOUNDARY = "kinembed"
KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Load(NamedTuple):
    """What some clients saw."""

    clients: int
    seconds: float
    times: list[float]  # of answers
    refused: int
    failed: int
    processor: float  # of the server, seconds
    before: float  # memory of the server, MiB
    after: float


def memory(process: int) -> float:
    """What a process holds in memory now, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def used(process: int) -> float:
    """Processor time that a process has taken, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def body(first: Path, second: Path) -> bytes:
    parts = []
    for field, path in (("a", first), ("b", second)):
        about = f'Content-Disposition: form-data; name="{field}"; filename="{path.name}"'
        parts.append(f"--{BOUNDARY}\r\n{about}\r\n\r\n".encode() + path.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def load(
    port: int, server: int, photos: list[Path], clients: int, seconds: float, path: str
) -> Load:
    times: list[float] = []
    counts = {"refused": 0, "failed": 0}
    lock = threading.Lock()
    before, processor, start = memory(server), used(server), time.perf_counter()

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() - start < seconds:
            content = body(*rng.sample(photos, 2))
            began = time.perf_counter()
            try:
                line.request("POST", path, content, KIND)
                answer = line.getresponse()
                found = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                line.close()
                with lock:
                    counts["failed"] += 1
                continue
            taken = time.perf_counter() - began
            with lock:
                if answer.status == 200:
                    times.append(taken)
                elif answer.status == 503:
                    counts["refused"] += 1
                elif answer.status != 422 or "error" not in found:  # 422: no face
                    counts["failed"] += 1

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    processor = used(server) - processor
    return Load(clients, took, sorted(times), *counts.values(), processor, before, memory(server))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos or crops")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--crops", action="store_true", help="look for no faces")
    given = parser.parse_args()
    photos = sorted(given.photos.rglob("*.jpg"))[:1000]
    words = ["serve", "--run", str(given.run), "--port", "0", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "kinembed", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads("".join(process.stdout.readline() for _ in range(3)))["url"]
            port = int(url.rpartition(":")[2])
            path = "/compare?crops=true" if given.crops else "/compare"
            load(port, process.pid, photos, given.clients, given.seconds / 6, path)  # warm
            many = (given.clients, given.seconds)
            rows = [
                load(port, process.pid, photos, clients, seconds, path)
                for clients, seconds in ((1, given.seconds / 3), many, many)
            ]
        finally:
            process.terminate()
    columns = ("clients", "seconds", "answers", "a second", "median", "p99", "CPU", "503", "failed")
    print(f"| {' | '.join(columns)} | MiB before | after |")
    print("|--:" * 11 + "|")
    for row in rows:
        count, held = len(row.times), f"{row.before:.0f} | {row.after:.0f}"
        median, late = (row.times[min(count - 1, int(count * share))] for share in (0.5, 0.99))
        print(
            f"| {row.clients} | {row.seconds:.0f} | {count:,} | {count / row.seconds:.1f} "
            f"| {1000 * median:,.0f} ms | {1000 * late:,.0f} ms "
            f"| {1000 * row.processor / count:.0f} ms | {row.refused} | {row.failed} | {held} |"
        )


if __name__ == "__main__":
    main()
