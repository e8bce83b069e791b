"""Fast tokenizers of Hugging Face behind mmkit's protocol."""
