// Line charts over time, as SVG paths. The box never changes its size; the scale is written in its corner.

import { element, number, setText, shape } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 100;

/** A chart of two series over the last `span` seconds; `names` are fields of the samples. The first may be `filled`. */
export class Chart {
  constructor(svg, { names, span, unit, label, filled = false }) {
    this.names = names;
    this.span = span;
    this.unit = unit;
    this.filled = filled;
    this.label = label;
    this.svg = svg;
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.area = shape("path", { class: "area" });
    this.lines = names.map((_, index) => shape("path", { class: "ab"[index] }));
    svg.append(shape("line", { x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }), this.area, ...this.lines);
    this.scale = element("span", { class: "scale", "aria-hidden": "true" });
    svg.parentNode.append(this.scale);
  }

  draw(samples, now) {
    const recent = samples.filter((sample) => sample.time >= now - this.span - 2);
    const values = recent.flatMap((sample) => this.names.map((name) => sample[name] ?? 0));
    const top = niceCeiling(Math.max(...values, 0));
    const x = (sample) => (WIDTH * (sample.time - now + this.span)) / this.span;
    const y = (value) => HEIGHT - 2 - ((HEIGHT - 8) * value) / top;
    this.names.forEach((name, index) => this.lines[index].setAttribute("d", path(recent, name, x, y)));
    if (this.filled) this.area.setAttribute("d", areaUnder(recent, this.names[0], x, y));
    setText(this.scale, top > 0 && values.some((value) => value > 0) ? `${number(top)} ${this.unit}` : "");
    const last = recent.at(-1);
    const said = this.names.map((name) => (last ? number(last[name]) : "no data"));
    this.svg.setAttribute("aria-label", `${this.label}: ${said.join(" and ")} now, the scale goes to ${number(top)}`);
  }
}

/** Pieces of line: where there is no value, there is no line. */
function path(samples, name, x, y) {
  let pen = "M";
  let drawn = "";
  for (const sample of samples) {
    if (sample[name] === null || sample[name] === undefined) {
      pen = "M";
      continue;
    }
    drawn += `${pen}${x(sample).toFixed(1)} ${y(sample[name]).toFixed(1)}`;
    if (pen === "M") drawn += "h2"; // a value alone can still be seen
    pen = "L";
  }
  return drawn;
}

/** For a series that has a value in every sample. */
function areaUnder(samples, name, x, y) {
  if (samples.length < 2) return "";
  const points = samples.map((sample) => `${x(sample).toFixed(1)} ${y(sample[name]).toFixed(1)}`);
  return `M${x(samples[0]).toFixed(1)} ${HEIGHT}L${points.join("L")}L${x(samples.at(-1)).toFixed(1)} ${HEIGHT}Z`;
}

function niceCeiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].find((step) => step * power >= value) * power;
}
