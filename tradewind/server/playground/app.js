// The page put together: colours, views, the server's identity.

import { getJson, useKey } from "./api.js";
import { Chat } from "./chat.js";
import { byId, setText } from "./dom.js";
import { EngineView } from "./engine.js";
import * as settings from "./settings.js";

const THEME = "tradewind.theme";
const THEMES = { "": ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };

function showTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  const [label, meaning] = THEMES[name];
  setText(byId("theme-name"), label);
  byId("theme").setAttribute("aria-label", `Colours: ${meaning}`);
}

function showView(name) {
  document.body.dataset.view = name;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === name));
  }
}

let modelsFor = null;

async function loadModels(state) {
  if (state.status !== "ready" || modelsFor === state.model) return;
  try {
    settings.offer((await getJson("/v1/models")).data.map((model) => model.id));
    modelsFor = state.model;
  } catch (error) {
    modelsFor = null; // without a key, or not ready: at the next news of the engine
  }
}

function showLock(isLocked) {
  byId("locked").hidden = !isLocked;
  if (isLocked) setText(byId("locked-text"), byId("key").value.trim() ? "The server does not know this API key." : "This server wants an API key.");
}

function enterKey() {
  if (!byId("key").offsetParent) showView("settings"); // on a small screen
  byId("key").focus();
}

function showIdentity(state) {
  showLock(Boolean(state.isLocked));
  byId("status").dataset.status = state.status;
  setText(byId("status"), state.status);
  if (!state.model) return;
  setText(byId("model-name"), state.model);
  setText(byId("device"), state.engine ? `${state.engine.device}, ${state.engine.dtype}, context ${state.engine.max_model_len.toLocaleString("en")}` : "");
  loadModels(state);
}

showTheme(localStorage.getItem(THEME) ?? "");
const engine = new EngineView(showIdentity);
settings.begin((key) => {
  useKey(key);
  modelsFor = null;
  engine.look();
});
new Chat();

byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(localStorage.getItem(THEME) ?? "") + 1) % names.length];
  localStorage.setItem(THEME, next);
  showTheme(next);
  engine.redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => engine.redraw());
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => showView(button.dataset.show));
}
byId("enter-key").addEventListener("click", enterKey);
byId("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  if (!byId("question").offsetParent) showView("chat");
  byId("question").focus();
});
showView(innerWidth < 860 ? "chat" : "engine");
engine.look();
