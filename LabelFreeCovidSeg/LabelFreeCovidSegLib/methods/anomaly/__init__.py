"""Baselines that the methods are compared with; not offered for segmenting."""
