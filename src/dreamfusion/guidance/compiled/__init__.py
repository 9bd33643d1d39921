"""Priors whose networks ONNX Runtime runs: compiling them, and running what was compiled."""
