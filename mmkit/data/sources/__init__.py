"""More places that records come from than JSON lines: folders, tables, and any Hugging Face data set.

Left out: streaming data sets without a length, and tar shards.
"""

from mmkit.data.sources.class_folder import ClassFolder, is_class_folder
from mmkit.data.sources.class_table import ClassTable
from mmkit.data.sources.folder import Folder, pictures_in
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.sources.table import Table
from mmkit.data.sources.walk import SUFFIXES

__all__ = ["SUFFIXES", "ClassFolder", "ClassTable", "Folder", "HuggingFace", "Table", "is_class_folder", "pictures_in"]
