"""Files that lie elsewhere, read at any byte through blocks that this machine keeps: what ``fsspec`` opens.

An object store (``s3://``, ``gs://``), a web server (``https://``), the hub (``hf://``), ``memory://``. Whole blocks
are fetched (``blocks.BLOCK``), so neighbours cost one request. A request that gives an error, or no answer in time, is
made again, ``TRIES`` times in all; then what was asked for is ``Unreadable``, and for some seconds all else of that
block is, at once. Before a block is fetched it is asked whether its file is still the same. Left out: writing, but for
an index.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from mmkit.data.blocks import BLOCK, Blocks
from mmkit.data.storage import Folder, NoListing, Place, Stamp
from mmkit.errors import Unreadable, UserError
from mmkit.files import beside, cache_folder

T = TypeVar("T")
TRIES = 3
SECONDS = 60.0
"""For an answer: a block, or what is known of a file. A list of all files may take ten times as long."""
WAITS = (0.5, 2.0)
"""Seconds between the tries."""
AGAIN = 30.0
"""Seconds in which a block that could not be fetched is not asked for again."""
MARKS = ("ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "checksum", "Digest", "mtime", "LastModified",
         "last_modified", "Last-Modified", "updated", "created")  # fmt: skip
"""What tells that a file was written anew, by the names that the stores have for it, the surest first."""


def is_url(name: str | Path) -> bool:
    """Whether it names a place elsewhere: ``s3://...``."""
    return "://" in str(name)


def place_of(name: str | Path, cache: Blocks | None = None) -> Place:
    """The folder, or what lies elsewhere. cache: for the latter; None = the default one."""
    return Remote(str(name), cache) if is_url(name) else Folder(name)


class Gone(UserError):
    """Nothing is there under this name, as far as we may know."""


class Fetch(NamedTuple):
    """A block that is to be had soon."""

    place: Remote
    name: str
    number: int
    stamp: Stamp

    def __call__(self) -> None:
        """See that it is on this machine; nothing where it cannot be had: whoever reads it will say so."""
        try:
            self.place.read(self.name, self.number * BLOCK, 1, self.stamp)
        except UserError:
            return


