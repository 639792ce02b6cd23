"""Models: loaded and saved, made from scratch, and fitted with fused kernels."""
