"""One device: state rows, batch, sampling, memory. Importing this package does not import torch."""
