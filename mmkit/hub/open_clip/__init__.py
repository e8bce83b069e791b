"""open_clip's models by name or from local files, and what their configs may say."""
