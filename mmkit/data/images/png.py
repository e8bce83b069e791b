"""A PNG without what is said beside its pixels: comments, profiles and EXIF may be damaged or endless.

Pillow refuses such files whole: a wrong checksum anywhere, or a comment of more than a megabyte (editors write them).
"""

from __future__ import annotations

import struct
import zlib

BEGIN = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
WELCOME = (b"tRNS", b"eXIf")


def bare(file: bytes) -> bytes | None:
    """The chunks that the pixels need, as they are; transparency and orientation where their checksums are right.

    None for what is no PNG.
    """
    if not file.startswith(BEGIN):
        return None
    kept, at = [BEGIN], len(BEGIN)
    while at + 8 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        chunk = file[at : at + 12 + length]
        whole = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind in NEEDED or (kind in WELCOME and whole):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept)
