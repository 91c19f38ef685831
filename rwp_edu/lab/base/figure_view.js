// A plotly figure that follows numbered frames from the kernel. A frame carries what has changed; the newest one is drawn in an
// animation frame, and its number goes back. All figures of a page share one copy of plotly.js.

const CONFIG = { displayModeBar: false, doubleClick: "reset" };
const TYPES = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
const loaded = (globalThis.rwpEduPlotly ??= new Map());

async function start(model, id) {
  const packed = (await model.widget_manager.get_model(id)).get("packed");
  const source = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const parts = ["const module = { exports: {} }, exports = module.exports; let define;\n", source, "\nexport default module.exports;"];
  const url = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

function load(model) {
  const id = model.get("plotly_id");
  if (!loaded.has(id)) {
    loaded.set(id, start(model, id));
    loaded.get(id).catch(() => loaded.delete(id));
  }
  return loaded.get(id);
}

function unpack(value, buffers) {
  if (Array.isArray(value)) return value.map((item) => unpack(item, buffers));
  if (value === null || typeof value !== "object") return value;
  if ("buffer" in value && "dtype" in value) {
    const { buffer, byteOffset, byteLength } = buffers[value.buffer];
    const flat = new TYPES[value.dtype](buffer.slice(byteOffset, byteOffset + byteLength));
    const [rows, columns] = value.shape;
    return columns === undefined ? flat : Array.from({ length: rows }, (_, row) => flat.subarray(row * columns, (row + 1) * columns));
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpack(item, buffers)]));
}

function changed(before, changes) {
  return Object.fromEntries(Object.entries({ ...before, ...changes }).filter(([, value]) => value !== null));
}

function follow(figure, frame) {
  if (frame.whole) Object.assign(figure, { data: [], layout: {} });
  else if (frame.after !== figure.number) return false;
  const data = figure.data.slice(0, frame.count);
  for (const [index, changes] of Object.entries(frame.data)) data[index] = changed(data[index], changes);
  Object.assign(figure, { number: frame.number, data, layout: changed(figure.layout, frame.layout) });
  return true;
}

function listen(node, model) {
  for (const kind of ["click", "hover"]) {
    node.on(`plotly_${kind}`, ({ points: [point] }) =>
      model.send({ type: kind, trace: point.data.name ?? "", x: point.x ?? null, y: point.y ?? null }));
  }
  node.on("plotly_relayout", (changes) => {
    const ranges = Object.entries(changes).filter(([key, value]) => key.includes("range") && typeof value !== "object");
    if (ranges.length) model.send({ type: "zoom", ranges: Object.fromEntries(ranges) });
  });
}

function view(model, figure, plotly, node) {
  let drawn = 0, drawing = false, gone = false;
  async function draw() {
    if (drawing) return;
    drawing = true;
    try {
      while (!gone && node.clientWidth && drawn !== figure.number) {
        await new Promise(requestAnimationFrame);
        const number = figure.number, first = !node.on;
        const layout = { ...structuredClone(figure.layout), width: node.clientWidth };
        await plotly.react(node, figure.data.map((trace) => ({ ...trace })), layout, CONFIG);
        if (first) listen(node, model);
        drawn = number;
        model.send({ type: "drawn", number });
      }
    } catch (error) {
      drawn = figure.number;
      model.send({ type: "failed", text: String(error) });
    } finally {
      drawing = false;
    }
  }
  // plotly draws NaN into a place without a width, and a page shows a place only after `render`.
  const observer = new ResizeObserver(() => {
    if (node._fullLayout && node.clientWidth && node._fullLayout.width !== node.clientWidth) drawn = 0;
    draw();
  });
  observer.observe(node);
  return {
    draw,
    image: () => plotly.toImage(node, { format: "png", width: node.clientWidth, height: node.clientHeight }),
    remove() {
      gone = true;
      observer.disconnect();
      plotly.purge(node);
    },
  };
}

export default () => {
  const figure = { number: 0, data: [], layout: {} }, views = new Set();
  return {
    initialize({ model }) {
      model.on("msg:custom", async (message, buffers) => {
        if (message.type === "frame") {
          if (follow(figure, unpack(message, buffers))) views.forEach((each) => each.draw());
          else model.send({ type: "ready" });
        } else if (message.type === "image" && views.size) {
          const [first] = views;
          model.send({ type: "image", url: await first.image() });
        }
      });
    },
    render({ model, el }) {
      const node = document.createElement("div");
      node.className = "rwp-figure";
      const style = document.createElement("style");
      style.textContent = `.${model.get("still")} { display: none }`;
      el.append(style, node);
      let shown, gone = false;
      load(model).then((plotly) => {
        if (gone) return;
        shown = view(model, figure, plotly, node);
        views.add(shown);
        model.send({ type: "ready" });
        shown.draw();
      }).catch((error) => (node.textContent = `This figure cannot be drawn: ${error}`));
      return () => {
        gone = true;
        views.delete(shown);
        shown?.remove();
      };
    },
  };
};
