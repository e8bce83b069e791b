"""Captions that a model writes, scored against people's: BLEU, ROUGE-L and CIDEr-D (Chen et al. 2015).

The protocol is COCO's: records with one ``image_id`` are one picture, all their captions its references, and both sides
are cut into words as there. Scores hold for these pictures and this number of references, and for no others: CIDEr-D
weighs words by how many of the pictures evaluated have them, and more references raise all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmkit.data.records import Source
from mmkit.data.video.opening import shown_as
from mmkit.encoders.decoding import Decoding
from mmkit.errors import UserError
from mmkit.evals.captions.scores import LONGEST, Written, bleu, cider_d, rouge_l
from mmkit.evals.captions.words import words_of
from mmkit.evals.evaluator import Evaluator, counted, pixels_of
from mmkit.evals.pairs import Pairs
from mmkit.evals.predictions import save_predictions
from mmkit.inference.captioning import Captioning
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.types import Pixels

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class CaptionsResult:
    """captions: one of each picture, names: the pictures'. scores: bleu1 to bleu4 and rouge_l, 0 to 1, and cider_d.

    references: how many captions of people a picture has, the fewest and the most. shown: "pictures" or "clips", for
    titles.
    """

    names: Sequence[str]
    captions: Sequence[str]
    scores: Mapping[str, float]
    references: tuple[int, int]
    left_out: int | None = None
    shown: str = "pictures"

    def metrics(self) -> dict[str, float]:
        """The scores with ``n`` pictures and the mean number of words; without references ``n`` alone."""
        words = sum(len(words_of(caption)) for caption in self.captions) / len(self.captions)
        fewest, most = self.references
        several = {"references": float(most)} if fewest == most else {"references_min": fewest, "references_max": most}
        beside = several if self.scores else {}
        return {**self.scores, "n": float(len(self.captions)), "words": words, **beside} | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The same."""
        return dict(self.metrics())

    def table(self) -> Table:
        """A row for each score, as papers print them: CIDEr-D and all others times 100."""
        from rich.table import Table

        fewest, most = self.references
        several = f"{most} references each" if fewest == most else f"{fewest} to {most} references each"
        table = Table(title=f"captions of {len(self.captions)} {self.shown}, {several}")
        table.add_column("score")
        table.add_column("x 100", justify="right")
        names = {f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)} | {"rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}
        for name, value in self.scores.items():
            table.add_row(names[name], f"{100 * value:.1f}")
        return table

    def rows(self) -> list[Mapping[str, Any]]:
        """``image_id`` and ``caption`` of each picture, as COCO's server takes them."""
        return [
            {"image_id": int(name) if name.isdecimal() and str(int(name)) == name else name, "caption": caption}
            for name, caption in zip(self.names, self.captions, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WrittenCaptions(Evaluator):
    """Writes a caption of each picture of ``source`` and scores it against the captions of its records.

    how: see ``Decoding``; None = three beams. predictions: a file of COCO's form for what was written. UserError for a
    model that writes no captions, and for fewer than two pictures.
    """

    needs_words: ClassVar[bool] = True

    how: Decoding | None = None

    def names(self) -> tuple[str, ...]:
        """The scores, and the mean number of words."""
        return (*(f"bleu{n}" for n in range(1, LONGEST + 1)), "rouge_l", "cider_d", "words")

    def needs(self, predictor: Predictor) -> tuple[Captioning, Source]:
        """What writes, and the source."""
        return predictor.captioning(self.how), self.opened()

    def evaluate(self, predictor: Predictor) -> CaptionsResult:
        """UserError for a picture without a caption, and for one that cannot be read."""
        writing, source = self.needs(predictor)
        pairs = Pairs.read(source)
        if len(pairs.rows) < 2:
            raise UserError(
                f"{len(pairs.rows)} picture: CIDEr-D weighs words by how few of the pictures have them; give more"
            )
        opens = pixels_of(predictor, source)

        def work(pictures: Sequence[int], made: Sequence[Pixels]) -> list[str]:
            image = predictor.encode_pixels(made)
            with predictor.inference():
                texts, log = writing.texts(image)
            finite(log, "captions' log-probabilities")
            return texts

        passed = self.passed(self.parts(predictor, len(pairs.rows), lambda picture: opens(pairs.rows[picture]), work))
        if passed.bad:
            pairs = pairs.without(passed.bad)
        captions = [text for part in passed.found for text in part]
        result = CaptionsResult(
            names=pairs.names, captions=captions, scores=scores_of(captions, pairs),
            references=_fewest_and_most(pairs), left_out=passed.left_out, shown=shown_as(predictor.transform),
        )  # fmt: skip
        save_predictions(self.predictions, result.rows)
        return result


def scores_of(captions: Sequence[str], pairs: Pairs) -> dict[str, float]:
    """bleu1 to bleu4, rouge_l and cider_d of a caption for each picture of ``pairs``."""
    references: list[list[list[str]]] = [[] for _ in pairs.rows]
    for text, image in zip(pairs.texts, pairs.image_of, strict=True):
        references[image].append(words_of(text))
    written = [
        Written(candidate=words_of(caption), references=own) for caption, own in zip(captions, references, strict=True)
    ]
    found = {f"bleu{n}": value for n, value in enumerate(bleu(written), start=1)}
    means = {"rouge_l": rouge_l(written), "cider_d": cider_d(written)}
    return found | {name: sum(values) / len(values) for name, values in means.items()}


def _fewest_and_most(pairs: Pairs) -> tuple[int, int]:
    counts = Counter(pairs.image_of).values()
    return min(counts), max(counts)
