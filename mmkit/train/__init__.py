"""What only a run needs: the loop, the optimizer and its schedule, checkpoints, logs."""
