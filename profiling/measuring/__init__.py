"""What the scripts beside this folder share: devices, cells, checks, tables."""
