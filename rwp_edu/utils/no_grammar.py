"""``pytest -p rwp_edu.utils.no_grammar``: its plugin nbmake, which every process of pytest imports, comes without seconds of grammar (``rwp_edu.utils.lazy_import``)."""

from contextlib import suppress

from rwp_edu.utils.lazy_import import no_grammar

with no_grammar(), suppress(ImportError):
    import jsonschema  # noqa: F401
