"""Stable Diffusion as Étude uses it: load a base, encode, add noise, predict, sample; hooks that undo themselves."""
