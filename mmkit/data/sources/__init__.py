"""Places that records come from: folders, tar shards, tables, Hugging Face's, what mmkit draws, published files.

``open.py`` finds the right one for a path or name. Left out: streaming data sets without a length.
"""
