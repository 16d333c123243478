"""Native ops in C++ that XLA calls on a CPU, compiled on first use.

In: nothing but a C++ compiler. Out: whether they are available, and the targets of `jax.ffi.ffi_call`.
"""
