"""Many runs: plans of prompts, seeds and settings, the engines that run them, and the choice among what comes out."""
