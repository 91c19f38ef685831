"""Records drawn as plotly figures and HTML pages, without widgets."""
