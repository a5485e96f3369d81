"""HDF5 files to batches on the device: clips, augmentation, streams."""
