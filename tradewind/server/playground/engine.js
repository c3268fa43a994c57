// The live view: asks for /engine/state while it can be seen, and draws what changed.

import { getJson } from "./api.js";
import { BlockMap } from "./blockmap.js";
import { Chart } from "./charts.js";
import { byId, bytes, duration, element, number, setText } from "./dom.js";
import { palette } from "./owners.js";
import { between } from "./samples.js";

const PERIOD_MS = 1000;
const SPAN_S = 120;
const MOST_ROWS = 64;

export class EngineView {
  constructor(onState) {
    this.onState = onState;
    this.samples = [];
    this.before = null;
    const latency = { span: SPAN_S, unit: "ms" };
    this.charts = [
      new Chart(byId("chart-throughput"), { names: ["output", "prompt"], span: SPAN_S, unit: "tok/s", label: "Output and prompt tokens a second", filled: true }),
      new Chart(byId("chart-latency"), { ...latency, names: ["inter50", "inter95"], label: "Milliseconds between tokens, median and 95 %" }),
      new Chart(byId("chart-ttft"), { ...latency, names: ["ttft50", "ttft95"], label: "Milliseconds to the first token, median and 95 %" }),
    ];
    this.map = new BlockMap(byId("map"), byId("map-detail"));
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Look now, and then again and again while the page is visible. */
  async look() {
    clearTimeout(this.timer);
    if (this.isLooking || document.hidden) return;
    this.isLooking = true;
    try {
      this.#show(await getJson("/engine/state"));
    } catch (error) {
      setText(byId("engine-notice"), error.status === 401 ? "The engine is shown with an API key only." : `No news of the engine: ${error.message}.`);
      this.before = null;
      this.onState({ status: error.status ? "ready" : "unreachable", isLocked: error.status === 401 });
    }
    this.isLooking = false;
    this.timer = setTimeout(() => this.look(), PERIOD_MS);
  }

  redraw() {
    this.map.draw();
    if (this.state) this.#showRows(this.state);
  }

  #show(state) {
    const sample = this.before && between(this.before, state);
    if (sample) this.samples.push(sample);
    while (this.samples.length && this.samples[0].time < state.time_s - SPAN_S - 5) this.samples.shift();
    if (this.before && !sample) this.samples = []; // a new life of the engine
    this.before = this.state = state;
    setText(byId("engine-notice"), notice(state));
    this.#showFigures(state, sample);
    for (const chart of this.charts) chart.draw(this.samples, state.time_s);
    if (state.blocks) this.#showBlocks(state);
    this.#showRows(state);
    this.onState(state);
  }

  #showFigures({ stats, engine }, sample) {
    const share = (part, whole) => (whole ? number((100 * part) / whole) : "–");
    const figures = {
      output: number(sample?.output),
      prompt: number(sample?.prompt),
      running: number(stats.running),
      max: engine ? `of ${number(engine.max_running)}` : "",
      waiting: number(stats.waiting),
      kv: share(stats.blocks_used, stats.blocks_total),
      hits: share(stats.prefix_hit_tokens, stats.prefix_query_tokens),
      step: number(sample?.step ?? this.samples.findLast((each) => each.step !== null)?.step),
      preempted: number(stats.preemptions),
    };
    for (const [name, text] of Object.entries(figures)) setText(byId(`f-${name}`), text);
  }

  #showBlocks({ blocks, engine, rows }) {
    this.map.show(blocks, new Map(rows.map((row) => [row.request_id, nameOf(row)])));
    const size = engine ? `, ${engine.block_tokens} tokens each, ${bytes(engine.kv_bytes)} in all` : "";
    const cells = blocks.cell_blocks > 1 ? `; a square is ${blocks.cell_blocks}` : "";
    setText(byId("blocks-total"), `${number(engine?.num_blocks ?? 0)}${size}${cells}`);
  }

  #showRows({ rows, stats }) {
    const body = byId("rows");
    const colour = palette();
    const shown = rows.slice(0, MOST_ROWS);
    const hidden = stats.running + stats.waiting - shown.length;
    setText(byId("batch-total"), hidden > 0 && shown.length ? `${number(hidden)} more are not shown` : "");
    body.querySelector(".none")?.remove();
    const old = new Map([...body.children].map((line) => [line.dataset.id, line]));
    shown.forEach((row, index) => {
      const line = old.get(String(row.request_id)) ?? newLine(row);
      old.delete(String(row.request_id));
      updateLine(line, row, colour(row.request_id));
      if (body.children[index] !== line) body.insertBefore(line, body.children[index] ?? null);
    });
    for (const line of old.values()) line.remove();
    if (!shown.length) body.append(element("tr", { class: "none" }, element("td", { colspan: 5 }, "Nothing runs and nothing waits.")));
  }
}

function notice(state) {
  if (state.message) return `The engine is ${state.status}: ${state.message}.`;
  if (state.status === "draining") return "The server is shutting down: what runs is finished, nothing new is taken.";
  if (state.status !== "ready") return `The engine is ${state.status}.`;
  return state.blocks ? "" : "The engine is busy with a long step.";
}

const nameOf = (row) => row.request ?? `sequence ${row.request_id}`;

function newLine(row) {
  const id = nameOf(row);
  const cells = [
    element("td", { title: id }, element("span", { class: "swatch" }), id.length > 12 ? `${id.slice(0, 11)}…` : id),
    element("td"),
    element("td", {}, element("span", { class: "meter" }, element("i")), element("span")),
    element("td", { class: "num" }),
    element("td", { class: "num" }),
  ];
  return element("tr", { "data-id": row.request_id }, cells);
}

function updateLine(line, row, colour) {
  const [name, state, tokens, blocks, age] = line.children;
  name.firstChild.style.background = row.blocks ? colour : "";
  setText(state, row.preemptions && row.state !== "preempted" ? `${row.state} ↻${row.preemptions}` : row.state);
  const total = row.prompt_tokens + row.max_tokens;
  tokens.firstChild.firstChild.style.width = `${(100 * Math.max(row.computed_tokens, 0)) / total}%`;
  setText(tokens.lastChild, `${number(row.prompt_tokens)} + ${number(row.output_tokens)}`);
  tokens.title = `${row.prompt_tokens} prompt + ${row.output_tokens} output tokens, at most ${total}`;
  setText(blocks, String(row.blocks));
  setText(age, duration(row.age_s));
}
