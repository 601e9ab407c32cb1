"use strict";

// HTML and SVG elements, and line charts.

const SVG_TAGS = new Set(["svg", "g", "line", "polyline", "circle", "text"]);
const DASHES = ["", "", "7 3", "3 3", "9 3 2 3", "1 3"]; // lines differ by more than colour
const MARGIN = {top: 8, right: 12, bottom: 36, left: 44};
const HEIGHT = 260;

/** Create an element with attributes and children; strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const namespace = SVG_TAGS.has(tag) ? "http://www.w3.org/2000/svg" : document.body.namespaceURI;
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Format a number with three digits, without trailing zeros. */
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 1e6) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 3)));
}

/** Return a round step that divides a length into at most `count` parts. */
function roundStep(length, count) {
  const rough = length / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
}

/** Return the multiples of a step between two ends. */
function ticks(low, high, step) {
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) values.push(i * step);
  return values;
}

/** Return powers of ten between two ends, and their multiples of 2 and 5 if these are few. */
function logTicks(low, high) {
  const few = high / low < 1000;
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of few ? [1, 2, 5] : [1]) values.push(factor * 10 ** power);
  }
  return values.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

/**
 * Lines over a common axis, with a cursor for pointers and arrow keys.
 *
 * `show` takes a `title`, `lines` (name, points) and the `label` of the x axis; optional: `xEnds`
 * and `yEnds` of the axes, `format` of y, `dot` (x, y) to mark, `quiet` for a legend that has values
 * only at the cursor, and `log` for a logarithmic y axis.
 */
class LineChart {
  constructor(host, tools = null) {
    this.legend = make("ul", {class: "legend", "aria-live": "polite"});
    this.plot = make("div", {
      class: "plot",
      tabindex: 0,
      role: "img",
      onkeydown: (event) => this.onKey(event),
      onpointermove: (event) => this.onPointer(event),
      onpointerleave: () => this.setCursor(null),
      onblur: () => this.setCursor(null),
    });
    this.heading = make("h3");
    host.replaceChildren(make("header", {}, this.heading, tools), this.legend, this.plot);
    this.cursor = null;
    new ResizeObserver(() => this.render()).observe(this.plot);
  }

  show(options) {
    this.options = options;
    this.heading.textContent = options.title;
    this.cursor = null;
    const names = options.lines.map((line) => line.name).join(", ");
    this.plot.setAttribute(
      "aria-label",
      `${options.title}: ${names}, over ${options.label}. Arrow keys read the values.`,
    );
    const values = new Set(options.lines.flatMap((line) => line.points.map((point) => point[0])));
    this.xValues = [...values].sort((a, b) => a - b);
    this.render();
  }

  /** Set the scales from values to pixels. */
  scales() {
    const {lines, xEnds, yEnds, log} = this.options;
    const values = lines.flatMap((line) => line.points.map((point) => point[1]));
    const positive = values.filter((value) => value > 0);
    this.isLog = Boolean(log) && positive.length > 0;
    let [low, high] = yEnds ?? [Math.min(0, ...values), Math.max(...values, 0) || 1];
    const step = roundStep(high - low, 5);
    [low, high] = [step * Math.floor(low / step + 1e-9), step * Math.ceil(high / step - 1e-9)];
    if (this.isLog) [low, high] = [0.9 * Math.min(...positive), 1.1 * Math.max(...positive)];
    const [first, last] = xEnds ?? [0, this.xValues[this.xValues.length - 1] || 1];
    const width = this.width - MARGIN.left - MARGIN.right;
    const height = HEIGHT - MARGIN.top - MARGIN.bottom;
    const scale = this.isLog ? Math.log : Number;
    this.x = (value) => MARGIN.left + ((value - first) / (last - first)) * width;
    this.y = (value) =>
      MARGIN.top + height - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * height;
    this.xTicks = ticks(first, last, roundStep(last - first, width / 60));
    this.yTicks = this.isLog ? logTicks(low, high) : ticks(low, high, step);
  }

  render() {
    this.width = this.plot.clientWidth;
    if (!this.options || !this.width) return;
    this.scales();
    const bottom = HEIGHT - MARGIN.bottom;
    const right = this.width - MARGIN.right;
    const svg = make("svg", {viewBox: `0 0 ${this.width} ${HEIGHT}`, height: HEIGHT, "aria-hidden": true});
    for (const value of this.yTicks) {
      const y = this.y(value);
      svg.append(
        make("line", {class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y}),
        make("text", {x: MARGIN.left - 8, y: y + 4, "text-anchor": "end"}, short(value)),
      );
    }
    for (const value of this.xTicks) {
      svg.append(make("text", {x: this.x(value), y: bottom + 18, "text-anchor": "middle"}, short(value)));
    }
    svg.append(make("text", {x: right, y: HEIGHT - 2, "text-anchor": "end"}, this.options.label));
    // The first line lies on top.
    svg.append(...this.options.lines.map((line, i) => this.renderLine(line, i)).reverse());
    if (this.options.dot) {
      const [x, y] = this.options.dot;
      svg.append(make("circle", {class: "dot", cx: this.x(x), cy: this.y(y), r: 6, style: "fill: var(--line-0)"}));
    }
    this.cursorLine = make("line", {class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden"});
    svg.append(this.cursorLine);
    this.plot.replaceChildren(svg);
    this.setCursor(this.cursor);
  }

  renderLine(line, i) {
    const points = line.points.filter((point) => !this.isLog || point[1] > 0);
    const style = this.style(line, i);
    const at = points.map(([x, y]) => [this.x(x).toFixed(1), this.y(y).toFixed(1)]);
    const dots = points.length > 12 ? [] : at.map(([cx, cy]) => make("circle", {cx, cy, r: 3.5}));
    return make("g", {style}, make("polyline", {class: "line", points: at.join(" ")}), ...dots);
  }

  style(line, i) {
    const number = (line.style ?? i) % DASHES.length;
    return `color: var(--line-${number}); stroke-dasharray: ${DASHES[number] || "none"}`;
  }

  onKey(event) {
    const last = this.xValues.length - 1;
    const now = this.cursor ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const next = {
      ArrowRight: Math.min(now + 1, last),
      ArrowLeft: Math.max(now - 1, 0),
      Home: 0,
      End: last,
      Escape: null,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.setCursor(next);
  }

  onPointer(event) {
    if (!this.xValues.length) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    const distances = this.xValues.map((value) => Math.abs(this.x(value) - x));
    this.setCursor(distances.indexOf(Math.min(...distances)));
  }

  /** Move the cursor, and write the values at it into the legend. */
  setCursor(cursor) {
    this.cursor = cursor;
    if (!this.options) return;
    const {lines, label, quiet, format = short} = this.options;
    const x = cursor === null ? null : this.xValues[cursor];
    if (x !== null) {
      this.cursorLine.setAttribute("x1", this.x(x));
      this.cursorLine.setAttribute("x2", this.x(x));
    }
    this.cursorLine?.setAttribute("visibility", x === null ? "hidden" : "visible");
    const items = lines.map((line, i) => {
      let point = line.points.find((each) => each[0] === x);
      if (x === null && !quiet) point = line.points[line.points.length - 1];
      const sample = make("line", {class: "line", x1: 0, x2: 22, y1: 4, y2: 4, style: this.style(line, i)});
      const value = point ? make("b", {}, format(point[1])) : null;
      return make("li", {}, make("svg", {"aria-hidden": true}, sample), `${line.name} `, value);
    });
    if (x !== null) items.push(make("li", {class: "quiet"}, `${label} ${short(x)}`));
    this.legend.replaceChildren(...items);
  }
}
