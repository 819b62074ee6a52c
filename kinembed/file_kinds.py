"""What a file is by its bytes, in words for errors: not every file is what its name says."""

from pathlib import Path

_VIDEO = "a video; save a frame of it as a photo"
# Bytes at an offset of a file, and what they say it is.
SIGNS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "a git-lfs pointer; run git lfs pull"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89PNG", "a photo"),
    (0, b"\xff\xd8\xff", "a photo"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file of before 1.6"),
    (0, b"%PDF-", "a PDF; save its page as a photo"),
    *((4, b"ftyp" + brand, "a photo") for brand in (b"heic", b"heix", b"mif1", b"avif")),
    (4, b"ftyp", _VIDEO),  # MP4, QuickTime
    (0, b"\x1aE\xdf\xa3", _VIDEO),  # Matroska, WebM
    (8, b"AVI ", _VIDEO),
    (0, b"\x00\x00\x01\xba", _VIDEO),  # MPEG
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (0, b"Rar!", "a RAR archive; unpack it"),
    (257, b"ustar", "a tar archive; unpack it"),
    (4, b"TFL3", "a TensorFlow Lite network"),
)
HEAD = 1024
PICKLES = 5  # the newest version of pickles


def describe_file(path: Path) -> str:
    """What a file is by its bytes: `a web page`; empty where they tell nothing."""
    if not path.is_file():  # a pipe would have to be waited for
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return ""
    if not head:
        return "an empty file"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page; download the file itself"
    for offset, sign, name in SIGNS:
        if head.startswith(sign, offset):
            return name
    # The length of a safetensors header may begin as a pickle does: 80 and a version.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "a safetensors file"
    if head[0] == 0x80 and len(head) > 1 and head[1] <= PICKLES and head[8:9] != b"{":
        return "a pickle"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    # ONNX is a protobuf: field 1 is its version, then come the maker's name or the graph.
    if head[0] == 8 and head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42):
        return "an ONNX network"
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "a text"
    return ""


def _describe_zip(path: Path) -> str:
    import zipfile  # only errors need it

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged archive raises many
        return "a damaged ZIP archive"
    inner = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "a TorchScript network"
    if "data.pkl" in inner:
        return "a PyTorch file"
    if "model.weights.h5" in names:
        return "a Keras 3 network"
    return "a ZIP archive; unpack it"
