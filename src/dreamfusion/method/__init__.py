"""The algorithm: cameras, lights, losses, and the loop that ties them together (`optimize.py`)."""
