// Words with their probabilities: coloured by doubt, and what else they might have been on hover, touch or by arrow keys.

import { byId, element } from "./dom.js";

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100 %" : share >= 10 ? `${share.toFixed(0)} %` : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};

/** Space at the ends of a token matters, and cannot be seen. */
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "→").replace(/^ | $/g, "·") || "∅";

/** Nodes for one entry of `logprobs.content`; `text` is its part of the answer. A space before a word stays plain. */
export function tokenNodes(entry, text) {
  const isWord = text.trim() !== "";
  const space = isWord ? text.match(/^ */)[0] : "";
  const span = element("span", { class: text.endsWith("\n") ? "token break" : "token" }, text.slice(space.length));
  span.style.setProperty("--doubt", (1 - Math.exp(entry.logprob)).toFixed(3));
  span.entry = entry;
  return [space, span];
}

/** Let the tokens within `body` explain themselves. */
export function explain(body) {
  body.tabIndex = 0;
  body.setAttribute("role", "group");
  body.setAttribute("aria-label", "Answer; arrow keys go through its tokens");
  body.addEventListener("pointerover", (event) => show(body, event.target.closest(".token")));
  body.addEventListener("pointerleave", () => show(body, null));
  body.addEventListener("blur", () => show(body, null));
  body.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") show(body, null);
    if (!step) return;
    const tokens = [...body.querySelectorAll(".token")];
    const at = tokens.findIndex((token) => token.classList.contains("current"));
    const next = tokens[at < 0 ? (step > 0 ? 0 : tokens.length - 1) : Math.min(Math.max(at + step, 0), tokens.length - 1)];
    next?.scrollIntoView({ block: "nearest" });
    show(body, next ?? null);
    event.preventDefault();
  });
}

function show(body, token) {
  const tip = byId("tip");
  body.querySelector(".token.current")?.classList.remove("current");
  tip.hidden = !token;
  if (!token) return;
  token.classList.add("current");
  tip.replaceChildren(table(token.entry));
  const place = token.getClientRects()[0];
  const above = place.top - tip.offsetHeight - 6;
  tip.style.top = `${above > 4 ? above : place.bottom + 6}px`;
  tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
}

function table(entry) {
  const others = entry.top_logprobs.filter((other) => other.token !== entry.token);
  const lines = [entry, ...others].sort((one, other) => other.logprob - one.logprob);
  const line = ({ token, logprob }) =>
    element("tr", { class: token === entry.token && "chosen" }, element("td", {}, visible(token)), element("td", {}, percent(logprob)));
  return element("table", {}, element("tbody", {}, lines.map(line)));
}
