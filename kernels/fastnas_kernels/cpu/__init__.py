"""The kernels of a cell for the CPU: C++ that the system's compiler turns into machine code at first use."""
