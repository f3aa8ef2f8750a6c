// Draws the charts in the colours of the page, makes tables sort and filter, hands traces to Perfetto.
"use strict";

(() => {
  const PERFETTO = "https://ui.perfetto.dev";

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const embedded = (place) =>
    JSON.parse(place.querySelector('script[type="application/json"]').textContent);

  function themed(layout) {
    const ink = colour("--ink");
    const line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line };
    const result = {
      ...layout,
      font: { color: ink, family: "system-ui, sans-serif", size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: colour("--paper"), bordercolor: line, font: { color: ink } },
    };
    for (const name of ["xaxis", "yaxis"]) result[name] = { ...layout[name], ...axis };
    return result;
  }

  function themedTrace(trace) {
    const ink = colour("--ink");
    const result = { ...trace };
    for (const name of ["error_x", "error_y"]) {
      if (trace[name]) result[name] = { ...trace[name], color: ink };
    }
    if (trace.type === "bar" && !("base" in trace)) {
      result.marker = { ...trace.marker, line: { color: colour("--line"), width: 1 } };
    }
    return result;
  }

  const figures = new Map();

  function draw() {
    for (const [place, figure] of figures) {
      Plotly.react(place, figure.data.map(themedTrace), themed(figure.layout), {
        responsive: true,
        displaylogo: false,
      });
    }
  }

  for (const place of document.querySelectorAll(".chart")) figures.set(place, embedded(place));
  if (figures.size) {
    for (const place of figures.keys()) place.replaceChildren();
    draw();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  for (const table of document.querySelectorAll("table.sortable, .prose table")) {
    const rows = table.tBodies.length ? table.tBodies[0].rows.length : 0;
    if (rows < 2) continue;
    new DataTable(table, {
      paging: false,
      order: [],
      autoWidth: false,
      info: rows > 3,
      layout: {
        topStart: rows > 3 ? "search" : null,
        topEnd: null,
        bottomStart: rows > 3 ? "info" : null,
        bottomEnd: null,
      },
      language: { search: "Filter:", info: "_TOTAL_ rows", infoEmpty: "0 rows" },
    });
  }

  // Perfetto's own protocol: send PING until it answers PONG, then the trace.
  function openTrace(name, trace) {
    const viewer = window.open(PERFETTO);
    if (!viewer) return;
    const buffer = new TextEncoder().encode(JSON.stringify(trace)).buffer;
    const timer = setInterval(() => {
      if (viewer.closed) clearInterval(timer);
      else viewer.postMessage("PING", PERFETTO);
    }, 100);
    window.addEventListener("message", function answered(event) {
      if (event.origin !== PERFETTO || event.data !== "PONG") return;
      clearInterval(timer);
      window.removeEventListener("message", answered);
      viewer.postMessage({ perfetto: { buffer, title: name } }, PERFETTO);
    });
  }

  for (const place of document.querySelectorAll(".handover")) {
    const button = place.querySelector("button");
    button.hidden = false;
    button.addEventListener("click", () => openTrace(document.title, embedded(place)));
  }
})();
