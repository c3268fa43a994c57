// The server's routes, as this page uses them.

/** What the server answered instead of what was asked for. `status` is 0 when it could not be reached. */
export class ServerError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let key = "";

/** Send this API key from now on. */
export function useKey(value) {
  key = value;
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "the server cannot be reached", null);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const said = body.error ?? {};
  throw new ServerError(response.status, said.message ?? `HTTP ${response.status}`, said.code ?? null);
}

/** The JSON at a path. */
export const getJson = async (path) => (await call(path)).json();

/**
 * Start a chat completion; `onStart(requestId, ignored)` is called with the headers, `onChunk` with each event.
 * Returns when the stream has ended; throws ServerError, also for an error in the middle of it.
 */
export async function streamChat(body, signal, onStart, onChunk) {
  const response = await call("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  onStart(response.headers.get("x-request-id"), response.headers.get("x-tradewind-ignored"));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(200, chunk.error.message, chunk.error.code);
    onChunk(chunk);
  }
  throw new ServerError(0, "the connection ended in the middle of the answer", null);
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ")) yield part.slice(6);
    }
  }
}
