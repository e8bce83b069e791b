"""Imported last before processes fork: what is there by then need never be looked through for garbage."""

import gc

gc.collect()
gc.freeze()
