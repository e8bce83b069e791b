"""Masked image modelling: MAE, SimMIM and BEiT, alone on pictures without words, or beside ALBEF's objectives."""

LOADABLE = {
    "model": (
        "model:sight",
        "model:sight_base",
        "model:sight_mini",
        "model:sight_large",
        "model:sight_huge",
        "relative:relative_sight",
    ),
    "head": ("mae:MAE", "simmim:SimMIM", "beit:BEiT"),
}
