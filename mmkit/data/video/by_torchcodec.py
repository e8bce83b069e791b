"""Video files decoded by torchcodec (``pip install "mmkit[torchcodec]"``), where a transform names it as its reader.

It needs FFmpeg's shared libraries of the system (4 to 9), which PyAV brings itself. PyAV still reads the packets: so a
damaged file is told the same way, the frames are asked for by the same times, and one with another time is an error.
Left out: decoding on a GPU; a frame that is damaged inside, which torchcodec does not tell (``mmkit data check`` does).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmkit.data.images.opening import BadImage
from mmkit.data.video.files import Video, check_av
from mmkit.data.video.frames import Frames
from mmkit.errors import UserError

OTHERWISE = 'or take the reader of the others, reader="pyav" (data.transform.reader=pyav)'


def open_by_torchcodec(file: Path | bytes, name: str) -> Frames:
    """The frames of a video; BadImage for what is none, UserError where torchcodec cannot be loaded."""
    if importlib.util.find_spec("torchcodec") is None:
        raise UserError(f'{name}: this model reads videos by torchcodec: pip install "mmkit[torchcodec]"; {OTHERWISE}')
    check_av(name)
    return ByTorchcodec(name, file)


class ByTorchcodec(Video):
    """The frames of one video stream, decoded by torchcodec."""

    def pictures(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """See ``Timed``."""
        if self.index.numbered:
            raise BadImage(f"{self.name}: tells no times of its frames, by which torchcodec is asked; {OTHERWISE}")
        second = self.index.second
        times, opens = [self.index.times[number] for number in numbers], _decoder()
        try:
            decoder = opens(self.file, stream_index=self.index.stream, dimension_order="NHWC")
            found = decoder.get_frames_played_at([(time + 0.5) / second for time in times])
        except (RuntimeError, ValueError, IndexError) as error:
            raise BadImage(f"{self.name}: damaged video ({str(error).splitlines()[0][:200]})") from error
        for number, time, got in zip(numbers, times, found.pts_seconds.tolist(), strict=True):
            if abs(got * second - time) > 0.5:
                raise BadImage(
                    f"{self.name}: torchcodec gives the frame at {got:.3f} s for frame {number}, which is at "
                    f"{time / second:.3f} s; {OTHERWISE}"
                )
        return {number: Image.fromarray(frame.numpy()) for number, frame in zip(numbers, found.data, strict=True)}


def _decoder() -> Any:
    """torchcodec's; UserError where FFmpeg's libraries are not found."""
    import torchcodec

    if torchcodec.ffmpeg_major_version is None:
        raise UserError(
            "torchcodec cannot decode videos here: it needs the shared libraries of FFmpeg, versions 4 to 9, which it "
            f"does not bring (Debian: apt install ffmpeg); {OTHERWISE}"
        )
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder
