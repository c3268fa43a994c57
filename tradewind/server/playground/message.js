// One message on the page, growing while it is answered.

import { duration, element, number } from "./dom.js";
import { timeline } from "./timeline.js";
import { explain, tokenNodes } from "./tokens.js";

const NAMES = { user: "You", assistant: "Model", tool: "Tool" };

export class MessageView {
  constructor(role) {
    this.body = element("div", { class: "body" });
    this.calls = element("div");
    this.notes = element("div");
    this.foot = element("p", { class: "foot" });
    this.who = element("p", { class: "who" }, NAMES[role] ?? role);
    this.node = element("article", { class: `message ${role}` }, this.who, this.body, this.calls, this.notes, this.foot);
    if (role !== "assistant") this.foot.remove();
    this.text = "";
  }

  set waiting(isWaiting) {
    this.node.classList.toggle("waiting", isWaiting);
  }

  /** More text. With `entries` (of logprobs.content) every token explains itself. */
  add(text, entries) {
    this.text += text;
    if (!entries?.length) {
      grow(this.body, text);
      return;
    }
    if (!this.body.hasAttribute("role")) explain(this.body);
    // Text that was held back comes with the tokens that set it free: the last of them gets what the others leave.
    let rest = text;
    entries.forEach((entry, index) => {
      const isLast = index === entries.length - 1;
      const part = isLast ? rest : rest.startsWith(entry.token) ? entry.token : "";
      rest = rest.slice(part.length);
      if (part) this.body.append(...tokenNodes(entry, part));
    });
  }

  /** The thoughts of a model that thinks. */
  think(text) {
    if (!this.thoughts) {
      this.thoughts = element("span");
      this.body.before(element("details", { class: "reasoning" }, element("summary", {}, "Reasoning"), this.thoughts));
    }
    grow(this.thoughts, text);
  }

  /** All is said: fenced code becomes a block, and JSON is laid out, unless every token is to be seen. */
  settle() {
    this.waiting = false;
    if (this.body.querySelector(".token")) return;
    const json = asJson(this.text);
    if (json !== null) this.body.replaceChildren(element("pre", {}, element("code", {}, json)));
    if (json !== null || !this.text.includes("```")) return;
    const parts = this.text.split(/^```[^\n]*\n?/m);
    this.body.replaceChildren(
      ...parts.map((part, index) => (index % 2 ? element("pre", {}, element("code", {}, part.trimEnd())) : part.replace(/^\n+|\n+$/g, ""))),
    );
  }

  /** The tool calls so far; `onReply(call, text)` is offered for each when the answer has ended. */
  showCalls(calls, onReply) {
    this.calls.replaceChildren(...calls.map((call) => callCard(call, onReply)));
  }

  error(text) {
    this.notes.append(element("p", { class: "error", role: "alert" }, text));
  }

  note(text) {
    this.notes.append(element("p", { class: "note" }, text));
  }

  /** What it cost. */
  cost({ usage, firstMs, totalMs, finish, requestId }) {
    const parts = [];
    if (usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens;
      parts.push(`${number(usage.prompt_tokens)} prompt${cached ? ` (${number(cached)} cached)` : ""} + ${number(usage.completion_tokens)} tokens`);
    }
    if (firstMs !== null) parts.push(`first after ${duration(firstMs / 1000)}`);
    const seconds = (totalMs - (firstMs ?? 0)) / 1000;
    if (usage?.completion_tokens > 1 && seconds > 0) parts.push(`${number((usage.completion_tokens - 1) / seconds)} tok/s`);
    if (finish && finish !== "stop") parts.push({ length: "cut at max tokens", stopped: "stopped", tool_calls: "calls a tool" }[finish] ?? finish);
    this.foot.replaceChildren(...parts.map((part) => element("span", {}, part)));
    if (requestId) this.foot.append(this.#timelineButton(requestId));
  }

  #timelineButton(requestId) {
    const button = element("button", { type: "button", title: requestId, "aria-expanded": "false" }, "timeline");
    button.addEventListener("click", async () => {
      if (this.line) {
        this.line.remove();
        this.line = null;
      } else {
        this.line = await timeline(requestId).catch((error) => element("p", { class: "note" }, error.message));
        this.foot.after(this.line);
      }
      button.setAttribute("aria-expanded", String(Boolean(this.line)));
    });
    return button;
  }

  scrollIntoView() {
    this.node.scrollIntoView({ block: "end" });
  }
}

/** More text at a node's end: a node for each few letters would be laid out for each. */
function grow(node, text) {
  if (node.lastChild?.nodeType === Node.TEXT_NODE) node.lastChild.appendData(text);
  else node.append(text);
}

function callCard(call, onReply) {
  const card = element("div", { class: "call" }, element("header", {}, `${call.function.name ?? ""}()`), element("pre", {}, pretty(call.function.arguments)));
  if (onReply) {
    const input = element("input", { type: "text", placeholder: "What the tool answers", "aria-label": `Result of ${call.function.name}` });
    const send = () => input.value.trim() && onReply(call, input.value.trim());
    input.addEventListener("keydown", (event) => event.key === "Enter" && send());
    card.append(element("div", { class: "reply" }, input, element("button", { type: "button", class: "quiet", onclick: send }, "Reply")));
  }
  return card;
}

/** A JSON object or list on several lines; null for any other text. */
function asJson(text) {
  if (!/^\s*[{[]/.test(text)) return null;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}

const pretty = (text) => asJson(text ?? "") ?? text ?? "";

