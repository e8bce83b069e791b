"""Objectives, one a file: modules from the views of a batch to a loss."""
