"""The layers that everything is built from."""
