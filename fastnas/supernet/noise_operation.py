"""The primitive ``noise`` of the space S4: a branch that has nothing to do with the image."""

from torch import Tensor, nn

from fastnas_kernels.random_numbers import normal_noise

_STREAMS = 1_000_003  # seeds of modules that draw for the same evaluation lie this far apart


class Noise(nn.Module):
    """Standard normal numbers of the shape that its input has after striding (Zela et al., 2020, arXiv:1909.09656).

    A network with noise stays a pure function: the numbers are decided by the seed that it is called with and by
    ``position``, which :func:`number_noise` sets to the module's place in its network. Nothing is drawn from a
    generator and nothing is kept. They carry no gradient.

    Args:
        stride: 2 where the edge halves the resolution, otherwise 1.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.position, self.seed = stride, 0, 0

    def draw_from(self, seed: int) -> None:
        """Draw from ``seed`` where it is called with the input alone."""
        self.seed = seed

    def forward(self, x: Tensor, seed: int | None = None) -> Tensor:
        seed = self.seed if seed is None else seed
        shape = (*x.shape[:2], *(-(-size // self.stride) for size in x.shape[2:]))
        return normal_noise(shape, seed + _STREAMS * self.position, x.device, x.dtype)


def number_noise(network: nn.Module) -> None:
    """Give every :class:`Noise` of ``network`` a stream of its own."""
    for position, module in enumerate(m for m in network.modules() if isinstance(m, Noise)):
        module.position = position


def call(operation: nn.Module, x: Tensor, seed: int) -> Tensor:
    """The output of a candidate at ``x``; noise draws from ``seed``."""
    return operation(x, seed) if isinstance(operation, Noise) else operation(x)
