"""Files that are written whole or not at all, and folders that go away whole or not at all.

What is written stands beside its place under a hidden name until all of it has reached the disk; then it is renamed. So
a full disk, an error or a killed process leaves what was there before.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from mmkit.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


LARGEST = 16 * 2**20
DEEPEST = 100


def cache_folder() -> Path:
    """Where mmkit keeps what it can make or fetch again: the folder in MMKIT_CACHE, or ~/.cache/mmkit."""
    return Path(os.environ.get("MMKIT_CACHE") or Path.home() / ".cache" / "mmkit")


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """A new, empty file in the folder of ``path``, which becomes ``path`` at the end of the block.

    For libraries that write to a path. Folders above it are made. A link is followed, the permissions of a file that is
    there stay, and those of a new one are as ``open`` gives them. What is no plain file (``/dev/stdout``, a pipe) is
    given as it is. An error inside the block removes the part and leaves ``path`` as it was. UserError, which names
    ``path``, where it cannot be written; an OSError about another file passes.
    """
    wanted, place = Path(path), Path(os.path.realpath(path))
    if place.exists() and not place.is_file() and not place.is_dir():
        yield place
        return
    part = place.with_name(f".{place.name[:40]}.{secrets.token_hex(6)}.part")
    try:
        permissions = _permissions(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        permissions = stat.S_IMODE(part.stat().st_mode) if permissions is None else permissions
        yield part
        part.chmod(permissions)  # a library may have put another file in its place, for its owner alone
        to_disk(part)
        part.replace(place)
        to_disk(place.parent)
    except OSError as error:
        about = Path(error.filename) if isinstance(error.filename, str) else part
        if about not in (part, place, *place.parents):
            raise
        reason = error.strerror or str(error)
        above = f"{about}: " if about in place.parents else ""
        raise UserError(f"{wanted}: cannot be written ({above}{reason})") from error
    finally:
        with suppress(OSError):
            part.unlink()


def is_part(path: Path) -> bool:
    """Whether a name is that of a part by ``beside``, which a killed process leaves behind."""
    return re.fullmatch(r"\..{0,40}\.[0-9a-f]{12}\.part", path.name) is not None


def _permissions(place: Path) -> int | None:
    """Those of the file that is there; OSError for one that ``open`` would not write."""
    if place.is_dir():
        raise IsADirectoryError(0, "is a folder; name a file in it", str(place))
    if not place.exists():
        return None
    if not os.access(place, os.W_OK):
        raise PermissionError(0, "it is there, and write-protected", str(place))
    return stat.S_IMODE(place.stat().st_mode)


@contextmanager
def writing(path: str | Path, mode: str = "w", *, newline: str | None = None) -> Iterator[IO[Any]]:
    """An open file, UTF-8 or (``mode="wb"``) of bytes, that becomes ``path`` at the end of the block; see ``beside``.

    newline: as ``open`` takes it; csv wants "". Bytes of a file's name that are no UTF-8 are written as escapes.
    """
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    with beside(path) as part, part.open(mode, encoding=encoding, errors=errors, newline=newline) as file:
        yield file


def check_writable(path: str | Path, name: str) -> None:
    """UserError, which begins with ``name``, where the file cannot be written; before any work. Nothing is made."""
    path = Path(path)
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
    except OSError as error:
        raise UserError(f"{name}: cannot be written ({error.strerror})") from error
    folder = there.is_dir()
    if folder and there == path:
        raise UserError(f"{name}: is a folder; name a file in it")
    if there != path and not folder:
        raise UserError(f"{name}: cannot be written ({there} is a file, not a folder)")
    try:
        if folder:
            with tempfile.TemporaryFile(dir=there):
                return
    except OSError as error:
        raise UserError(f"{name}: cannot be written ({there}: {error.strerror})") from error
    if not os.access(there, os.W_OK):
        raise UserError(f"{name}: cannot be written (no permission for {there})")


def is_place(name: str) -> bool:
    """Whether a name has the form of a path, and not of something on the hub (NAME or OWNER/NAME)."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def check_ending(path: str | Path, *endings: str) -> None:
    """UserError where a name has none of these endings, such as ".png", in capitals or not."""
    if Path(path).suffix.lower() not in endings:
        raise UserError(f"{path}: the name must end in {' or '.join(endings)}")


def write_text(path: str | Path, text: str) -> None:
    """The file, whole or not at all; UserError where it cannot be written."""
    with writing(path) as file:
        file.write(text)


