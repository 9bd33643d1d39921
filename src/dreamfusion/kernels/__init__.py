"""Warp kernels of the scene, each with a PyTorch twin that tests compare it with."""
