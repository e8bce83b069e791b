"""The formats of pictures that mmkit reads: one list for opening files and for finding them in folders.

Pillow knows many more. Some of those start another program (PostScript starts Ghostscript) or are read by code that
hardly anybody looks at; pictures that came from somewhere should not reach them, whatever their names end in.
"""

from __future__ import annotations

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "MPO": (".mpo",), "PNG": (".png", ".apng"), "WEBP": (".webp",),
    "AVIF": (".avif",), "GIF": (".gif",), "BMP": (".bmp", ".dib"), "DIB": (), "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}  # fmt: skip
"""By Pillow's name, the usual endings of such files. Where Pillow was built without one of them, it is not read."""

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Endings of pictures, in lower case."""

BEGINNINGS = {
    b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF87a": ".gif", b"GIF89a": ".gif", b"BM": ".bmp",
    b"II*\0": ".tif", b"MM\0*": ".tif",
}  # fmt: skip
"""How files of most of these formats begin, and the ending that they should have."""

OTHERS = {
    b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "a PDF document",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile", b"8BPS": "a Photoshop file", b"\0\0\x01\0": "an icon",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture", b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)",
}  # fmt: skip
WORDS = {
    b"<!doctype html": "a web page", b"<html": "a web page", b"<svg": "an SVG drawing", b"<?xml": "an XML document",
}  # fmt: skip


def kind_of(start: bytes) -> str | None:
    """What a file that is none of ``FORMATS`` is, by its first bytes, for messages; None where that is not known."""
    if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif"):
        return "a HEIC picture"
    first = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for begins, kind in OTHERS.items() if start.startswith(begins)), None) or next(
        (kind for begins, kind in WORDS.items() if first.startswith(begins)), None
    )


def suffix_of(start: bytes) -> str | None:
    """The ending that a picture of ``FORMATS`` should have, by its first 16 bytes; None for what is none of them."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return ".webp"
    if start[4:8] == b"ftyp" and start[8:11] == b"avi":
        return ".avif"
    if start[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF") and start[2:3].isspace():
        return ".ppm"
    return next((suffix for begins, suffix in BEGINNINGS.items() if start.startswith(begins)), None)
