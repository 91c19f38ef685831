"""A plotly figure as a widget that shares plotly.js with all others.

A ``FigureWidget`` brings its own copy of plotly.js, 5 MB that are sent, parsed and kept for every picture, and again when the page is
loaded again. Here one widget holds it, packed to 1.5 MB, and a page unpacks and starts it once.
"""

from __future__ import annotations

import gzip
from functools import cache

import ipywidgets as w
import traitlets as t

from rwp_edu.later import no_grammar

with no_grammar():
    import plotly.basewidget  # noqa: F401
    import plotly.graph_objects as go

# Loading takes seconds on a slow machine and anywidget gives a model two, so nothing here is waited for. A picture is drawn when
# its place has a width: plotly draws NaN into one that is not on the page yet, and a page shows a place only after ``render``.
LOADER = """
const started = (globalThis.rwpEduPlotly ??= new Map());

async function start(model, id) {
  const packed = (await model.widget_manager.get_model(id)).get("packed");
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = new Blob([await new Response(unpacked).blob()], { type: "text/javascript" });
  const url = URL.createObjectURL(code);
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function load(model) {
  const id = model.get("plotly_id");
  if (!started.has(id)) {
    started.set(id, start(model, id));
    started.get(id).catch(() => started.delete(id));
  }
  const made = await started.get(id);
  return typeof made === "function" ? await made() : made;
}

const DELTAS = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate", "removeLayoutProps",
  "removeTraceProps"].map((name) => `_py2js_${name}`);

// plotly's widget, told first of the changes that came before it listened (a new whole picture makes those before it void). Without
// its picture it would go on listening, fail, and leave those after it untold.
async function figure(model) {
  const missed = [], heard = [], told = {};
  const early = [["change:_widget_data", () => (missed.length = 0)],
    ...DELTAS.map((name) => [`change:${name}`, () => missed.push([name, model.get(name)])])];
  early.forEach(([event, callback]) => model.on(event, callback));
  const widget = await load(model);
  early.forEach(([event, callback]) => model.off(event, callback));
  widget.initialize({
    model: {
      get: (name) => (name in told ? told[name] : model.get(name)),
      set: (name, value) => model.set(name, value),
      save_changes: () => model.save_changes(),
      on: (event, callback) => heard.push([event, callback]) && model.on(event, callback),
    },
  });
  for (const [name, value] of missed) {
    told[name] = value;
    heard.filter(([event]) => event === `change:${name}`).forEach(([, callback]) => callback());
    delete told[name];
  }
  return (context) => {
    const before = heard.length, purge = widget.render(context), own = heard.splice(before);
    return () => {
      own.forEach(([event, callback]) => model.off(event, callback));
      purge();
    };
  };
}

export default () => {
  let made;
  return {
    initialize({ model }) {
      made = figure(model);
      made.catch(console.error);
    },
    render(context) {
      let gone = false, remove;
      (async () => {
        const show = await made;
        while (!gone && !context.el.clientWidth) await new Promise(requestAnimationFrame);
        if (!gone) remove = show(context);
      })().catch((error) => (context.el.textContent = `This picture cannot be drawn: ${error}`));
      return () => {
        gone = true;
        remove?.();
      };
    },
  };
};
"""


class Plotly(w.Widget):
    """plotly.js and plotly's widget, packed by gzip."""

    packed = t.Bytes().tag(sync=True)


@cache
def packed() -> bytes:
    return gzip.compress(str(go.FigureWidget._esm).encode(), 6)


_shared: Plotly | None = None


def _plotly() -> Plotly:
    """The one of this kernel; another if somebody has closed it."""
    global _shared
    if _shared is None or _shared.comm is None:
        _shared = Plotly(packed=packed())
    return _shared


NOW = {"_widget_data": "_data", "_widget_layout": "_layout"}


class Plot(go.FigureWidget):
    """A ``FigureWidget`` in all but what is sent to the page."""

    _esm = LOADER

    def __init__(self, *args, **kwargs):
        self.add_traits(plotly_id=t.Unicode(_plotly().model_id).tag(sync=True))
        super().__init__(*args, **kwargs)

    def get_state(self, *args, **kwargs):
        """The picture as it is now, for a page that is loaded again; plotly gives the one that the widget was made with."""
        state = super().get_state(*args, **kwargs)
        for name, now in NOW.items():
            if name in state and hasattr(self, now):
                state[name] = self.trait_metadata(name, "to_json")(getattr(self, now), self)
        return state
