"""`serve`: what it answers is what the commands answer; many may ask at once."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Forked
from PIL import Image
from serving.conftest import Answer, Served
from shoebox import paint_two

import kinembed
from kinembed.cache import EmbeddingCache
from kinembed.cli import run as command
from kinembed.compare import compare
from kinembed.config import CompareConfig, SearchConfig, ServeConfig
from kinembed.errors import KinembedError
from kinembed.inference.answerer import Answerer
from kinembed.inference.named_people import FaceReader, NamedPerson
from kinembed.search import search
from kinembed.serve import serve
from kinembed.serving.answers import Answers, Photo
from kinembed.serving.desk import Desk
from kinembed.serving.listening import without_names
from kinembed.serving.web import in_query, make_application
from kinembed.threads import processors

CHECKOUT = Path(kinembed.__file__).parents[1]
File = tuple[str, bytes]


def test_compare_answers_what_the_command_does(
    served: Served, photo: File, other: File, own_run: Path, tmp_path: Path
) -> None:
    found = served.post("/compare?crops=true&prior=0.2", ("a", *photo), ("b", *other)).json
    paths = [tmp_path / name for name in (f"a-{photo[0]}", f"b-{other[0]}")]
    for path, (_, content) in zip(paths, (photo, other), strict=True):
        path.write_bytes(content)
    config = CompareConfig(*paths, crops=True, prior=0.2, device="cpu", precision="fp32")
    wanted = compare(config, tmp_path, own_run).as_json()
    for key in ("sentence", "same_person", "kin", "unrelated", "far", "logit", "log_odds", "head"):
        assert found[key] == wanted[key], key
    assert found["priors"] == wanted["priors"]
    assert [person["path"] for person in found["people"]] == [photo[0], other[0]]


def test_search_answers_what_the_command_does(
    served: Served, photo: File, own_run: Path, tmp_path: Path
) -> None:
    found = served.post("/search?crops=true&top=4", ("photo", *photo)).json
    (tmp_path / photo[0]).write_bytes(photo[1])
    config = SearchConfig(tmp_path / photo[0], top=4, crops=True, device="cpu", precision="fp32")
    wanted = search(config, tmp_path, own_run).as_json()
    for key in ("kin", "same_person", "gallery", "priors"):
        assert found[key] == wanted[key], key
    assert len(found["kin"]) == 4 and "no proof of kinship" in " ".join(found["sentences"])


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/compare?priors=1", "priors: is no setting; wanted prior, face, crops"),
        ("/search?crops=true&Top=3", "Top: is no setting; wanted top, prior, face, crops"),
        ("/represent?prior=0.1", "prior: is no setting; wanted face, crops"),
        ("/search?top=3&top=4", "top: stands twice"),
        ("/represent?a%0Ab", "a\\nb: is no setting; wanted face, crops"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(
    served: Served, photo: File, path: str, problem: str
) -> None:
    fields = ("a", "b") if path.startswith("/compare") else ("photo",)
    found = served.post(path, *((field, *photo) for field in fields))
    assert (found.status, found.error) == (422, problem)
    health = served.ask("GET", "/health?x=1")
    assert (health.status, health.error) == (422, "x: is no setting; there are none here")


def test_the_first_address_says_where_all_is_described(served: Served) -> None:
    path = served.ask("GET", "/").json["described"]
    assert "/compare" in served.ask("GET", path).json["paths"]


def test_represent_gives_the_vectors_of_the_cache(
    served: Served, photo: File, own_run: Path, tmp_path: Path
) -> None:
    found = served.post("/represent?crops=true", ("photo", *photo)).json
    with EmbeddingCache.open(own_run / "embeddings.h5") as cache:
        row = next(
            row for row, name in enumerate(cache.names)
            if name.decode() == f"train/F0001/MID1/{photo[0]}"
        )  # fmt: skip
        wanted = cache.vectors("avg")[row]
    # The photo went through a crop's size, which blurs it a little.
    assert np.corrcoef(found["vectors"]["avg"], wanted)[0, 1] > 0.99
    (tmp_path / photo[0]).write_bytes(photo[1])
    crop = FaceReader(whole=True).people([tmp_path / photo[0]])[0].faces[0].crop
    alone = Answerer.open(own_run, device="cpu", precision="fp32").vectors([crop])
    assert {view: row[0].tolist() for view, row in alone.items()} == found["vectors"]
    assert len(found["representation"]) == 16


def test_health_and_the_description(served: Served, own_run: Path) -> None:
    health = served.ask("GET", "/health").json
    assert health["status"] == "ok" and health["searched"] > 10
    assert health["searched_by"] == "person" and health["not_searched"] == ""
    described = served.ask("GET", "/openapi.json").json
    assert sorted(described["paths"]) == ["/compare", "/health", "/represent", "/search"]
    body = described["paths"]["/compare"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"]["required"] == ["a", "b"]
    for path in ("/docs", "/redoc"):
        assert served.ask("GET", path).status == 404
    assert served.ask("GET", "/").json["described"] == "/openapi.json"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/compare?prior=1", "prior: Input should be less than 1"),
        ("/compare?prior=x", "prior: .*number"),
        ("/compare?face=0", "face: found 0"),
        ("/compare?face=-1", "face: String should match"),
        ("/compare?crops=true&face=9,9", "has no face 9"),
        ("/search?top=0", "top: .*greater than or equal to 1"),
        ("/search?top=1000000", "top: .*less than or equal to 1000"),
    ],
)
def test_settings_that_are_none(
    served: Served, photo: File, other: File, path: str, error: str
) -> None:
    files = [("a", *photo), ("b", *other)] if "compare" in path else [("photo", *photo)]
    found = served.post(path, *files)
    assert found.status == 422 and re.search(error, found.error)


def test_one_photo_twice_is_refused(served: Served, photo: File) -> None:
    found = served.post("/compare?crops=true", ("a", *photo), ("b", *photo))
    assert found.status == 422 and "compares a face with itself" in found.error


def test_faces_are_looked_for(served: Served, tmp_path: Path) -> None:

    first, second = tmp_path / "mother.jpg", tmp_path / "daughter.jpg"
    paint_two(first, second)
    found = served.post("/represent", ("photo", "mother.jpg", first.read_bytes())).json
    taken = found["people"][0]["photos"][0]
    wanted = FaceReader().people([first])[0].as_json()["photos"][0]
    assert taken["faces"] == wanted["faces"] and not taken["crop"]
    assert taken["photo"] == "mother.jpg"


def test_no_name_of_a_photo_is_logged(served: Served, tmp_path: Path, caplog: Any) -> None:
    paint_two(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as one, Image.open(tmp_path / "b.jpg") as other:
        both = Image.new("RGB", (2 * one.width, one.height))
        both.paste(one, (0, 0))
        both.paste(other, (one.width, 0))
        both.save(tmp_path / "both.jpg", quality=92)
    content = (tmp_path / "both.jpg").read_bytes()
    with caplog.at_level("DEBUG"), without_names():
        first, second = (
            served.post(f"/represent?face={face}", ("photo", "secret.jpg", content)).json
            for face in (1, 2)
        )
    assert len(first["people"][0]["photos"][0]["faces"]) == 2
    assert first["representation"] != second["representation"]
    assert "secret" not in caplog.text


def test_those_who_ask_at_once_get_what_they_would_get_alone(served: Served, faces: Path) -> None:
    paths = sorted((faces / "train").rglob("*.jpg"))[:12]

    def ask(path: Path) -> list[float]:
        content = path.read_bytes()
        found = served.post("/represent?crops=true", ("photo", path.name, content))
        return list(found.json["representation"])

    alone = [ask(path) for path in paths]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, paths)) == alone


def test_the_same_threads_map_all_along(
    served: Served, answers: Answers, photo: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of a request's own would leave their memory scattered, and give it back each time."""
    (opened,), seen = answers.answerer._opened, []
    map_photos = opened.mapper.map

    def mapped(pixels: Any) -> Any:
        seen.append((threading.current_thread(), torch.get_num_threads()))
        return map_photos(pixels)

    monkeypatch.setattr(opened.mapper, "map", mapped)
    for _ in range(4):
        assert served.post("/represent?crops=true", ("photo", *photo)).status == 200
    assert len(seen) == 4 and {count for _, count in seen} == {1}
    assert len({thread for thread, _ in seen}) <= processors()
    assert all(thread.is_alive() for thread, _ in seen)


