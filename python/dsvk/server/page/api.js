// The server's own API, and a chat as a stream of chunks. Where a key is needed, the browser has asked for it with the page and sends it.

export class Failure extends Error {}      // what the server said, or that it said nothing

async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Failure("The server's keys have changed. Load this page anew, and the browser asks for one.");
  const body = await answer.json().catch(() => null);
  throw new Failure(body?.error?.message || `The server answered ${answer.status}.`);
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
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) throw new Failure("The connection broke off in the middle of the answer.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(chunk.error.message);
      yield chunk;
    }
  }
}
