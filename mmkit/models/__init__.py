"""Models, one a file: built from encoders, and what inference needs."""
