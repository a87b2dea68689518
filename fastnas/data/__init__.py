"""Images: where they come from, how they are divided, and in which order they arrive."""

from fastnas.data.arrays import from_arrays, from_dataset
from fastnas.data.balance import class_weights
from fastnas.data.broken import BrokenImages
from fastnas.data.config import Augment, Colour, DataConfig, Decoder
from fastnas.data.contents import digest_data
from fastnas.data.division import (
    Halves,
    class_balanced_fraction,
    divide,
    read_index,
    split_halves,
    steps_per_epoch,
    write_index,
)
from fastnas.data.images import ImageData, ImageSet, hold_out, share_memory
from fastnas.data.loader_data import from_loaders
from fastnas.data.loaders import Batch
from fastnas.data.loading import evaluation_batches, paired_batches, training_batches
from fastnas.data.pixels import cut_out
from fastnas.data.prepare import DataWarning, Defaults, prepare, set_augment
from fastnas.data.shards import write_shards
from fastnas.data.sources import as_data, list_sources, load_data, placeholder_data, register_source

__all__ = [
    "Augment",
    "Batch",
    "BrokenImages",
    "Colour",
    "DataConfig",
    "DataWarning",
    "Decoder",
    "Defaults",
    "Halves",
    "ImageData",
    "ImageSet",
    "as_data",
    "class_balanced_fraction",
    "class_weights",
    "cut_out",
    "digest_data",
    "divide",
    "evaluation_batches",
    "from_arrays",
    "from_dataset",
    "from_loaders",
    "hold_out",
    "list_sources",
    "load_data",
    "paired_batches",
    "placeholder_data",
    "prepare",
    "read_index",
    "register_source",
    "set_augment",
    "share_memory",
    "split_halves",
    "steps_per_epoch",
    "training_batches",
    "write_index",
    "write_shards",
]
