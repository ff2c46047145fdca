// Calls of the server that this page came from: with the key, and with errors in words.

let key = sessionStorage.getItem("inferd-key") ?? "";

/** Says "closed" (detail: the error) where a key is missing or opens too little, and "key" where another one is used. */
export const changes = new EventTarget();

export function currentKey() {
  return key;
}

export function useKey(text) {
  key = text.trim();
  if (key) sessionStorage.setItem("inferd-key", key);
  else sessionStorage.removeItem("inferd-key");
  changes.dispatchEvent(new Event("key"));
}

/** What went wrong, for whoever reads the page. `status` is 0 where no answer came. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The address of a call; the page may lie below a path of somebody's proxy. */
export function addressOf(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * Call the server.
 * @param {string} path without a slash before it, e.g. "predict/tiny".
 * @param {object} [how] `json` or `body` to send, `headers`, `method`, `signal`; `quiet`: a closed door is no reason to
 *   ask for a key.
 * @returns {Promise<Response>} one of a good status.
 */
export async function call(path, { json, body, headers = {}, method, signal, quiet = false } = {}) {
  const sent = { ...headers };
  if (key) sent["x-api-key"] = key;
  if (json !== undefined) sent["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(addressOf(path), {
      method: method ?? (json !== undefined || body !== undefined ? "POST" : "GET"),
      headers: sent,
      body: json !== undefined ? JSON.stringify(json) : body,
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server can't be reached. Is it running?");
  }
  if (response.ok) return response;
  const error = new ApiError(await words(response), response.status);
  if (!quiet && (response.status === 401 || response.status === 403)) {
    changes.dispatchEvent(new CustomEvent("closed", { detail: error }));
  }
  throw error;
}

/** Call the server, and read JSON. */
export async function ask(path, how) {
  return (await call(path, how)).json();
}

async function words(response) {
  const text = await response.text().catch(() => "");
  let told = "";
  try {
    const { error } = JSON.parse(text);
    told = typeof error === "string" ? error : (error?.message ?? "");
  } catch {
    // somebody on the way has answered
  }
  const wait = response.headers.get("retry-after");
  told ||= `the server answered ${response.status} ${response.statusText}`;
  return wait ? `${told} (try again in ${wait} s)` : told;
}

/** The contents of server-sent events, one after the other. An event with an error ends them with it. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const whole = rest.split("\n\n");
      rest = whole.pop();
      for (const event of whole) {
        const data = event.replace(/^data: ?/, "");
        if (data === "[DONE]") return;
        const content = JSON.parse(data);
        if (content.error) throw new ApiError(content.error.message ?? content.error);
        yield content;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What the headers of an answer tell of the time that it took. */
export function timingsOf(response) {
  const read = (name) => Number(response.headers.get(name));
  return { queue: read("x-queue-ms"), compute: read("x-compute-ms"), batch: read("x-batch-size") };
}
