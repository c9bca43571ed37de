/* Interactive figures: sliders over the library's own tables. Every value shown is an entry of a table; nothing is computed here
   but which entry to show. */
"use strict";

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const NORM_NAMES = { ln: "LayerNorm", dyt: "DyT", derf: "Derf" };
const CLASS_NAMES = { power: "power law", stretched: "stretched exponential", exponential: "exponential" };

/** The entries of an array where all axes but `along` are at `place`. */
function slice(table, name, place, along) {
  const { over, values } = table.arrays[name];
  const sizes = over.map((axis) => table.axes[axis].length);
  const strides = sizes.map((_, i) => sizes.slice(i + 1).reduce((a, b) => a * b, 1));
  const start = over.reduce((sum, axis, i) => sum + (axis === along ? 0 : place[axis] * strides[i]), 0);
  if (along === undefined) return values[start];
  const i = over.indexOf(along);
  return table.axes[along].map((_, k) => values[start + k * strides[i]]);
}

function nearest(values, wanted) {
  return values.reduce((best, value, i) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? i : best), 0);
}

function shown(value, digits = 3) {
  if (value === null || value === undefined) return "infinite";
  return Number(value.toPrecision(digits)).toString();
}

/** Nodes of a label in which `_x` is a subscript. */
function withSubscripts(label) {
  return label.split(/_(\w)/).map((part, i) => {
    if (i % 2 === 0) return part;
    const sub = document.createElement("sub");
    sub.textContent = part;
    return sub;
  });
}

function colours() {
  const style = getComputedStyle(document.body);
  return {
    text: style.getPropertyValue("--color-foreground-primary").trim() || "#000",
    line: style.getPropertyValue("--color-background-border").trim() || "#ddd",
  };
}

function layout(x, y, more = {}) {
  const { text, line } = colours();
  const axis = { gridcolor: line, linecolor: text, zeroline: false, fixedrange: true };
  return {
    margin: { l: 58, r: 12, t: 52, b: 48 },
    height: 320,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, size: 13 },
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.04, yanchor: "bottom", font: { size: 12 } },
    xaxis: { ...axis, title: { text: x }, ...more.xaxis },
    yaxis: { ...axis, title: { text: y }, ...more.yaxis },
    shapes: more.shapes || [],
  };
}

const OPTIONS = { displayModeBar: false, responsive: true };

function upright(x) {
  return { type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: colours().text, width: 1, dash: "dot" } };
}

function drawProfiles(table, place, plots, x, correlation, tickvals) {
  const { depth: depths, norm: norms } = table.axes;
  const traces = (name) =>
    norms.map((norm, i) => ({
      x: depths.slice(1),
      y: slice(table, name, { ...place, norm: i }, "depth").slice(1),
      name: NORM_NAMES[norm],
      mode: "lines",
      line: { color: COLOURS[i], dash: DASHES[i], width: 2.2 },
    }));
  const log = { type: "log", tickvals };
  const line = [upright(depths[place.depth])];
  Plotly.react(plots[0], traces("log_apjn"), layout(x, "log J(0 → l)", { xaxis: log, yaxis: { rangemode: "tozero" }, shapes: line }), OPTIONS);
  Plotly.react(plots[1], traces("rho"), layout(x, correlation, { xaxis: log, yaxis: { range: [-0.03, 1.03] }, shapes: line }), OPTIONS);
}

