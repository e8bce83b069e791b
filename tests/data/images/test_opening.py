"""One way in for pictures: every form of one gives the same pixels, and the same error where it is broken."""

import io
import os
import stat
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from mmkit.data.images import opening
from mmkit.data.images.formats import FORMATS, SUFFIXES, suffix_of
from mmkit.data.images.opening import BadImage, load_image, upright
from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.inference.inputs import open_picture

TURNS = range(1, 9)


def photograph() -> Image.Image:
    """Four unlike corners, 24 x 16."""
    pixels = np.full((16, 24, 3), 128, np.uint8)
    pixels[:8, :12], pixels[:8, 12:], pixels[8:, :12], pixels[8:, 12:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return Image.fromarray(pixels)


ODD = {  # tag, type, count, value where it fits: what Pillow reads, and cannot write again
    "a resolution below nothing": (0x011A, 10, 1, struct.pack(">ii", -5, 3)),
    "a resolution of letters": (0x011A, 2, 4, b"abc\0"),
    "a resolution of no type": (0x011A, 7, 4, b"abcd"),
    "a unit of letters": (0x0128, 2, 2, b"2\0\0\0"),
}


def phone(path, orientation=6, odd=None):
    """A photograph as a camera writes it, held in some way; ``odd``: with one of those tags beside."""
    tags = [(0x0112, 3, 1, struct.pack(">HH", orientation, 0)), *([ODD[odd]] if odd else [])]
    after = 8 + 2 + 12 * len(tags) + 4
    rows = [
        struct.pack(">HHI", tag, kind, count) + (value if len(value) == 4 else struct.pack(">I", after))
        for tag, kind, count, value in sorted(tags)
    ]
    long = b"".join(value for *_, value in tags if len(value) > 4)
    exif = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(rows) + bytes(4) + long
    photograph().save(path, exif=b"Exif\0\0" + exif, quality=95)
    return path


def loaded(path):
    image = Image.open(path)
    image.load()
    return image


def forms(path, whole=True):
    """The same picture in every form in which it may be given."""
    return {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "Pillow": Image.open(path),
        **({"Pillow, loaded": loaded(path)} if whole else {}),
        "record of a path": Record(image=path, captions=(), image_id="a", key="a"),
        "record of bytes": Record(image=path.read_bytes(), captions=(), image_id="a", key="a"),
        "record of Pillow": Record(image=Image.open(path), captions=(), image_id="a", key="a"),
    }


@pytest.mark.parametrize("orientation", TURNS)
def test_every_form_of_a_turned_picture_is_the_same(tmp_path, orientation):
    path = phone(tmp_path / "phone.jpg", orientation)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    for name, form in forms(path).items():
        assert np.array_equal(np.asarray(load_image(form)), wanted), name
        assert np.array_equal(np.asarray(open_picture(form)), wanted), name


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_turned_tiff_is_the_same_in_every_form_and_stays_what_it_is(tmp_path, mode):
    """Pillow would map some of them into memory, with width and height confused."""
    path = tmp_path / "a.tif"
    photograph().convert(mode).save(path, tiffinfo={0x0112: 6})
    wanted = np.asarray(photograph().convert(mode).convert("RGB").transpose(Image.Transpose.ROTATE_270))
    for name, form in forms(path, whole=False).items():  # what Pillow has loaded is as it is
        assert np.array_equal(np.asarray(load_image(form)), wanted), name
    opened = Image.open(path)
    load_image(opened)
    assert opened.filename == str(path)


def test_a_stream_that_cannot_go_back_is_read_from_where_it_is(tmp_path):
    class Stream(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *args):
            raise io.UnsupportedOperation("seek")

    assert load_image(Stream(phone(tmp_path / "a.jpg").read_bytes())).size == (16, 24)
    file = io.BytesIO((tmp_path / "a.jpg").read_bytes())
    file.read(100)
    assert load_image(file).size == (16, 24)  # from its beginning where it can


def test_a_file_that_is_opened_as_text_is_said(tmp_path):
    with open(phone(tmp_path / "a.jpg"), encoding="latin-1") as file, pytest.raises(UserError, match="opened as text"):
        load_image(file)


def test_what_was_turned_already_is_not_turned_again(tmp_path):
    turned = ImageOps.exif_transpose(Image.open(phone(tmp_path / "phone.jpg")))
    assert load_image(turned).size == (16, 24)
    assert load_image(load_image(tmp_path / "phone.jpg")).size == (16, 24)


def test_a_converted_picture_that_was_not_turned_still_is(tmp_path):
    assert load_image(Image.open(phone(tmp_path / "phone.jpg")).convert("RGB")).size == (16, 24)


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_tag_does_not_keep_a_picture_from_being_turned(tmp_path, odd):
    path = phone(tmp_path / "odd.jpg", odd=odd)
    assert load_image(path).size == (16, 24)


def test_exif_that_cannot_be_read_leaves_the_picture_as_it_is(tmp_path):
    photograph().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert load_image(tmp_path / "a.jpg").size == (24, 16)

    class Broken(Image.Image):
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    broken = Broken()
    assert upright(broken) is broken


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_truncated_picture_has_one_error_in_every_form(tmp_path, ending):
    whole = tmp_path / f"whole.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    said = set()
    lazy = ending != "webp"  # Pillow reads those whole when it opens them
    for name, form in (forms(path, whole=False) if lazy else {"path": path, "bytes": path.read_bytes()}).items():
        with pytest.raises(BadImage) as caught:
            load_image(form)
        assert str(path) in str(caught.value) or "memory" in str(caught.value) or "a:" in str(caught.value), name
        said.add(str(caught.value).split(": ", 1)[1])
    assert len(said) == 1
    with pytest.raises(UserError, match="picture 7: damaged"):
        open_picture(path.read_bytes(), 7)


def test_several_frames_are_the_first(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, _, blue = load_image(tmp_path / name).getpixel((4, 4))
        assert red > 200, name
        assert blue < 60, name


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_by_any_name_starts_no_program(tmp_path, monkeypatch):
    stub = tmp_path / "bin" / "gs"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")

    def started(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    for name in ("x.jpg", "x.eps", "x.png"):
        (tmp_path / name).write_bytes(POSTSCRIPT)
        for form in (tmp_path / name, POSTSCRIPT, io.BytesIO(POSTSCRIPT), Image.open(tmp_path / name)):
            with pytest.raises(BadImage, match=r"PostScript|opened as EPS"):
                load_image(form)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "JPEG2000", "IM", "MSP"])
def test_formats_that_are_not_on_the_list_are_not_read(tmp_path, kind):
    photograph().convert("1" if kind == "MSP" else "RGB").save(tmp_path / "a.jpg", kind)
    with pytest.raises(BadImage, match=r"known format|an icon|a JPEG 2000 picture"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", [name for name in FORMATS if name not in ("MPO", "AVIF", "DIB")])
def test_formats_on_the_list_are_read(tmp_path, kind):
    for suffix in FORMATS[kind]:
        if suffix != ".pfm":
            photograph().save(tmp_path / f"a{suffix}", kind)
            assert load_image(tmp_path / f"a{suffix}").size == (24, 16)
    assert {".jpg", ".jfif", ".png", ".webp", ".ppm", ".tif"} <= SUFFIXES


def test_the_ending_of_a_picture_is_told_by_its_first_bytes():
    usual = {
        "JPEG": ".jpg",
        "PNG": ".png",
        "WEBP": ".webp",
        "GIF": ".gif",
        "BMP": ".bmp",
        "TIFF": ".tif",
        "PPM": ".ppm",
    }
    for kind, suffix in usual.items():
        file = io.BytesIO()
        photograph().save(file, kind)
        assert suffix_of(file.getvalue()[:16]) == suffix
    for start, suffix in {
        b"MM\0*": ".tif", b"GIF87a": ".gif", b"P1\n": ".ppm", b"Pf\t": ".ppm", b"\0\0\0\x1cftypavis": ".avif",
        b"\0\0\0\x18ftypheic": None, b"RIFF\0\0\0\0WAVEfmt ": None, b"P6x": None, b"P7\n": None, b"": None,
    }.items():  # fmt: skip
        assert suffix_of(start) == suffix, start


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"), (b"<!DOCTYPE html><html>404</html>", "a web page"), (b"\n <HTML>", "a web page"),
        (b"%PDF-1.7", "a PDF"), (b"<svg xmlns=", "an SVG"), (b"\0\0\0\x18ftypheic", "a HEIC picture"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"hello", "not a picture in a known format"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_called_by_its_name(tmp_path, content, says):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage, match=rf"a\.jpg: {says}"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(BadImage, match=rf"memory: {says}"):
        load_image(content)


def test_a_video_is_called_one(tmp_path):
    (tmp_path / "a.MP4").write_bytes(b"\0\0\0 ftypisom")
    with pytest.raises(BadImage, match=r"a\.MP4: a video, and a picture is wanted here"):
        load_image(tmp_path / "a.MP4")


def test_places_that_are_no_files_are_named_at_once(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    cases = [("folder.jpg", "a folder"), ("gone.jpg", "no such picture"), ("a\0b.jpg", "not the name of a file")]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        cases.append(("pipe.jpg", "a pipe"))
    for name, says in cases:
        with pytest.raises(BadImage, match=says):
            load_image(str(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = phone(tmp_path / "a.jpg")
    path.chmod(stat.S_IWUSR)
    with pytest.raises(BadImage, match=r"a\.jpg.*[Pp]ermission"):
        load_image(path)


def huge(path, width, height):
    """A PNG whose header alone says how large it is."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_by_the_header_and_the_limit_has_a_name(tmp_path, size):
    path = huge(tmp_path / "a.png", *size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImage, match=r"a\.png.*too many.*100 megapixels: MMKIT_MAX_MEGAPIXELS=N"):
            load_image(path)
        with pytest.raises(BadImage, match=r"memory.*too many"):
            load_image(path.read_bytes())


def test_the_limit_can_be_raised_beyond_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    photograph().save(tmp_path / "a.png")  # 384 pixels: more than twice 100
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", "0.000383")
    with pytest.raises(BadImage, match="too many"):
        load_image(tmp_path / "a.png")
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", "0.000384")
    assert load_image(tmp_path / "a.png").size == (24, 16)


@pytest.mark.parametrize("said", ["0", "-3", "many", "nan", "inf", ""])
def test_a_limit_that_is_none_is_refused(tmp_path, monkeypatch, said):
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", said)
    with pytest.raises(UserError, match=r"MMKIT_MAX_MEGAPIXELS=.*200") as caught:
        load_image(phone(tmp_path / "a.jpg"))
    assert not isinstance(caught.value, BadImage)  # no picture is to blame: it must not be left out and counted


def test_importing_and_opening_leave_pillows_settings_alone(tmp_path):
    path = phone(tmp_path / "a.jpg")
    code = (
        "import sys, PIL.Image as I; before = I.MAX_IMAGE_PIXELS\n"
        "from mmkit.data.images.opening import load_image; load_image(sys.argv[1]); assert before == I.MAX_IMAGE_PIXELS"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_file_is_given_to_the_decoder_at_once(monkeypatch, tmp_path):
    noise = Image.effect_noise((500, 400), 90).convert("RGB")
    noise.save(tmp_path / "large.jpg", quality=98)
    size, sizes, real = (tmp_path / "large.jpg").stat().st_size, [], JpegImageFile.load_read
    assert size > 150_000

    def load_read(self, most):
        found = real(self, most)
        sizes.append(len(found))
        return found

    with Image.open(tmp_path / "large.jpg") as opened:
        wanted = opened.convert("RGB").tobytes()
    monkeypatch.setattr(JpegImageFile, "load_read", load_read)
    for given in (tmp_path / "large.jpg", (tmp_path / "large.jpg").read_bytes()):
        sizes.clear()
        assert load_image(given).tobytes() == wanted
        assert len(sizes) == 1
    monkeypatch.setattr(opening, "AT_ONCE", 100_000)
    sizes.clear()
    assert load_image(tmp_path / "large.jpg").tobytes() == wanted
    assert sizes[0] == 100_000
