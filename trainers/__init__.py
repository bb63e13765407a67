"""The nnU-Net trainers for dose prediction."""
