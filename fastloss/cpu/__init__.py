"""The NumPy backend: Numba kernels on explicit SIMD vectors, a thread pool, a kernel cache."""
