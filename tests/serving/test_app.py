"""`app`: a token on every path, albums in a folder that goes with the program."""

import asyncio
import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from serving.conftest import Served

import kinembed
from kinembed.config import SearchConfig
from kinembed.serving import albums as albums_module
from kinembed.serving.albums import MOST_ALBUMS, Albums, albums_folder
from kinembed.serving.answers import Answers, Photo
from kinembed.serving.app_page import add_page
from kinembed.serving.desk import Desk
from kinembed.serving.refused import RefusedError
from kinembed.serving.web import make_application

CHECKOUT = Path(kinembed.__file__).parents[1]
File = tuple[str, bytes]
TOKEN, ONCE = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("albums")


@pytest.fixture(scope="module")
def app(answers: Answers, serving: Callable[..., Served], folder: Path) -> Served:
    desk = Desk(4, 300_000, 20)
    application = make_application(answers, desk, is_described=False)
    add_page(application, answers, desk, Albums(folder, []), None)
    return serving(application, desk, token=TOKEN, once=ONCE)


@pytest.fixture
def album(app: Served) -> Any:
    key = app.ask("POST", f"/{TOKEN}/albums?name=Attic").json["id"]
    yield f"/{TOKEN}/albums/{key}"
    app.ask("DELETE", f"/{TOKEN}/albums/{key}")


def test_every_path_needs_the_token(app: Served, photo: File) -> None:
    for path in ("/", "/about", "/health", "/app.js", f"/{TOKEN}", f"/{TOKEN}x/", f"//{TOKEN}/",
                 f"/{TOKEN[:-1]}/", "/%C3%A4/", f"/x/../{TOKEN}/about"):  # fmt: skip
        assert app.ask("GET", path).status == 403, path
    assert app.post("/search?crops=true", ("photo", *photo)).status == 403
    assert app.post(f"/{TOKEN}/search?crops=true", ("photo", *photo)).status == 200
    assert app.ask("GET", f"/{TOKEN}/openapi.json").status == 404


def test_who_is_found_has_a_picture_where_the_photo_is_still_the_one_that_was_embedded(
    answers: Answers, served: Served, faces: Path, photo: File, tmp_path: Path
) -> None:
    person = answers.read(Photo(*photo), crops=True)
    data = Path(shutil.copytree(faces, tmp_path / "data"))
    with_photos = Answers(answers.answerer, answers.searched, photos=data)
    config = SearchConfig(Path("photo"), top=4)
    found = with_photos.search(person, config)
    names = [each["photo"] for each in (*found["same_person"], *found["kin"])]
    assert sorted(found["pictures"]) == sorted(names) and len(names) > 4
    assert all(
        each.startswith("data:image/jpeg;base64,/9j/") for each in found["pictures"].values()
    )
    (data / names[1]).unlink()
    shutil.copy(data / names[0], data / names[2])  # others than those that were searched
    (data / names[3]).write_bytes(b"no photo")
    left = with_photos.search(person, config)["pictures"]
    assert set(left) == {*names} - {*names[1:4]}
    assert with_photos._pictures(["../x.jpg", str(data / names[0])], data / "train") == {}
    assert "pictures" not in served.post("/search?crops=true", ("photo", *photo)).json


def test_the_address_that_others_may_see_works_once(app: Served) -> None:
    first, second = (app.ask("GET", f"/{ONCE}") for _ in range(2))
    assert (first.status, first.headers["location"]) == (303, f"/{TOKEN}/")
    assert second.status == 403 and "location" not in second.headers


