"""What every objective is: a module from the views of a batch to a loss, or to several with counts of their own.

And what a head can do once it has learned: the protocols that predictor, evaluators, maps and cards ask for. Heads take
and give ids and tensors; texts become ids, and ids texts, in ``mmkit.inference``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mmkit.encoders.decoding import Writer
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.prompt import Prompt
from mmkit.types import Count, Fused, HeadOutput, Tokens


class Head(nn.Module):
    """One objective. ``forward`` changes no state; what must change does so in ``after_step``.

    Its loss is a mean, and says over how many items. Over ranks and micro-batches the means are put together by these
    counts, so that n micro-batches, n ranks, or both, give the gradients of the joined batch wherever samples do not
    see each other. What compares samples with each other (``needs_negatives``) sees those of one micro-batch, of all
    ranks. A count of 0 is no fault: the loss then is finite, and has no weight.

    ``distilled``: whether the teacher keeps an averaged copy of this head, for ``Features.twin``.
    ``needs_negatives``: whether a batch of one sample teaches it nothing. ``needs_masking``: whether it learns from
    words that ``data.masking`` hides. ``needs_words``: whether it reads texts. ``compares``: whether it makes the joint
    space one in which embeddings compare. ``reads_layers``: what it asks ``f.image_layers`` for, of the model's
    ``spec.layers``. ``also_reads``: targets that ``predict`` reads beside one picture and one text, such as a second
    picture.
    """

    distilled = False
    needs_negatives = False
    needs_masking = False
    needs_words = False
    compares = False
    reads_layers: tuple[str, ...] = ()
    also_reads: tuple[str, ...] = ()

    def forward(self, f: Features) -> HeadOutput:
        """The loss over one rank's micro-batch."""
        raise NotImplementedError

    def counts(self, f: Features) -> Count | Mapping[str, Count] | None:
        """What ``forward`` will count, from the batch alone: ``f.batch``, its ids of all ranks, its random numbers.

        Asked before the steps that accumulate micro-batches, as the gradient of the first needs the total of all. With
        parts, by their names. None, as here: only ``forward`` knows, and it runs once more for each micro-batch to find
        out, without gradient and dropout. A count that ``forward`` then gives otherwise stops the run.
        """
        return None

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values for this head's parameters from a pre-trained state that has no such head, by the head's own names.

        ``state``: "model.fusion.blocks.0....", "heads.mlm.dense.weight", ...; what it lacks stays at random.
        """
        return {}

    def check_run(self, steps: int, samples: int) -> None:
        """UserError where a run of ``steps`` optimizer steps of ``samples`` each teaches it nothing. None by default.

        Asked once at the start, with what the run starts from.
        """

    @torch.no_grad()
    def after_step(self, carries: Sequence[Mapping[str, Tensor]]) -> None:
        """Once per optimizer step, with what ``forward`` carried out of each micro-batch. Nothing by default."""


def reads_words(head: object) -> bool:
    """Whether a head reads texts; of one that does not say so it is taken for granted."""
    return bool(getattr(head, "needs_words", True))


class EachSample(Head):
    """A head whose loss is a mean over the samples of the batch."""

    def counts(self, f: Features) -> int:
        """The samples."""
        return len(f.batch)


class Sorter(EachSample):
    """A head that sorts each sample into one of ``classes``; the target ``label`` (B,) int64 says which.

    classes: the names in the order of the labels; UserError for less than two, and for a name that stands there twice.
    """

    distilled = True

    def __init__(self, classes: Sequence[str], label: str) -> None:
        super().__init__()
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise UserError(f"{type(self).__name__}: {len(classes)} classes; give at least two names, each once")
        self.classes = tuple(classes)
        self.label = label

    def output(self, f: Features, loss: Tensor, logits_BC: Tensor, labels_B: Tensor) -> HeadOutput:
        """The loss over the samples with its logs: the chance level ln C, and the accuracy beside its own.

        labels: (B,) int64, or shares of the classes (B, C), of which the accuracy takes the largest.
        """
        hits = (
            (logits_BC.detach().argmax(-1) == (labels_B if labels_B.ndim == 1 else labels_B.argmax(-1))).float().mean()
        )
        chance = {"chance": math.log(len(self.classes)), "chance_accuracy": 1 / len(self.classes)}
        return HeadOutput(loss=loss, count=self.counts(f), logs=chance | {"accuracy": hits})


class Candidates(NamedTuple):
    """Answers to choose from, as ids (C, L) int64 with a mask (C, L) bool, True = an id.

    For a head that ``Writes``, each answer's pieces between [CLS] and [SEP]; else its number in the head's own list,
    L = 1.
    """

    ids: Tensor
    mask: Tensor


class Detections(NamedTuple):
    """Objects found in the pictures of a batch, N in all; those of a picture stand together, the best first.

    boxes: (N, 4) float32, left, top, right, bottom in pixels of the batch's pictures, right and bottom outside; they
    may reach beyond the picture. scores: (N,) float32, 0 to 1. labels: (N,) int64, places among the head's classes.
    of: (N,) int64, the rows of the pictures in the batch.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    of: Tensor


