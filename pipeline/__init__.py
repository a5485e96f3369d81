"""Train on one HDF5 file and say what normalization did to the model.

Data flow: `data` (HDF5 -> batches) -> `models` with a norm out of `norms` -> `train` -> run folder -> `doctor`, `page`.
Tensor names carry their shape: N clips, M bodies (2), T frames, V joints, C channels, K classes, B = N*M rows.
"""
