// How one request went: the wait, the prompt, and each token, on one line of time.

import { getJson } from "./api.js";
import { duration, element, shape } from "./dom.js";

const WIDTH = 1000;
const MOST_TICKS = 400;

/** The timeline of a request, as an element. Throws ServerError. */
export async function timeline(requestId) {
  const answer = await getJson(`/engine/requests/${encodeURIComponent(requestId)}`);
  return element("div", { class: "timeline" }, answer.sequences.flatMap(oneSequence));
}

function oneSequence(sequence) {
  const ends = [sequence.finished, sequence.steps.at(-1)?.[0], sequence.first_token, sequence.admitted, 1e-6];
  const end = ends.find((moment) => moment !== null && moment !== undefined);
  const x = (moment) => (WIDTH * moment) / end;
  const phases = [
    ["queue", 0, sequence.admitted ?? end],
    ["prefill", sequence.admitted, sequence.first_token ?? end],
    ["decode", sequence.first_token, end],
  ].filter(([, from]) => from !== null);
  const bars = phases.map(([name, from, to]) =>
    shape("rect", { class: `t-${name}`, x: x(from), width: Math.max(x(to) - x(from), 1), y: 6, height: 22 }),
  );
  const every = Math.ceil(sequence.steps.length / MOST_TICKS);
  const ticks = sequence.steps
    .filter((_, index) => index && index % every === 0)
    .map(([moment]) => shape("line", { class: "t-step", x1: x(moment), x2: x(moment), y1: 6, y2: 28 }));
  const drawing = shape("svg", { viewBox: `0 0 ${WIDTH} 34`, preserveAspectRatio: "none", role: "img", "aria-label": "Timeline; the figures follow" }, bars, ticks);
  const facts = phases.map(([name, from, to]) => fact(name, duration(to - from)));
  return [drawing, element("dl", {}, facts, otherFacts(sequence))];
}

function fact(name, text) {
  const label = { queue: "queue", prefill: "prompt", decode: "tokens" }[name] ?? name;
  return element("div", {}, element("dt", { class: `t-${name}` }, label), element("dd", {}, text));
}

function otherFacts({ steps }) {
  if (steps.length < 2) return [];
  const gaps = steps.slice(1).map(([moment], index) => moment - steps[index][0]).sort((one, other) => one - other);
  const rows = Math.max(...steps.map(([, count]) => count));
  return [fact("median step", duration(gaps[Math.floor(gaps.length / 2)])), fact("longest", duration(gaps.at(-1))), fact("batch", `up to ${rows}`)];
}
