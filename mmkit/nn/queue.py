"""A ring of the last features of the teacher, more negatives than a batch holds (MoCo, He et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The newest ``size`` rows of several columns that are pushed together; any number of rows at a time.

    ``columns`` gives each column's width, 0 for one integer a row. Only what was pushed is read: an empty queue has
    no rows. The counter lives on the host, so that reading and writing need no device synchronisation.
    """

    def __init__(self, size: int, columns: Mapping[str, int]) -> None:
        super().__init__()
        self.size = size
        self.pushed = 0
        self.columns = tuple(columns)
        for name, width in columns.items():
            shape, dtype = ((size, width), torch.float32) if width else ((size,), torch.int64)
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def __len__(self) -> int:
        return min(self.pushed, self.size)

    def __getitem__(self, name: str) -> Tensor:
        """The rows of a column that hold something, in storage order: the same order for every column."""
        return self.get_buffer(name)[: len(self)]

    @torch.no_grad()
    def push(self, rows: Mapping[str, Tensor]) -> None:
        """Writes rows behind the newest, over the oldest; of more rows than fit, the last remain."""
        if not self.size:
            return
        count = len(rows[self.columns[0]])
        kept = min(count, self.size)
        start = (self.pushed + count - kept) % self.size
        head = min(kept, self.size - start)
        for name in self.columns:
            buffer, new = self.get_buffer(name), rows[name][count - kept :]
            buffer[start : start + head] = new[:head]
            buffer[: kept - head] = new[head:]
        self.pushed += count

    def get_extra_state(self) -> Tensor:
        """The counter, for the checkpoint."""
        return torch.tensor(self.pushed)

    def set_extra_state(self, state: Tensor) -> None:
        """The counter, from the checkpoint."""
        self.pushed = int(state)
