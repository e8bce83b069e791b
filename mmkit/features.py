"""What a head sees: the memoised views of one batch through the model.

A view is computed when the first head asks for it and kept for the others, so that heads neither plan nor repeat
work. The teacher's views are the same, through the averaged copy and without gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cached_property, partial, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from mmkit.chunks import in_chunks, joined, side_by_side, split
from mmkit.draws import Draws
from mmkit.errors import UserError
from mmkit.exchange import rows_of_all
from mmkit.look import look_again
from mmkit.protocol import Context, check_layers
from mmkit.ranks import gather, gather_with_grad, rank, world_size
from mmkit.types import Batch, Fused, Hole, MaskedText, SecondLook, Tokens

P = ParamSpec("P")
R = TypeVar("R")


def _in_the_step(make: Callable[Concatenate[Features, P], R]) -> Callable[Concatenate[Features, P], R]:
    """A view is made in the precision of the step, wherever a head first asks for it.

    A head computes its loss in float32, with autocast off; a tower that ran because of it must not run so too.
    """

    @wraps(make)
    def made(self: Features, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(**self._precision):
            return make(self, *args, **kwargs)

    return made


def _view(make: Callable[[Features], R]) -> cached_property[R]:
    """One that is made once."""
    return cached_property(_in_the_step(make))


# Rows of a batch: None for this rank's own in order, or int64 indices into the rows of all ranks.
Rows = Tensor | None


class Features:
    """The views of one batch through one model, each computed once.

    ``step`` is the optimizer step; ``alpha`` the weight of the teacher's soft targets at this step; ``teacher`` the
    same views through the averaged model, or None. ``before``: samples of the step, of all ranks, in the micro-batches
    before this one. ``layers``: of the image tower, which the one pass through it keeps. ``hides``: a head will ask for
    ``masked`` too. Tensors are on the model's device; pixels are float32, normalised.
    """

    def __init__(
        self, model: Any, batch: Batch, step: int = 0, *, alpha: float = 0.0, teacher: Features | None = None,
        twins: dict[nn.Module, nn.Module] | None = None, seed: int = 0, before: int = 0, layers: Collection[str] = (),
        chunks: int = 1, hides: bool = False,
    ) -> None:  # fmt: skip
        self.model = model  # the Model protocol, which a module's type cannot express
        self.batch = batch.normalised()
        self.step = step
        self.alpha = alpha
        self.teacher = teacher
        self._twins = twins or {}
        self._seed = seed
        self._before = before
        self._kept: dict[Hashable, Any] = {}
        self._brought: dict[tuple[str, Tensor], Tokens] = {}
        self._wanted = layers
        self._chunks, self._hides = chunks, hides
        self._layers: dict[str, Tokens] = {}
        self._hidden: Tokens | None = None
        device = batch.pixels.device.type
        self._precision: dict[str, Any] = {
            "device_type": device, "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }  # fmt: skip

    # ---- words, where there are some ---------------------------------------------------------------------------

    @property
    def ids(self) -> Tensor:
        """The batch's token ids (B, L) int64; UserError where it has no words, as for the next two."""
        return _words(self.batch.ids)

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True = a real token."""
        return _words(self.batch.mask)

    @property
    def caption_id(self) -> Tensor:
        """(B,) int64; equal ids mean the same words."""
        return _words(self.batch.caption_id)

    # ---- views of this rank's samples -------------------------------------------------------------------------

    @_view
    def image(self) -> Tokens:
        """Image tokens (B, P, D)."""
        if self._wanted:
            return self._see(self._wanted)
        given = [x for x in (self.batch.pixels, self.batch.pixel_mask) if x is not None]
        return self.chunked(self.model.encode_image, *given)

    def image_layers(self, names: Collection[str]) -> dict[str, Tokens]:
        """The image tokens (B, P, D) after each of the named layers of ``spec.layers``, from the pass of ``image``.

        That pass keeps what heads name in ``reads_layers``. UserError for others where it is over, in training, as a
        second pass would draw its dropout again; and for a name that the model has not.
        """
        check_layers(self.model.spec, names)
        if missing := set(names) - self._layers.keys():
            if "image" not in self.__dict__:
                self.__dict__["image"] = self._see({*self._wanted, *names})
            elif self.model.training:
                raise UserError(
                    f"the image tower has run without keeping {', '.join(sorted(missing))}: name them in "
                    "the head's `reads_layers`"
                )
            else:
                self._see(missing)
        return {name: self._layers[name] for name in names}

    @_in_the_step
    def _see(self, names: Collection[str]) -> Tokens:
        model = self.model

        def see(pixels: Tensor, mask: Tensor | None) -> tuple[Tokens, tuple[Tokens, ...]]:
            image, seen = model.image_layers(pixels, mask, names)
            return image, tuple(seen[name] for name in names)

        image, seen = self.chunked(see, self.batch.pixels, self.batch.pixel_mask)
        self._layers |= zip(names, seen, strict=True)
        return image

    def second_look(
        self, key: Hashable, *, keep: Tensor | None = None, hidden: Tensor | None = None, by: Tensor | None = None
    ) -> SecondLook:
        """The same pictures with patches hidden, of which the other views know nothing; made once for a ``key``.

        keep; or hidden and by: see ``Hole``; a teacher is given the same. Dropout draws numbers of its own, so that the
        other heads compute the same bits. UserError where the model cannot hide patches so.
        """
        hole = Hole(keep=keep, hidden=hidden, by=by)
        purpose = (self._seed, self.step, key, rank(), self._before)
        made, look = self.memo(
            ("second look", key), lambda f: (hole, look_again(f.model, f.batch, hole, purpose, f._chunks))
        )
        if made.keep is not keep or made.hidden is not hidden or made.by is not by:
            raise ValueError(f"the second look {key!r} is there, with other patches hidden: give this one its own key")
        return look

    @_view
    def text(self) -> Tokens:
        """Text tokens (B, L, D), before fusion; by one pass with those of the masked text, where that will be read."""
        if self._hides and self._hidden is None:
            both = partial(side_by_side, self.model.encode_text)
            text, self._hidden = self.chunked(both, self.ids, self.masked_text.ids, self.mask)
            return text
        return self.chunked(self.model.encode_text, self.ids, self.mask)

    @_view
    def image_embed(self) -> Tensor:
        """(B, E) float32, L2-normalised."""
        return self.model.embed_image(self.image)

    @_view
    def text_embed(self) -> Tensor:
        """(B, E) float32, L2-normalised."""
        return self.model.embed_text(self.text)

    @_view
    def context(self) -> Context:
        """The images of this rank ready for fusion; projected once, read by every fusion pass."""
        return self.model.image_context(self.image)

    @_view
    def fused(self) -> Fused:
        """The fused states of each text with its own image."""
        return self._read(self.text)

    @_view
    def fused_first(self) -> Fused:
        """Of each text with its own image the text's first fused state alone (B, 1, D): what classifiers read."""
        if "fused" in self.__dict__:
            return Fused(Tokens(self.fused.text.x[:, :1]))
        keep_B1 = torch.zeros(len(self.batch), 1, dtype=torch.int64, device=self.batch.pixels.device)
        return self._read(self.text, keep_B1)

    def _read(self, text: Tokens, keep_BM: Tensor | None = None) -> Fused:
        """Each text reads its own image; a chunk of them projects its own."""
        if self._chunks == 1:
            return self.model.fuse(text, [self.context], keep_BM)
        model = self.model
        read = lambda text, image, keep: model.fuse(text, [model.image_context(image)], keep)  # noqa: E731
        return in_chunks(read, text, self.image, keep_BM, chunks=self._chunks)

    def take_image(self, image: Tokens, rows_B: Tensor) -> None:
        """Sample b shows picture ``rows_B[b]`` (int64) of tokens (n, P, D): none is encoded or projected twice."""
        self.image = image.rows(rows_B)
        if self.model.spec.fuses:
            self.context = self.model.image_context(image).rows(rows_B)

    def target(self, name: str) -> Tensor:
        """What the records say beside picture and text; UserError when this batch has no such thing."""
        if name not in self.batch.targets:
            has = ", ".join(self.batch.targets) or "none"
            raise UserError(f"this objective needs the target {name!r}, and the records have: {has}")
        return self.batch.targets[name]

    @property
    def masked_text(self) -> MaskedText:
        """The masked text of the batch; ValueError when it has none."""
        if self.batch.masked is None:
            raise UserError("this batch has no masked text: give the data section a masking")
        return self.batch.masked

    @_view
    def masked(self) -> Tensor:
        """The fused states at the hidden positions of the masked text, with the true image: (N, D)."""
        masked = self.masked_text
        if self._hidden is None:
            self._hidden = self.chunked(self.model.encode_text, masked.ids, self.mask)
        states_BMD = self._read(self._hidden, masked.positions).text.x
        return states_BMD.flatten(0, 1)[masked.index]

    @cached_property
    def temperature(self) -> Tensor:
        """What similarities are divided by, float32 scalar."""
        return self.model.temperature()

    # ---- views of the samples of all ranks --------------------------------------------------------------------

    @cached_property
    def all_image_embed(self) -> Tensor:
        """(G, E) float32 of all ranks, with gradient where there is one."""
        return gather_with_grad(self.image_embed)

    @cached_property
    def all_text_embed(self) -> Tensor:
        """(G, E) float32 of all ranks, with gradient where there is one."""
        return gather_with_grad(self.text_embed)

    @cached_property
    def _all_ids(self) -> Sequence[Tensor]:
        found = (self.batch.image_id, self.batch.caption_id)
        return gather(torch.stack([ids for ids in found if ids is not None], 1)).unbind(1)

    @property
    def all_image_id(self) -> Tensor:
        """(G,) int64 of all ranks."""
        return self._all_ids[0]

    @property
    def all_caption_id(self) -> Tensor:
        """(G,) int64 of all ranks."""
        _words(self.batch.caption_id)
        return self._all_ids[1]

    @cached_property
    def own(self) -> Tensor:
        """(B,) int64: where this rank's samples stand among those of all ranks."""
        size = len(self.batch)
        return torch.arange(size, device=self.batch.image_id.device) + rank() * size

    @cached_property
    def same(self) -> Tensor:
        """(B, G) bool: whether sample g shows the picture, or says the words, of this rank's sample b."""
        if self.batch.caption_id is None:
            return self.same_image
        return same_pair(self.batch.image_id, self.batch.caption_id, self.all_image_id, self.all_caption_id)

    @cached_property
    def same_image(self) -> Tensor:
        """(B, G) bool: whether sample g shows the picture of this rank's sample b."""
        return self.batch.image_id[:, None] == self.all_image_id

    @_in_the_step
    def fuse(self, pairs: Sequence[tuple[Rows, Rows]], keep_BM: Tensor | None = None) -> Fused:
        """Fuses groups of (texts, images) in one pass over the layers; the rows of the groups follow one another.

        Indices select from all ranks' samples, with gradient. Own images' keys and values are shared between groups;
        those of other rows are selected, or made anew where the images come from another rank.
        """
        size, folds, images = len(self.batch), list[int](), list[Rows]()
        for _, rows in pairs:
            if rows is None and images and images[-1] is None:
                folds[-1] += 1
            else:
                images.append(rows)
                folds.append(1)
        asked: list[tuple[str, Rows]] = [("text", rows) for rows, _ in pairs]
        if self._chunks > 1 or world_size() > 1:
            asked += [("image", rows) for rows in images]
        brought = self._bring(asked)
        texts = brought[: len(pairs)]
        if any(len(text.x) != size for text in texts):
            raise ValueError(f"each group needs {size} texts, one for each sample of the batch")
        model = self.model

        def read(texts: Sequence[Tokens], contexts: Sequence[Context], keep_NM: Tensor | None) -> Fused:
            text = Tokens(torch.cat([t.x for t in texts]), torch.cat([t.full_mask() for t in texts]))
            return model.fuse(text, [c.repeated(n) for c, n in zip(contexts, folds, strict=True)], keep_NM)

        if self._chunks == 1:
            contexts = [self.context if rows is None else self._context_of(rows) for rows in images]
            return read(texts, contexts, keep_BM)

        def read_chunk(texts: list[Tokens], images: list[Tokens], keeps: list[Tensor] | None) -> list[Fused]:
            contexts = [model.image_context(image) for image in images]
            return split(read(texts, contexts, None if keeps is None else torch.cat(keeps)), len(texts))

        keeps = None if keep_BM is None else split(keep_BM, len(pairs))
        groups: Fused = joined(in_chunks(read_chunk, texts, brought[len(pairs) :], keeps, chunks=self._chunks))
        return groups

    def images(self, rows: Tensor) -> Tokens:
        """The image tokens (N, P, D) of ``rows`` (N,) among all ranks' samples, with gradient; N is that of all ranks.

        Rows of other ranks come from there, and no others; those of one tensor come once.
        """
        return self._bring([("image", rows)])[0]

    def texts(self, rows: Tensor) -> Tokens:
        """The text tokens (N, L, D) of these rows, before fusion, likewise."""
        return self._bring([("text", rows)])[0]

    @_in_the_step
    def _bring(self, asked: Sequence[tuple[str, Rows]]) -> list[Tokens]:
        own = {kind: getattr(self, kind) for kind, _ in asked}
        new = [(kind, rows) for kind, rows in asked if rows is not None and (kind, rows) not in self._brought]
        precision = self._precision["dtype"] if self._precision["enabled"] else None
        found = rows_of_all([(own[kind], rows) for kind, rows in new], precision)
        self._brought |= zip(new, found, strict=True)
        return [own[kind] if rows is None else self._brought[kind, rows] for kind, rows in asked]

    def _context_of(self, rows: Tensor) -> Context:
        if world_size() == 1:
            return self.context.rows(rows)
        return self.model.image_context(self.images(rows))

    # ---- help for heads ---------------------------------------------------------------------------------------

    def chunked(self, work: Callable[..., R], *rows: Any) -> R:
        """``work(*rows)`` for work that treats each row by itself, in the chunks of the run; see ``chunks.in_chunks``.

        What ``work`` needs beside its rows it must not hold through these views: they would never be let go.
        """
        return in_chunks(work, *rows, chunks=self._chunks)

    @_in_the_step
    def memo(self, key: Hashable, make: Callable[[Features], R]) -> R:
        """``make(self)``, made when it is first asked for under this ``key``: a view that only some heads need."""
        if key not in self._kept:
            self._kept[key] = make(self)
        return self._kept[key]

    def twin(self, head: nn.Module) -> Any:
        """The teacher's copy of a head that has ``distilled = True``."""
        return self._twins[head]

    def random(self, name: str, everyone: bool = False, on_host: bool = False) -> Draws:
        """Random numbers for each of this rank's samples, from the start of a stream of their own.

        They depend on (seed, step, ``name``, place of the sample in the step): other names and steps are independent;
        the samples of a step have the same numbers on any device, and on any number of processes and micro-batches. The
        same name gives the same numbers again, to a teacher too. everyone: for the samples of all ranks (G) of this
        micro-batch. on_host: on the CPU, for what the host must know without waiting for the device.
        """
        first, size = (0, world_size()) if everyone else (rank(), 1)
        count, device = len(self.batch), "cpu" if on_host else self.batch.image_id.device
        return Draws(
            (self._seed, self.step, name), torch.arange(count * size, device=device) + first * count + self._before
        )


def _words(of: Tensor | None) -> Tensor:
    if of is None:
        raise UserError("this objective reads words, and this run has pictures alone: give it a tokenizer")
    return of


def alike(f: Features, how: Literal["same", "image", "pair"]) -> Tensor:
    """(B, G) bool: ``f.same``, ``f.same_image``, or for "pair" whether sample g is this rank's sample b itself."""
    if how == "pair":
        return f.own[:, None] == torch.arange(len(f.batch) * world_size(), device=f.own.device)
    return f.same if how == "same" else f.same_image


def same_pair(image_id_B: Tensor, caption_id_B: Tensor, image_id_N: Tensor, caption_id_N: Tensor) -> Tensor:
    """(B, N) bool: equal picture or equal words. Such a pair is a positive, and never a negative."""
    return (image_id_B[:, None] == image_id_N) | (caption_id_B[:, None] == caption_id_N)
