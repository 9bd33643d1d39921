"""Pictures and films of finished runs."""