class Remote:
    """A folder elsewhere and those below it. Threads may share one; it travels to a process, which asks anew."""

    def __init__(self, url: str, cache: Blocks | None = None) -> None:
        self.url, self.cache = url.rstrip("/"), cache if cache is not None else Blocks()
        if self.url.lower().endswith(".tar"):
            raise UserError(f"{url}: give the folder in which the shards lie, {self.url.rpartition('/')[0]}")
        if self.url.startswith("http") and set(self.url) & {"?", "#"}:
            raise UserError(f"{url}: names of files cannot follow it; give an address without ? and #")
        self._is_web = self.url.startswith(("http://", "https://"))
        self._opened: tuple[int, Any, str] | None = None
        self._seen: dict[str, Stamp] = {}
        self._failed: dict[tuple[str, int], tuple[float, str]] = {}
        self._sizes: dict[str, int | None] = {}
        self._system()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url, self.cache)

    def names(self, ending: str) -> list[str]:
        """As of ``Place``."""
        system, root = self._system()
        try:
            found = self._tried(self.url, lambda: system.find(root, detail=True), seconds=10 * SECONDS)
            if self._is_web and not found:
                self._tried(self.url, lambda: system.ls(root))  # says so where it cannot be reached
        except Gone:
            if not self._is_web:
                raise
            found = {}
        self._sizes = {}
        for path, about in found.items():
            below = path[len(root) :].strip("/") if path.startswith(root) else ""
            name = unquote(below) if self._is_web else below
            if name and name.lower().endswith(ending) and not any(part.startswith(".") for part in name.split("/")):
                self._sizes[name] = about.get("size")
        if self._is_web and not self._sizes:
            raise NoListing(f"{self.url}: this server lists no files, or none that end in {ending}")
        return sorted(self._sizes)

    def stamp(self, name: str) -> Stamp:
        """As of ``Place``: size, and a mark such as the ETag."""
        system, _ = self._system()
        about = self._tried(self.called(name), lambda: system.info(self._path(name)))
        if about.get("size") is None:
            raise UserError(f"{self.called(name)}: the server does not say how large it is, so no part can be read")
        mark = next((mark for mark in MARKS if about.get(mark)), None)
        return int(about["size"]), f"{mark} {about[mark]}" if mark else ""

    def differs(self, name: str, stamp: Stamp) -> bool:
        """As of ``Place``, by the size that the list of files told; the rest is seen when a block is fetched."""
        size = self._sizes.get(name)
        return size is not None and size != stamp[0]

    def read(self, name: str, start: int, size: int, stamp: Stamp | None = None) -> bytes:
        """As of ``Place``. Unreadable where no try succeeds."""
        if stamp is None:
            stamp = self._seen.get(name) or self.stamp(name)
        end, pieces = min(start + size, stamp[0]), []
        for number in range(start // BLOCK, -(-end // BLOCK)) if start < end else ():
            first, length = number * BLOCK, min(BLOCK, stamp[0] - number * BLOCK)
            low, high = max(start - first, 0), min(end - first, length)
            fetch = self._fetcher(name, number, length, stamp)
            pieces.append(self.cache.read(self._file(name, stamp), number, length, low, high - low, fetch))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def fetches(self, name: str, start: int, size: int, stamp: Stamp) -> Sequence[Fetch]:
        """The blocks that ``read`` will want."""
        end = min(start + size, stamp[0])
        return [Fetch(self, name, number, stamp) for number in range(start // BLOCK, -(-end // BLOCK))]

    def called(self, name: str) -> str:
        """Its address."""
        return f"{self.url}/{name}"

    def home(self, name: str) -> Path:
        """As of ``Place``: in the cache folder, by the address."""
        return cache_folder() / "indexes" / _short(self.url) / name

    def local(self, name: str) -> Path | None:
        """As of ``Place``: what was made here, or else a copy of what lies there, fetched where it is another one."""
        own = self.home(name)
        if own.is_file():
            return own
        try:
            stamp = self.stamp(name)
        except Gone:
            return None
        copy = own.with_name(f"{_short(repr(stamp))}-{name}")
        with self.cache.alone("index"):  # processes that start together
            if not (copy.is_file() and copy.stat().st_size == stamp[0]):
                self._copy(name, stamp[0], copy)
        return copy

    def _copy(self, name: str, size: int, to: Path) -> None:
        system, _ = self._system()
        with beside(to) as part:
            get = partial(system.get_file, self._path(name), str(part))
            self._tried(self.called(name), get, seconds=max(10 * SECONDS, size / 1e6))
            if part.stat().st_size != size:
                raise UserError(f"{self.called(name)}: {part.stat().st_size} bytes came in place of {size}")

    def put(self, path: Path, name: str) -> None:
        """Write a file there. UserError where that is not possible."""
        system, _ = self._system()
        try:
            self._tried(self.called(name), lambda: system.put_file(str(path), self._path(name)), seconds=10 * SECONDS)
        except (Gone, Unreadable) as error:
            raise UserError(f"{self.called(name)}: cannot be written ({error})") from error

    def _fetcher(self, name: str, number: int, length: int, stamp: Stamp) -> Callable[[], bytes]:
        return lambda: self._fetched(name, number, length, stamp)

    def _fetched(self, name: str, number: int, length: int, stamp: Stamp) -> bytes:
        """A block, of a file that is what it was."""
        until, message = self._failed.get((name, number), (0.0, ""))
        if time.monotonic() < until:
            raise Unreadable(message)
        system, _ = self._system()

        def block() -> bytes:
            first = number * BLOCK
            found: bytes = system.cat_file(self._path(name), start=first, end=first + length)
            if len(found) > length:
                raise UserError(f"{self.called(name)}: the server gives no parts of a file, only all of it")
            if len(found) < length:
                raise OSError(f"{len(found)} bytes came in place of {length}")
            return found

        try:
            self._check_same(name, stamp)
            return self._tried(self.called(name), block, f" at byte {number * BLOCK}")
        except Unreadable as error:
            self._failed[name, number] = time.monotonic() + AGAIN, str(error)
            raise

    def _check_same(self, name: str, stamp: Stamp) -> None:
        """UserError for a file that is another one than the index knows, or than this process saw before."""
        found = self.stamp(name)
        seen = self._seen.setdefault(name, found)
        known = stamp[1].isdecimal() or not stamp[1] or stamp[1] == found[1]  # digits: a time of the disk it came from
        if found[0] != stamp[0] or not known:
            raise UserError(
                f"{self.called(name)}: was changed after its index; make it again: mmkit data index {self.url}"
            )
        if found != seen:
            raise UserError(f"{self.called(name)}: was changed while it was in use; start again, and write copies")

    def _file(self, name: str, stamp: Stamp) -> str:
        """What the cache calls a file: another name where it is another one."""
        return f"{Path(name).stem[:60]}-{_short(f'{self.url} {name} {stamp}')}"

    def _path(self, name: str) -> str:
        _, root = self._system()
        return f"{root}/{quote(name) if self._is_web else name}"

    def _system(self) -> tuple[Any, str]:
        """Fsspec's file system of this process, and the folder as it calls it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), *_connected(self.url)
        return self._opened[1:]

    def _tried(self, what: str, call: Callable[[], T], where: str = "", seconds: float | None = None) -> T:
        """The first answer. Gone for what is not there; Unreadable where no try gives an answer."""
        for wait in (*WAITS[: TRIES - 1], None):
            try:
                return _within(SECONDS if seconds is None else seconds, call)
            except UserError:
                raise
            except Exception as error:  # each store has its own
                if _is_gone(error):
                    raise Gone(f"{what}: is not there, or not for us to read") from error
                if wait is None:
                    cause = _cause(error)
                    said = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
                    raise Unreadable(f"{what}: cannot be read{where}, {TRIES} tries ({said[:300]})") from error
                time.sleep(wait)
        raise AssertionError("no try is the last")


def _connected(url: str) -> tuple[Any, str]:
    """(file system, folder in it). UserError for what fsspec does not know, or a package that it lacks."""
    import fsspec  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    protocol = url.partition("://")[0]
    try:
        system, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        hint = known_implementations.get(protocol, {}).get("err") or str(error)
        raise UserError(f"{url}: {protocol}:// needs another package ({hint})") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}") from error
    except Exception as error:  # some connect at once
        raise Unreadable(f"{url}: cannot be reached ({type(error).__name__}: {error})") from error
    return system, root.rstrip("/")


def _cause(error: BaseException) -> BaseException:
    """What happened. Of a web server that cannot be reached now, fsspec says that a file is missing."""
    return error.__cause__ or error if isinstance(error, FileNotFoundError) else error


def _is_gone(error: BaseException) -> bool:
    """Whether nothing is there for us."""
    cause = _cause(error)
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 429)
    return isinstance(error, FileNotFoundError) and not type(cause).__module__.startswith("aiohttp")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What the call gives; TimeoutError where it has given nothing in time, and is left to itself."""
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001  raised below
            answers.put((None, error))

    threading.Thread(target=run, daemon=True, name="mmkit-fetch").start()
    try:
        answer, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]  # the call's own


def _short(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
