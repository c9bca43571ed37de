"""The reader of diamonds: exact descriptions of models from their data flow; knows no names of classes or parameters."""

from criticality.reader.read import Reading, read_network

__all__ = ["Reading", "read_network"]
