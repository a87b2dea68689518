"""What the device can do at best, measured in the same run as everything else."""

from typing import Any

import torch

from measuring.cells import Scale
from measuring.device import Device, medians
from measuring.writing import Section


def copy_rate(device: Device, scale: Scale, runs: int) -> float:
    """Bytes a second that a copy of a tensor much larger than every cache reads and writes."""
    source = torch.ones((2**28 if scale == "full" else 2**16), device=device.torch_device)  # 1 GiB
    target = torch.empty_like(source)
    seconds = medians(device, {"copy": lambda: target.copy_(source)}, runs)["copy"]
    return 2 * source.numel() * source.itemsize / seconds


def matmul_rates(device: Device, scale: Scale, runs: int) -> dict[str, float]:
    """Floating-point operations a second of a large product of matrices."""
    side = 8192 if scale == "full" else 64
    precision = torch.backends.cuda.matmul.fp32_precision
    rates = {}
    try:
        for name, dtype, kept in (
            ("float32", torch.float32, "ieee"),
            ("tf32", torch.float32, "tf32"),
            ("bfloat16", torch.bfloat16, precision),
        ):
            torch.backends.cuda.matmul.fp32_precision = kept
            a = torch.ones(side, side, dtype=dtype, device=device.torch_device).normal_()
            rates[name] = 2 * side**3 / medians(device, {name: lambda a=a: a @ a}, runs)[name]
    finally:
        torch.backends.cuda.matmul.fp32_precision = precision
    return rates


def measure(device: Device, scale: Scale, runs: int) -> Section:
    """The ceilings as a table."""
    copied, products = copy_rate(device, scale, runs), matmul_rates(device, scale, runs)
    records: list[dict[str, Any]] = [{"ceiling": "copy", "bytes a second": copied}]
    records += [{"ceiling": f"matmul {name}", "operations a second": rate} for name, rate in products.items()]
    rows = [["copy, read and written", f"{copied / 1e9:.1f} GB/s"]]
    rows += [[f"matrix product, {name}", f"{rate / 1e12:.2f} TFLOP/s"] for name, rate in products.items()]
    return Section("What can this device do at best?", ("what", "rate"), rows, (), records)