@runtime_checkable
class Detects(Protocol):
    """A head that finds objects; ``classes`` names them, ``ids`` are the numbers under which they were published."""

    classes: Sequence[str]
    ids: Sequence[int]

    def predict(self, f: Features) -> Detections:
        """What is found in each picture, without a threshold."""


@runtime_checkable
class Grounds(Detects, Protocol):
    """A head that finds what words ask for; ``classes`` are asked for where nobody says otherwise.

    A prompt has at most ``prompt_tokens`` tokens and ``prompt_phrases`` phrases; more are asked for in chunks.
    """

    prompt_tokens: int
    prompt_phrases: int

    def asked(self, prompts: Sequence[Prompt], classes: Sequence[str], ids: Sequence[int] = ()) -> Detects:
        """A detector of these phrases, of which each is in one of the prompts (of one row each)."""


@runtime_checkable
class Locates(Grounds, Protocol):
    """A head that each picture of a batch can ask for phrases of its own: expressions, parts of captions.

    sentences: whether it reads phrases within their whole text; else each alone, as names of classes.
    """

    sentences: bool

    def locate(self, f: Features, prompt: Prompt) -> Detections:
        """The boxes of each phrase, best first. prompt: a row for each picture; labels are its phrases' numbers."""


@runtime_checkable
class Predicts(Protocol):
    """A head that says something of each sample of a batch, in the form that its metrics take."""

    def predict(self, f: Features) -> Tensor:
        """A row for each sample, (B, ...)."""


@runtime_checkable
class Classifies(Protocol):
    """A head that sorts samples into classes by name; ``predict`` gives the logits (B, C)."""

    classes: Sequence[str]

    def predict(self, f: Features) -> Tensor:
        """The logits (B, C) float32."""


@runtime_checkable
class Matches(Protocol):
    """A head that judges whether picture and text belong together."""

    def match_logits(self, cls_BD: Tensor) -> Tensor:
        """The fused [CLS] state (B, D) -> logits (B, 2): no match, match."""


@runtime_checkable
class Guesses(Protocol):
    """A head that guesses hidden words; see ``nn.vocabulary``."""

    known: int | None

    def logits(self, states_ND: Tensor, words_VD: Tensor) -> Tensor:
        """Fused states (N, D) and word embeddings (V, D) -> (N, V)."""


@runtime_checkable
class Answers(Protocol):
    """A head that answers questions from a list; ``answers`` is the one it was trained with, empty for none."""

    def rank(self, fused: Fused, candidates: Candidates, top: int = 1) -> tuple[Tensor, Tensor]:
        """The best of each question -> rows of ``candidates`` (B, top) int64 and probabilities (B, top)."""


@runtime_checkable
class Leads(Answers, Protocol):
    """A head that finds the best answer alone sooner than it ranks all."""

    def leading(self, fused: Fused, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The best of each question, and a second that scores as much where any does, as ``rank``: (B, 2) both.

        The probabilities are among the candidates that were read, and so are larger than those of ``rank``.
        """


@runtime_checkable
class Writes(Answers, Protocol):
    """A head that answers questions word by word, in at most ``max_tokens`` pieces with [CLS] and [SEP].

    first_token_twice: whether ``rank`` scores as ALBEF's official code does.
    """

    max_tokens: int
    first_token_twice: bool

    def token_logits(self, fused: Fused, ids_AL: Tensor, of_A: Tensor, index_N: Tensor) -> Tensor:
        """Decoder inputs (A, L), the row of ``fused`` of each, and places in (A x L) -> logits (N, V)."""

    def generate(self, fused: Fused, first: int, last: int) -> tuple[Tensor, Tensor]:
        """From [CLS], ``first``, to [SEP], ``last`` -> ids (B, L) int64 and probabilities (B,) float32."""


@runtime_checkable
class Captions(Protocol):
    """A head that writes about a picture alone.

    prompt: what its texts begin with; max_tokens: of prompt and text, in pieces, with [CLS] and [SEP].
    """

    prompt: str
    max_tokens: int

    def writer(self, image: Tokens) -> Writer:
        """What writes about image tokens (B, P, D)."""


@runtime_checkable
class Scores(Protocol):
    """A head that scores a list of its own from the fused states of picture and text alone."""

    def logits(self, fused: Fused) -> Tensor:
        """The fused states -> (B, C) float32."""
