"""Rows of all ranks together: under its old name, see ``mmkit.ranks``."""

from mmkit.ranks import gather, gather_with_grad, rank, sum_over_ranks, world_size

__all__ = ["gather", "gather_with_grad", "rank", "sum_over_ranks", "world_size"]
