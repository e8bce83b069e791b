"""Clips: opening what holds frames, choosing which are seen, and one view for all of them."""
