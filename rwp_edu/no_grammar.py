"""``pytest -p rwp_edu.no_grammar``: its plugin nbmake, which every process of pytest imports, comes without seconds of grammar (``rwp_edu.later``)."""

from contextlib import suppress

from rwp_edu.later import no_grammar

with no_grammar(), suppress(ImportError):
    import jsonschema  # noqa: F401
