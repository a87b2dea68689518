"""Images: where they come from, how they are divided, and in which order they arrive."""

from fastnas.train.data.broken import BrokenImages
from fastnas.train.data.division import class_balanced_fraction, split_halves, steps_per_epoch
from fastnas.train.data.images import ImageData, ImageSet
from fastnas.train.data.index import Halves, read_index, search_halves, write_index
from fastnas.train.data.loading import Batch, evaluation_batches, paired_batches, training_batches
from fastnas.train.data.pixels import cut_out
from fastnas.train.data.shards import write_shards
from fastnas.train.data.sharing import held_out, shared
from fastnas.train.data.sources import SOURCES, Decoder, load_data

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
    "evaluation_batches",
    "held_out",
    "load_data",
    "paired_batches",
    "read_index",
    "search_halves",
    "shared",
    "split_halves",
    "steps_per_epoch",
    "training_batches",
    "write_index",
    "write_shards",
]