const FIGURES = {
  residual: {
    controls: [
      { axis: "alpha", label: "α of DyT and Derf", start: 1 },
      { axis: "sigma_w", label: "σ_w, deviation of the weights", start: 1 },
      { axis: "depth", label: "depth L", start: 64 },
      { axis: "rho0", label: "ρ₀, correlation of the two inputs", start: 0.6 },
    ],
    draw(table, place, plots) {
      const norms = table.axes.norm;
      const depth = table.axes.depth[place.depth];
      drawProfiles(table, place, plots, "layer l", "correlation ρ<sub>l</sub>", [1, 4, 16, 64, 256, 1024]);
      return norms.map((norm, i) => {
        const at = { ...place, norm: i };
        const kind = slice(table, "class_name", at);
        const exponent = slice(table, "exponent", at);
        const asymptote = kind === "power" ? `J ~ L^${shown(exponent, 2)}` : `log J ~ L^${shown(exponent, 2)}`;
        const crossover = slice(table, "crossover_depth", at);
        const from = crossover === null || crossover <= 1 ? "" : ` from depth ${shown(crossover, 2)} on`;
        return [
          NORM_NAMES[norm],
          `log J(0 → ${depth}) = ${shown(slice(table, "log_apjn", at), 4)}, variance ${shown(slice(table, "q", at), 3)}, correlation ` +
            `${shown(slice(table, "rho", at), 3)}; ${CLASS_NAMES[kind]}, ${asymptote}${from}`,
        ];
      });
    },
  },
  window: {
    controls: [{ axis: "deviation", label: "α√K, deviation of u = αx", start: 1 }],
    draw(table, place, plots) {
      const { u, deviation: deviations, norm: norms } = table.axes;
      const curve = (y, name, i, more = {}) => ({ x: u, y, name, mode: "lines", line: { color: COLOURS[i], dash: DASHES[i], width: 2.2 }, ...more });
      const tanh = { ...place, norm: norms.indexOf("dyt") };
      const passed = curve(slice(table, "passed", tanh, "u"), "their product", 0, { fill: "tozeroy", line: { color: COLOURS[0], width: 0 } });
      const curves = [passed, curve(slice(table, "slope", tanh, "u"), "tanh′(u)²", 0), curve(slice(table, "density", place, "u"), "density of u", 1)];
      Plotly.react(plots[0], curves, layout("u = αx", "", { yaxis: { range: [0, 1.7] } }), OPTIONS);
      const against = (name, i, y, more) => ({ x: deviations, y, name, mode: "lines", line: { color: COLOURS[i], dash: DASHES[i], width: 2.2, ...more } });
      const moments = norms.flatMap((norm, i) => [
        against(NORM_NAMES[norm], i, slice(table, "moment", { ...place, norm: i }, "deviation")),
        { ...against(`${NORM_NAMES[norm]}, window`, i, slice(table, "asymptote", { ...place, norm: i }, "deviation"), { width: 1, dash: "solid" }), showlegend: false },
      ]);
      const log = { type: "log", tickvals: [0.125, 0.5, 1, 2, 8, 32] };
      const here = upright(deviations[place.deviation]);
      Plotly.react(plots[1], moments, layout("α√K", "E φ′²", { xaxis: log, yaxis: { type: "log" }, shapes: [here] }), OPTIONS);
      const rows = norms.map((norm, i) => {
        const at = { ...place, norm: i };
        return [NORM_NAMES[norm], `E φ′² = ${shown(slice(table, "moment", at), 4)}; the window alone says ${shown(slice(table, "asymptote", at), 4)}`];
      });
      return [["Within the window", `${shown(100 * slice(table, "inside", place), 3)} per cent of channels have |u| < 1`], ...rows];
    },
  },
  block: {
    controls: [
      { axis: "alpha", label: "α of DyT and Derf", start: 1 },
      { axis: "gain", label: "gain of the branches' weights", start: 1 },
      { axis: "tokens", label: "T, tokens", start: 197 },
      { axis: "depth", label: "depth L, blocks", start: 48 },
    ],
    draw(table, place, plots) {
      const norms = table.axes.norm;
      const depth = table.axes.depth[place.depth];
      drawProfiles(table, place, plots, "block l", "correlation of tokens", [1, 4, 16, 64, 256]);
      return norms.map((norm, i) => {
        const at = { ...place, norm: i };
        return [
          NORM_NAMES[norm],
          `log J(0 → ${depth}) = ${shown(slice(table, "log_apjn", at), 4)}, variance ${shown(slice(table, "q", at), 3)}, correlation ${shown(slice(table, "rho", at), 3)}`,
        ];
      });
    },
  },
  mlp: {
    controls: [
      { axis: "sigma_w", label: "σ_w, deviation of the weights", start: 1.4 },
      { axis: "sigma_b", label: "σ_b, deviation of the biases", start: 0.3 },
      { axis: "depth", label: "depth L", start: 20 },
      { axis: "rho0", label: "ρ₀, correlation of the two inputs", start: 0.6 },
    ],
    draw(table, place, plots) {
      const { sigma_w: weights, sigma_b: biases, depth: depths, rho0: correlations } = table.axes;
      const depth = depths[place.depth];
      const chi = biases.map((_, b) => slice(table, "chi", { ...place, sigma_b: b }, "sigma_w").map(Math.log));
      Plotly.react(
        plots[0],
        [
          { type: "heatmap", x: weights, y: biases, z: chi, zmin: -1, zmax: 1, colorscale: [[0, "#542788"], [0.5, "#f7f7f7"], [1, "#b35806"]], colorbar: { title: { text: "log χ" }, thickness: 10 }, hoverinfo: "skip" },
          { x: slice(table, "line", place, "sigma_b"), y: biases, mode: "lines", line: { color: "#000", width: 2.2 }, name: "critical line" },
          { x: [weights[place.sigma_w]], y: [biases[place.sigma_b]], mode: "markers", marker: { size: 13, color: "#fff", line: { color: "#000", width: 2 } }, name: "here" },
        ],
        layout("σ<sub>w</sub>", "σ<sub>b</sub>", { xaxis: { range: [0.55, 2.65] }, yaxis: { range: [-0.025, 0.525] } }),
        OPTIONS,
      );
      const rho = correlations.map((value, i) => ({
        x: depths,
        y: slice(table, "rho", { ...place, rho0: i }, "depth"),
        name: `ρ₀ = ${value}`,
        mode: "lines",
        line: { color: COLOURS[i], dash: DASHES[i], width: i === place.rho0 ? 3.5 : 1.2 },
      }));
      const apjn = { x: depths, y: slice(table, "log_apjn", place, "depth"), name: "log J(0 → l)", mode: "lines", line: { color: COLOURS[0], width: 2.2 }, showlegend: false };
      Plotly.react(plots[1], rho, layout("layer l", "correlation ρ<sub>l</sub>", { yaxis: { range: [-0.03, 1.03] }, shapes: [upright(depth)] }), OPTIONS);
      Plotly.react(plots[2], [apjn], layout("layer l", "log J(0 → l)", { shapes: [upright(depth)] }), OPTIONS);
      const at = slice(table, "chi", place);
      const phase = Math.abs(at - 1) < 0.005 ? "critical, to the table's resolution" : at < 1 ? "ordered" : "chaotic";
      return [
        ["Phase", `${phase}: χ = ${shown(at, 4)}; gradients change by a factor of e in ${shown(slice(table, "gradient_length", place), 3)} layers`],
        [
          `At layer ${depth}`,
          `log J(0 → ${depth}) = ${shown(slice(table, "log_apjn", place), 4)}, variance ${shown(slice(table, "q", place), 3)}, correlation ${shown(slice(table, "rho", place), 3)}, ` +
            `which goes to ${shown(slice(table, "fixed_rho", place), 3)}`,
        ],
      ];
    },
  },
};

