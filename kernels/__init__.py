"""Kernels of sparse finite-width networks: closed forms, exact Theorem 1, approximations, finite networks.

Public functions take and return numpy arrays; the arithmetic inside is float64 JAX, entered by `kernels`
itself in a scope (`kernels.precision`), so that importing or calling anything here leaves training untouched.
Kernels of finite networks (`kernels.empirical`) are float32 JAX arrays, as the networks are.
Only `kernels.tangents` imports neural-tangents, and only when it is called.
"""
