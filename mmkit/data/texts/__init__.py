"""Texts on their way to a model: tokenizers, masking, answers."""
