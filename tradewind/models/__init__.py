"""One file per architecture family, and the checkpoint reader."""
