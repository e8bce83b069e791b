"""Why a model says what it says: heat maps over the picture, for each word and for the sentence. See ``explain.py``."""
