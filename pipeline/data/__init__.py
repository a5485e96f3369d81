"""HDF5 files to batches on the device: clips, their order, augmentation, streams, prefetch."""

BODIES = 2
"""Body slots M of a clip."""

Bones = tuple[tuple[int, int], ...]
"""(parent, child) of each bone, as the data file has them."""
