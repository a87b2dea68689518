"""Tools that check Triton kernels on a machine without a GPU: for whoever writes a kernel, not for whoever calls one.

``interpreter`` repairs bfloat16 in Triton's interpreter, ``meter`` watches what a kernel reads and writes there,
``offsets`` looks for indices that outgrow 32 bits, ``assembly`` reads what the compiler made of a kernel for a GPU
that need not be present, and ``gate`` compares that with a budget.
"""
