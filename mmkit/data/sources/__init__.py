"""Places that records come from: folders, tables, Hugging Face data sets, what mmkit draws itself, published files.

``open.py`` finds the right one for a path or name. Left out: streaming data sets without a length, and tar shards.
"""
