"""The named sizes of the models, from what the data decide."""
