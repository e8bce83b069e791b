"""A trained model in use: pictures and texts in, embeddings and match probabilities out.

A ``Predictor`` holds a model, its heads, the tokenizer and the preprocessing that it was trained with. Which number to
use: ``encode_image @ encode_text.T`` (cosine, -1 to 1; compare it between candidates, its absolute value means little)
is cheap and can be stored; ``match`` (probability, 0 to 1) reads a picture and a text together, is more exact, and
costs one pass for each pair. The usual way is to search by the first and to re-rank the best few by the second (ALBEF,
section 5). ``answer`` asks the head that learned to answer questions, where there is one. Evaluators work on this
class; so does everything that was loaded with ``mmkit.load``. Pictures and texts come as lists, generators or stacked
tensors. Left out: heat maps (``mmkit.explain``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmkit.data.collate import Collator, Sample, of_pictures, padded_texts
from mmkit.data.images.transforms import look
from mmkit.data.reading import batches, reading
from mmkit.data.targets import RawTargets, TargetEncoder
from mmkit.data.text_files import stable_id
from mmkit.data.texts.answers.rules import choices
from mmkit.data.texts.protocol import Kind, Tokenizer
from mmkit.data.video.samplers import views_named
from mmkit.encoders.decoding import Decoding
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Answers, Captions, Classifies, Matches, Writes
from mmkit.inference.answering import Answering, candidates_of
from mmkit.inference.captioning import Captioning, captioning
from mmkit.inference.detecting import Found, objects_in
from mmkit.inference.inputs import Encoder, Picture, many_pictures, many_texts, open_seen, pairs_of
from mmkit.inference.sorting import sorted_into, sorter_of, told
from mmkit.inference.tokens import TokenBank
from mmkit.nn.vocabulary import VocabularyHead
from mmkit.ranks import rank
from mmkit.types import Fused, Pixels, Tokens

__all__ = ["Picture", "Predictor", "Progress", "TokenBank"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


class Predictor:
    """A model in use, with its heads, tokenizer and preprocessing: what ``mmkit.load`` gives, and evaluators work on.

    For search, compare ``encode_image @ encode_text.T`` (cosine, -1 to 1; its absolute value means little) between
    candidates; ``match`` (probability, 0 to 1) reads a picture and a text together, is more exact, and costs one pass
    for each pair. ``answer`` asks the head that learned to answer questions, where there is one, ``classify`` that
    which sorts pictures.

    transform: PIL RGB -> pixels (3, h, w) float32; what ``look`` makes of it travels to the device, bytes where it can
    be. max_tokens: longer texts are cut.
    tokenizer: None for a model that reads pictures alone; what needs words then is a UserError.
    precision: "float32", or "bf16" for autocast (faster; embeddings still are float32, exact to about three digits).
    How many texts were longer than ``max_tokens`` is logged once.
    progress: told about long work. threads: how many read pictures beside the model. The modules' training flags are
    put back after each call.
    """

    def __init__(
        self, model: Any, heads: Mapping[str, nn.Module], tokenizer: Tokenizer | None,
        transform: Callable[[Any], Pixels], max_tokens: int, *,
        precision: Literal["float32", "bf16"] = "float32", progress: Progress | None = None, threads: int = 4,
    ) -> None:  # fmt: skip
        if precision not in ("float32", "bf16"):
            raise UserError(f"precision={precision!r}: must be 'float32' or 'bf16'")
        self.model: Any = model
        self.heads = heads
        self.transform = transform
        self.max_tokens = max_tokens
        self.reads_words = tokenizer is not None
        self.encoder = Encoder(tokenizer, max_tokens, shown=rank() == 0)
        self.precision = precision
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.threads = max(1, min(threads, os.cpu_count() or 1))
        for head in heads.values():
            for part in head.modules() if isinstance(head, nn.Module) else ():
                if isinstance(part, VocabularyHead):
                    part.known = self.tokenizer.vocab_size

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of texts; UserError for a model that reads pictures alone, see ``reads_words``."""
        return self.encoder.tokenizer

    # ---- what people call --------------------------------------------------------------------------------------

    def encode_image(self, images: Iterable[Picture] | Tensor, batch_size: int = 64) -> Tensor:
        """Embeddings (n, E) float32 on the CPU, L2-normalised.

        A picture is a path, encoded bytes, a PIL image, a Record, or a tensor (3, h, w) of any size: uint8 from 0 to
        255, or float from 0 to 1. A model that reads clips takes these as clips of one frame (of an animated picture
        all), and a ``Clip``, a list of frames, a tensor (3, T, h, w), an array (T, h, w, 3) uint8, or the path of a
        video. Raises BadImage, which names the picture, for what cannot be read.
        """
        self._needs_embeddings()
        parts = [self.embed_image(tokens) for tokens in self.image_tokens(images, batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, self.model.spec.embed_dim)

    def encode_text(self, texts: Iterable[str], batch_size: int = 256) -> Tensor:
        """Embeddings (n, E) float32 on the CPU, L2-normalised."""
        self._needs_embeddings()
        texts = many_texts(texts)
        with self.encoder.counting(texts):
            parts = [self.embed_text(tokens) for tokens in self.text_tokens(texts, batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, self.model.spec.embed_dim)

    def match(
        self, images: Iterable[Picture] | Tensor, texts: Iterable[str], batch_size: int = 64, *, log_odds: bool = False
    ) -> Tensor:
        """The probability that image i and text i belong together: (n,) float32 on the CPU.

        log_odds: of it in its place, which tell apart what rounds to a probability of 1. Raises UserError where the
        numbers of images and texts differ, or the model cannot match.
        """
        self.matcher()
        images, texts = pairs_of(images, texts)
        scores = []
        with self.encoder.counting(texts):
            chunks = batches(texts, batch_size)
            for image, chunk in zip(self.image_tokens(images, batch_size), chunks, strict=True):
                bank = TokenBank(self.text_tokens(chunk, batch_size))
                scores.append(self.match_pairs(image, bank, torch.arange(len(chunk))[:, None].expand(-1, 2)))
        found = torch.cat(scores) if scores else torch.empty(0)
        return found if log_odds else found.sigmoid()

    def answer(
        self, images: Iterable[Picture] | Tensor, questions: Iterable[str], *, answers: Iterable[str] | None = None,
        top: int = 5, generate: bool = False, batch_size: int = 64,
    ) -> list[list[tuple[str, float]]]:  # fmt: skip
        """The best answers to question i about image i, best first, each with its probability.

        answers: what to choose from; None = the list that the model was trained with. top: at most so many, at least
        1. generate: write freely instead (one answer each). Raises UserError where the model cannot answer, or a
        question is empty.
        """
        answering = self.answering(answers, generate)
        if top < 1:
            raise UserError(f"top={top}: must be at least 1")
        images, questions = pairs_of(images, questions, "question")
        if empty := [number for number, question in enumerate(questions) if not question.strip()]:
            raise UserError(f"question {empty[0]} is empty; ask something")
        found: list[list[tuple[str, float]]] = []
        with self.encoder.counting(questions, "question"):
            pairs = zip(self.image_tokens(images, batch_size), batches(questions, batch_size), strict=True)
            for image, chunk in pairs:
                fused = self.fuse(image, torch.arange(len(chunk)), chunk, "question")
                with self.inference():
                    found += answering.best(fused, top)
        return found

    def classify(
        self, images: Iterable[Picture] | Tensor, *, top: int = 5, head: str | None = None, batch_size: int = 64,
        views: str | None = None,
    ) -> list[list[tuple[str, float]]]:  # fmt: skip
        """The classes of each picture, best first, with their probabilities, by the head that sorts pictures alone.

        views: of a clip, several whose answers are averaged, by name: "4x3", see ``data.video.views``. UserError where
        the model has no such head, or several and ``head`` names none of them, and for views of a model of pictures.
        """
        named = None if views is None else views_named(views)
        return list(sorted_into(self, images, top, head, batch_size, named))

    def detect(
        self, images: Iterable[Picture] | Tensor, head: str | None = None, batch_size: int = 64,
        phrases: Sequence[str] | None = None,
    ) -> list[Found]:  # fmt: skip
        """The objects in each picture, in its pixels, best first. phrases: what to look for, of a model that asks."""
        return list(objects_in(self, images, head, batch_size, phrases))

    def caption(
        self, images: Iterable[Picture] | Tensor, how: Decoding | None = None, batch_size: int = 64
    ) -> list[str]:
        """What each picture shows, written by the head that learned to write captions.

        how: beams, drawn words, lengths; None = three beams. UserError where the model writes none.
        """
        writing = self.captioning(how)
        found: list[str] = []
        for image in self.image_tokens(images, batch_size):
            with self.inference():
                found += writing.texts(image)[0]
        return found

    # ---- batches of tokens -------------------------------------------------------------------------------------

    def image_tokens(self, images: Iterable[Picture] | Tensor, batch_size: int = 64) -> Iterator[Tokens]:
        """The image tokens (b, P, D) of each batch in turn, on the model's device. Reads ahead by one batch."""
        for read in reading(many_pictures(images), self.pixels, batch_size=batch_size, threads=self.threads):
            yield self.encode_pixels(read.made)

    def text_tokens(self, texts: Iterable[str], batch_size: int = 256, kind: Kind = "caption") -> Iterator[Tokens]:
        """The text tokens (b, L, D) of each batch in turn, before any picture, on the model's device."""
        for chunk in batches(many_texts(texts), batch_size):
            ids, mask = padded_texts([self.encoder(text, kind) for text in chunk], self.tokenizer.pad_id)
            with self.inference():
                tokens = self.model.encode_text(ids.to(self.device), mask.to(self.device))
            yield tokens

    def fuse(self, image: Tokens, rows: Tensor, texts: Sequence[str], kind: Kind = "caption") -> Fused:
        """Text i with the picture ``rows[i]`` of ``image`` -> fused states on the model's device."""
        (text,) = self.text_tokens(texts, len(texts), kind)
        with self.inference():
            context = self.model.image_context(image).rows(rows.to(self.device))
            fused: Fused = self.model.fuse(text, [context])
        return fused

    def sample(
        self, pixels: Pixels, text: str | None, of: Any, kind: Kind = "caption",
        targets: Mapping[str, Any] | None = None,
    ) -> Sample:  # fmt: skip
        """A picture, as the transform made it, with a text, for ``features``. of: its record, or what has its names."""
        seen = Sample(pixels=pixels, image_id=stable_id(of.image_id), key=of.key, targets=targets or {})
        if text is None:
            return seen
        ids = self.encoder(text, kind)
        return replace(seen, ids=ids, caption_id=stable_id(" ".join(map(str, ids))), caption=text)

    def features(self, samples: Sequence[Sample], targets: TargetEncoder | None = None) -> Features:
        """The views of these samples, as heads read them; to be made and used within ``inference``.

        Samples with one and the same ``pixels`` show one picture, which is encoded once. targets: the encoder of the
        samples' targets; None = as they are.
        """
        collate = Collator(
            pad_id=self.tokenizer.pad_id if self.reads_words else 0, max_tokens=self.max_tokens,
            targets=targets or RawTargets(),
        )  # fmt: skip
        batch = collate(samples).to(self.device)
        f = Features(self.model, batch)
        number: dict[int, int] = {}
        shows = [number.setdefault(id(sample.pixels), len(number)) for sample in samples]
        if len(number) < len(samples):
            own = [shows.index(picture) for picture in range(len(number))]
            beside = () if batch.pixel_mask is None else (batch.pixel_mask[own],)
            image = self.model.encode_image(batch.pixels[own], *beside)
            f.take_image(image, torch.tensor(shows, device=self.device))
        return f

    def embed_image(self, image: Tokens) -> Tensor:
        """Tokens -> embeddings (b, E) float32 on the CPU."""
        with self.inference():
            return self.model.embed_image(image).float().cpu()

    def embed_text(self, text: Tokens) -> Tensor:
        """Tokens -> embeddings (b, E) float32 on the CPU."""
        with self.inference():
            return self.model.embed_text(text).float().cpu()

    def match_pairs(
        self, image: Tokens, texts: TokenBank, pairs: Tensor, *, pair_batch: int = 256, score: str = "log_odds"
    ) -> Tensor:
        """How well the pairs (n, 2) int64 = (row of ``image``, row of ``texts``) match: (n,) float32 on the CPU.

        Higher is better. score: "log_odds" of the match probability (its sigmoid is ``match``), or "match_logit", the
        logit of the class "match" alone, which the official ALBEF evaluation sorts by, or "logits", both classes':
        (n, 2), "match" the second. Each image's keys and values are made once for the texts of a pass, ``pair_batch``.
        """
        matcher = self.matcher()
        out = torch.empty(len(pairs), 2)
        order = pairs[:, 0].argsort(stable=True)
        for chosen in order.split(pair_batch) if len(pairs) else ():
            images, counts = pairs[chosen, 0].unique_consecutive(return_counts=True)
            text = texts.take(pairs[chosen, 1], self.device)
            with self.inference():
                context = self.model.image_context(image.rows(images.to(self.device)))
                contexts = [
                    context.rows(torch.tensor([i], device=self.device)).repeated(count)
                    for i, count in enumerate(counts.tolist())
                ]
                keep = torch.zeros(len(chosen), 1, dtype=torch.int64, device=self.device)
                logits = matcher.match_logits(self.model.fuse(text, contexts, keep).first).float().cpu()
            out[chosen] = logits
        if score == "logits":
            return out
        return out[:, 1] - out[:, 0] if score == "log_odds" else out[:, 1]

    # ---- the parts ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Predictor:
        """Move the model and the heads; returns itself."""
        self.model.to(device)
        for head in self.heads.values():
            head.to(device)
        return self

    def has(self, can: Any) -> bool:
        """Whether a head of this model can do this, a protocol of ``mmkit.heads.base``."""
        return any(isinstance(head, can) for head in self.heads.values())

    def head_that(self, can: Any, lacks: str | None = None, hint: str = "") -> Any:
        """The first head that can do this, a protocol of ``mmkit.heads.base``; UserError with the heads that there are.

        lacks, hint: for the message: "this model LACKS; its heads are: ... HINT".
        """
        if (found := next((head for head in self.heads.values() if isinstance(head, can)), None)) is None:
            lacks = lacks or f"has no head that {can.__name__.lower()}"
            raise UserError(f"this model {lacks}; its heads are: {told(self.heads)}. {hint}".rstrip(". "))
        return found

    def sorter(self, name: str | None = None) -> Classifies:
        """The head of this name, or the only one, that sorts pictures alone; UserError with those that there are."""
        return sorter_of(self.heads, name)

    def can_match(self) -> bool:
        """Whether ``match`` and re-ranking are possible."""
        return self.model.spec.fuses and self.has(Matches)

    def matcher(self) -> Any:
        """The head that judges pairs; UserError where the model has none."""
        hint = "Compare embeddings instead, without re-ranking"
        if not self.model.spec.fuses:
            raise UserError(f"this model cannot match or re-rank (its two towers never read each other). {hint}")
        return self.head_that(Matches, "cannot match or re-rank, for which it has no matching head (ITM)", hint)

    def answerer(self, generate: bool = False) -> Any:
        """The head that answers questions; UserError where the model has none, or none that writes freely."""
        what = "write answers freely (an AnswerDecoder can)" if generate else "answer questions"
        return self.head_that(
            Writes if generate else Answers, f"has no head to {what}", "Fine-tune it: configs/finetune/"
        )

    def answering(self, answers: Iterable[str] | None = None, generate: bool = False) -> Answering:
        """The answering head with what it ranks: ``answers``, or None for its own list; or to write freely.

        UserError for both together, and for a list that is empty, or holds an answer twice or one without words.
        """
        head = self.answerer(generate)
        if answers is not None and generate:
            raise UserError("answers is a list to choose from, generate writes freely: give one of them")
        if generate:
            return Answering(head=head, tokenizer=self.tokenizer)
        chosen = tuple(head.answers) if answers is None else choices(many_texts(answers, "answer"))
        return Answering(
            head=head, tokenizer=self.tokenizer, answers=chosen, candidates=candidates_of(head, self.tokenizer, chosen)
        )  # fmt: skip

    def captioning(self, how: Decoding | None = None) -> Captioning:
        """The head that writes captions with how it does; UserError where the model has none."""
        hint = "Fine-tune it: configs/finetune/captions.py"
        return captioning(self.head_that(Captions, "has no head that writes captions", hint), self.tokenizer, how)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradient, evaluation mode, the chosen precision; afterwards every module trains that did before."""
        roots = [self.model, *self.heads.values()]
        training = [module for root in roots for module in root.modules() if module.training]
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            for root in roots:
                root.eval()
            try:
                yield
            finally:
                for module in training:
                    module.training = True

    def _needs_embeddings(self) -> None:
        if not self.model.spec.embed_dim:
            raise UserError("this model has no joint space of image and text; use match")

    def encode_pixels(self, rows: Sequence[Pixels]) -> Tokens:
        """Pictures as ``pixels`` gives them, normalised there -> image tokens (b, P, D) on the model's device."""
        batch = of_pictures(rows).to(self.device)
        with self.inference():
            return Features(self.model, batch).image

    def pixels(self, image: Picture, number: int = 0) -> Pixels:
        """One picture on its way to the model: ``RawPixels``, or (3, h, w) float32, normalised, of a transform that
        gives no bytes. BadImage names what cannot be read, or ``number``.
        """
        made: Pixels = look(self.transform, open_seen(self.transform, image, number))
        return made
