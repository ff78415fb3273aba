"""The mathematics of diffusion: noise levels, parameterizations, denoisers, samplers, known frames, the objective.

Pure functions over tensors: no network, no file, no label is known here.
"""
