"""Opening every picture of a source once, for ``mmkit data check``: what is there, and what cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mmkit.data.image_io import BadImage, load_image
from mmkit.data.records import Source


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a source holds. Sizes are of the pictures in pixels; lengths are of captions in words (or characters, for
    captions without spaces). ``bad``: a message for each picture that cannot be read, the first hundred.
    """

    records: int
    images: int
    captions: int
    distinct_captions: int
    bad_images: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    longest_caption: int
    captions_per_image: float
    targets: dict[str, int]
    bad: list[str] = field(default_factory=list)


def check(source: Source, progress: Callable[[int], object] | None = None) -> Summary:
    """Open every picture. ``progress`` is called with the number of records done so far."""
    sizes: list[tuple[int, int]] = []
    ids: set[str] = set()
    captions: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    bad: list[str] = []
    broken = longest = 0
    for index in range(len(source)):
        record = source[index]
        ids.add(record.image_id)
        captions.update(text.lower() for text in record.captions)
        longest = max([longest, *(len(text.split()) if " " in text else len(text) for text in record.captions)])
        targets.update(record.targets.keys())
        try:
            sizes.append(load_image(record).size)
        except BadImage as error:
            broken += 1
            if len(bad) < 100:
                bad.append(str(error))
        if progress is not None:
            progress(index + 1)
    by_area = sorted(set(sizes), key=lambda size: size[0] * size[1])
    return Summary(
        records=len(source),
        images=len(ids),
        captions=captions.total(),
        distinct_captions=len(captions),
        bad_images=broken,
        smallest=by_area[0] if by_area else None,
        largest=by_area[-1] if by_area else None,
        longest_caption=longest,
        captions_per_image=captions.total() / max(1, len(ids)),
        targets=dict(targets),
        bad=bad,
    )
