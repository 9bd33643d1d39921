"""Runs from start to finish, and what they leave."""
