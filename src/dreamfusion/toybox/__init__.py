"""A procedural world of toys whose geometry is known, and the small prior that is trained on it."""
