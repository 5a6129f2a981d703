"use strict";
// Small charts of the scalars `convviz/...`: one for each figure, a line for each layer, a mark where the slider is.

const SVG = "http://www.w3.org/2000/svg";
const BOX = { left: 42, top: 8, width: 350, height: 120, right: 8, bottom: 18 };
// Okabe and Ito's colors, told apart by color-blind eyes; more lines than these go from dark to bright, by depth.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#777777"];

function colorOf(index, count) {
  return count <= COLORS.length ? COLORS[index] : `hsl(${260 - (200 * index) / (count - 1)} 65% ${38 + (22 * index) / (count - 1)}%)`;
}

/** Make an element: `make("p", {class: "note"}, "text", child)`. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "line", "polyline", "text", "circle"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** The figures by chart: `convviz/sparsity/conv1` is the line `conv1` of the chart `sparsity`. */
function charts(figures) {
  const found = new Map();
  for (const { tag, points } of figures) {
    const parts = tag.split("/").slice(1);
    const name = parts.slice(0, -1).join("/") || parts[0];
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ name: parts.at(-1), points });
  }
  return found;
}

function short(value) {
  if (value === null) return "–";
  return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** A chart as a card; `card.update(step)` moves its mark. */
function chart(name, series, go) {
  const all = series.flatMap((line) => line.points);
  const values = all.map((point) => point[1]).filter((value) => value !== null);
  const [first, last] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const x = (step) => BOX.left + (BOX.width * (step - first)) / (last - first || 1);
  const y = (value) => BOX.top + BOX.height * (1 - (value - low) / (high - low || 1));
  const size = [BOX.left + BOX.width + BOX.right, BOX.top + BOX.height + BOX.bottom];
  const svg = make("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, role: "img", "aria-label": `Chart of ${name}` });
  const bottom = BOX.top + BOX.height;
  for (const value of [low, high]) {
    svg.append(
      make("line", { class: "axis", x1: BOX.left, x2: size[0] - BOX.right, y1: y(value), y2: y(value) }),
      make("text", { x: BOX.left - 4, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  svg.append(make("text", { x: BOX.left, y: bottom + 14 }, `step ${first}`));
  svg.append(make("text", { x: size[0] - BOX.right, y: bottom + 14, "text-anchor": "end" }, String(last)));
  const key = make("div", { class: "key" });
  series.forEach((line, index) => drawLine(svg, key, line, colorOf(index, series.length), x, y));
  const now = make("line", { class: "now", y1: BOX.top, y2: bottom });
  svg.append(now);
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    go(first + ((((event.clientX - box.left) * size[0]) / box.width - BOX.left) / BOX.width) * (last - first));
  });
  const card = make("article", { class: "card chart" }, make("h3", {}, name), svg, key);
  card.update = (step) => {
    const place = x(Math.min(Math.max(step, first), last));
    now.setAttribute("x1", place);
    now.setAttribute("x2", place);
    key.querySelectorAll("b").forEach((cell, i) => (cell.textContent = short(latest(series[i].points, step)?.[1] ?? null)));
  };
  return card;
}

/** A line with gaps where a value is missing, and its row in the key. */
function drawLine(svg, key, line, color, x, y) {
  let piece = [];
  const end = () => {
    if (piece.length === 1) svg.append(make("circle", { cx: piece[0][0], cy: piece[0][1], r: 2, fill: color }));
    if (piece.length > 1) svg.append(make("polyline", { points: piece.join(" "), stroke: color }));
    piece = [];
  };
  for (const [step, value] of line.points) {
    if (value === null) end();
    else piece.push([x(step), y(value)]);
  }
  end();
  key.append(make("i", { style: `background:${color}` }), make("span", {}, line.name), make("b"));
}
