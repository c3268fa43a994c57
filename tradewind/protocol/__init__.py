"""What the host column and the device column share: frozen plain data, ids and hashes. No torch."""
