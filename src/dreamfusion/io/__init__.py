"""Whole files and checkpoints."""
