"""Scores: an independent judge, geometry against the truth, and the reports of whole evaluations."""
