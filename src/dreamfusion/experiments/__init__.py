"""Experiments that anyone can run, ``dreamfusion experiment NAME``: claims of the paper, measured."""
