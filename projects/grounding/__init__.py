"""What words ask for, found in pictures: Grounding DINO and GLIP on the shared towers."""

LOADABLE = {
    "model": ("model:towers", "model:towers_mini"),
    "head": ("glip:GLIP", "head:GroundingDINO"),
    "experiment": ("targets:Asking", "telling:Telling", "referring:Referring"),
}
"""What a saved model, or the config of a run, may name of this project; see ``mmkit/config/allowed.py``."""
