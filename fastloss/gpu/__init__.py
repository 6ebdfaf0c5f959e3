"""CuPy backend: sweeps as CUDA C++ (``*.cu``), joined with a loss's own text and launched on the caller's stream."""
