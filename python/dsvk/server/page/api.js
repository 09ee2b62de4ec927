// The server's own API: requests with the key, and a chat as a stream of chunks.

export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let key = sessionStorage.getItem("dsvk.key") || localStorage.getItem("dsvk.key") || "";

export function setKey(value, keep) {
  key = value;
  sessionStorage.setItem("dsvk.key", value);
  if (keep) localStorage.setItem("dsvk.key", value);
  else localStorage.removeItem("dsvk.key");
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "The server cannot be reached.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new Failure(answer.status, body?.error?.message || `The server answered ${answer.status}.`);
}

export const get = async (path) => (await request(path)).json();

// Yields the data of each event: chunks as /v1/chat/completions streams them. An event that is an error is thrown.
export async function* chat(body, signal) {
  const answer = await request("/v1/chat/completions", {
    method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure(0, "The connection broke off in the middle of the answer.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(200, chunk.error.message);
      yield chunk;
    }
  }
}
