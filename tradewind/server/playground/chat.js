// The conversation: what was said, what is being said, and the keys.

import { streamChat } from "./api.js";
import { byId } from "./dom.js";
import { MessageView } from "./message.js";
import { requestFields, systemPrompt } from "./settings.js";

const STORE = "tradewind.chat";
const STARTERS = ["What is Tradewind?", "What is 17 + 25?", "Tell me a short story about a fox."];
const NEAR_END = 60;

export class Chat {
  constructor() {
    this.messages = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
    this.transcript = byId("transcript");
    this.question = byId("question");
    this.views = [];
    for (const message of this.messages) this.#restore(message);
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(this.question.value.trim());
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#ask(this.question.value.trim());
      }
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    byId("stop-answer").addEventListener("click", () => this.stop());
    byId("clear").addEventListener("click", () => this.#clear());
    byId("retry").addEventListener("click", () => this.#retry());
    byId("starters").append(...STARTERS.map((text) => this.#starter(text)));
    this.#refresh();
  }

  /** End the answer that is coming; what was said stays. */
  stop() {
    this.aborter?.abort();
  }

  #starter(text) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = text;
    button.addEventListener("click", () => this.#ask(text));
    return button;
  }

  #ask(text) {
    if (!text || this.aborter) return;
    this.question.value = "";
    this.#say({ role: "user", content: text });
    this.#answer();
  }

  #say(message) {
    this.messages.push(message);
    const view = this.#restore(message);
    view.scrollIntoView();
  }

  #restore(message) {
    const view = this.#newView(message.role);
    if (message.reasoning) view.think(message.reasoning);
    view.add(message.content ?? "");
    view.settle();
    if (message.tool_calls) view.showCalls(message.tool_calls);
    return view;
  }

  #newView(role) {
    byId("empty").hidden = true;
    const view = new MessageView(role);
    this.views.push(view);
    this.transcript.append(view.node);
    return view;
  }

  async #answer() {
    const view = this.#newView("assistant");
    const answer = new Answer(view, () => this.#follow());
    view.waiting = true;
    this.aborter = new AbortController();
    this.#refresh();
    view.scrollIntoView();
    try {
      const system = systemPrompt();
      const history = this.messages.map(({ reasoning, ...message }) => message);
      const messages = system ? [{ role: "system", content: system }, ...history] : history;
      await streamChat({ ...requestFields(), messages }, this.aborter.signal, (id, ignored) => answer.start(id, ignored), (chunk) => answer.take(chunk));
    } catch (error) {
      if (error.name === "AbortError") answer.finish = "stopped";
      else view.error(error.status === 401 ? "No answer without an API key that the server knows." : error.message);
    }
    this.aborter = null;
    answer.end((call, text) => this.#reply(call, text));
    if (answer.hasContent) this.messages.push(answer.message());
    this.#follow();
    this.#refresh();
  }

  #reply(call, text) {
    if (this.aborter) return;
    this.#say({ role: "tool", tool_call_id: call.id, content: text });
    const open = this.messages.findLast((message) => message.tool_calls).tool_calls.filter(
      (each) => !this.messages.some((message) => message.tool_call_id === each.id),
    );
    if (!open.length) this.#answer();
  }

  #retry() {
    while (this.messages.length && this.messages.at(-1).role !== "user") this.messages.pop();
    while (this.views.length && !this.views.at(-1).node.classList.contains("user")) this.views.pop().node.remove();
    this.#answer();
  }

  #clear() {
    this.stop();
    this.messages = [];
    for (const view of this.views.splice(0)) view.node.remove();
    byId("empty").hidden = false;
    this.#refresh();
    this.question.focus();
  }

  /** Stay at the end, unless the reader has gone up. Once a frame: to ask for heights lays out all that was said. */
  #follow() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      const { scrollHeight, scrollTop, clientHeight } = this.transcript;
      const grown = scrollHeight - (this.lastHeight ?? scrollHeight);
      if (scrollHeight - scrollTop - clientHeight - grown < NEAR_END) this.transcript.scrollTop = scrollHeight;
      this.lastHeight = scrollHeight;
    });
  }

  #refresh() {
    sessionStorage.setItem(STORE, JSON.stringify(this.messages));
    const isBusy = Boolean(this.aborter);
    byId("send").hidden = isBusy;
    byId("stop-answer").hidden = !isBusy;
    byId("retry").disabled = isBusy || !this.messages.some((message) => message.role === "user");
    this.transcript.setAttribute("aria-busy", String(isBusy));
  }
}

/** An answer while it comes. */
class Answer {
  constructor(view, onGrowth) {
    this.view = view;
    this.onGrowth = onGrowth;
    this.startedMs = performance.now();
    this.firstMs = null;
    this.finish = null;
    this.usage = null;
    this.calls = [];
    this.reasoning = "";
  }

  start(requestId, ignored) {
    this.requestId = requestId;
    if (ignored) this.view.note(`This server ignored: ${ignored}`);
  }

  take(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    const { delta } = choice;
    const thought = delta.reasoning_content ?? delta.reasoning;
    const isNews = delta.content || thought || delta.tool_calls;
    if (isNews) this.firstMs ??= performance.now() - this.startedMs;
    if (thought) {
      this.reasoning += thought;
      this.view.think(thought);
    }
    if (delta.content) this.view.add(delta.content, choice.logprobs?.content);
    if (delta.tool_calls) this.#takeCalls(delta.tool_calls);
    if (choice.finish_reason) this.finish = choice.finish_reason;
    if (isNews) this.onGrowth();
  }

  #takeCalls(parts) {
    for (const part of parts) {
      const call = (this.calls[part.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
      if (part.id) call.id = part.id;
      if (part.function?.name) call.function.name = part.function.name;
      call.function.arguments += part.function?.arguments ?? "";
    }
    this.view.showCalls(this.calls);
  }

  end(onReply) {
    this.view.settle();
    if (this.calls.length) this.view.showCalls(this.calls, onReply);
    const { usage, firstMs, finish, requestId } = this;
    this.view.cost({ usage, firstMs, totalMs: performance.now() - this.startedMs, finish, requestId });
  }

  get hasContent() {
    return Boolean(this.view.text || this.calls.length);
  }

  message() {
    const message = { role: "assistant", content: this.view.text };
    if (this.calls.length) message.tool_calls = this.calls;
    if (this.reasoning) message.reasoning = this.reasoning;
    return message;
  }
}
