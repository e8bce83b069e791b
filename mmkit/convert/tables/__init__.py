"""Tables of names, one for each family of published checkpoints, and what reads them in both directions."""
