"""Stable Diffusion: adding noise, prediction, sampling, and changes to a base that are undone on exit."""
