"""Photos of every format, by their bytes; metadata that must not matter; files that are none."""

import io
import os
import random
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

import kinembed
from kinembed import KinEmbedder
from kinembed.backbones import Framing
from kinembed.data import photos
from kinembed.data.folders import list_photos
from kinembed.data.photo_formats import HEAD, PHOTO_SUFFIXES, essence, photo_format
from kinembed.data.photos import decode_all, decode_photo, place_photo, read_file, read_photo
from kinembed.errors import DataError

ORIENTATION = 0x0112
FULL = Framing(side=48, inner=48)
CHECKOUT = Path(kinembed.__file__).parents[1]
MUTATE = CHECKOUT / "benchmarks" / "mutate_photos.py"
SAVED = {"WebP": "WEBP", "HEIC": "HEIF"}
LOSSLESS: dict[str, dict[str, object]] = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "GIF": {},
    "WebP": {"lossless": True, "exact": True},
}
LOSSY = {"JPEG": {"quality": 95, "subsampling": 0}, "AVIF": {"quality": 95}, "HEIC": {}}


def smooth(height: int = 48, width: int = 64) -> Image.Image:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(256, size=(4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    if kind == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = io.BytesIO()
    image.save(content, SAVED.get(kind, kind), **options)
    return content.getvalue()


def decode(content: bytes, framing: Framing = FULL) -> np.ndarray:
    return decode_photo(content, framing, "some/photo")


def problem_of(content: bytes) -> str:
    with pytest.raises(DataError) as error:
        decode(content)
    text = str(error.value)
    assert text.startswith("some/photo: cannot be decoded (") and text.isprintable()
    return text


def as_before(content: bytes, framing: Framing = FULL) -> np.ndarray:
    """Pixels as Pillow's own way of turning gives them: the oracle."""
    with Image.open(io.BytesIO(content)) as image:
        return place_photo(ImageOps.exif_transpose(image).convert("RGB"), framing)


def exif_of(orientation: int, *others: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block of an orientation and entries of tag, type, count and value."""
    entries = [(ORIENTATION, 3, 1, struct.pack(order + "HH", orientation, 0)), *others]
    directory = struct.pack(order + "H", len(entries))
    directory += b"".join(struct.pack(order + "HHI", *e[:3]) + e[3] for e in sorted(entries))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + head + struct.pack(order + "I", 8) + directory + bytes(4)


ODD = {
    "rational of -1/0": (0x011A, 10, 1, struct.pack("<I", 4)),
    "a float that is NaN": (0x011A, 11, 1, b"\xff\xff\xff\xff"),
    "text as a number": (0x0100, 2, 4, b"abc\0"),
    "text that is too long": (0x013B, 2, 1 << 31, struct.pack("<I", 1 << 30)),
    "a pointer to nowhere": (0x8825, 4, 1, b"\xf0\xff\xff\xff"),
    "a pointer to itself": (0x8769, 4, 1, struct.pack("<I", 8)),
    "an unknown type": (0x0110, 99, 7, b"\1\2\3\4"),
}


# Which format


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo"])
def test_the_bytes_tell_the_format_whatever_the_name(kind: str, name: str, tmp_path: Path) -> None:
    image = smooth(48, 48)
    content = saved(image, kind, **(LOSSLESS.get(kind) or LOSSY.get(kind) or {}))
    assert photo_format(content[:HEAD]) == kind
    (tmp_path / name).write_bytes(content)
    _, pixels = read_photo(tmp_path / name, FULL)
    wanted = np.asarray(image if kind != "GIF" else Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.abs(pixels.astype(int) - wanted).mean() <= (0 if kind in LOSSLESS else 6)


@pytest.mark.parametrize(
    "options",
    [{"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")]
    + [{"compression": "jpeg", "quality": 98}, {"big_tiff": True}],
    ids=str,
)
def test_usual_tiffs_are_read_and_turned(options: dict[str, object]) -> None:
    image = smooth()
    plain = decode(saved(image, "TIFF", **options))
    assert np.abs(plain.astype(int) - place_photo(image, FULL)).max() <= 12
    turned = decode(saved(image, "TIFF", tiffinfo={ORIENTATION: 6, 271: "A camera"}, **options))
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_a_tiff_packed_otherwise_is_refused() -> None:
    assert "TIFF of compression 3; save it as PNG" in problem_of(
        saved(smooth().convert("1"), "TIFF", compression="group3")
    )


def test_of_several_pictures_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (48, 48), (shade, 0, 0)) for shade in (200, 100, 50)]
    for kind in ("GIF", "TIFF", "PNG", "WebP"):
        options = {"lossless": True} if kind == "WebP" else {}
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (decode(content) == (200, 0, 0)).all(), kind
    content = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(content), as_before(content))  # two JPEGs of a stereo camera


def test_a_decoder_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    assert "a HEIC; run pip install 'kinembed[heic]'" in problem_of(heic)
    avif = heic.replace(b"heic", b"avif")
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    assert "this Pillow reads no AVIF; run pip install --upgrade pillow" in problem_of(avif)


def test_every_suffix_of_photos_is_listed(tmp_path: Path) -> None:
    for suffix in PHOTO_SUFFIXES:
        (tmp_path / f"x{suffix}").touch()
        (tmp_path / f"y{suffix.upper()}").touch()
    assert len(list_photos(tmp_path).names) == 2 * len(PHOTO_SUFFIXES)
    assert {".jfif", ".jpe", ".webp", ".bmp", ".tiff", ".gif", ".avif", ".heic"} <= {
        *PHOTO_SUFFIXES
    }


def test_without_a_suffix_the_bytes_tell_whether_a_file_is_listed(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(saved(smooth(), "JPEG"))
    (tmp_path / "empty").touch()
    (tmp_path / "LICENSE").write_text("all rights reserved")
    (tmp_path / "photo.txt").write_bytes(saved(smooth(), "JPEG"))
    os.mkfifo(tmp_path / "pipe")
    found = list_photos(tmp_path)
    assert found.names == ("photo",)
    assert found.left_out.counts == {"other files": 3, "pipes, sockets or devices": 1}


# Metadata


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_odd_tag_beside_the_rotation_does_not_matter(odd: str, orientation: int) -> None:
    for kind in ("JPEG", "PNG", "WebP"):
        options = {**LOSSY, **LOSSLESS}[kind]
        plain = decode(saved(smooth(), kind, **options))
        turned = saved(smooth(), kind, exif=exif_of(orientation, ODD[odd]), **options)
        wanted = np.rot90(plain, -1) if orientation == 6 else plain
        assert np.array_equal(decode(turned), wanted), kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "AVIF", "HEIC"])
def test_pixels_depend_on_the_rotation_alone(kind: str) -> None:
    rng = random.Random(5)
    options = LOSSLESS.get(kind) or LOSSY.get(kind) or {}
    plain = decode(saved(smooth(), kind, **options))
    for number in range(20):
        exif = bytearray(exif_of(1, *ODD.values()))
        for _ in range(number):
            exif[rng.randrange(40, len(exif))] = rng.randrange(256)
        spoilt = saved(smooth(), kind, icc_profile=rng.randbytes(300), **options)
        if kind in ("JPEG", "WebP"):  # Pillow writes it as it is given
            spoilt = saved(smooth(), kind, exif=bytes(exif), **options)
        assert np.array_equal(decode(spoilt), plain)


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_pictures_own_rotation_is_applied_where_it_has_one(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    plain = decode(saved(smooth(), kind))
    content = saved(smooth(), kind, exif=exif.tobytes())  # written as a property of the picture
    turned = ImageOps.exif_transpose(_with_orientation(Image.fromarray(plain), orientation))
    assert np.abs(decode(content).astype(int) - np.asarray(turned)).mean() < 6


def _with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ORIENTATION] = orientation
    return image


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [*range(10), 255, 65535])
def test_jpegs_are_turned_as_before(orientation: int, order: str) -> None:
    content = saved(smooth(), "JPEG", exif=exif_of(orientation, order=order))
    assert np.array_equal(decode(content), as_before(content))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"optimize": True, "quality": 30},
        {"icc_profile": b"x" * 70_000, "comment": b"a comment", "dpi": (300, 300)},
        {"subsampling": 0},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"exif": exif_of(3), "restart_marker_blocks": 2},
    ],
    ids=str,
)
def test_jpegs_have_the_same_pixels_as_before(options: dict[str, object]) -> None:
    options = dict(options)
    content = saved(smooth(75, 61).convert(str(options.pop("mode", "RGB"))), "JPEG", **options)
    for framing in (FULL, Framing(side=112, inner=96, top=24, left=8)):
        assert np.array_equal(decode(content, framing), as_before(content, framing))


def test_a_broken_rotation_is_none() -> None:
    plain = decode(saved(smooth(), "JPEG"))
    value = struct.pack("<HH", 6, 0)
    for entry in (
        (ORIENTATION, 2, 1, value),
        (ORIENTATION, 3, 2, value),
        (ORIENTATION, 5, 1, value),
    ):
        block = exif_of(1, entry).replace(struct.pack("<HHI", ORIENTATION, 3, 1), bytes(8), 1)
        assert np.array_equal(decode(saved(smooth(), "JPEG", exif=block)), plain)
    whole = exif_of(6)
    for length in range(6, 24):  # cut before the value
        assert np.array_equal(decode(saved(smooth(), "JPEG", exif=whole[:length])), plain)


def test_a_png_with_large_metadata_is_read() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + bytes(4)  # a wrong sum, too

    content = saved(smooth(48, 48), "PNG")
    large = zlib.compress(bytes(100 << 20))
    extra = chunk(b"iCCP", b"icc\0\0" + large) + chunk(b"zTXt", b"Comment\0\0" + large)
    extra += chunk(b"tEXt", b"Raw profile type exif\0" + b"x" * (2 << 20)) + chunk(b"pHYs", b"")
    assert np.array_equal(decode(content[:33] + extra + content[33:]), np.asarray(smooth(48, 48)))


def test_no_warning_of_a_sound_photo() -> None:
    palette = smooth().quantize(8)
    palette.info["transparency"] = bytes(range(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(saved(palette, "PNG"))
        decode(saved(smooth(), "JPEG", exif=exif_of(6, *ODD.values())))


# Sizes


def test_a_jpeg_of_108_megapixels_is_read_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth().resize((12_000, 9_000))
    content = saved(image, "JPEG", quality=70)
    wanted = np.asarray(image.resize((48, 48), box=(1500, 0, 10_500, 9_000), reducing_gap=3.0))
    del image
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        photos, "place_photo", lambda *a: (sizes.append(a[0].size), place_photo(*a))[1]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(content)
    assert sizes == [(1500, 1125)]
    assert np.abs(pixels.astype(int) - wanted).max() <= 6


def test_a_small_file_of_a_huge_photo_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jpeg = bytearray(saved(smooth(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("was decoded"))
    for height, width in ((65_535, 65_535), (16_000, 15_000), (5000, 5000)):
        jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
        assert f"{width} x {height} px" in problem_of(bytes(jpeg))
    webp = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2 + bytes(40)
    assert "16384 x 16384 px" in problem_of(webp)


def test_a_large_progressive_jpeg_and_one_of_many_scans_are_refused() -> None:
    for subsampling, pixel_bytes in ((0, 6), (1, 4), (2, 3)):
        options = {"subsampling": subsampling}
        assert essence(saved(smooth(), "JPEG", **options), "JPEG").pixel_bytes == 0
        jpeg = saved(smooth(), "JPEG", progressive=True, **options)
        assert essence(jpeg, "JPEG").pixel_bytes == pixel_bytes
    jpeg = bytearray(saved(smooth(), "JPEG", progressive=True))
    at = jpeg.index(b"\xff\xc2")
    large = bytearray(jpeg) + bytes(200_000)
    large[at + 5 : at + 9] = struct.pack(">HH", 15_000, 12_000)
    assert "12000 x 15000 px, wanted at most 178,956,970 pixels" in problem_of(bytes(large))
    scan = jpeg.rindex(b"\xff\xda")
    many = bytes(jpeg[:-2]) + bytes(jpeg[scan:-2]) * 100 + b"\xff\xd9"
    assert "scans, wanted at most 100" in problem_of(many)


def test_a_tiff_of_huge_tiles_is_refused() -> None:
    entries = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 5), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, 60_000), (323, 4, 60_000), (324, 4, 8), (325, 4, 100)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(104)
    assert "60000 x 60000 px" in problem_of(content)


# Whatever decoders raise


@pytest.mark.parametrize(
    "raised",
    [MemoryError(), RecursionError("deep"), struct.error("x"), KeyError(7), UserWarning("w")],
)
def test_any_exception_is_an_unreadable_photo(
    raised: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(self: object) -> None:
        raise raised

    content = saved(smooth(), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    problem_of(content)
    (tmp_path / "a.png").write_bytes(content)
    assert decode_all([tmp_path / "a.png"], FULL, skip_unreadable=True)[1] == [0]


def test_what_an_error_says_is_one_printable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise OSError("two\nlines \x1b[2J" + "x" * 999)

    content = saved(smooth(), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert r"(two lines \x1b[2J" in problem_of(content) and len(problem_of(content)) < 500


def test_damaged_photos_of_every_format_end_in_a_line() -> None:
    if not MUTATE.is_file():
        pytest.skip("not run from a checkout")
    command = [sys.executable, str(MUTATE), "--files", "150", "--first", "0"]
    path = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("refused") >= 8


# Files that are no files


@pytest.fixture
def strange(tmp_path: Path) -> dict[str, Path]:
    """Paths by what they are, none of them a file."""
    os.mkfifo(tmp_path / "pipe.jpg")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the names of sockets are short
    try:
        listening.bind("socket.jpg")
    finally:
        os.chdir(here)
        listening.close()
    (tmp_path / "folder.jpg").mkdir()
    for name, target in (("zero", "/dev/zero"), ("to-pipe", tmp_path / "pipe.jpg")):
        (tmp_path / f"{name}.jpg").symlink_to(target)
    return {
        "a pipe": tmp_path / "pipe.jpg",
        "a socket": tmp_path / "socket.jpg",
        "a folder": tmp_path / "folder.jpg",
        "a device": tmp_path / "zero.jpg",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among files")
def test_only_files_are_opened(strange: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *a, **k: pytest.fail(f"opened {a}"))
    for kind, path in strange.items():
        with pytest.raises(DataError, match=f"{path.name}: is {kind}; wanted a photo"):
            read_file(path)
        with pytest.raises(DataError, match=f"is {kind}"):
            KinEmbedder("mtcnn-onet", views=("max",)).transform([path])
    with pytest.raises(DataError, match="is a pipe"):
        read_file(strange["a pipe"].with_name("to-pipe.jpg"))
    paths = list(strange.values())
    assert decode_all(paths, FULL, skip_unreadable=True)[1] == list(range(len(paths)))


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among files")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    strange: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = os.stat(__file__)
    monkeypatch.setattr(Path, "stat", lambda self, **k: file)
    with pytest.raises(DataError, match="is a pipe"):
        read_file(strange["a pipe"])


def test_a_link_to_a_photo_is_read(tmp_path: Path) -> None:
    content = saved(smooth(), "PNG")
    (tmp_path / "whole.png").write_bytes(content)
    (tmp_path / "link.png").symlink_to("whole.png")
    assert read_file(tmp_path / "link.png") == content


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"large.jpg: 1,099,511,627,776 bytes, wanted at most"):
        read_file(tmp_path / "large.jpg")


def test_a_name_that_no_file_can_have_is_an_error_of_the_photo() -> None:
    with pytest.raises(DataError, match=r"'a\\x00b.jpg': no name of a file"):
        KinEmbedder("mtcnn-onet", views=("max",)).transform(["a\0b.jpg"])
