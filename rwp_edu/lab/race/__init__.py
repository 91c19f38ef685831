"""The race: state, view, sentence, exported code, menu of datasets."""
