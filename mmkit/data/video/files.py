"""Video files as clips, by PyAV (``pip install "mmkit[video]"``), which brings its own FFmpeg.

The packets of a file are read once for the times of its frames; then only what is wanted is decoded, from the key
frame before it. A file that ends before what its header promises is damaged. Rotation is honoured. Left out: sound.
"""

from __future__ import annotations

import importlib.util
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from mmkit.data.images.opening import BadImage
from mmkit.data.video.frames import Frames, Timed
from mmkit.errors import UserError

LISTS = frozenset(("hls", "concat", "dash", "sdp", "rtsp", "image2", "webm_dash_manifest"))
"""Formats that name other files, which nobody asked to be read."""

TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
"""By quarters to the left, as the display matrix of a stream tells them."""


@dataclass(frozen=True)
class Index:
    """What the packets of a video tell. times: of its frames in ticks, ascending; keys: those of key frames.

    last: how long the last frame stays; second: ticks of a second. numbered: the file tells no times, and these are
    the numbers of its frames. stream: its number in the file.
    """

    times: tuple[int, ...]
    keys: tuple[int, ...]
    last: int
    second: float
    numbered: bool = False
    stream: int = 0


def open_video(file: Path | bytes, name: str) -> Frames:
    """The frames of a video; BadImage for what is none, UserError where PyAV is not installed."""
    check_av(name)
    return Video(name, file)


def check_av(name: str) -> None:
    """UserError where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UserError(
            f'{name}: reading videos needs PyAV: pip install "mmkit[video]" (decord is unmaintained since 2022). '
            "Folders of frames, animated GIF, WebP and PNG, and .npy arrays need nothing"
        )


class Video(Timed):
    """The frames of one video stream."""

    def __init__(self, name: str, file: Path | bytes) -> None:
        self.file = file
        if isinstance(file, Path):
            state = file.stat()
            self.index = _known(file, name, state.st_size, state.st_mtime_ns)
        else:
            self.index = _index(file, name)
        super().__init__(name, self.index.times, self.index.last, self.index.second)

    def pictures(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """See ``Timed``."""
        wanted = [self.index.times[number] for number in numbers]
        found = self._decoded(wanted, seeking=not self.index.numbered)
        if found is None:  # the container did not go where it was asked to
            found = self._decoded(wanted, seeking=False)
        assert found is not None
        return {number: found[time] for number, time in zip(numbers, wanted, strict=True)}

    def _decoded(self, wanted: Sequence[int], seeking: bool) -> dict[int, Image.Image] | None:
        """By time; None where seeking came too late."""
        found: dict[int, Image.Image] = {}
        with _opened(self.file, self.name) as (container, stream):
            frames = self._frames(container, stream)
            at: int | None = None
            before: Any = None
            for time in wanted:
                key = max((key for key in self.index.keys if key <= time), default=None)
                if seeking and key is not None and (at is None or key > at):
                    container.seek(key, stream=stream)
                    frames, before = self._frames(container, stream), None
                while before is None or before[0] < time:
                    after = next(frames, None)
                    if after is None or after[0] > time:
                        if before is None and seeking:
                            return None
                        before = before or after
                        if before is None:
                            raise BadImage(f"{self.name}: damaged video (no frame can be decoded)")
                        break
                    before = after
                at, found[time] = before[0], _picture(before[1])
        return found

    def _frames(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """(time, frame) from where the container stands; numbers where the file tells no times."""
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise BadImage(f"{self.name}: damaged video (a frame at {frame.time} s is corrupt)")
            if self.index.numbered:
                yield number, frame
            elif frame.pts is not None:
                yield frame.pts, frame


def _picture(frame: Any) -> Image.Image:
    turn = TURNS.get(round(frame.rotation / 90) % 4)
    image: Image.Image = frame.to_image()
    return image if turn is None else image.transpose(turn)


@contextmanager
def _opened(file: Path | bytes, name: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; what FFmpeg finds wrong is a BadImage."""
    import av

    try:
        source = str(file) if isinstance(file, Path) else io.BytesIO(file)
        with av.open(source, metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
            if LISTS & set(container.format.name.split(",")):
                raise BadImage(f"{name}: a list of other files ({container.format.name}), which is not followed")
            if not container.streams.video:
                raise BadImage(
                    f"{name}: holds no video, only {', '.join(s.type for s in container.streams) or 'nothing'}"
                )
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if threading.current_thread() is not threading.main_thread() or _is_worker():
                stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        raise BadImage(f"{name}: damaged, or no video that can be read ({error.strerror or error})") from error


def _is_worker() -> bool:
    from torch.utils.data import get_worker_info

    return get_worker_info() is not None


@lru_cache(4096)
def _known(file: Path, name: str, size: int, changed: int) -> Index:
    return _index(file, name)


def _index(file: Path | bytes, name: str) -> Index:
    with _opened(file, name) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size or packet.pts is not None]
        if any(packet.is_corrupt for packet in packets):
            raise BadImage(f"{name}: damaged video (cut off, or with broken packets)")
        if "mp4" in container.format.name and len(packets) < stream.frames:  # others count ticks, or nothing
            raise BadImage(f"{name}: damaged video ({len(packets)} frames of {stream.frames}; cut off)")
        if any(packet.pts is None for packet in packets):
            return _numbered(file, name)
        shown = sorted(packet.pts for packet in packets if not packet.is_discard)
        if not shown:
            raise BadImage(f"{name}: 0 frames; a clip has at least one")
        keys = tuple(sorted(packet.pts for packet in packets if packet.is_keyframe))
        last = max(packets, key=lambda packet: packet.pts).duration or 0
        second = float(1 / stream.time_base)
        _check_length(container, stream, (shown[-1] + last) / second, len(shown), name)
        return Index(tuple(shown), keys, last, second, stream=stream.index)


def _numbered(file: Path | bytes, name: str) -> Index:
    """Of a file that tells no times: its frames are counted by decoding all."""
    with _opened(file, name) as (container, stream):
        count, rate = sum(1 for _ in container.decode(stream)), stream.average_rate
    if not count:
        raise BadImage(f"{name}: 0 frames; a clip has at least one")
    return Index(tuple(range(count)), (), 1, float(rate) if rate else 25.0, numbered=True)


def _check_length(container: Any, stream: Any, end: float, count: int, name: str) -> None:
    """BadImage where more than one frame lacks of the length that the header tells."""
    told = _seconds(stream.metadata.get("DURATION", ""))
    if told is None and len(container.streams) == 1 and container.duration:
        told = container.duration / 1e6
    if told is not None and count > 1 and end < told - 1.25 * end / count:
        raise BadImage(f"{name}: damaged video (its frames end at {end:.2f} s of {told:.2f} s; cut off)")


def _seconds(clock: str) -> float | None:
    """Of "00:00:02.5", as Matroska tells it."""
    try:
        hours, minutes, seconds = clock.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None
