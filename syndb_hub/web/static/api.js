// The hub's API as the page uses it. The token stays in this tab: sessionStorage, never a cookie or a URL.

const KEY = "syndb-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, as the hub says it: message, code, hint, details, requestId. */
export class Problem extends Error {
  constructor({ error, code = "", hint = "", details = {}, request_id = "" }, status = 0) {
    super(error);
    Object.assign(this, { code, hint, details, requestId: request_id, status });
  }
}

async function request(path, { method = "GET", body, signal } = {}) {
  const headers = { accept: "application/json" };
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new Problem({ error: "the hub does not answer", hint: "Check that it is running and that you are connected." });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ error: `the hub answered ${response.status}` }));
  throw new Problem(told, response.status);
}

export const get = async (path) => (await request(path)).json();
export const post = async (path, body, signal) => (await request(path, { method: "POST", body, signal })).json();

const MOST_ATTEMPTS = 120; // each waits half a minute at the hub

export async function download(path) {
  for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt += 1) {
    const response = await request(path);
    if (response.status !== 202) return response.blob(); // 202: the hub is making the file
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  throw new Problem({ error: "the hub has not made the file within an hour", hint: "It goes on: try again later." });
}
