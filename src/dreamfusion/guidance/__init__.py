"""What judges the renderings: frozen diffusion priors behind one contract (`dreamfusion.guidance.base`)."""
