"""The pictures and texts that retrieval searches, each once, and which of them belong together, by two rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkit.data.records import Source, described
from mmkit.errors import UserError
from mmkit.evals.recall import Relevance


@dataclass(frozen=True)
class Pairs:
    """The pictures and texts of a source. rows, names: the record and image_id of each picture; image_of: the picture
    of each text.
    """

    rows: list[int]
    texts: list[str]
    image_of: list[int]
    names: list[str]

    @classmethod
    def read(cls, source: Source) -> Pairs:
        """Goes through the records once; UserError for one without a caption."""
        images: dict[str, int] = {}
        rows: list[int] = []
        texts: list[str] = []
        image_of: list[int] = []
        for row, (key, image_id, captions) in enumerate(described(source)):
            if not captions:
                raise UserError(f"{key}: no caption; retrieval needs at least one for each picture")
            image = images.setdefault(image_id, len(rows))
            if image == len(rows):
                rows.append(row)
            texts += captions
            image_of += [image] * len(captions)
        return cls(rows, texts, image_of, list(images))

    def without(self, pictures: Sequence[int]) -> Pairs:
        """Those of the other pictures; UserError where none are left."""
        gone = set(pictures)
        kept = [image for image in range(len(self.rows)) if image not in gone]
        number = {image: i for i, image in enumerate(kept)}
        texts = [(text, number[i]) for text, i in zip(self.texts, self.image_of, strict=True) if i in number]
        return Pairs(
            rows=[self.rows[i] for i in kept], names=[self.names[i] for i in kept],
            texts=[text for text, _ in texts], image_of=[i for _, i in texts],
        )  # fmt: skip

    def own(self) -> dict[str, Relevance]:
        """As published: for "t2i" the picture of each text alone, for "i2t" the texts of each picture alone."""
        texts_of: list[list[int]] = [[] for _ in self.rows]
        for text, image in enumerate(self.image_of):
            texts_of[image].append(text)
        t2i = Relevance.of([[image] for image in self.image_of], len(self.rows))
        return {"t2i": t2i, "i2t": Relevance.of(texts_of, len(self.texts))}

    def relevance(self) -> dict[str, Relevance]:
        """For "t2i" the pictures relevant to each text, for "i2t" the texts relevant to each picture: equal words."""
        images_of: dict[str, dict[int, None]] = {}
        texts_of: dict[str, list[int]] = {}
        words_of: list[dict[str, None]] = [{} for _ in self.rows]
        words = [" ".join(text.lower().split()) for text in self.texts]
        for text, (word, image) in enumerate(zip(words, self.image_of, strict=True)):
            images_of.setdefault(word, {})[image] = None
            texts_of.setdefault(word, []).append(text)
            words_of[image][word] = None
        t2i = [list(images_of[word]) for word in words]
        i2t = [[text for word in own for text in texts_of[word]] for own in words_of]
        return {"t2i": Relevance.of(t2i, len(self.rows)), "i2t": Relevance.of(i2t, len(self.texts))}
