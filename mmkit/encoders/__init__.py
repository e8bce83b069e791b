"""What reads pictures and words: the ViT, and the two halves of a BERT."""
