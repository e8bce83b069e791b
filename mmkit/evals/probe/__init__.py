"""What frozen features tell: nearest neighbours, linear heads, an attentive head."""
