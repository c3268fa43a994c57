// The settings: read from the form, remembered by the browser, turned into fields of a request.

import { byId } from "./dom.js";

const STORE = "tradewind.settings";
const KEY = "tradewind.key";
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const TEXTS = ["system", "stop", "format", "schema", "tools", "tool_choice"];
const TOP_LOGPROBS = 5;

const SCHEMA = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};
const TOOLS = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

/** Fill the form with what was remembered, and remember what changes. `onKey` hears of the API key. */
export function begin(onKey) {
  const kept = JSON.parse(localStorage.getItem(STORE) ?? "{}");
  for (const name of [...NUMBERS, ...TEXTS]) {
    if (kept[name] !== undefined) byId(name).value = kept[name];
  }
  byId("schema").value ||= JSON.stringify(SCHEMA, null, 2);
  byId("probabilities").checked = kept.probabilities ?? false;
  byId("key").value = sessionStorage.getItem(KEY) ?? "";
  onKey(byId("key").value);
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  byId("settings").addEventListener("input", () => changed(onKey));
  byId("tools-example").addEventListener("click", () => {
    byId("tools").value = JSON.stringify(TOOLS, null, 2);
    changed(onKey);
  });
  changed(onKey);
}

function changed(onKey) {
  const kept = Object.fromEntries([...NUMBERS, ...TEXTS].map((name) => [name, byId(name).value]));
  localStorage.setItem(STORE, JSON.stringify({ ...kept, probabilities: byId("probabilities").checked }));
  const key = byId("key").value.trim();
  if (key !== sessionStorage.getItem(KEY)) {
    sessionStorage.setItem(KEY, key);
    onKey(key);
  }
  byId("schema-field").hidden = byId("format").value !== "json_schema";
  parsed("schema", byId("format").value !== "json_schema");
  parsed("tools", !byId("tools").value.trim());
}

/** The JSON in a text area; says what is wrong with it, and is then undefined. */
function parsed(name, isIdle) {
  const fault = byId(`${name}-fault`);
  fault.textContent = "";
  if (isIdle) return undefined;
  try {
    return JSON.parse(byId(name).value);
  } catch (error) {
    fault.textContent = `This is not JSON: ${error.message}`;
    return undefined;
  }
}

/** The models to choose from. */
export function offer(models) {
  const select = byId("model");
  const chosen = select.value;
  select.replaceChildren(...models.map((name) => new Option(name, name)));
  if (models.includes(chosen)) select.value = chosen;
}

export const systemPrompt = () => byId("system").value.trim();

/** Everything of a chat request but its messages. Throws an Error for people when a field is wrong. */
export function requestFields() {
  const fields = { model: byId("model").value || undefined };
  for (const name of NUMBERS) {
    const input = byId(name);
    if (!input.validity.valid) throw new Error(`${input.labels[0].textContent}: ${input.validationMessage}`);
    if (input.value !== "") fields[name] = Number(input.value);
  }
  if (byId("stop").value) fields.stop = [byId("stop").value];
  if (byId("probabilities").checked) Object.assign(fields, { logprobs: true, top_logprobs: TOP_LOGPROBS });
  return Object.assign(fields, formatFields(), toolFields());
}

function formatFields() {
  const format = byId("format").value;
  if (format === "text") return {};
  if (format === "json_object") return { response_format: { type: "json_object" } };
  const schema = parsed("schema", false);
  if (schema === undefined) throw new Error("The JSON schema in the settings is not JSON.");
  return { response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } } };
}

function toolFields() {
  if (!byId("tools").value.trim()) return {};
  const tools = parsed("tools", false);
  if (tools === undefined) throw new Error("The tools in the settings are not JSON.");
  return { tools, tool_choice: byId("tool_choice").value };
}
