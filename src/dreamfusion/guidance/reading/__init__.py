"""Reading models from folders, single files and the hub, and making them ready; what goes wrong becomes one line."""