def test_the_page_is_all_there_is(app: Served) -> None:
    page = app.ask("GET", f"/{TOKEN}/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    text = page.content.decode()
    for name in ("app.css", "app.js"):
        part = app.ask("GET", f"/{TOKEN}/{name}").content.decode()
        assert name in text and "//" not in part.replace("// ", "") and "innerHTML" not in part
    assert "http" not in text and "style=" not in text and "onclick" not in text


@pytest.mark.parametrize(
    "name", ["../x.jpg", "/x.jpg", "a/../../x.jpg", "..", "", "a\\..\\x", "C:x.jpg", ".x", "~x"]
)
def test_a_photo_goes_nowhere_but_into_its_album(
    app: Served, album: str, folder: Path, photo: File, name: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert app.post(f"{album}/photos", ("photo", name, photo[1])).status == 422
    assert sorted(folder.rglob("*")) == before


def test_photos_of_folders_are_kept_with_them_for_their_owner_alone(
    app: Served, album: str, folder: Path, photo: File
) -> None:
    for number, name in enumerate(("x.jpg", "Anna/x.jpg", "Anna/ü (2).jpg"), 1):
        found = app.post(f"{album}/photos", ("photo", name, photo[1]))
        assert (found.status, found.json) == (201, {"photos": number})
    twice = app.post(f"{album}/photos", ("photo", "x.jpg", photo[1]))
    assert twice.status == 422 and twice.error == "x.jpg: is there already"
    over = app.post(f"{album}/photos", ("photo", "x.jpg/y.jpg", photo[1]))
    assert over.status in (422, 507)
    (kept,) = folder.glob("*/photos/Attic")
    names = sorted(path.relative_to(kept).as_posix() for path in kept.rglob("*.jpg"))
    assert names == ["Anna/x.jpg", "Anna/ü (2).jpg", "x.jpg"]
    assert (kept / "x.jpg").stat().st_mode & 0o077 == 0
    assert kept.stat().st_mode & 0o077 == 0
    app.ask("DELETE", album)
    assert not kept.exists()


def test_albums_are_few_and_known_by_their_key(app: Served, album: str) -> None:
    keys = []
    for _ in range(MOST_ALBUMS - 1):
        keys.append(app.ask("POST", f"/{TOKEN}/albums").json["id"])
    more = app.ask("POST", f"/{TOKEN}/albums")
    assert more.status == 429 and "retry-after" in more.headers
    for key in keys:
        assert app.ask("DELETE", f"/{TOKEN}/albums/{key}").status == 200
    for key in (*keys, "x", "..%2f..%2fetc"):
        assert app.ask("GET", f"/{TOKEN}/albums/{key}").status == 404
    assert app.ask("POST", f"{album}/relate").status == 409  # it has no photos
    assert app.ask("GET", f"{album}/relate.html").status == 404
    assert app.ask("POST", f"/{TOKEN}/albums?name=..").status == 422


ANSWERS = b"answer,left,right\nname,x.jpg:1,Ann\n"


def run_folder(words: tuple[str, ...]) -> Path:
    return Path(words[words.index("--run") + 1])


async def related(*words: str) -> tuple[int, bytes, bytes]:
    """What `relate` leaves and prints."""
    run = run_folder(words)
    run.mkdir(exist_ok=True)
    if (run / "confirmed.csv").exists():
        assert (run / "confirmed.csv").read_bytes() == ANSWERS
    (run / "relate.html").write_text('<ol id="steps"><li>Move it</li></ol><script>1</script>')
    with (run / "relate.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["left", "right", "probability", "far", "shown"])
        rows.writerows([["A", "<b>", 0.5, 0.01, "yes"], ["A", "C", 0.9, 0.001, "yes"]])
        rows.writerow(["B", "C", 0.1, 0.5, "no"])
    counts = {"photos": 3, "faces": 4, "persons": 3, "pairs": 3, "shown": 2, "questions": 1}
    found = {**counts, "expected_false": 0.4, "left_out": ["1 photo"]}
    return 0, json.dumps(found).encode(), b""


def test_an_album_is_related_and_shown(
    app: Served, album: str, photo: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(albums_module, "_run_kinembed", related)
    app.post(f"{album}/photos", ("photo", "x.jpg", photo[1]))
    assert app.post(f"{album}/confirmed", ("confirmed", "c.csv", ANSWERS)).status == 201
    for broken in (b"a\n", b"answer,left,right\nkin,x\n", b"\xff\x00"):
        found = app.post(f"{album}/confirmed", ("confirmed", "c.csv", broken))
        assert found.status == 422 and found.error.startswith("confirmed.csv"), found.error
    empty = app.post(f"{album}/confirmed", ("confirmed", "c.csv", b""))
    assert empty.error == "the form: nothing in confirmed; wanted 1 file: confirmed"
    assert app.ask("POST", f"{album}/relate").status == 202
    state = app.ask("GET", album).json
    while state["state"] == "working":
        state = app.ask("GET", album).json
    assert state["state"] == "done" and state["left_out"] == ["1 photo"]
    assert [link["right"] for link in state["links"]] == ["C", "<b>"]
    assert "less than one of these is expected to be false" in state["sentences"][1]
    page = app.ask("GET", f"{album}/relate.html")
    assert page.headers["content-security-policy"].startswith("sandbox allow-scripts allow-down")
    assert b"Relate again" in page.content and b"Move it" not in page.content
    assert app.ask("GET", f"{album}/relate.csv").status == 200
    for name in ("confirmed.csv", "../lock", "%2e%2e/lock", "people.html"):
        assert app.ask("GET", f"{album}/{name}").status == 404, name
    late = app.post(f"{album}/photos", ("photo", "y.jpg", photo[1]))
    assert late.status == 409 and "related already" in late.error


def test_what_relate_says_is_handed_on_without_the_folder(
    app: Served, album: str, photo: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*words: str) -> tuple[int, bytes, bytes]:
        return 1, b"", f"Error: {words[1]}: no face on 1 photographs".encode()

    monkeypatch.setattr(albums_module, "_run_kinembed", failing)
    app.post(f"{album}/photos", ("photo", "x.jpg", photo[1]))
    app.ask("POST", f"{album}/relate")
    state = app.ask("GET", album).json
    while state["state"] == "working":
        state = app.ask("GET", album).json
    assert (state["state"], state["error"]) == ("failed", "Attic: no face on 1 photographs")


def test_work_on_an_album_that_is_removed_ends(tmp_path: Path) -> None:
    async def removed() -> float:
        albums = Albums(tmp_path, [])
        key = albums.add("album")
        albums.put(key, "x.jpg", b"x")
        albums.relate(key)
        with pytest.raises(RefusedError, match="is being related"):
            albums.relate(key)
        await asyncio.sleep(0.2)  # the process has begun
        began = time.monotonic()
        await albums.remove(key)
        return time.monotonic() - began

    assert asyncio.run(removed()) < 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_program_left_is_deleted_and_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(albums_module.tempfile, "tempdir", str(tmp_path))
    left, other = tmp_path / "kinembed-app-left", tmp_path / "kinembed-app-other"
    for folder in (left, other):
        (folder / "key").mkdir(parents=True)
    (left / "lock").touch()
    linked = tmp_path / "kinembed-app-link"
    linked.symlink_to(other)
    with albums_folder(None) as first:
        assert not left.exists() and other.exists() and linked.is_symlink()
        with albums_folder(None) as second:  # of another program
            assert first.exists() and second.exists()
        assert first.exists() and not second.exists()
    assert not first.exists()


def test_albums_are_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    with albums_folder(tmp_path / "kept") as folder:
        (folder / "x").touch()
    assert (tmp_path / "kept" / "x").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT])
def test_it_deletes_what_was_handed_over_when_it_ends(
    own_run: Path, tmp_path: Path, photo: File, sent: signal.Signals, forked: Path
) -> None:
    words = ["app", "--no-browser", "--run", str(own_run), "--json", "--device", "cpu"]
    with Forked(
        [forked, "-m", "kinembed", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        url = json.loads("".join(process.stdout.readline() for _ in range(3)))["url"]
        port, token = url.split("/")[2].partition(":")[2], url.split("/")[3]
        there = Served(int(port), None, None)  # type: ignore[arg-type]
        key = there.ask("POST", f"/{token}/albums").json["id"]
        assert there.post(f"/{token}/albums/{key}/photos", ("photo", *photo)).status == 201
        assert there.ask("POST", f"/{token}/albums/{key}/relate").status == 202
        assert list(tmp_path.glob("kinembed-app-*/*/photos/album/*.jpg"))
        process.send_signal(sent)
        assert process.wait(20) == (130 if sent == signal.SIGINT else 143)
        said = process.stderr.read()
    assert "Traceback" not in said and url in said
    assert list(tmp_path.glob("kinembed-app-*")) == []
