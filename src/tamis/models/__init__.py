"""Tensors in, tensors out: loading, adapters, losses, the frozen trunk, generation."""
