"""What the user gets: pictures, video and meshes of a finished scene."""
