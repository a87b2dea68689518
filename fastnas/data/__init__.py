"""Images: where they come from, how they are divided, and in which order they arrive."""

from fastnas.data.broken import BrokenImages
from fastnas.data.division import class_balanced_fraction, split_halves, steps_per_epoch
from fastnas.data.images import ImageData, ImageSet
from fastnas.data.index import Halves, divide, read_index, write_index
from fastnas.data.loading import Batch, evaluation_batches, paired_batches, training_batches
from fastnas.data.pixels import cut_out
from fastnas.data.shards import write_shards
from fastnas.data.sharing import held_out, shared
from fastnas.data.sources import SOURCES, Decoder, load_data

__all__ = [
    "SOURCES",
    "Batch",
    "BrokenImages",
    "Decoder",
    "Halves",
    "ImageData",
    "ImageSet",
    "class_balanced_fraction",
    "cut_out",
    "divide",
    "evaluation_batches",
    "held_out",
    "load_data",
    "paired_batches",
    "read_index",
    "shared",
    "split_halves",
    "steps_per_epoch",
    "training_batches",
    "write_index",
    "write_shards",
]
