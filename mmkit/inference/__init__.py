"""A trained model in use: the predictor, embeddings of many files, export."""

EMBEDDED_AS = (".parquet", ".safetensors")
"""The endings of files of embeddings."""
