"""What is optimised: the density and colour of the object, and the background behind it."""
