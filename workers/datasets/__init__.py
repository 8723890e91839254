"""Dataset bytes -> tensors. Sizes are read from headers and capped before anything is allocated; nothing is ever unpickled."""

from workers.datasets.dataset import Dataset, dataset_facts
from workers.datasets.reader import read_dataset

__all__ = ["Dataset", "dataset_facts", "read_dataset"]
