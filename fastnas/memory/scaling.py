"""How much faster a search becomes with more GPUs: a formula over pieces that are measured or stated.

With ``N`` processes on ``N`` GPUs and a batch of ``B`` images for all of them together, a step takes ``T(N)``:

    ``T(N) = max(compute(N) + exchange(N), loading(N))``,
    ``compute(N) = fixed + per_image * B / N``,
    ``exchange(N) = 2 (N - 1) / N * bytes / bandwidth + 2 (N - 1) * messages * latency``  (0 for one process),
    ``loading(N) = images / (N * cores * images_per_core)``.

Twice ``(N - 1) / N`` of the bytes go through every link of a ring, in ``2 (N - 1)`` turns (Patarasuk and Yuan, 2009,
"Bandwidth optimal all-reduce algorithms"), of which the slowest link decides the time; nothing of the exchange is
hidden behind computation, since all gradients leave the graph at once. The bytes are those of the weights once a
weight step, and of alpha, a few hundred numbers, once an alpha step; an alpha step of second order sends numbers as
many as the weights as often as :func:`count_weight_transfers` says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastnas.bilevel.hypergradient import Hypergradient
from fastnas_kernels.check import invalid

WHERE = "scaling"


@dataclass(frozen=True)
class Pieces:
    """What a step is made of.

    Args:
        fixed: Seconds of a step that do not depend on the number of images.
        per_image: Seconds of a step for each image of its batch.
        num_bytes: That a step sends to be added up.
        messages: In how many transfers.
        images: That are read for a step, of both halves.
        bandwidth: Of the slowest link in a ring, bytes a second.
        latency: Of a message, seconds.
        cores: For loading, beside each process.
        images_per_core: That one core decodes in a second; ``None`` if loading is no limit.
    """

    fixed: float
    per_image: float
    num_bytes: int
    messages: int
    images: int
    bandwidth: float
    latency: float = 2e-5
    cores: int = 8
    images_per_core: float | None = None

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise invalid(WHERE, "bandwidth must be positive", self.bandwidth)
        if not self.fixed >= 0 or not self.per_image > 0:
            raise invalid(WHERE, "seconds must be positive", (self.fixed, self.per_image))
        loads = self.images_per_core is None or (self.images_per_core > 0 and self.cores > 0)
        if not loads:
            rule = "images_per_core and cores must be positive"
            raise invalid(WHERE, rule, (self.images_per_core, self.cores))


@dataclass(frozen=True)
class Scaling:
    """A step in several processes.

    Args:
        processes: How many.
        compute: Seconds of the slowest process.
        exchange: Seconds until all gradients are added up.
        loading: Seconds until the next batch is read.
        speedup: Against one process.
    """

    processes: int
    compute: float
    exchange: float
    loading: float
    speedup: float

    @property
    def seconds(self) -> float:
        return max(self.compute + self.exchange, self.loading)

    @property
    def efficiency(self) -> float:
        """Speed-up for each process."""
        return self.speedup / self.processes

    @property
    def limit(self) -> str:
        """What takes most of the step."""
        if self.loading > self.compute + self.exchange:
            return "loading"
        return "compute" if self.compute >= self.exchange else "exchange"


def scale(pieces: Pieces, batch_size: int, counts: Sequence[int]) -> Iterator[Scaling]:
    """A step in ``counts`` processes, whose batch has ``batch_size`` images together."""
    alone = _step(pieces, batch_size, 1)
    for count in counts:
        if batch_size % count != 0:
            rule = f"batch_size must be a multiple of the {count} processes"
            raise invalid(WHERE, rule, batch_size)
        compute, exchange, loading = _step(pieces, batch_size, count)
        speedup = max(alone[0] + alone[1], alone[2]) / max(compute + exchange, loading)
        yield Scaling(count, compute, exchange, loading, speedup)


def _step(pieces: Pieces, batch_size: int, count: int) -> tuple[float, float, float]:
    compute = pieces.fixed + pieces.per_image * batch_size / count
    turns = 2 * (count - 1)
    exchange = turns / count * pieces.num_bytes / pieces.bandwidth + turns * pieces.messages * pieces.latency
    loading = 0.0
    if pieces.images_per_core is not None:
        loading = pieces.images / (count * pieces.cores * pieces.images_per_core)
    return compute, exchange, loading


def count_weight_transfers(hypergradient: Hypergradient) -> int:
    """How often a step of alpha sends as many numbers as there are weights.

    An unrolled step sends the inner gradient, and the outer one for the weights after the step, along which the inner
    gradient for alpha is differentiated; of more steps, each sends its own and its product with the Hessian.
    """
    return getattr(hypergradient, "weight_transfers", 0)


def list_counts(gpus: int, nodes: int, batch_size: int) -> list[int]:
    """Powers of two, and the whole machine, that divide the batch."""
    if gpus < 1 or nodes < 1:
        raise invalid(WHERE, "gpus and nodes must be positive", (gpus, nodes))
    whole = gpus * nodes
    if batch_size % whole != 0:
        rule = f"batch_size must be a multiple of the {whole} processes"
        raise invalid(WHERE, rule, batch_size, "Change --batch-size, --gpus or --nodes.")
    smaller = [2**i for i in range(whole.bit_length()) if 2**i < whole and batch_size % 2**i == 0]
    return [*smaller, whole]
