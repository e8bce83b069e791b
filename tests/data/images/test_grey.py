"""What white is in grey pictures of more than 8 bits: as the file says, and never what Pillow clips at."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mmkit.data.images.grey import is_inverted, ranges
from mmkit.data.images.opening import BadImage, load_image


def tiff(bits, data, white=255, form=1, width=4):
    """A row of grey as TIFF stores it. white: 0 where 0 is white; form: 1 whole numbers, 2 with sign, 3 floats."""
    photometric = 0 if white == 0 else 1
    tags = [
        (256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 9 * 12 + 4), (277, 1),
        (279, len(data)), (339, form),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def row(file):
    pixels = np.asarray(load_image(file))
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("bits", "form", "packed", "wanted"),
    [
        (16, 1, struct.pack("<4H", 0, 20000, 40000, 65535), [0, 78, 156, 255]),
        (12, 1, bytes([0x00, 0x08, 0x00, 0xFF, 0xFF, 0xFF]), [0, 128, 255, 255]),  # 0, 2048, 4095, 4095
        (16, 2, struct.pack("<4h", 0, 2000, 20000, 32767), [0, 16, 156, 255]),
        (16, 2, struct.pack("<4h", 0, 80, 160, 255), [0, 80, 160, 255]),
        (32, 1, struct.pack("<4I", 0, 20000, 40000, 65535), [0, 78, 156, 255]),
        (32, 3, struct.pack("<4f", 0, 0.25, 0.5, 1), [0, 64, 128, 255]),
        (8, 1, bytes([0, 80, 160, 255]), [0, 80, 160, 255]),
    ],
)  # fmt: skip
def test_depth_sign_and_direction_of_a_tiff(bits, form, packed, wanted):
    assert row(tiff(bits, packed, form=form)) == wanted
    assert row(Image.open(io.BytesIO(tiff(bits, packed, form=form)))) == wanted


@pytest.mark.parametrize(
    ("bits", "form", "packed", "wanted"),
    [
        (16, 1, struct.pack("<4H", 0, 20000, 40000, 65535), [255, 177, 99, 0]),
        (32, 3, struct.pack("<4f", 0, 0.25, 0.5, 1), [255, 191, 127, 0]),
        (8, 1, bytes([0, 80, 160, 255]), [255, 175, 95, 0]),
    ],
)
def test_white_is_zero_where_the_tiff_says_so(bits, form, packed, wanted):
    assert row(tiff(bits, packed, white=0, form=form)) == wanted


def test_white_is_zero_of_other_depths_is_refused():
    with pytest.raises(BadImage, match="begins as a picture"):
        load_image(tiff(12, bytes(6), white=0))


def test_signed_values_below_zero_are_refused():
    with pytest.raises(BadImage, match=r"grey values from -1 to 9.*0 to 255 or 0 to 32767 is understood"):
        load_image(tiff(16, struct.pack("<4h", -1, 0, 5, 9), form=2))


def test_a_dark_pgm_stays_dark():
    """Pillow scales it to 16 bits in a mode that does not say so."""
    assert row(b"P5 4 1 65535\n" + struct.pack(">4H", 0, 50, 200, 255)) == [0, 0, 1, 1]
    assert row(b"P5 4 1 1000\n" + struct.pack(">4H", 0, 500, 900, 1000)) == [0, 128, 230, 255]
    assert row(b"P5 4 1 100\n" + bytes([0, 50, 90, 100])) == [0, 128, 230, 255]


def test_the_transparent_grey_of_a_deep_png_is_white(tmp_path):
    deep = Image.fromarray(np.array([[0, 20000, 40000, 65535]], np.uint16))
    deep.save(tmp_path / "a.png", transparency=20000)
    assert row(tmp_path / "a.png") == [0, 255, 156, 255]


def test_a_deep_picture_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.array([[0, 20000], [40000, 65535], [1, 2]], np.uint16))
    for name in ("a.png", "a.tif"):
        path = tmp_path / name
        deep.save(path, exif=exif)
        for form in (path, path.read_bytes(), Image.open(path)):
            assert np.asarray(load_image(form))[..., 0].tolist() == [[0, 156, 0], [0, 255, 78]]


def test_pictures_made_in_memory_keep_the_usual_ranges():
    assert ranges(Image.new("I", (1, 1))) == (255, 65535)
    assert ranges(Image.new("F", (1, 1))) == (1, 255, 65535)
    assert ranges(Image.new("I;16", (1, 1))) == (65535,)
    assert not is_inverted(Image.new("I;16", (1, 1)))


def test_floats_of_other_sizes_are_called_what_they_are():
    for bits, code in ((16, "e"), (64, "d")):
        with pytest.raises(BadImage, match=r"begins as a picture.*floats of 16 or 64 bits"):
            load_image(tiff(bits, struct.pack(f"<4{code}", 0, 0.25, 0.5, 1), form=3))
