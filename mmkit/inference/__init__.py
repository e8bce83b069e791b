"""A trained model in use: the predictor, embeddings of many files, export."""
