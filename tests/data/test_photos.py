"""Photos: every kind of file to RGB pixels in a frame, and pixels to a network's input."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kinembed.backbones import Framing, PixelRecipe
from kinembed.backbones.embedder import Normalise
from kinembed.data.photos import MAX_PIXELS, decode_all, decode_photo, read_photo
from kinembed.errors import DataError

Pixels = np.ndarray
FULL = Framing(side=32, inner=32)


def painted(height: int = 32, width: int = 32) -> Pixels:
    """Pixels (height, width, 3) with no two equal rows, columns or channels."""
    down, across = np.mgrid[:height, :width]
    return np.stack([down * 7, across * 7, (down * 3 + across * 5)], -1).astype(np.uint8)


def file_of(image: Image.Image | Pixels, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(content, kind, **options)
    return content.getvalue()


def decode(content: bytes, framing: Framing = FULL) -> Pixels:
    pixels = decode_photo(content, framing, "photo.jpg")
    assert pixels.shape == (framing.side, framing.side, 3)
    assert pixels.dtype == np.uint8
    return pixels


def problem_of(content: bytes) -> str:
    with pytest.raises(DataError) as error:
        decode_photo(content, FULL, "some/photo.jpg")
    assert str(error.value).startswith("some/photo.jpg: ") and "\n" not in str(error.value)
    return str(error.value)


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sum_

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


# Kinds of files


def test_a_png_of_the_frames_size_comes_back_as_it_is() -> None:
    assert np.array_equal(decode(file_of(painted())), painted())


def test_a_jpeg_comes_back_within_its_loss() -> None:
    smooth = np.asarray(Image.fromarray(painted(4, 4)).resize((32, 32)), int)
    result = decode(file_of(smooth.astype(np.uint8), "JPEG", quality=95, subsampling=0))
    assert np.abs(result - smooth).max() <= 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_photos_have_three_equal_channels(kind: str) -> None:
    grey = painted()[..., 0]
    result = decode(file_of(grey, kind, quality=100))
    assert np.abs(result - grey[..., None].astype(int)).max() <= (0 if kind == "PNG" else 3)
    assert (result == result[..., :1]).all()


def test_palette_photos_become_their_colours() -> None:
    colours = np.array([[200, 10, 30], [0, 90, 255], [250, 250, 0]], np.uint8)
    index = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32) % 3
    image = Image.frombytes("P", (32, 32), index.tobytes())
    image.putpalette(colours.ravel().tolist())
    assert np.array_equal(decode(file_of(image)), colours[index])
    assert np.array_equal(decode(file_of(image, transparency=0)), colours[index])


def test_transparency_is_left_out() -> None:
    alpha = np.full((32, 32, 1), 77, np.uint8)
    assert np.array_equal(decode(file_of(np.concatenate([painted(), alpha], -1))), painted())
    grey = np.concatenate([painted()[..., :1], alpha], -1)
    assert np.array_equal(decode(file_of(grey)), np.repeat(grey[..., :1], 3, -1))


def test_black_and_white_photos_become_0_and_255() -> None:
    bits = painted()[..., 0] % 2 == 1
    result = decode(file_of(Image.fromarray(bits)))
    assert np.array_equal(result, np.repeat(bits[..., None] * np.uint8(255), 3, -1))


def test_photos_of_16_bits_keep_their_upper_8() -> None:
    grey = painted()[..., 0]
    result = decode(file_of(grey.astype(np.uint16) * 257))
    assert np.abs(result - grey[..., None].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "white"),
    [("float32", 1), ("float32", 255), ("float32", 65_535), ("int32", 255), ("int32", 65_535)],
)
def test_deep_grey_tiffs_are_read_by_their_range(kind: str, white: int) -> None:
    grey = painted()[..., 0]
    values = (grey / 255 * white).astype(kind)
    result = decode(file_of(values, "TIFF"))
    assert np.abs(result - grey[..., None].astype(int)).max() <= 1
    assert not decode(file_of(np.zeros_like(values), "TIFF")).any()


@pytest.mark.parametrize("value", [-0.5, 1e5, np.nan, np.inf])
def test_grey_values_of_no_known_range_are_no_photo(value: float) -> None:
    values = painted()[..., 0].astype(np.float32)
    values[3, 4] = value
    with pytest.raises(DataError, match="grey values from .* wanted 0 to 65,535"):
        decode(file_of(values, "TIFF"))


def test_cmyk_jpegs_become_their_colours() -> None:
    colour = Image.new("RGB", (32, 32), (200, 60, 30)).convert("CMYK")
    result = decode(file_of(colour, "JPEG", quality=95))
    assert np.abs(result.astype(int) - (200, 60, 30)).max() <= 8


TURNED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decode(file_of(painted(), exif=exif))
    assert np.array_equal(result, TURNED[orientation](painted()))
    jpeg = file_of(painted(), "JPEG", quality=100, subsampling=0)
    turned = file_of(painted(), "JPEG", quality=100, subsampling=0, exif=exif)
    assert np.array_equal(decode(turned), TURNED[orientation](decode(jpeg)))


def test_an_unknown_exif_rotation_is_no_rotation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert np.array_equal(decode(file_of(painted(), exif=exif)), painted())


# Sizes and frames


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 500), (224, 224), (2000, 1500)])
def test_photos_of_any_size_fill_the_frame(size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), (10, 120, 240), np.uint8)
    assert (decode(file_of(flat)) == (10, 120, 240)).all()


@pytest.mark.parametrize(("height", "width"), [(32, 50), (50, 32), (33, 32), (32, 47)])
def test_a_photo_that_is_not_square_is_cropped_to_its_centre(height: int, width: int) -> None:
    top, left = (height - 32) // 2, (width - 32) // 2
    pixels = painted(height, width)
    assert np.array_equal(decode(file_of(pixels)), pixels[top : top + 32, left : left + 32])


def test_a_larger_photo_is_averaged_not_sampled() -> None:
    chess = np.indices((128, 128)).sum(0)[..., None] % 2 * np.full(3, 255)
    result = decode(file_of(chess.astype(np.uint8)))
    assert np.abs(result[1:-1, 1:-1].astype(int) - 128).max() <= 4


@given(
    inner=st.integers(1, 12),
    top=st.integers(0, 6),
    left=st.integers(0, 6),
    below=st.integers(0, 6),
)
def test_a_frame_repeats_the_photos_edges(inner: int, top: int, left: int, below: int) -> None:
    side = inner + max(top + below, left)
    pixels = painted(inner, inner)
    result = decode(file_of(pixels), Framing(side=side, inner=inner, top=top, left=left))
    for row in range(side):
        for column in range(side):
            at = min(max(row - top, 0), inner - 1), min(max(column - left, 0), inner - 1)
            assert result[row, column].tolist() == pixels[at].tolist()


def test_what_sticks_out_of_the_frame_is_cut_off() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(6, 6, 3), dtype=np.uint8)
    result = decode(file_of(pixels), Framing(side=8, inner=6, top=4, left=1))
    columns = [0, 0, 1, 2, 3, 4, 5, 5]
    wanted = pixels[[0, 0, 0, 0, 0, 1, 2, 3]][:, columns]
    assert np.array_equal(result, wanted)


# Files that cannot be decoded


def test_a_text_file_named_jpg_is_no_photo(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a photo")
    with pytest.raises(DataError, match=r"notes\.jpg: cannot be decoded \(not a photo\)"):
        read_photo(path, FULL)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg: No such file or directory; wanted a photo"):
        read_photo(tmp_path / "absent.jpg", FULL)


def test_an_empty_file_and_other_formats_are_refused() -> None:
    assert "(not a photo); wanted a whole JPEG, PNG, WebP, BMP" in problem_of(b"")
    for kind in ("PPM", "TGA", "ICO", "PDF"):
        assert "(not a photo)" in problem_of(file_of(painted(), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_cut_short_anywhere_is_refused(kind: str) -> None:
    content = file_of(painted(), kind)
    end = len(content) - (2 if kind == "JPEG" else 12)  # the end marker holds no pixels
    for length in range(1, end - 4, 13):
        assert "--skip-unreadable" in problem_of(content[:length])
    assert "truncated" in problem_of(content[: len(content) // 2]).lower()


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (10_000, 9_000), (8_001, 8_000)])
def test_far_too_large_photos_are_refused_unread(width: int, height: int) -> None:
    assert width * height > MAX_PIXELS
    problem = problem_of(png(width, height))
    assert "64,000,000 pixels" in problem and "--skip-unreadable" in problem


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "turned JPEG"])
@given(data=st.data())
def test_damaged_photos_are_decoded_or_refused_but_raise_nothing_else(
    kind: str, data: st.DataObject
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind.startswith("turned") else {}
    content = bytearray(file_of(painted(), kind.split()[-1], **options))
    offsets = st.integers(0, min(len(content), 900) - 1)
    for offset, value in data.draw(st.lists(st.tuples(offsets, st.integers(0, 255)), min_size=1)):
        content[offset] = value
    try:
        decode(bytes(content))
    except DataError as error:
        assert str(error).startswith("photo.jpg: ")


# Many photos


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(9):
        pixels = np.roll(painted(), number, 0)
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(file_of(pixels))
    return paths


def test_photos_are_decoded_in_order(album: list[Path]) -> None:
    done: list[int] = []
    pixels, skipped = decode_all(album, FULL, advance=done.append)
    assert np.array_equal(pixels, [np.roll(painted(), number, 0) for number in range(9)])
    assert skipped == []
    assert sum(done) == 9


def test_photos_beyond_memory_are_the_same_in_a_file(
    album: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory, _ = decode_all(album, FULL)
    monkeypatch.setattr("kinembed.data.photos.free_memory", lambda: 2 * in_memory.nbytes - 1)
    in_file, _ = decode_all(album, FULL)
    assert isinstance(in_file, np.memmap) and not isinstance(in_memory, np.memmap)
    assert np.array_equal(in_file, in_memory)
    assert not Path(str(in_file.filename)).exists()


def test_the_first_photo_that_cannot_be_read_is_named(album: list[Path]) -> None:
    for number in (3, 7):
        album[number].write_text("not a photo")
    with pytest.raises(DataError, match=r"3\.png: cannot be decoded"):
        decode_all(album, FULL)


def test_unreadable_photos_are_left_out_by_row(album: list[Path]) -> None:
    whole, _ = decode_all(album, FULL)
    album[7].write_text("not a photo")
    album[3].unlink()
    album[5].write_bytes(png(30_000, 30_000))
    done: list[int] = []
    pixels, skipped = decode_all(album, FULL, skip_unreadable=True, advance=done.append)
    assert skipped == [3, 5, 7]
    assert sum(done) == 9
    assert not pixels[skipped].any()
    kept = np.delete(np.arange(9), skipped)
    assert np.array_equal(pixels[kept], whole[kept])


# Pixels to a network's input


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_pixel_recipe_agrees_with_plain_numpy(order: str) -> None:
    recipe = PixelRecipe(order, (91.5, 103.9, 131.1), (58.4, 57.1, 128.0))
    photos = np.stack([painted(6, 6), painted(6, 6)[::-1]])
    result = Normalise(recipe)(torch.from_numpy(photos))
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.shape == (2, 3, 6, 6)
    for channel in range(3):
        source = channel if order == "rgb" else 2 - channel
        wanted = (photos[..., source] - recipe.mean[channel]) / recipe.scale[channel]
        assert np.allclose(result[:, channel].numpy(), wanted, atol=1e-5)