@pytest.mark.parametrize("name", ["serve", "app"])
def test_memory_is_kept_from_before_anything_is_opened_to_the_end(
    name: str, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    @contextmanager
    def lasting() -> Iterator[None]:
        seen.append("kept")
        try:
            yield
        finally:
            seen.append("end")

    def opened(*_: object, **__: object) -> Any:
        seen.append("opened")
        raise KinembedError("enough")

    monkeypatch.setattr(f"kinembed.{name}.lasting_memory", lasting)
    monkeypatch.setattr(Answers, "open", opened)
    assert command([name, "--port", "0", "--run", str(own_run)]) == 1
    assert seen == ["kept", "opened", "end"]


class Slow(Answers):
    """Answers that wait until they are told to go on."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers.answerer, answers.searched)
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)

    def read(self, photo: Photo, *, crops: bool) -> NamedPerson:
        self.waiting.release()
        assert self.go.wait(20)
        return super().read(photo, crops=crops)


def test_health_answers_while_others_wait_and_who_is_too_many_comes_again(
    answers: Answers, serving: Callable[..., Served], photo: File
) -> None:
    slow = Slow(answers)
    desk = Desk(3, 300_000, 20)
    busy = serving(make_application(slow, desk, is_described=False), desk)
    found: list[Answer] = []

    def ask() -> None:
        found.append(busy.post("/represent?crops=true", ("photo", *photo)))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert slow.waiting.acquire(timeout=20)
    while busy.ask("GET", "/health").json["inside"] < 3:
        pass
    more = busy.post("/represent?crops=true", ("photo", *photo))
    assert more.status == 503 and more.headers["retry-after"] == "1"
    assert busy.ask("GET", "/openapi.json").status == 404
    slow.go.set()
    for thread in threads:
        thread.join(20)
    assert [each.status for each in found] == [200, 200, 200]
    assert desk.inside == 0 and desk.budget.held == 0


def test_who_takes_too_long_is_told(
    answers: Answers, serving: Callable[..., Served], photo: File
) -> None:
    slow = Slow(answers)
    desk = Desk(3, 300_000, 0.2)
    busy = serving(make_application(slow, desk, is_described=False), desk)
    found = busy.post("/represent?crops=true", ("photo", *photo))
    slow.go.set()
    assert found.status == 503 and "no answer in 0.2 seconds" in found.error
    assert int(found.headers["retry-after"]) > 0 and desk.inside == 0


def test_without_a_cache_it_says_what_to_run(
    answers: Answers, serving: Callable[..., Served], photo: File
) -> None:
    desk = Desk(3, 300_000, 20)
    missing = "runs/x: has no embeddings.h5 to search; run kinembed embed"
    without = Answers(answers.answerer, None, missing)
    there = serving(make_application(without, desk, is_described=False), desk)
    found = there.post("/search", ("photo", *photo))
    assert found.status == 422 and found.error == missing
    health = there.ask("GET", "/health").json
    assert health["searched"] is None and health["not_searched"] == missing


def test_a_bug_is_one_line_that_quotes_nothing(
    answers: Answers, serving: Callable[..., Served], photo: File, caplog: Any
) -> None:
    class Broken(Answers):
        def read(self, photo: Photo, *, crops: bool) -> NamedPerson:
            raise RuntimeError(f"of {photo.name}")

    desk = Desk(3, 300_000, 20)
    broken = Broken(answers.answerer, None)
    there = serving(make_application(broken, desk, is_described=False), desk)
    with caplog.at_level("INFO"):
        found = there.post("/represent", ("photo", *photo))
    assert found.status == 500 and found.error == "this server failed; see its log"
    deadline = time.monotonic() + 5  # it is written after the answer
    while "RuntimeError" not in caplog.text:
        assert time.monotonic() < deadline
    assert photo[0] not in caplog.text


def test_settings_of_the_query_are_called_so() -> None:
    said = in_query("no face 3; say --crops, or --face 1,2 (--prior)")
    assert said == "no face 3; say crops=true, or face=1,2 (prior)"
    for end in ("; --by photo searches them", " (--by photo searches them)"):
        assert in_query(f"2 photos are not searched{end}") == "2 photos are not searched"


def test_limits_that_nobody_could_keep(tmp_path: Path) -> None:
    for settings in ({"at_once": 0}, {"megabytes": 0}, {"seconds": 0.0}):
        with pytest.raises(KinembedError, match="wanted"):
            serve(ServeConfig(**settings), tmp_path, tmp_path)  # type: ignore[arg-type]


def test_a_port_in_use_is_said_before_anything_is_opened(
    served: Served, own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["serve", "--port", str(served.port), "--run", str(own_run)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"Error: 127.0.0.1:{served.port}: cannot listen there")
    assert "--port" in error


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_command_answers_until_it_is_terminated(
    own_run: Path, tmp_path: Path, forked: Path
) -> None:
    words = ["serve", "--port", "0", "--run", str(own_run), "--json", "--device", "cpu"]
    with Forked(
        [forked, "-m", "kinembed", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        printed = "".join(process.stdout.readline() for _ in range(3))
        port = int(json.loads(printed)["url"].rpartition(":")[2])
        there = Served(port, None, None)  # type: ignore[arg-type]
        assert there.ask("GET", "/health").json["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        error = process.stderr.read()
        assert error.endswith("\nEnded.\n") and "Traceback" not in error
