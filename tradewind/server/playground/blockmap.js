// The KV blocks, a square each, in the colour of their owner. Free blocks behind the last one in use are left out, in
// steps of powers of two, so that a small load on a large pool can still be seen.

import { number, setText } from "./dom.js";
import { CACHED, FREE, SHARED, palette } from "./owners.js";

const LEAST_CELLS = 256;
const LARGEST = 12;

export class BlockMap {
  constructor(canvas, detail) {
    this.canvas = canvas;
    this.detail = detail;
    this.cells = [];
    this.names = new Map();
    this.shown = 0;
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#rest());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** `blocks` as in /engine/state; `names`: what to call the owners. */
  show(blocks, names) {
    this.names = names;
    this.cellBlocks = blocks.cell_blocks;
    this.cells = blocks.runs.flatMap(([owner, length]) => new Array(length).fill(owner));
    this.draw();
    const held = this.#count((owner) => owner >= 0);
    const said = `${held} blocks held by single requests, ${this.#count((owner) => owner === SHARED)} shared, `;
    this.canvas.setAttribute("aria-label", `KV blocks: ${said}${this.#count((owner) => owner === CACHED)} cached, of ${this.cells.length * this.cellBlocks}`);
  }

  draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width || !this.cells.length) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    let used = this.cells.length;
    while (used && this.cells[used - 1] === FREE) used--;
    let wanted = LEAST_CELLS;
    while (wanted < used) wanted *= 2;
    this.size = sizeOf(width, height, Math.min(wanted, this.cells.length), ratio);
    this.columns = Math.floor(width / this.size);
    this.shown = Math.min(this.columns * Math.floor(height / this.size), this.cells.length);
    this.#paint(ratio);
    if (!this.isPointed) this.#rest();
  }

  #paint(ratio) {
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const colour = palette();
    const gap = this.size >= 4 ? 1 : 0;
    const side = Math.round(this.size * ratio) - gap * Math.round(ratio);
    for (let index = 0; index < this.shown; index++) {
      pen.fillStyle = colour(this.cells[index]);
      const x = Math.round((index % this.columns) * this.size * ratio);
      const y = Math.round(Math.floor(index / this.columns) * this.size * ratio);
      pen.fillRect(x, y, side, side);
    }
  }

  #point(event) {
    const index = Math.floor(event.offsetY / this.size) * this.columns + Math.floor(event.offsetX / this.size);
    this.isPointed = index < this.shown && event.offsetX < this.columns * this.size;
    if (!this.isPointed) return this.#rest();
    const owner = this.cells[index];
    const name = { [FREE]: "free", [CACHED]: "cached", [SHARED]: "shared" }[owner] ?? this.names.get(owner) ?? `request ${owner}`;
    setText(this.detail, `block ${index * this.cellBlocks}: ${name}`);
  }

  #rest() {
    this.isPointed = false;
    const rest = (this.cells.length - this.shown) * (this.cellBlocks ?? 1);
    setText(this.detail, rest > 0 ? `and ${number(rest)} more, all free` : "");
  }

  #count(wanted) {
    return this.cells.filter(wanted).length * this.cellBlocks;
  }
}

/** The largest size of a square, in whole device pixels, with which `count` of them fit. */
function sizeOf(width, height, count, ratio) {
  for (let pixels = Math.floor(LARGEST * ratio); pixels > 1; pixels--) {
    const size = pixels / ratio;
    if (Math.floor(width / size) * Math.floor(height / size) >= count) return size;
  }
  return 1 / ratio;
}
