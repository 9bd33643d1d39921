"""An object at once: one network, trained by score distillation over many prompts, that answers each with a scene."""
