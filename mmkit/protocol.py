"""What a model is to heads, evaluators and the loop: the methods that they call, whatever it is built of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.types import Fused, Hole, ModelSpec, Tokens


class Context(Protocol):
    """Images made ready to be read by texts: what ``image_context`` returns and ``fuse`` takes."""

    def rows(self, index: Tensor) -> Self:
        """Those of the images ``index`` (int64), in that order."""

    def repeated(self, fold: int) -> Self:
        """The same B images, each read by ``fold`` texts: rows i, i + B, i + 2 B, ... belong to image i."""


@runtime_checkable
class Model(Protocol):
    """What heads, evaluators and the loop ask of a model. What ``spec`` says is absent is never called."""

    spec: ModelSpec

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """Pixels (B, 3, height, width) float, and (B, height, width) bool where there is picture -> tokens (B, P, D).

        The mask is None when every picture fills its rectangle; a model that cannot use one raises UserError.
        """

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """Ids (B, L) int64, mask (B, L) bool -> tokens (B, L, D)."""

    def embed_image(self, image: Tokens) -> Tensor:
        """Image tokens -> (B, E) float32, L2-normalised."""

    def embed_text(self, text: Tokens) -> Tensor:
        """Text tokens -> (B, E) float32, L2-normalised."""

    def image_context(self, image: Tokens) -> Context:
        """Image tokens made ready for ``fuse``, once for all the texts that read them."""

    def fuse(self, text: Tokens, contexts: Sequence[Context], keep_BM: Tensor | None = None) -> Fused:
        """Texts that read the contexts' images in turn -> the states of both.

        With ``keep_BM`` (int64) those of the text at these positions alone: (B, M, D).
        """


class Layered(Protocol):
    """What a model also has whose ``spec.layers`` are not empty."""

    def image_layers(
        self, pixels: Tensor, pixel_mask: Tensor | None, names: Collection[str]
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """What ``encode_image`` gives, and the tokens (B, N, D) after the layers ``names``."""


class LooksAgain(Protocol):
    """What a model also has whose ``spec.hides`` is not empty."""

    def encode_image_again(self, pixels: Tensor, pixel_mask: Tensor | None, hole: Hole) -> Tokens:
        """As ``encode_image``, with patches hidden in one of the ways of ``spec.hides``; tokens as in ``SecondLook``.

        What else leaves patches out in training (patch dropout) does not do so here.
        """


class ImageTower(Protocol):
    """What sees for a model: a ViT, or a network of others (``encoders/backbone``).

    width: D of its tokens.
    """

    width: int

    @property
    def sight(self) -> dict[str, Any]:
        """What ``ModelSpec`` says of the image tokens: patch, class_tokens, layers, ..."""

    def __call__(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """Pixels (B, 3, height, width) float, normalised -> tokens (B, P, D)."""

    def intermediates(
        self, pixels: Tensor, names: Collection[str], pixel_mask: Tensor | None = None
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """The same, and the tokens after the layers ``names``."""

    def eval(self) -> Any:
        """As any module."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """As any module."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As any module."""


def check_layers(spec: ModelSpec, names: Collection[str]) -> None:
    """UserError for a layer that the image tower has not."""
    if unknown := ", ".join(sorted(set(names) - set(spec.layers))):
        raise UserError(f"no such layer of the image tower: {unknown}; there are: {', '.join(spec.layers) or 'none'}")
