"""The checkpoint layouts that mmkit knows by name: how to tell one, build its model, and write one of ours as such."""

from __future__ import annotations

from mmkit.convert.layouts.albef import ALBEF
from mmkit.convert.layouts.family import FAMILY
from mmkit.convert.layouts.layout import Layout, State, from_file, patch_of
from mmkit.convert.tables import bert, vit
from mmkit.convert.tables.table import Row


def _bert_back(ours: State) -> list[Row]:
    mlm = "heads.mlm" if "heads.mlm.dense.weight" in ours else None
    return bert.table_of_ours(ours, text="model.text", fusion="model.fusion", mlm=mlm)


LAYOUTS = (
    *ALBEF,
    *FAMILY,
    Layout(
        name="bert", what="BERT in the names of transformers", back=_bert_back,
        fits=lambda state: bert.prefix_of(state) is not None, use='init={{"text": {path!r}}} in a config',
    ),
    Layout(
        name="vit", what="ViT in timm's names (timm, DeiT, MAE)", fits=vit.fits,
        back=lambda ours: vit.table_of_ours(ours, patch_of(ours), "model.image"),
        use='init={{"image": {path!r}}} in a config',
    ),
)  # fmt: skip


def guess(state: State) -> Layout | None:
    """The layout of a foreign state, by its keys; None for an unknown one."""
    modern = bert.modern(state)
    return next((layout for layout in LAYOUTS if layout.fits(modern)), None)


def named(name: str) -> Layout:
    """The layout of a name, or of FILE.py:NAME; UserError that lists them."""
    return next((layout for layout in LAYOUTS if layout.name == name), None) or from_file(name)
