"""Tools without machine learning: files, processors, lazy imports, incremental work, trees of tensors."""
