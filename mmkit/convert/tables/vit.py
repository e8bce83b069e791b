"""Vision Transformers in timm's names: timm's own, DeiT's, and the encoder of MAE.

They differ in what stands beside the encoder (a classifier, a distillation token, a decoder), which is left behind
row by row. Sizes are read off the tensors. Left out: towers with other parts than ours (registers, layer scale, an
average of the tokens in place of [CLS]); the audit names the part.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmkit.convert.tables.table import Dropped, Entry, Row, depth_of, layer, same, stack
from mmkit.errors import UserError

TRANSFORMERS = "it is a ViT in the names of transformers: the same weights are published as timm:NAME"
BLOCK = {name: name for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}
BESIDE = {
    "head.": "the classifier of its pre-training",
    "head_dist.": "the classifier of the distillation token",
    "pre_logits.": "the layer before its classifier",
    "mask_token": "the decoder's stand-in for hidden patches",
    "decoder_": "the decoder that MAE throws away after pre-training",
}


def tower(ours: str, theirs: str, depth: int, patch: tuple[int, ...], prefix_rows: int = 1) -> list[Entry]:
    """A ViT under the prefix ``theirs`` ("" or ending in a dot). ``prefix_rows`` > 1: the ones after [CLS] are cut."""
    cut = None if prefix_rows == 1 else prefix_rows
    return [
        same(f"{ours}.cls", f"{theirs}cls_token"),
        Entry(
            f"{ours}.positions.table", (f"{theirs}pos_embed",),
            lambda x: x[0] if cut is None else x[0][[0, *range(cut, x.shape[1])]], lambda x: x[None],
        ),
        patches(f"{ours}.patch.proj.weight", f"{theirs}patch_embed.proj.weight", patch),
        same(f"{ours}.patch.proj.bias", f"{theirs}patch_embed.proj.bias"),
        *layer(f"{ours}.norm", f"{theirs}norm"),
        *stack(f"{ours}.blocks", f"{theirs}blocks", depth, BLOCK),
    ]  # fmt: skip


def patches(ours: str, theirs: str, patch: tuple[int, ...]) -> Entry:
    """The weight of a convolution over patches as our linear map of them."""
    return Entry(ours, (theirs,), lambda x: x.flatten(1), lambda x: x.reshape(-1, 3, *patch))


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a ViT of timm's kind, with nothing in front."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= state.keys()


def fits_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a ViT or DeiT in transformers, which are known and not read."""
    patches, query = "embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"
    return any({f"{prefix}{patches}", f"{prefix}{query}"} <= state.keys() for prefix in ("", "vit.", "deit."))


def table(state: Mapping[str, Tensor], ours: str = "image", *, distilled: bool = False) -> list[Row]:
    """The rows of a whole file. ``distilled`` takes a ViT with a distillation token too, without that token.

    Such a ViT then computes other numbers than it did, as its [CLS] cannot read that token any more; it is a start for
    training, and refused otherwise with a UserError.
    """
    if not fits(state):
        hint = f"; {TRANSFORMERS}" if fits_transformers(state) else ""
        raise UserError(
            f"this is not a ViT in timm's names (cls_token, pos_embed, patch_embed.proj, blocks.N...){hint}"
        )
    if "fc_norm.weight" in state:
        raise UserError("this ViT normalises the average of its tokens (fc_norm); mmkit needs the norm of each")
    rows: list[Row] = []
    prefix = 1
    if "dist_token" in state:
        if not distilled:
            raise UserError(
                "this ViT has a distillation token, which mmkit's has not: it can start a training (init), where the "
                "token is dropped, but it cannot be converted"
            )
        prefix = 2
        rows.append(Dropped("dist_token", "the distillation token, with its position"))
    patch = tuple(state["patch_embed.proj.weight"].shape[2:])
    rows += tower(ours, "", depth_of(state, "blocks."), patch, prefix)
    for key in state:
        rows += [Dropped(key, why) for start, why in BESIDE.items() if key.startswith(start)][:1]
    return rows


def table_of_ours(state: Mapping[str, Tensor], patch: tuple[int, ...], ours: str = "image") -> list[Row]:
    """The rows to write one of our towers under timm's names."""
    return list(tower(ours, "", depth_of(state, f"{ours}.blocks."), patch))
