"""Raw recordings in, one self-describing HDF5 file out: sources -> skeleton -> stages -> hdf5 + manifest."""
