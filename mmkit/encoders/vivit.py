"""The four ways in which a transformer reads a clip (ViViT, Arnab et al. 2021, https://arxiv.org/abs/2103.15691).

Model 1, all tokens at once, is the shared ``ViT`` over tubelets. Here are model 2, a ViT for each time and a small
transformer over times; model 3, blocks that attend over time and then over space; model 4, blocks half of whose heads
do either. Models 3 and 4 have no class token, as in the released code. Left out: position tables of the released
checkpoints (theirs are as long as ours, and resize).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.nn.block import PreNormBlock, run
from mmkit.nn.init import initialise
from mmkit.nn.patch import Inflation
from mmkit.nn.positions import GridPositions
from mmkit.nn.time import FactorisedBlock, Order, SplitBlock
from mmkit.types import Tokens, grid_of


class SpaceTimeViT(ViT):
    """Model 1: the shared ViT over tubelets, in which every token reads all.

    image_size: (frames, height, width), patch the same along a tubelet. inflation: how its patches begin where it
    starts from a model of pictures, see ``nn.patch.inflated``. The rest as in ``ViT``.
    """

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, inflation: Inflation = "central", **rest: Any
    ) -> None:
        if len(image_size) != 3 or len(patch) != 3:
            raise UserError(f"a clip has three axes (frames, height, width), not {tuple(image_size)} by {tuple(patch)}")
        super().__init__(image_size, patch, inflation=inflation, **rest)


class _Factorised(SpaceTimeViT):
    """Blocks that are told how many times there are."""

    @property
    def sight(self) -> dict[str, Any]:
        """As of a ViT, but that no patch can be left out: times and places are a whole grid."""
        return {**super().sight, "hides": ("replace",)}

    def from_pictures(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a picture's ViT without its class token, which no clip has here, and the position of that."""
        found = {name: value for name, value in state.items() if name != "cls"}
        if "cls" in state and "positions.table" in state:
            found["positions.table"] = state["positions.table"][1:]
        return found

    def _beside(self, pixels: Tensor) -> tuple[Any, ...]:
        return (pixels.shape[2] // self.patch.patch[0],)


class FactorisedAttention(_Factorised):
    """Model 3: in each block attention over time, then over space, then one MLP.

    zero_time: attention over time adds nothing at the start, so that with inflation="filling" a clip that stands still
    gives the tokens of the picture's model. order: see ``FactorisedBlock``.
    """

    fresh_from_pictures = ("time_norm", "time_attn")

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, zero_time: bool = True, order: Order = "time first",
        **rest: Any,
    ) -> None:  # fmt: skip
        self.block = partial(FactorisedBlock, order=order)  # type: ignore[assignment]
        super().__init__(image_size, patch, class_token=False, **rest)
        if zero_time:
            for block in self.blocks:
                for parameter in block.get_submodule("time_attn.proj").parameters():
                    nn.init.zeros_(parameter)


class FactorisedDotProduct(_Factorised):
    """Model 4: the parameters of model 1; half of the heads attend over time, the others over space."""

    block = SplitBlock

    def __init__(self, image_size: Sequence[int], patch: Sequence[int], **rest: Any) -> None:
        super().__init__(image_size, patch, class_token=False, **rest)


class TimeEncoder(nn.Module):
    """Pre-norm blocks over one vector a time, with a class token and learned positions of its own, and a last norm.

    depth 0: no transformer; the class token is the mean of the vectors.
    """

    def __init__(
        self, times: int, width: int, *, depth: int, heads: int, mlp_width: int, dropout: float, activation: str,
        eps: float, checkpointing: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.checkpointing = checkpointing
        if depth:
            self.cls = nn.Parameter(torch.empty(1, 1, width))
            self.positions = GridPositions((times,), width)
            nn.init.trunc_normal_(self.cls, std=0.02)
        self.blocks = nn.ModuleList(
            PreNormBlock(width, heads, mlp_width, dropout=dropout, activation=activation, eps=eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps) if depth else nn.Identity()
        initialise(self, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, 1 + T, D), the class token first."""
        if not len(self.blocks):
            return torch.cat([x_BTD.mean(1, keepdim=True), x_BTD], 1)
        x_BND = torch.cat([self.cls.expand(len(x_BTD), -1, -1).to(x_BTD.dtype), x_BTD], 1)
        x_BND = x_BND + self.positions(x_BTD.shape[1:2])
        for block in self.blocks:
            x_BND = run(block, x_BND, again=self.checkpointing and self.training)
        return self.norm(x_BND)


class FactorisedEncoder(nn.Module):
    """Model 2: the shared ViT on each time of a clip by itself, then a transformer over their class tokens.

    Its tokens are the class token of the second, which stands for the clip, and one for each time; they are no patches.
    image_size: (frames, height, width); patch: of a tubelet. depth, width, heads and the rest: of the ViT; time_depth:
    of the second, of the same width; 0 takes the mean of the times, the baseline that reads no order.
    """

    max_patches: int | None = None
    fresh_from_pictures = ("time.",)

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, depth: int, width: int, heads: int,
        mlp_width: int | None = None, time_depth: int = 4, dropout: float = 0.0, drop_path: float = 0.0,
        activation: str = "gelu", eps: float = 1e-6, inflation: Inflation = "central", checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        times, *_ = grid_of(image_size, patch)
        self.width, self.tubelet = width, patch[0]
        self.space = SpaceTimeViT(
            (patch[0], *image_size[1:]), patch, depth=depth, width=width, heads=heads, mlp_width=mlp_width,
            dropout=dropout, drop_path=drop_path, activation=activation, eps=eps, inflation=inflation,
            checkpointing=checkpointing,
        )  # fmt: skip
        self.time = TimeEncoder(
            times, width, depth=time_depth, heads=heads, mlp_width=mlp_width or 4 * width, dropout=dropout,
            activation=activation, eps=eps, checkpointing=checkpointing,
        )  # fmt: skip

    @property
    def sight(self) -> dict[str, Any]:
        """What a ``ModelSpec`` says of its tokens: they are no patches, which can neither be looked at nor hidden."""
        return {"patch": (), "class_tokens": 1, "layers": (), "hides": ()}

    def forward(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, channels, T, height, width) float -> class token and times: (B, 1 + T / tubelet, D)."""
        times = grid_of(pixels.shape[2:], self.space.patch.patch)[0]
        apart = pixels.unflatten(2, (times, -1)).transpose(1, 2).flatten(0, 1)
        first_ND = self.space(apart, pixel_mask).x[:, 0]
        return Tokens(self.time(first_ND.unflatten(0, (-1, times))))

    def intermediates(
        self, pixels: Tensor, names: Collection[str], pixel_mask: Tensor | None = None
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """The output; UserError where any layer is named."""
        if names:
            raise UserError(f"no such layer: {', '.join(sorted(names))}; this encoder has none that can be looked at")
        return self(pixels, pixel_mask), {}

    def from_pictures(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The names of a picture's ViT as those of the ViT here; what is of this encoder already stays."""
        own = ("space.", "time.")
        return {name if name.startswith(own) else f"space.{name}": value for name, value in state.items()}