def write_bytes(path: str | Path, data: bytes) -> None:
    """The bytes as a file, whole; one that holds them already is left as it is."""
    with suppress(OSError):
        if Path(path).is_file() and Path(path).read_bytes() == data:
            return
    with writing(path, "wb") as file:
        file.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """The value as indented JSON, whole or not at all; UserError where it cannot be written."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def kind_of_picture(path: str | Path) -> str:
    """What a picture of this name is written as, such as "PNG"; UserError for an ending that says no kind."""
    from PIL import Image as pillow

    kind = pillow.registered_extensions().get(Path(path).suffix.lower())
    if kind is None or kind not in pillow.SAVE:
        raise UserError(f"{path}: no kind of picture; give a name that ends in .png")
    return kind


def save_picture(picture: Image, path: str | Path) -> None:
    """A Pillow picture, whole or not at all, as the kind that the name's ending says; UserError where it cannot be."""
    path = Path(path)
    kind = kind_of_picture(path)
    with writing(path, "wb") as file:
        try:
            picture.save(file, kind)
        except (ValueError, KeyError) as error:
            raise UserError(f"{path}: cannot be written as a picture ({error}); end the name in .png") from error


def nested(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """``{"rerank.t2i_r1": x}`` as ``{"rerank": {"t2i_r1": x}}``; without what would lie inside a number."""
    out: dict[str, Any] = {}
    for name, value in numbers.items():
        *path, last = name.split(".")
        place = out
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                break
        else:
            place[last] = value
    return out


def check_new_folder(path: str | Path) -> None:
    """UserError where there is a file, or a folder with anything in it, and where none can be made or written in."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; name a new folder")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path}: is not empty; name a new folder")
    check_writable(path / "new", str(path))


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all; UserError where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with beside(path) as part:
        try:
            save_file(tensors, part, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error})") from error


def read_json(path: str | Path, advice: str = "copy it again", *, strict: bool = False) -> dict[str, Any]:
    """A JSON object; UserError, which ends with ``advice``, where it is missing or damaged.

    strict: for what describes a model and may be a stranger's: at most 16 MiB, 100 levels, and no NaN or Infinity.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        if strict and path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes, and no more than {LARGEST:,} are read")
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_number if strict else None)
        if strict and _is_deeper(value, DEEPEST):
            raise ValueError(f"nested more than {DEEPEST} levels deep")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged or missing ({error}); {advice}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; {advice}")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _is_deeper(value: Any, levels: int) -> bool:
    row = [value]
    for _ in range(levels):
        row = [inner for v in row if isinstance(v, dict | list) for inner in (v.values() if isinstance(v, dict) else v)]
    return any(isinstance(v, dict | list) for v in row)


def read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Bytes of a file that is open without a buffer, fewer where it ends or is large; its position stays as it is."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), min(size, 1 << 30), start)
    with Path(file.name).open("rb") as other:  # a position of its own, for systems that cannot read without one
        other.seek(start)
        return other.read(size)


def inside(folder: str | Path, name: str | Path) -> Path:
    """``folder/name``; UserError where ``..`` or a link leads out of the folder. It need not be there.

    The cache of the Hugging Face hub is one folder: its ``snapshots`` are links into the ``blobs`` beside them.
    """
    path, home = Path(folder) / name, Path(os.path.realpath(folder))
    place = Path(os.path.realpath(path))
    cached = next((one.parent for one in home.parents if one.name == "snapshots"), home)
    homes = [home, *([cached / "blobs"] if cached.name.startswith("models--") else [])]
    if not any(place.is_relative_to(one) for one in homes):
        raise UserError(f"{path}: leads out of its folder, to {place}; copy what is meant into {folder}")
    return path


def remove_folder(path: str | Path) -> None:
    """The folder and all in it, where it is there: renamed first, so that a killed removal leaves no half of it."""
    path = Path(path)
    if not path.is_dir():
        return
    gone = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.gone")
    path.rename(gone)
    shutil.rmtree(gone)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it for folders
            raise
    finally:
        os.close(handle)


def replace_folder(new: Path, place: Path) -> None:
    """Give the folder ``new`` the name of ``place``; what was there is moved away first, and removed at the end."""
    gone = place.with_name(f".{place.name[:40]}.{secrets.token_hex(6)}.gone")
    if place.exists():
        place.rename(gone)
    new.rename(place)
    to_disk(place.parent)
    shutil.rmtree(gone, ignore_errors=True)
