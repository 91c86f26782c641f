"""Decide what runs, and when: DVC's graph as Prefect tasks.

DVC owns what a stage is and whether it must run; Prefect owns when and where it runs, and what a person sees of it.
Whatever a flow does, plain `dvc repro` agrees with the result.
"""
