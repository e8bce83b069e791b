"""True or false of two pictures (NLVR2)."""

LOADABLE = {
    "model": ("model:pair_albef", "model:pair_base", "model:pair_mini"),
    "head": ("head:PairClassify", "head:TextAssignment"),
    "head argument": ("head:assign",),
    "experiment": ("data:NLVR2", "data:PairTargets"),
}
"""What a saved model, or the config of a run, may name of this project; see ``mmkit/config/allowed.py``."""
