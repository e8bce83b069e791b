"""mmkit: vision-language pre-training with one shared ViT, pluggable heads and a momentum teacher.

``mmkit.load(folder)`` gives a trained model ready for use, ``mmkit.explain`` shows what in a picture it looked at;
everything else lives in the modules. Importing this package imports no other, so that the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from mmkit.explanation.explained import Explanation
    from mmkit.explanation.goals import Target
    from mmkit.inference.predictor import Picture, Predictor

__all__ = ["explain", "load"]


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
    image_size: int | tuple[int, int] | None = None,
    allow: str | Sequence[str] = (),
) -> Predictor:
    """The model in a folder, in evaluation mode; or one of open_clip's, as ``open_clip:ARCH/PRETRAINED``.

    Args:
        path: the folder of a run, its ``best``, or what ``mmkit convert`` wrote.
        device: where it goes.
        precision: see ``Predictor``; float32 gives the same embeddings as the process that saved.
        image_size: pixels, one side or (height, width), other than it was trained with; its positions are resized,
            which is logged.
        allow: modules of your own, or of somebody whom you trust, whose classes may be built too: MODULE itself and
            what is below it, installed or in the current folder; or FILE.py, which is run. For this call alone.

    UserError names the file that is missing, damaged or does not fit, and what to do.
    """
    from mmkit.hub import folder as hub

    return hub.load(path, device=device, precision=precision, image_size=image_size, allow=allow)


def explain(
    model: Predictor | str | Path, image: Picture, text: str, *, answer: str | None = None,
    target: Target | None = None, layer: int | None = None, head: int | None = None, words: bool = True,
    allow: str | Sequence[str] = (),
) -> Explanation:  # fmt: skip
    """Heat maps of a picture and a text.

    Args:
        model: a loaded model, or the folder of one, which is loaded with ``allow``.
        image: a path, encoded bytes, a PIL image, a Record, or a tensor as in ``Predictor.encode_image``.
        text: a caption, or the question that has an answer.
        answer: explain why this is the answer to the question ``text``, for a model with a head that answers.
        target: "mlm" each word by itself, as the model guesses it from the picture and the other words when it is
            hidden (the sentence's map is the mean of the words'), "itm" the match, "answer" the given answer or else
            the model's own, "itc" the similarity, or a function from fused tokens (B, N, D) to (B,). Default: an
            answer where one is given, else the first of these that the model has, in this order.
        layer: which of the layers that look at the picture, from 0; negative from the end. Default: half way up (the
            third of ALBEF's six), for the similarity and for hidden words the last. In the last layer before the
            matching head no word but [CLS] has a say, so that the words' maps are empty there.
        head: which attention head; None = the mean of all.
        words: whether to make a map for each word.
        allow: see ``load``.

    UserError: the model cannot be asked this, layer or head out of range, a text without words; BadImage: a picture
    that cannot be read. Many pairs at once: ``mmkit.explanation.explain.explain_pairs``.
    """
    from mmkit.explanation import explain as explanation
    from mmkit.inference.predictor import Predictor

    predictor = model if isinstance(model, Predictor) else load(model, allow=allow)
    return explanation.explain(
        predictor, image, text, answer=answer, target=target, layer=layer, head=head, words=words
    )
