"""What several tests build on: tiny models, worlds, solids and readers of files."""
