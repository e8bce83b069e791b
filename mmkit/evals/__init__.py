"""What yields numbers: evaluators that take a ``Predictor`` and run on any number of processes with equal results."""
