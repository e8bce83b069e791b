"""Damage beside the pixels does not make a picture damaged; damage of them is a BadImage, whatever Pillow raises."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmkit.data.images.opening import BadImage, load_image
from mmkit.data.images.png import BEGIN, bare
from mmkit.errors import UserError
from mmkit.inference.inputs import open_picture


def chunk(kind, data, right=True):
    sum_ = zlib.crc32(kind + data) ^ (not right)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)


def png(*beside, after=()):
    """Four grey pixels; beside: chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 0, 80, 160, 255])))
    return BEGIN + header + b"".join(beside) + pixels + b"".join(after) + chunk(b"IEND", b"")


ENDLESS = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * 3_000_000))
TURN = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "file",
    [
        png(ENDLESS),
        png(after=[ENDLESS]),
        png(chunk(b"tEXt", b"a\0b", right=False)),
        png(chunk(b"eXIf", TURN, right=False)),
        png(chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 3_000_000))),
        png(chunk(b"tRNS", b"\0\0", right=False)),
    ],
    ids=["comment", "comment after", "checksum", "checksum of EXIF", "profile", "checksum of transparency"],
)
def test_what_is_said_beside_a_png_may_be_damaged(tmp_path, file):
    (tmp_path / "a.png").write_bytes(file)
    for form in (file, tmp_path / "a.png", io.BytesIO(file)):
        assert np.asarray(load_image(form))[0, :, 0].tolist() == [0, 80, 160, 255]


def test_what_is_right_beside_a_damaged_chunk_counts():
    transparent = png(ENDLESS, chunk(b"tRNS", b"\0\0"))
    assert np.asarray(load_image(transparent))[0, :, 0].tolist() == [255, 80, 160, 255]
    assert load_image(png(ENDLESS, chunk(b"eXIf", TURN))).size == (1, 4)


def test_bare_is_all_of_a_png_that_the_pixels_need():
    assert bare(png(ENDLESS, after=[ENDLESS])) == png()
    assert bare(png()[:-15]) == png()[:-15]
    assert bare(b"GIF89a") is None


def test_wrong_pixels_stay_damaged():
    header, broken = png()[:33], chunk(b"IDAT", b"no pixels")
    for file in (header + broken, png()[:40], png()[:-30], BEGIN):
        with pytest.raises(BadImage, match=r"damaged|begins as a picture, but is damaged"):
            load_image(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_any_broken_byte_is_a_bad_image_or_a_picture(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("this Pillow was built without it")
    draw = np.random.default_rng(0)
    whole = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (12, 16, 3), np.uint8)).save(whole, kind)
    refused = 0
    for _ in range(80):
        file = bytearray(whole.getvalue())
        for at in draw.integers(0, min(len(file), 300), 3):
            file[at] = draw.integers(256)
        try:
            load_image(bytes(file))
        except BadImage:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    "error", [RuntimeError, AssertionError, OverflowError, ZeroDivisionError, KeyError, MemoryError]
)
def test_whatever_pillow_raises_names_the_file(tmp_path, monkeypatch, error):
    def broken(self):
        raise error("odd")

    path = tmp_path / "a.bmp"
    Image.new("RGB", (2, 2)).save(path)
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", broken)
    if error is MemoryError:  # the machine's, not the picture's
        with pytest.raises(MemoryError):
            load_image(path)
        return
    with pytest.raises(BadImage, match=r"a\.bmp: damaged picture \('?odd"):
        load_image(path)


def test_one_open_picture_may_be_read_by_several_threads(tmp_path):
    """Pillow loads at first sight: the same object twice in a list gave "damaged", or another picture's rows."""
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    for made in (Image.open, lambda path: io.BytesIO(path.read_bytes()), lambda path: path.open("rb")):
        for _ in range(5):
            one = made(path)
            with ThreadPoolExecutor(4) as pool:
                for found in (*pool.map(load_image, [one] * 4), *pool.map(open_picture, [one] * 4)):
                    assert np.array_equal(np.asarray(found), pixels)


def test_files_opened_as_text_and_links_in_a_circle_are_named(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open() as text, pytest.raises(UserError, match='open\\(path, "rb"\\)'):
        load_image(text)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "b.jpg")
    with pytest.raises(BadImage, match=r"b\.jpg: cannot be read \(.*links"):
        load_image(tmp_path / "b.jpg")


def test_a_tiff_with_odd_tags_is_turned():
    whole = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera"
    exif[700] = b"<x/>"
    Image.new("RGB", (24, 16)).save(whole, "TIFF", exif=exif)
    for tag in (0x010F, 700):
        for kind in (99, 3, 12):
            file = whole.getvalue()
            at = file.index(struct.pack("<H", tag), 8)
            odd = file[: at + 2] + struct.pack("<H", kind) + file[at + 4 :]
            assert load_image(odd).size == (16, 24), (tag, kind)
            assert load_image(Image.open(io.BytesIO(odd))).size == (16, 24), (tag, kind)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "F"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_tiff_is_the_same_by_its_name_as_by_its_bytes(tmp_path, mode, orientation):
    """Pillow maps an uncompressed file that it opened by name, with width and height confused."""
    path = tmp_path / "a.tif"
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 8, 3), np.uint8)).convert(mode)
    colours.save(path, exif=exif)
    turn = Image.Transpose.ROTATE_270 if orientation == 6 else Image.Transpose.ROTATE_180
    wanted = np.asarray(load_image(colours).transpose(turn))
    opened = Image.open(path)
    for form in (path, str(path), path.read_bytes(), path.open("rb"), opened):
        assert np.array_equal(np.asarray(load_image(form)), wanted)
    assert opened.filename == path or opened.filename == str(path)
