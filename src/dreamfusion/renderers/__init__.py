"""From a field and rays to images, skipping space that the occupancy grid knows to be empty."""
