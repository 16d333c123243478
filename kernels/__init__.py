"""GP kernels and NTKs of sparse networks, without training: see README.md. Float types of JAX stay as they are."""
