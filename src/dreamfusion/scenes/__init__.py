"""What is optimised: a volume, or a mesh."""
