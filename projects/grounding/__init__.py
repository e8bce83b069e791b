"""What words ask for, found in pictures: Grounding DINO on the shared towers."""

LOADABLE = {
    "model": ("model:towers", "model:towers_mini"),
    "head": ("head:GroundingDINO",),
}
"""What a saved model, or the config of a run, may name of this project; see ``mmkit/config/allowed.py``."""