function build(root) {
  const name = root.dataset.explorer;
  const figure = FIGURES[name];
  const table = window.criticalityTables[name];
  const place = {};
  const form = root.querySelector(".explorer-controls");
  const plots = [...root.querySelectorAll(".explorer-plot")];
  const readout = root.querySelector(".explorer-readout");

  const draw = () => {
    const rows = figure.draw(table, place, plots);
    readout.replaceChildren(
      ...rows.map(([label, text]) => {
        const row = document.createElement("p");
        const strong = document.createElement("strong");
        strong.textContent = `${label}: `;
        row.append(strong, text);
        return row;
      }),
    );
    plots.forEach((plot) => plot.setAttribute("aria-label", `${plot.dataset.what}. ${readout.textContent}`));
  };

  for (const { axis, label, start } of figure.controls) {
    const values = table.axes[axis];
    place[axis] = nearest(values, start);
    const row = document.createElement("label");
    const text = document.createElement("span");
    const input = document.createElement("input");
    const output = document.createElement("output");
    text.append(...withSubscripts(label));
    Object.assign(input, { type: "range", min: 0, max: values.length - 1, step: 1, value: place[axis], name: axis });
    const tell = () => {
      output.textContent = shown(values[place[axis]], 3);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      place[axis] = Number(input.value);
      tell();
      draw();
    });
    tell();
    row.append(text, output, input);
    form.append(row);
  }
  root.classList.add("explorer-live");
  draw();
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".explorer").forEach(build));
