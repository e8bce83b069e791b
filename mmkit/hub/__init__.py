"""Models as folders and on hubs: saved, loaded, described, and those of others by name."""
